"""Weighted k-nearest-neighbour classification, as DINO's and DINOv2's evaluations define it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UsageError
from ..neighbors import Bank
from ..vote import check_temperature, weighted_vote
from ._labels import numbered

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class KNNClassifier(ClassifierMixin, BaseEstimator):
    """Votes of the k most cosine-similar rows, each with weight exp(similarity / temperature).

    Source: Wu et al. 2018, section 3.4; Caron et al. 2021, appendix F. Exact neighbours; ties by row, then by class.
    """

    needs: ClassVar[str] = "features"
    keeps: ClassVar[str] = "support"  # a bundle stores the rows and fits again: a search structure is no array

    def __init__(self, k: int = 20, temperature: float = 0.07, device: str = "auto", engine: str = "auto"):
        self.k = k  # neighbours; 20 is the best of 10, 20, 100, 200 throughout DINO's paper
        self.temperature = temperature
        self.device = device
        self.engine = engine

    def fit(self, X: ArrayLike, y: ArrayLike) -> KNNClassifier:
        """Remember rows (N, D) and their labels (N,). Raises UsageError for k below 1, ValueError when k exceeds N."""
        rows, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=1)
        check_temperature(self.temperature)
        if self.k < 1:
            raise UsageError(
                f"k = {self.k}: at least one neighbour must vote", fix="Choose k = 1 or more; 20 is the papers'."
            )
        self.classes_, self._labels = numbered(labels)
        if self.k > len(rows):
            raise ValueError(f"k = {self.k} neighbours cannot come from n_samples = {len(rows)}")
        self._bank = Bank(rows, device=self.device, engine=self.engine)
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Shares of the vote (Q, C), in the order of `classes_`."""
        check_is_fitted(self)
        queries = validate_data(self, X, reset=False, dtype=np.float32)
        shares = np.empty((len(queries), len(self.classes_)))
        for part, neighbors in self._bank.chunks(queries, self.k):
            votes = weighted_vote(neighbors, self._labels, len(self.classes_), self.temperature)
            shares[part] = votes / votes.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The class (Q,) with the largest vote; the first in `classes_` on a tie."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]
