"""fewvit extract"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UsageError, counted

from .inputs import listing, reader
from .outputs import FEATURES
from .shared import Access, Features, Layout, Listed, Model, Output, Place, Work, command, single
from .show import Screen

app = single()


@command(app, out=FEATURES)
def extract(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SRC", help="Images: a folder, image, table, shards, zip archive or `digits`."),
    ] = None,
) -> None:
    """Turn images into features.

    --out FILE.npz gets `features` float32 (N, D), `labels`, `ids`, `classes`; without it they are only put into the
    cache.
    """
    screen = Screen(output)
    if output.out is not None and output.out.suffix != ".npz":
        raise UsageError(f"--out {output.out}: features are written as .npz")
    source = reader(model, layout, access, place, features, work, screen, max_bad="1%")

    from fewvit.evaluate.extraction import run_extract
    from fewvit.results import Result
    from fewvit.sources import require_source

    rows, facts, kept, skipped = run_extract(
        source, require_source(data), listing(listed), to_file=output.out is not None
    )
    screen.skipped(skipped, output.out)
    if output.out is not None:
        kept.save(output.out)
        screen.notify(
            f"wrote {counted(len(kept), 'row')} of {counted(kept.features.shape[1], 'column')} to {output.out}"
        )
    Screen(Output(format=output.format, quiet=output.quiet)).result(Result("extract", rows, facts))
