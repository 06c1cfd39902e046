"""fewvit data convert"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError, printable

from .outputs import GROUND_TRUTH
from .shared import Output, command, single
from .show import Screen

app = single()


@app.callback()
def data() -> None:
    """Turn the published ground truth of a retrieval benchmark into JSON."""


@command(app, out=GROUND_TRUTH)
def convert(
    output: Output,
    source: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="gnd_roxford5k.pkl or gnd_rparis6k.pkl.")],
) -> None:
    """The ground truth of revisited Oxford or Paris as JSON; none of the code that a pickle may hold is run."""
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.json.")
    from fewvit.retrieval.ground_truth import KINDS, name_of_file, revisited_from, save_revisited
    from fewvit.retrieval.plain_pickle import read_plain_pickle

    truth = revisited_from(read_plain_pickle(source), source, name_of_file(source))
    save_revisited(output.out, truth)
    judged = {kind: sum(len(getattr(one, kind)) for one in truth.truth) for kind in KINDS}
    screen.rows("data", [{"name": truth.name, "images": len(truth.images), "queries": len(truth.queries), **judged}])
    screen.notify(f"wrote {printable(output.out)}")
