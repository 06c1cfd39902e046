"""fewvit mieb"""

from __future__ import annotations

from typing import Annotated

import typer

from .inputs import listing, reader
from .outputs import RESULT
from .shared import Access, Features, Layout, Listed, Model, Output, Pair, Place, Work, command, single
from .show import Screen

app = single()


@command(app, out=RESULT)
def mieb(
    pair: Pair,
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", metavar="NAME,…", help="Which of probe, clustering and retrieval; not all need --train."
        ),
    ] = "probe,clustering,retrieval",
) -> None:
    """The scores of MIEB, mteb's image benchmark, on your own images: 16-shot probe, clustering, retrieval."""
    screen = Screen(output)
    source = reader(model, layout, access, place, features, work, screen, shared=True)

    from fewvit.evaluate.mieb import run_mieb
    from fewvit.results import Result
    from fewvit.sources import Given

    given = Given(pair.data, pair.train, pair.test, listing(listed))
    wanted = [name for name in tasks.replace(" ", "").split(",") if name]
    rows, facts = run_mieb(source, given, wanted, screen.notify, screen.skipped)
    screen.result_of_trials(Result("mieb", rows, facts))
