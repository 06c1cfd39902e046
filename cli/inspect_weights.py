"""fewvit inspect positions / filters / distance / vit-paper / reconstruct / prototypes"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .inputs import listing, reader
from .inspect_shared import Data, Figures, Sample, check_figures, means_of, show_figure
from .shared import Access, Layout, Listed, Model, Output, Place, Seen, Work, command, numbers, single
from .show import Screen

app = single()


@command(app)
def positions(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, work: Work, output: Output,
    figures: Figures = None,
) -> None:  # fmt: skip
    """How alike each position is to all others: a grid of grids, as in the ViT paper's figure 7."""
    screen, files = Screen(output), check_figures(figures)
    from fewvit.inspect.pictures import open_backbone
    from fewvit.inspect.position_table import positions as drawn

    backbone = open_backbone(reader(model, layout, access, place, seen.features, work, screen))
    show_figure(screen, drawn(backbone), files, backbone=backbone)


@command(app)
def filters(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, work: Work, output: Output,
    components: Annotated[
        int, typer.Option("--components", metavar="N", min=1, help="Principal components that are drawn.")
    ] = 28,
    figures: Figures = None,
) -> None:  # fmt: skip
    """The principal components of the patch embedding's filters, as in the ViT paper's figure 7."""
    screen, files = Screen(output), check_figures(figures)
    from fewvit.inspect.patch_filters import filters as drawn
    from fewvit.inspect.pictures import open_backbone

    backbone = open_backbone(reader(model, layout, access, place, seen.features, work, screen))
    show_figure(screen, drawn(backbone, components), files, backbone=backbone)


@command(app)
def distance(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, listed: Listed, work: Work, output: Output,
    data: Data = None,
    sample: Sample = 128,
    figures: Figures = None,
) -> None:  # fmt: skip
    """How far the heads of each block look, in pixels: one dot per head, as in the ViT paper's figure 7."""
    screen, files = Screen(output), check_figures(figures)
    source = needed(data)
    from fewvit.inspect.attention_distance import distance as drawn
    from fewvit.inspect.pictures import open_pictures

    reads = reader(model, layout, access, place, seen.features, work, screen)
    opened = open_pictures(reads, source, listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures)
    show_figure(screen, figure, files, opened, shown=means_of(figure.rows, ("layer", "metric")))


@command(app, "vit-paper")
def vit_paper(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, listed: Listed, work: Work, output: Output,
    data: Data = None,
    sample: Sample = 128,
    figures: Figures = None,
) -> None:  # fmt: skip
    """Patch filters, similarity of positions and mean attention distance: figure 7 of the ViT paper in one picture."""
    screen, files = Screen(output), check_figures(figures)
    source = needed(data)
    from fewvit.inspect.paper_figure import vit_paper as drawn
    from fewvit.inspect.pictures import open_pictures

    reads = reader(model, layout, access, place, seen.features, work, screen)
    opened = open_pictures(reads, source, listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures)
    by_part = {part: [row for row in figure.rows if row["part"] == part] for part in ("positions", "distance")}
    shown = [*by_part["positions"], *means_of(by_part["distance"], ("part", "layer", "metric"))]
    show_figure(screen, figure, files, opened, shown=shown)


@command(app)
def reconstruct(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, listed: Listed, work: Work, output: Output,
    data: Data = None,
    sample: Sample = 6,
    mask_ratio: Annotated[
        float, typer.Option("--mask-ratio", metavar="SHARE", help="Of the patches, those that are hidden.")
    ] = 0.75,
    norm_pix: Annotated[
        bool | None,
        typer.Option(
            "--norm-pix/--no-norm-pix",
            help="Whether it learnt to draw patches without their mean and deviation. Default: as its file says.",
        ),
    ] = None,
    decoder_heads: Annotated[
        int | None,
        typer.Option("--decoder-heads", metavar="N", min=1, help="Of the decoder. Default: one per 32 channels."),
    ] = None,
    figures: Figures = None,
) -> None:  # fmt: skip
    """What a MAE with its decoder draws of images of which it sees a quarter; --seed says which patches."""
    screen, files = Screen(output), check_figures(figures)
    source = needed(data)
    from fewvit.inspect.pictures import open_pictures
    from fewvit.inspect.reconstruction import own_size
    from fewvit.inspect.reconstruction import reconstruct as drawn

    reads = reader(model, layout, access, place, seen.features, work, screen)
    if seen.img_size is None:
        reads.options = dataclasses.replace(reads.options, img_size=own_size(reads.spec(reads.backbones.names[0])))
    opened = open_pictures(reads, source, listing(listed), sample, work.seed)
    figure = drawn(
        opened.backbone, opened.pictures, seed=work.seed, mask_ratio=mask_ratio, norm_pix=norm_pix,
        decoder_heads=decoder_heads,
    )  # fmt: skip
    show_figure(screen, figure, files, opened)


@command(app)
def prototypes(
    model: Model, layout: Layout, access: Access, place: Place, seen: Seen, listed: Listed, work: Work, output: Output,
    data: Data = None,
    sample: Sample = 1000,
    shown: Annotated[
        int, typer.Option("--shown", metavar="N", min=1, help="Prototypes that are drawn, those of most images.")
    ] = 8,
    only: Annotated[
        str | None, typer.Option("--only", metavar="K,…", help="Draw these prototypes in place of those; from 0.")
    ] = None,
    nearest: Annotated[
        int, typer.Option("--nearest", metavar="N", min=1, help="Images of each that are drawn, the nearest.")
    ] = 8,
    figures: Figures = None,
) -> None:  # fmt: skip
    """The images nearest to MSN's prototypes, and how many images belong to each."""
    screen, files = Screen(output), check_figures(figures)
    source, wanted = needed(data), numbers(only, "--only", int)
    from fewvit.inspect.pictures import open_pictures
    from fewvit.inspect.prototype_images import prototypes as drawn

    reads = reader(model, layout, access, place, seen.features, work, screen)
    opened = open_pictures(reads, source, listing(listed), sample, work.seed)
    figure = drawn(opened.backbone, opened.pictures, shown=shown, nearest=nearest, only=wanted)
    show_figure(screen, figure, files, opened)


def needed(data: str | None) -> str:
    """The source. Raises UsageError where none is given."""
    if data is None:
        raise UsageError("no images to look at", fix="Give --data SRC.")
    return data
