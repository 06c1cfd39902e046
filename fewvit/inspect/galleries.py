"""Images beside the ones that a backbone finds most like them, right and wrong ones told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..backbones import TEMPERATURE
from ..datasets import Dataset
from ..errors import DataError, UsageError, counted, printable
from ..evaluate.evaluation import accepted_classes, answers_among, of_answers
from ..features import FeatureSet
from ..figures.axes import LETTER, Margins, shortened
from ..figures.picture import LIGHT, Panel
from ..images import MAX_PIXELS, BadImage, decode_whole
from ..neighbors import Bank, Neighbors
from ..results import Row
from ..seeds import generator
from ..vote import weighted_vote
from .figure import Figure, called
from .sprites import square

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = "#1a8f4c", "#cc3b2b"
_PIXELS = 168  # of a picture's side, as it is read
_TILE, _GAP, _WORDS = 78.0, 9.0, 25.0  # points: a picture, between two, and for the words below
GROUND = 255  # of the ground around pictures that are no squares: the figure's own
_APART = 16.0  # between the query and its neighbours


@dataclass(frozen=True)
class Nearest:
    """Some queries and their neighbours, best first."""

    queries: np.ndarray  # (n,) int64, rows of the test set
    rows: np.ndarray  # (n, k) int64, rows of the training set
    scores: np.ndarray  # (n, k) float32, cosines
    right: np.ndarray  # (n, k) bool: of the query's class
    voted: np.ndarray  # (n,) int64: what the weighted vote says
    candidates: int  # queries that could have been picked


def nearest_of(
    train: FeatureSet, test: FeatureSet | None, *, k: int, sample: int, seed: int, wrong_only: bool
) -> Nearest:
    """The neighbours of `sample` labelled queries that the seed picks; of `test`, or of `train` without themselves.

    `wrong_only`: of those alone that the vote of k-NN (temperature 0.07) gets wrong. Raises DataError where no query is
    left, UsageError for a k above the number of training images.
    """
    queries = train if test is None else test
    most = len(train) - (test is None)
    if not 1 <= k <= most:
        raise UsageError(f"--k {k}: there are {counted(most, 'image')} to be neighbours")
    own = np.flatnonzero(queries.labels >= 0)
    if not len(own):
        raise DataError("no query has a label, so no neighbour is right or wrong", file=queries.name)
    if (train.labels < 0).any():
        raise DataError("the training set has unlabelled images", file=train.name, fix="Leave them out.")
    if not wrong_only:
        picked = _picked(own, sample, seed)
        found = _search(train, queries, picked, k, test is None)
        return _nearest(train, queries, picked, found, len(own))
    found = _search(train, queries, own, k, test is None)
    every = _nearest(train, queries, own, found, 0)
    wrong = np.flatnonzero(~_is_accepted(queries, own, every.voted))
    if not len(wrong):
        raise DataError(
            f"the vote of {k} neighbours is right for all {counted(len(own), 'query', 'queries')}",
            file=queries.name,
            fix="Leave --wrong-only away.",
        )
    at = _picked(wrong, sample, seed)
    return _nearest(train, queries, own[at], Neighbors(found.rows[at], found.scores[at]), len(wrong))


def _picked(rows: np.ndarray, sample: int, seed: int) -> np.ndarray:
    """`sample` of the rows, ascending; all where there are no more."""
    if sample >= len(rows):
        return rows
    return np.sort(generator("neighbors", seed).choice(rows, sample, replace=False))


def _search(train: FeatureSet, queries: FeatureSet, rows: np.ndarray, k: int, alone: bool) -> Neighbors:
    parts = [
        near for _, near in Bank(train.features).chunks(queries.features[rows], k, exclude=rows if alone else None)
    ]
    return Neighbors(np.concatenate([p.rows for p in parts]), np.concatenate([p.scores for p in parts]))


def _is_accepted(queries: FeatureSet, rows: np.ndarray, voted: np.ndarray) -> np.ndarray:
    """Whether what was voted (n,) is right for these queries (n,)."""
    found: np.ndarray = (accepted_classes(queries)[rows] == voted[:, None]).any(axis=1)
    return found


def _nearest(train: FeatureSet, queries: FeatureSet, rows: np.ndarray, found: Neighbors, candidates: int) -> Nearest:
    accepted = accepted_classes(queries)[rows]  # (n, A)
    right = (train.labels[found.rows][:, :, None] == accepted[:, None, :]).any(axis=2)
    votes = weighted_vote(found, train.labels, len(train.classes), TEMPERATURE)
    voted = of_answers(votes, answers_among(np.arange(len(train.classes)), queries), -1.0).argmax(axis=1)
    return Nearest(rows, found.rows, found.scores, right, voted, candidates)


def neighbors(
    train: FeatureSet,
    test: FeatureSet | None = None,
    *,
    images: Sequence[Dataset],
    k: int = 6,
    sample: int = 8,
    seed: int = 0,
    wrong_only: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Figure:
    """A gallery of queries, each beside its k nearest training images, framed green where they are of its class.

    `images` are what `train`, and `test` if there is one, are features of; without `test` each image is judged by all
    others. Arrays: `queries` (n,), `neighbors` (n, k), `scores` (n, k) cosines, `right` (n, k), `voted` (n,) labels,
    `train_ids`, `query_ids` (n,), `classes`. Raises as `nearest_of`, DataError for a picture that cannot be decoded.
    """
    found = nearest_of(train, test, k=k, sample=sample, seed=seed, wrong_only=wrong_only)
    queries = train if test is None else test
    asked = _pictures(images[-1], [queries.ids[row] for row in found.queries.tolist()], max_pixels)
    names = [train.ids[row] for row in found.rows.ravel().tolist()]
    near = _pictures(images[0], names, max_pixels)
    panels, rows = [], []
    for at, row in enumerate(found.queries.tolist()):
        tiles = [near[train.ids[one]] for one in found.rows[at].tolist()]
        panels.append(_panel(train, queries, found, at, asked[queries.ids[row]], tiles))
        rows += _rows(train, queries, found, at)
    arrays = {
        "queries": found.queries,
        "neighbors": found.rows,
        "scores": found.scores,
        "right": found.right,
        "voted": found.voted,
        "train_ids": np.array(list(train.ids), dtype=str),
        "query_ids": np.array([queries.ids[row] for row in found.queries.tolist()], dtype=str),
        "classes": np.array(list(train.classes), dtype=str),
    }
    return Figure("neighbors", panels, arrays, rows, 1, _notes(found, wrong_only, k, seed))


def _notes(found: Nearest, wrong_only: bool, k: int, seed: int) -> list[str]:
    kind = f" that the vote of {k} neighbours gets wrong" if wrong_only else " with a label"
    all_of = f"{len(found.queries)} of {counted(found.candidates, 'image')}{kind}"
    if len(found.queries) < found.candidates:
        all_of += f", picked by seed {seed}; --sample and --seed take others"
    return [f"{all_of}; {100 * found.right.mean():.0f} % of the neighbours shown are of the query's class"]


def _rows(train: FeatureSet, queries: FeatureSet, found: Nearest, at: int) -> list[Row]:
    query = int(found.queries[at])
    return [
        {
            "query": queries.ids[query],
            "query_label": train.classes[queries.labels[query]],
            "voted": train.classes[found.voted[at]],
            "rank": rank + 1,
            "id": train.ids[row],
            "label": train.classes[train.labels[row]],
            "score": round(float(found.scores[at, rank]), 6),
            "right": bool(found.right[at, rank]),
        }
        for rank, row in enumerate(found.rows[at].tolist())
    ]


def _pictures(images: Dataset, names: Sequence[str], max_pixels: int) -> dict[str, np.ndarray]:
    """Square pictures (168, 168, 3) by id. Raises DataError for one that cannot be decoded."""
    row_of = {name: row for row, name in enumerate(images.ids)}
    pictures = {}
    for name in dict.fromkeys(names):
        row = row_of[name]
        try:
            pictures[name] = square(decode_whole(images.read(row), max_pixels), _PIXELS, GROUND)
        except (BadImage, OSError) as error:
            raise DataError(f"cannot be shown: {error}", file=images.place(row), fix="Repair or remove it.") from error
    return pictures


def _panel(
    train: FeatureSet, queries: FeatureSet, found: Nearest, at: int, query: np.ndarray, tiles: Sequence[np.ndarray]
) -> Panel:
    """A query and its neighbours in one line, points as units."""
    letters = int(_TILE / LETTER)
    label, voted = int(queries.labels[found.queries[at]]), int(found.voted[at])
    row = int(found.queries[at])
    is_right = bool(_is_accepted(queries, np.array([row]), np.array([voted]))[0])
    said = "✓ as voted" if voted == label else f"{'✓' if is_right else '✗'} {train.classes[voted]}"
    height = _TILE + _WORDS

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        _tile(axes, query, 0, None, (shortened(train.classes[label], letters), shortened(said, letters)))
        for rank, (tile, row) in enumerate(zip(tiles, found.rows[at].tolist(), strict=True)):
            right = bool(found.right[at, rank])
            name = shortened(f"{'✓' if right else '✗'} {train.classes[train.labels[row]]}", letters)
            left = _TILE + _APART + rank * (_TILE + _GAP)
            _tile(axes, tile, left, right, (name, f"{found.scores[at, rank]:.4f}"))
        axes.set_xlim(-2, width)
        axes.set_ylim(-_WORDS, _TILE + 2)

    width = _TILE + _APART + len(tiles) * (_TILE + _GAP)
    title = printable(queries.ids[row])
    whose = called(train.backbone or "features", untrained=train.weights == "random")
    note = f"the {len(tiles)} nearest by {whose}, whole images" if at == 0 else ""
    return Panel(title, draw, width + 2, height + 2, Margins(0, 0, 0, 0), note)


def _tile(axes: Axes, pixels: np.ndarray, left: float, right: bool | None, words: tuple[str, str]) -> None:
    """A picture with its frame and two lines below it; without a frame for None."""
    from matplotlib.patches import Rectangle

    axes.imshow(pixels, aspect="auto", extent=(left, left + _TILE, 0, _TILE), interpolation="bilinear")
    colour = LIGHT.ink if right is None else RIGHT if right else WRONG
    if right is not None:
        axes.add_patch(Rectangle((left, 0), _TILE, _TILE, fill=False, edgecolor=colour, linewidth=2.4))
    for line, (text, ink) in enumerate(zip(words, (colour, LIGHT.soft), strict=True)):
        axes.text(left + _TILE / 2, -7.5 - 10.5 * line, printable(text), color=ink, ha="center", va="center", size=7.6)
