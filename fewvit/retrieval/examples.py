"""A search by several examples: their mean, or the best of them; and examples of what is not wanted."""

from __future__ import annotations

import os

import numpy as np

from ..errors import UsageError
from ..neighbors import normalise
from .opened import OnlyThese, OpenIndex, above, require_threshold
from .search import Near

COMBINE = ("mean", "max")


def mean_of(examples: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """One query (1, D): the mean of the examples (P, D) as unit vectors, moved away from that of the unwanted (N, D).

    With unwanted ones it is twice the examples' mean less theirs, the average-vector rule of Qdrant's recommendations.
    """
    middle = normalise(examples).mean(axis=0, dtype=np.float64)
    if len(unwanted):
        middle = 2 * middle - normalise(unwanted).mean(axis=0, dtype=np.float64)
    return middle.astype(np.float32)[None]


def search_each(
    index: OpenIndex, queries: np.ndarray, unwanted: np.ndarray, k: int, only: OnlyThese, threshold: float | None
) -> Near:
    """The nearest images of each query (Q, D), every one moved away from what is unwanted (N, D)."""
    if len(unwanted):
        queries = np.concatenate([mean_of(query[None], unwanted) for query in queries])
    return index.search(queries, k, only=only, threshold=threshold)


def search_as_one(
    index: OpenIndex,
    examples: np.ndarray,
    unwanted: np.ndarray,
    k: int,
    combine: str,
    only: OnlyThese,
    threshold: float | None,
) -> Near:
    """The images nearest to the examples (P, D) as one query: to their `mean`, or to the best of them (`max`)."""
    if combine == "max":
        return search_best(index, examples, unwanted, k, only, threshold)
    one = examples if len(examples) == 1 and not len(unwanted) else mean_of(examples, unwanted)
    return index.search(one, k, only=only, threshold=threshold)


def search_best(
    index: OpenIndex, examples: np.ndarray, unwanted: np.ndarray, k: int, only: OnlyThese, threshold: float | None
) -> Near:
    """The images nearest to any of the examples (P, D): the score is that of the nearest example.

    An image that is nearer to something unwanted (N, D) than to every example is left out.
    """
    if k < 1:
        raise UsageError(f"k = {k}: a search needs at least one neighbour")
    require_threshold(threshold)
    wanted = min(k, max(len(index), 1))
    while True:
        found = index.search(examples, wanted, only=only)
        near = _best(index, normalise(examples), normalise(unwanted) if len(unwanted) else unwanted, found, k)
        if len(unwanted) == 0 or wanted >= len(index) or (len(near.rows) == k and near.scores[-1] > _beyond(found)):
            return near if threshold is None else above(near, threshold)
        wanted = min(2 * wanted, len(index))


def _beyond(found: Near) -> float:
    """The most that an image can score which no example found: that of the last one some example found."""
    return max(float(found.of(example)[1][-1]) if len(found.of(example)[1]) else -1.0 for example in range(len(found)))


def _best(index: OpenIndex, examples: np.ndarray, unwanted: np.ndarray, found: Near, k: int) -> Near:
    """The k best of the rows found by their nearest example; equal scores by the bytes of their ids."""
    rows = np.unique(found.rows)
    features = index.features(rows).astype(np.float64)
    scores = _products(features, examples).max(axis=1).astype(np.float32)
    if len(unwanted):
        kept = scores >= _products(features, unwanted).max(axis=1).astype(np.float32)
        rows, scores = rows[kept], scores[kept]
    keys = [os.fsencode(name) for name in index.ids(rows)]
    order = sorted(range(len(rows)), key=lambda at: (-scores[at], keys[at]))[:k]
    return Near(np.array([0, len(order)]), rows[order], scores[order])


def _products(features: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Cosines (n, P) from float64 sums, the same numbers as `Bank.score`'s."""
    return np.stack([np.multiply(features, example.astype(np.float64)).sum(axis=1) for example in examples], axis=1)
