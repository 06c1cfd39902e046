"""fewvit inspect attention / rollout / pca / norms"""

from __future__ import annotations

from typing import Annotated

import typer

from .inputs import listing, reader
from .inspect_shared import Data, Figures, Sample, check_figures, means_of, reading_of, show_figure
from .shared import Access, Layout, Listed, Model, Output, Place, Seen, Work, command, numbers, single
from .show import Screen

app = single()

Block = Annotated[
    int, typer.Option("--block", metavar="N", help="Which block: from 1, or -1 for the last, -2 for the one before.")
]
Mass = Annotated[
    float, typer.Option("--mass", metavar="SHARE", help="Of a map's attention, what its mask holds: the papers' 0.6.")
]
Query = Annotated[
    str | None,
    typer.Option("--query", metavar="cls|mean", help="Whose attention: the class token's, or all patches' mean."),
]
Fit = Annotated[
    str,
    typer.Option(
        "--fit",
        metavar="crop|stretch",
        help="Resize and crop as the protocol says, or show the whole picture, stretched, as DINO's script does.",
    ),
]


@command(app)
def attention(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    seen: Seen,
    listed: Listed,
    work: Work,
    output: Output,
    data: Data = None,
    sample: Sample = 4,
    figures: Figures = None,
    block: Block = -1,
    mass: Mass = 0.6,
    query: Query = None,
    coloured: Annotated[
        str | None, typer.Option("--coloured", metavar="N,…", help="Heads in the picture in colours, six at most.")
    ] = None,
    fit: Fit = "crop",
) -> None:
    """What every head of a block looks at: maps, masks of their mass, and the heads in one picture."""
    screen, files = Screen(output), check_figures(figures)
    chosen = numbers(coloured, "--coloured", int) or None
    reads = reader(model, layout, access, place, seen.features, work, screen, reading=reading_of(fit, seen.img_size))

    from fewvit.inspect.heads import attention as drawn
    from fewvit.inspect.pictures import open_pictures
    from fewvit.sources import require_source

    opened = open_pictures(reads, require_source(data), listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures, block=block, mass=mass, query=query, coloured=chosen)
    show_figure(screen, figure, files, opened, shown=means_of(figure.rows, ("block", "head", "metric")))


@command(app)
def rollout(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    seen: Seen,
    listed: Listed,
    work: Work,
    output: Output,
    data: Data = None,
    sample: Sample = 4,
    figures: Figures = None,
    block: Block = -1,
    mass: Mass = 0.6,
    query: Query = None,
    discard: Annotated[
        float,
        typer.Option("--discard", metavar="SHARE", help="Of each block's mean attention, what is dropped."),
    ] = 0.0,
    fit: Fit = "crop",
) -> None:
    """How much of each patch flows through all blocks: attention rollout, beside the last block alone."""
    screen, files = Screen(output), check_figures(figures)
    reads = reader(model, layout, access, place, seen.features, work, screen, reading=reading_of(fit, seen.img_size))

    from fewvit.inspect.flow import rollout as drawn
    from fewvit.inspect.pictures import open_pictures
    from fewvit.sources import require_source

    opened = open_pictures(reads, require_source(data), listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures, block=block, discard=discard, mass=mass, query=query)
    show_figure(screen, figure, files, opened)


@command(app)
def pca(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    seen: Seen,
    listed: Listed,
    work: Work,
    output: Output,
    data: Data = None,
    sample: Sample = 8,
    figures: Figures = None,
    style: Annotated[
        str,
        typer.Option(
            "--style", metavar="dinov2|dinov3", help="Colours from least to most, or whitened and through a sigmoid."
        ),
    ] = "dinov2",
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", metavar="SD", help="Of the first component, over which a patch is foreground; in deviations."
        ),
    ] = 0.0,
    fit: Fit = "crop",
) -> None:
    """Patch tokens as colours, over all pictures together: three principal components of the foreground."""
    screen, files = Screen(output), check_figures(figures)
    reads = reader(model, layout, access, place, seen.features, work, screen, reading=reading_of(fit, seen.img_size))

    from fewvit.inspect.components import pca as drawn
    from fewvit.inspect.pictures import open_pictures
    from fewvit.sources import require_source

    opened = open_pictures(reads, require_source(data), listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures, style=style, threshold=threshold)
    show_figure(screen, figure, files, opened)


@command(app)
def norms(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    seen: Seen,
    listed: Listed,
    work: Work,
    output: Output,
    data: Data = None,
    sample: Sample = 8,
    figures: Figures = None,
    block: Block = -1,
    cutoff: Annotated[
        float | None,
        typer.Option("--cutoff", metavar="NORM", help="What is larger is an artefact. Default: over the largest gap."),
    ] = None,
    fit: Fit = "crop",
) -> None:
    """Norms of output tokens: histogram, maps, and the share of patches that stand apart."""
    screen, files = Screen(output), check_figures(figures)
    reads = reader(model, layout, access, place, seen.features, work, screen, reading=reading_of(fit, seen.img_size))

    from fewvit.inspect.magnitudes import norms as drawn
    from fewvit.inspect.pictures import open_pictures
    from fewvit.sources import require_source

    opened = open_pictures(reads, require_source(data), listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures, block=block, cutoff=cutoff)
    show_figure(screen, figure, files, opened)
