"""fewvit inspect neighbors / embed / quality: what the features of whole sets look like"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UsageError, printable

from .inputs import listing, reader
from .inspect_shared import Figures, check_figures
from .outputs import MAP, RESULT
from .shared import Access, Features, Layout, Listed, Model, Output, Pair, Place, Work, command, named, single
from .show import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewvit.evaluate.inputs import FeatureReader, Inputs
    from fewvit.inspect.figure import Figure

app = single()

Set = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="Images, or features (.npz) where no picture is needed."),
]
Maps = Annotated[list[Path] | None, typer.Option("--out", "-o", metavar=MAP.metavar, help=MAP.help, parser=named)]


@command(app)
def neighbors(
    pair: Pair,
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    figures: Figures = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours shown, and that vote.")] = 6,
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Queries, picked by --seed.")] = 8,
    wrong_only: Annotated[
        bool, typer.Option("--wrong-only", help="Pick among queries that the vote of the neighbours gets wrong.")
    ] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Judge each image of one set, in --data, by all others.")
    ] = False,
) -> None:
    """A gallery: images beside their nearest training images, right ones framed green and wrong ones red."""
    screen, files = Screen(output), check_figures(figures)
    source = reader(model, layout, access, place, features, work, screen)
    _require_one(source, features)

    from fewvit.evaluate.knn import open_evaluated
    from fewvit.inspect.galleries import neighbors as gallery
    from fewvit.sources import Given

    sources = open_evaluated(source, Given(pair.data, pair.train, pair.test, listing(listed)), leave_one_out)
    if sources.datasets is None:
        raise UsageError("a gallery shows images, and features were given", fix="Give the images themselves.")
    [inputs] = source.each(sources)
    screen.skipped(inputs.skipped)
    figure = gallery(
        inputs.train,
        inputs.test,
        images=sources.datasets,
        k=k,
        sample=sample,
        seed=work.seed,
        wrong_only=wrong_only,
        max_pixels=work.max_pixels,
    )
    _show(screen, figure, files, [inputs], work.seed, _by_query(figure))


@command(app)
def embed(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    data: Set = None,
    maps: Maps = None,
    method: Annotated[
        str, typer.Option("--method", metavar="tsne|pca|umap", help="How features become points; umap is an extra.")
    ] = "tsne",
) -> None:
    """A map of images: each a point coloured by its class, as a picture or as a page with the images in it."""
    screen = Screen(output)
    source = reader(model, layout, access, place, features, work, screen)
    _refuse_each(features)

    from fewvit.inspect.embedding import check_map
    from fewvit.inspect.embedding import embed as mapped
    from fewvit.inspect.projection import require_method
    from fewvit.sources import require_source

    require_method(method)
    if not maps:
        raise UsageError("no file to draw into", fix="Give --out FILE.html, .png, .svg or .npz.")
    for path in maps:
        check_map(path, len(source.backbones.names))
    sources = source.one(require_source(data), listing(listed))
    inputs = list(source.each(sources))
    for one in inputs:
        screen.skipped(one.skipped)
    figure = mapped(
        [one.train for one in inputs], method, seed=work.seed, images=sources.train.images, max_pixels=work.max_pixels
    )
    _show(screen, figure, maps, inputs, work.seed)


@command(app, out=RESULT)
def quality(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    data: Set = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=2, help="Images that are flipped, cropped and seen in views.")
    ] = 200,
    views: Annotated[int, typer.Option("--views", min=2, help="Random views of each of them.")] = 10,
    k: Annotated[int, typer.Option("--k", min=1, help="Nearest images that should stay when one is changed.")] = 10,
    explain: Annotated[
        bool, typer.Option("--explain", help="After the result, tell on stderr what each measure can and can't say.")
    ] = False,
) -> None:
    """Label-free measures of features: effective rank, spread, and how steady they are when images change.

    Beside them k-NN accuracy where there are labels; --layers each measures every block. Nothing is chosen.
    """
    screen = Screen(output)
    source = reader(model, layout, access, place, features, work, screen, max_bad="1%")

    from fewvit.inspect.qualities import NOTES, Asked, run_quality
    from fewvit.results import Result
    from fewvit.sources import require_source

    sources = source.one(require_source(data), listing(listed), unlabelled=True)
    asked = Asked(sample, views, k, work.seed)
    rows, facts = run_quality(source, sources, asked, screen.skipped, _Passes(screen))
    shown = [{name: value for name, value in row.items() if name != "note"} for row in rows]
    screen.result(Result("inspect", rows, facts), shown=shown)
    if explain:
        for metric in dict.fromkeys(str(row["metric"]) for row in rows):
            screen.notify(NOTES[metric])


class _Passes:
    """The live line of a backbone's passes over changed images."""

    def __init__(self, screen: Screen):
        import time

        self._screen, self._clock, self._what, self._started = screen, time.monotonic, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._started = what, self._clock()
        left = (self._clock() - self._started) / max(done, 1) * (total - done)
        self._screen.line([what, f"{done}/{total} images in views"], left, done / total, done=done >= total)


def _require_one(source: FeatureReader, features: Features) -> None:
    """Raise UsageError for several backbones or layers."""
    names = source.backbones.names
    if len(names) > 1:
        raise UsageError(f"a gallery is of one backbone, and {', '.join(map(printable, names))} are several")
    _refuse_each(features)


def _refuse_each(features: Features) -> None:
    if features.layers == "each":
        raise UsageError("--layers each is for `fewvit inspect quality`", fix="Give a number of blocks.")


def _by_query(figure: Figure) -> list[dict[str, Any]]:
    """A line for each query: what it is, what its neighbours vote, how many of them are right."""
    found: dict[str, list[Any]] = {}
    for row in figure.rows:
        found.setdefault(str(row["query"]), []).append(row)
    return [
        {"query": query, "label": rows[0]["query_label"], "voted": rows[0]["voted"], "right": f"{right} of {len(rows)}"}
        for query, rows in found.items()
        for right in [sum(row["right"] for row in rows)]
    ]


def _show(
    screen: Screen,
    figure: Figure,
    files: Sequence[Path],
    inputs: Sequence[Inputs],
    seed: int,
    shown: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Write the figure, then its rows as the result; `shown` are those of the table, if not all."""
    from fewvit.results import Result, manifest

    for line in figure.notes:
        screen.notify(line)
    for path in files:
        figure.save(path)
        screen.notify(f"wrote {printable(path)}")
    rows: list[dict[str, Any]] = [
        {"task": figure.name, **one.labels, **row}
        for one in inputs
        for row in figure.rows
        if row.get("backbone", one.backbone) == one.backbone
    ]
    facts = inputs[0].facts if len(inputs) == 1 else {"backbones": {one.backbone: one.facts for one in inputs}}
    table = None if shown is None else [{"task": figure.name, **inputs[0].labels, **row} for row in shown]
    screen.result(Result("inspect", rows, manifest(figure=figure.name, **facts, seed=seed)), shown=table)
