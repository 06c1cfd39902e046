"""fewvit extract"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import UsageError, counted

from .inputs import listing, reader
from .outputs import FEATURES
from .shared import Access, Features, Layout, Listed, Model, Output, Place, Views, Work, command, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.evaluate.extraction import Share

app = single()


@command(app, out=FEATURES)
def extract(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    views: Views,
    listed: Listed,
    work: Work,
    output: Output,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SRC", help="Images: a folder, image, table, shards, zip archive or `digits`."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Compute part I of N of the images; with --out into a file beside it."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put what --shard 1/N to N/N wrote beside --out together, into it.")
    ] = False,
) -> None:
    """Turn images into features.

    --out FILE.npz gets `features` float32 (N, D), `labels`, `ids`, `classes`; without it they are only put into the
    cache. Processes that torchrun starts share the images.
    """
    share = _share(output, shard, merge)
    screen = Screen(output)
    if output.out is not None and output.out.suffix != ".npz":
        raise UsageError(f"--out {output.out}: features are written as .npz")
    source = reader(model, layout, access, place, features, work, screen, reading=views.reading, max_bad="1%")

    from fewvit.evaluate.extraction import run_extract
    from fewvit.extraction.shards import ShardFiles
    from fewvit.results import Result
    from fewvit.sources import require_source

    found = run_extract(source, require_source(data), listing(listed), to_file=output.out is not None, share=share)
    if found is None:
        return
    whole = share.part is None
    screen.skipped(found.skipped, output.out if whole else None)
    if output.out is not None:
        written = output.out
        if share.part is not None and found.images is not None:
            written = ShardFiles(output.out).write(share.part, found.images, found.features)
        else:
            found.features.save(written)
        rows, columns = found.features.features.shape
        screen.notify(f"wrote {counted(rows, 'row')} of {counted(columns, 'column')} to {written}")
    Screen(Output(format=output.format, quiet=output.quiet)).result(Result("extract", found.rows, found.facts))


def _share(output: Output, shard: str | None, merge: bool) -> Share:
    """Which part of the work is done here. Raises UsageError for what does not go together."""
    from fewvit.evaluate.extraction import Share
    from fewvit.extraction.shards import part_named, part_of_process

    process = part_of_process()
    part = part_named(shard) if shard is not None else None
    if part is not None and merge:
        raise UsageError("--shard computes a part and --merge puts the parts together: give one of them")
    if process is not None and (part is not None or merge):
        raise UsageError(
            f"{'--merge' if merge else '--shard'} does not go with torchrun, which shares the images by itself"
        )
    if merge and output.out is None:
        raise UsageError("--merge needs --out FILE.npz: the shards stand beside it")
    return Share(part, output.out if merge else None, process)
