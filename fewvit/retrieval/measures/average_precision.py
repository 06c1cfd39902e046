"""Average precision in its definitions, which do not give one number. Shares, not percent.

`by_trapezoid` lies between two steps of recall; `pooled` sorts what all queries found together; that which stops at a
rank is `metrics.average_precision_at`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def by_trapezoid(ranks: np.ndarray, n_positives: int) -> float:
    """AP of one query from the ranks (n,) of the positives found, rising from 0, out of `n_positives` (at least 1).

    Each positive adds 1/n_positives times the mean of the precision before it, which is 1 at rank 0, and after it; one
    that was not found adds nothing. Source: Philbin et al. 2007, whose benchmarks Oxford and Paris are.
    """
    found = np.arange(len(ranks))  # positives before each one
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / 2 / n_positives)


class Curve(NamedTuple):
    """Precision and recall, each (n,), of what has at least `scores` (n,), falling."""

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def average_precision(self) -> float:
        """The precision wherever recall rises, weighted by how far it does."""
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    def recall_at(self, precision: float) -> tuple[float, float | None]:
        """The largest recall whose precision is at least so high, and the score from which on it is had.

        (0.0, None) where no score has it.
        """
        enough = np.flatnonzero(self.precision >= precision)
        if len(enough) == 0:
            return 0.0, None
        best = enough[self.recall[enough].argmax()]
        return float(self.recall[best]), float(self.scores[best])


def pooled(scores: np.ndarray, correct: np.ndarray, n_positives: int) -> Curve:
    """The curve of predictions of all queries together: `scores` (n,), `correct` (n,) bool, out of `n_positives`.

    Of equal scores the wrong ones come first. Source: Douze et al. 2021 (micro-AP of the image similarity challenge);
    Perronnin et al. 2009 (GAP).
    """
    order = np.lexsort((correct, -scores))
    hits = np.cumsum(correct[order])
    return Curve(scores[order], hits / np.arange(1, len(hits) + 1), hits / n_positives)
