"""fewvit vtab"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UsageError
from fewvit.files import between_commas

from .inputs import listing, reader
from .outputs import RESULT
from .shared import Access, Features, Layout, Listed, Model, Output, Place, Work, command, single
from .show import Screen

app = single()


@command(app, out=RESULT)
def vtab(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Folder of VTAB-1k's sets; `fewvit data fetch vtab`.")
    ] = None,
    sets: Annotated[
        str, typer.Option("--sets", metavar="NAME,…", help="Sets to evaluate. Default: all that are there.")
    ] = "",
    classifier: Annotated[
        str, typer.Option("--classifier", metavar="logistic,ridge", help="What is fitted, its penalty being chosen.")
    ] = "logistic",
) -> None:
    """VTAB-1k: penalties chosen on 800/200 images, fitted on 1000, tested once; means over sets and groups."""
    screen = Screen(output)
    if not data:
        raise UsageError("no images: give --data DIR")
    if features.layers == "each":
        raise UsageError("--layers each goes with knn and lowshot; a row of VTAB is of one reading")
    source = reader(model, layout, access, place, features, work, screen)

    from fewvit.evaluate.vtab import run_vtab
    from fewvit.results import Result

    rows, facts = run_vtab(
        source,
        data,
        between_commas(sets.replace(" ", "")),
        between_commas(classifier.replace(" ", "")),
        listing(listed),
        screen.notify,
        screen.skipped,
    )
    screen.result(Result("vtab", rows, facts))
