"""Recall as it is measured: what a structure finds of the true nearest rows, and the least effort that is enough."""

from __future__ import annotations

import numpy as np

from ..metrics import mean_and_interval
from ..neighbors.approximate import Effort, sampled
from .manifest import Recall
from .search import nearest
from .segment import Segment

AT = 10  # neighbours whose recall is measured
QUERIES = 1000  # rows that are asked for, each left out of its own answer
_SEED = 20261


def exact(wanted: float) -> Recall:
    """That of an index that compares every row."""
    return Recall(1.0, 1.0, 1.0, AT, 0, wanted)


def held_out(rows: int) -> np.ndarray:
    """The rows (n,) that recall is measured with: no structure is trained on them."""
    return sampled(rows, min(QUERIES, max(1, rows // 2)), _SEED)


def settled(segment: Segment, efforts: list[Effort], wanted: float) -> tuple[Effort, Recall]:
    """The first effort whose recall is `wanted` at the lower end of its interval too, else the last; its recall."""
    asked = held_out(segment.rows)
    truth = _neighbours(segment, asked, None)
    for effort in efforts:
        recall = _recall(truth, _neighbours(segment, asked, effort), wanted)
        if recall.is_met:
            break
    return effort, recall


def _neighbours(segment: Segment, asked: np.ndarray, effort: Effort | None) -> list[set[int]]:
    """For each row asked (n,) the other rows that a search finds nearest, `AT` of them where there are so many."""
    queries = segment.features[asked].astype(np.float32)
    near = nearest([segment], queries, AT + 1, [None], effort)
    return [set([row for row in near.of(q)[0].tolist() if row != own][:AT]) for q, own in enumerate(asked.tolist())]


def _recall(truth: list[set[int]], found: list[set[int]], wanted: float) -> Recall:
    """The share of `truth` that was found, by query, with Student's t interval of its mean.

    Where every query has the same recall, the interval reaches down by 3 of the n queries: so many could be worse, at
    95 %, without one of them being among those asked.
    """
    shares = [100 * len(one & other) / max(len(one), 1) for one, other in zip(truth, found, strict=True)]
    of = mean_and_interval(shares)
    mean = float(np.mean(shares)) / 100
    low, high = of["ci95"] if isinstance(of.get("ci95"), list) else (0.0, 100.0)  # type: ignore[misc]
    if min(shares) == max(shares):
        low = max(0.0, 100 * mean - 300 / len(shares))
    return Recall(round(mean, 6), round(low / 100, 6), round(high / 100, 6), AT, len(shares), wanted)
