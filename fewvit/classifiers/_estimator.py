"""What every classifier answers beside its probabilities, in scikit-learn's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_LIGHTEST, _HEAVIEST = 1e-20, 1e20  # what sums in float32 bear
_LEAST = np.finfo(np.float64).tiny  # a share of nothing, where a score has to be finite


class ProbabilisticClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that states `predict_proba` and has the rest from it."""

    classes_: np.ndarray

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities (Q, C), in the order of `classes_`."""
        raise NotImplementedError

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class (Q,); the first in `classes_` on a tie."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithms of the class probabilities (Q, C); -inf for a class that has no share at all."""
        shares = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(shares)

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Scores (Q, C) whose largest is the predicted class: the logarithms of the probabilities, finite ones.

        Of two classes (Q,): how much the second one's is above the first one's, as scikit-learn has it.
        """
        return of_two(np.log(np.maximum(self.predict_proba(X), _LEAST)))


def of_two(scores: np.ndarray) -> np.ndarray:
    """Scores (Q, C) as they are; of two classes (Q,), the second one's less the first one's."""
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores


def checked_weights(sample_weight: ArrayLike, rows: np.ndarray) -> np.ndarray:
    """Weights (n,) float64 of rows (n, D), none below zero.

    One number stands for all. Raises ValueError for another number of weights, for NaN, Inf and what is below zero,
    and where no row counts.
    """
    given = np.array(sample_weight)
    if np.iscomplexobj(given):
        raise ValueError("sample_weight holds complex numbers")
    weights = given.astype(np.float64)
    if weights.ndim == 0:
        weights = np.full(len(rows), weights)
    if weights.shape != (len(rows),):
        raise ValueError(f"sample_weight has the shape {weights.shape}, and there are n_samples = {len(rows)}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight holds NaN, Inf or a number below zero")
    if not weights.any():
        raise ValueError("every sample_weight is zero: there is nothing to learn from")
    if not _LIGHTEST <= weights.max() <= _HEAVIEST:
        raise ValueError(f"the largest sample_weight is {weights.max():g}: scale them to be near 1")
    return weights
