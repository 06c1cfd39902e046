"""A map of images: each a point, coloured by its class, near to what the backbone finds like it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import UsageError, counted
from ..features import FeatureSet
from ..figures.axes import LETTER, Margins, shortened
from ..figures.picture import LIGHT, Panel
from ..files import replacing
from ..images import MAX_PIXELS
from ..results import Row
from .colours import UNLABELLED, class_colours
from .figure import Figure, called, check_place
from .map_page import PAGE_BYTES, MapPage, names_fit, room_for_pictures
from .projection import Projection, project
from .sprites import NO_SPRITE, Sprite, make_sprite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = ".html"
NAMED = 24  # classes up to which a picture has a legend
_SIDE = 330.0  # points of the map
_LINE = 12.5  # points from one name of the legend to the next
_MARKS = (("o", "●"), ("s", "■"), ("^", "▲"))  # as matplotlib calls them, and as letters
_ALIKE = 10  # classes up to which colours alone tell them apart
_NAMES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True, repr=False)
class Embedding(Figure):
    """The maps of one set of images, one for each backbone; of one map there is a page, too."""

    sets: Sequence[FeatureSet] = ()
    maps: Sequence[Projection] = ()
    images: Dataset | None = None  # whose thumbnails the page shows
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def save(self, path: str | os.PathLike[str]) -> None:
        """As `Figure.save`, and for .html as one page that holds all it shows. Raises UsageError for that of several
        backbones.
        """
        if Path(path).suffix.lower() != PAGE:
            super().save(path)
            return
        html = self.page().html
        with replacing(path, "w") as handle:
            handle.write(html)

    def page(self) -> MapPage:
        """The page, in at most 5 MB: thumbnails are made smaller, and then fewer, until they fit."""
        require_one(len(self.sets))
        [features], [found] = self.sets, self.maps
        room = room_for_pictures(features.ids, features.classes)
        sprite, said = _thumbnails(self.images, features, room, self.seed, self.max_pixels)
        notes = [*self.notes, *said, _note(found)]
        if not names_fit(features.ids):
            notes.append("the images' names have no room here")
        about = [counted(len(features), "image"), _whose(features), _NAMES[found.method]]
        title = f"{features.name}, by what {_whose(features) if features.backbone else 'a backbone'} sees"
        return MapPage(title, about, notes, found.points, features.labels, features.classes, features.ids, sprite)


def embed(
    features: FeatureSet | Sequence[FeatureSet],
    method: str = "tsne",
    *,
    seed: int = 0,
    images: Dataset | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Embedding:
    """The map of features of `extract_features`, or the maps of several backbones side by side.

    `method` is tsne, pca or umap (extra `umap`); `images` are what the features are of, and give the page of
    `.save("map.html")` its thumbnails. Arrays: `points` (B, N, 2), `labels` (N,), `ids` (N,), `classes` (C,),
    `backbones` (B,). Raises as `project`.
    """
    sets = [features] if isinstance(features, FeatureSet) else list(features)
    maps = [project(one.features, method, seed) for one in sets]
    first = sets[0]
    arrays = {
        "points": np.stack([one.points for one in maps]),
        "labels": first.labels,
        "ids": np.array(list(first.ids), dtype=str),
        "classes": np.array(list(first.classes), dtype=str),
        "backbones": np.array([one.backbone for one in sets], dtype=str),
    }
    panels = [_panel(one, found, at == len(sets) - 1) for at, (one, found) in enumerate(zip(sets, maps, strict=True))]
    rows = [row for one, found in zip(sets, maps, strict=True) for row in _rows(one, found)]
    notes = list(dict.fromkeys(note for found in maps for note in found.notes))
    whose = ", ".join(dict.fromkeys(map(_whose, sets)))
    return Embedding(
        "embed", panels, arrays, rows, min(len(panels), 3), notes, whose, sets, maps, images, seed, max_pixels
    )  # fmt: skip


def check_map(path: str | os.PathLike[str], backbones: int) -> None:
    """Raise UsageError for a file that no map is written to, or a page of several backbones; to be called first."""
    if Path(path).suffix.lower() == PAGE:
        require_one(backbones)
        return
    check_place(path)


def require_one(backbones: int) -> None:
    """Raise UsageError for a page of several backbones."""
    if backbones > 1:
        raise UsageError(
            f"a page shows the map of one backbone, and {backbones} were given", fix="Draw .png or .svg, or name one."
        )


def _thumbnails(
    images: Dataset | None, features: FeatureSet, room: int, seed: int, max_pixels: int
) -> tuple[Sprite, list[str]]:
    """The sprite, and what is to be said of it."""
    if images is None:
        none = replace(NO_SPRITE, cell=np.full(len(features), -1, np.int64))
        return none, ["there are no pictures: features were given, and no images"]
    row_of = {name: row for row, name in enumerate(images.ids)}
    sprite = make_sprite(images, [row_of[name] for name in features.ids], room, seed, max_pixels)
    shown, notes = int((sprite.cell >= 0).sum()), []
    if shown + sprite.undecodable < len(features):
        most = f"so that the page stays below {PAGE_BYTES / 1e6:.0f} MB"
        notes.append(f"{shown} of {counted(len(features), 'image')} have a picture, picked by the seed, {most}")
    if sprite.side < 64 and shown:
        notes.append(f"pictures are {sprite.side} pixels wide in place of 64, so that they fit")
    return sprite, notes


def _rows(features: FeatureSet, found: Projection) -> list[Row]:
    """What the map keeps, and of PCA how much of the variance it shows."""
    columns = {"backbone": features.backbone or "features", "method": found.method, "images": len(features)}
    rows: list[Row] = [{**columns, "metric": "kept@10", "value": found.kept}]
    if found.explained is not None:
        rows.append({**columns, "metric": "explained", "value": found.explained})
    return rows


def _whose(features: FeatureSet) -> str:
    return called(features.backbone or "features", untrained=features.weights == "random")


def _marks(labels: np.ndarray, classes: int) -> np.ndarray:
    """Which of the marks each label (n,) has: of many classes neighbours on the circle of hues have different ones."""
    return np.where(labels < 0, 0, labels % len(_MARKS) if classes > _ALIKE else 0)


def _panel(features: FeatureSet, found: Projection, last: bool) -> Panel:
    """One map; the last of a picture has the legend beside it."""
    classes = [shortened(name) for name in features.classes]
    colours = np.array([*class_colours(len(classes)), UNLABELLED])
    there = np.unique(features.labels)
    legend = [(classes[c] if c >= 0 else "no label", colours[c]) for c in there.tolist()]
    legend = legend if last and 1 < len(legend) <= NAMED else []
    marks = _marks(there, len(classes)).tolist()
    room = 26 + LETTER * max((len(name) for name, _ in legend), default=-4)
    title = f"{_whose(features)}: {_NAMES[found.method]} of {counted(len(features), 'image')}"

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        mixed = np.random.default_rng(0).permutation(len(features))  # no class hides the others because it comes last
        order = mixed[np.argsort(features.labels[mixed] >= 0, kind="stable")]  # what has no label lies below
        size = float(np.clip(9000 / len(order), 2.5, 34))
        x, y = found.points[order].T
        mark = _marks(features.labels[order], len(classes))
        for number, (shape, _) in enumerate(_MARKS):
            some = mark == number
            axes.scatter(
                x[some], y[some], s=size, c=colours[features.labels[order][some]], marker=shape, linewidths=0,
                alpha=0.85, rasterized=len(order) > 2000,
            )  # fmt: skip
        axes.margins(0.03)
        for at, (name, colour) in enumerate(legend):
            down = (0, -6 - at * _LINE)
            axes.annotate(
                _MARKS[marks[at]][1], (1, 1), (8, down[1]), "axes fraction", "offset points", color=colour,
                va="center", ha="left", annotation_clip=False,
            )  # fmt: skip
            axes.annotate(
                name, (1, 1), (20, down[1]), "axes fraction", "offset points", color=LIGHT.ink, va="center", ha="left",
                annotation_clip=False,
            )  # fmt: skip

    wide, tall = np.ptp(found.points, axis=0) + 1e-12
    map_height = _SIDE * float(np.clip(tall / wide, 0.45, 1.3))
    height = max(map_height, len(legend) * _LINE + 12)
    return Panel(title, draw, _SIDE + room, height, Margins(0, room, 0, height - map_height), _note(found))


def _note(found: Projection) -> str:
    kept = f"{100 * found.kept:.0f} % of the 10 nearest images are among the 10 nearest here"
    return kept if found.explained is None else f"{100 * found.explained:.0f} % of the variance; {kept}"
