"""Multinomial logistic regression on frozen features, as MSN's low-shot evaluation defines it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..calibration import stratified_folds
from ..errors import NumericalError
from ..softmax_regression import solve
from ._labels import numbered

GRID = tuple(10.0**power for power in np.arange(-4, 1.5, 0.5))  # lambdas that cross-validation tries
_CHUNK_BYTES = 16 << 20  # of scores that are turned into probabilities at once


class LogisticRegression(ClassifierMixin, BaseEstimator):
    """Minimises (1/n) sum_i -log softmax(W x_i)[y_i] + (lambda / 2n) ||W||^2, each x_i centred over its own coordinates and of unit length.

    Source: Assran et al. 2022, appendix (MSN's logistic evaluation); equals scikit-learn's LogisticRegression at C = 1 / lambda on
    the same rows. Stops when the duality gap is below `tol` of the objective; raises NumericalError when it does not get there.
    """

    needs: ClassVar[str] = "features"
    transductive: ClassVar[bool] = False

    def __init__(
        self,
        lambd: float | None = 0.0025,
        rows: Literal["centred", "unit", "raw"] = "centred",
        intercept: bool = False,
        tol: float = 1e-6,
        max_iter: int = 1000,
        dtype: Literal["float32", "float64"] = "float32",
        device: str = "auto",
        seed: int = 0,
    ):
        self.lambd = lambd  # None: chosen by cross-validation on the rows that are fitted
        self.rows = rows  # centred: minus its own mean, then unit length; unit: unit length; raw: as given
        self.intercept = intercept
        self.tol = tol
        self.max_iter = max_iter
        self.dtype = dtype
        self.device = device
        self.seed = seed  # of the folds

    def fit(self, X: Any, y: Any) -> LogisticRegression:
        """Find W for rows (n, D) and labels (n,)."""
        X, y = validate_data(self, X, y, dtype=(np.float64 if self.dtype == "float64" else np.float32), ensure_min_samples=1)
        self.classes_, numbers = numbered(y)
        rows = self._prepared(X)
        self.lambd_, self.why_ = self._chosen(rows, numbers)
        solution = self._solved(rows, numbers, len(self.classes_), self.lambd_)
        self.coef_, self.intercept_ = solution.weights, solution.intercept  # (C, D), (C,)
        self.objective_, self.gap_, self.n_iter_ = solution.objective, solution.gap, solution.iterations
        return self

    def _logits(self, X: Any) -> np.ndarray:
        """Logits (Q, C)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self.coef_.dtype)
        return self._prepared(X) @ self.coef_.T + self.intercept_

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (Q, C), in the order of `classes_`."""
        logits = self._logits(X)
        shares = np.empty(logits.shape)
        step = max(1, _CHUNK_BYTES // (8 * logits.shape[1]))
        for start in range(0, len(logits), step):
            part = logits[start : start + step].astype(np.float64)
            np.exp(part - part.max(axis=1, keepdims=True), out=part)
            shares[start : start + step] = part / part.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class (Q,); the first in `classes_` on a tie."""
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        if self.rows == "raw":
            return X
        rows = X - X.mean(axis=1, keepdims=True) if self.rows == "centred" else X
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
        flat = length <= 1e-6 * np.abs(X).max(axis=1, keepdims=True, initial=0)  # constant rows: centring leaves rounding only
        return np.where(flat, 0, rows / np.where(flat, 1, length)).astype(X.dtype)

    def _solved(self, rows: np.ndarray, numbers: np.ndarray, n_classes: int, lambd: float) -> Any:
        if not lambd > 0:
            raise ValueError(f"lambd = {lambd}: it must be above zero, or None to have it chosen")
        solution = solve(
            rows,
            numbers,
            n_classes,
            lambd,
            intercept=self.intercept,
            tol=self.tol,
            max_iter=self.max_iter,
            dtype=self.dtype,
            device=_device(self.device),
        )
        if not solution.converged:
            raise NumericalError(
                f"logistic regression stopped after {solution.iterations} iterations at a relative gap of {solution.gap:.2g}, above tol = {self.tol:g}",
                fix="Raise max_iter, use dtype=float64, or a larger lambda.",
            )
        return solution

    def _chosen(self, rows: np.ndarray, numbers: np.ndarray) -> tuple[float, str]:
        """(lambda, why): as given, or the one with the best accuracy on held-out folds; among equals the largest."""
        if self.lambd is not None:
            return float(self.lambd), "given"
        counts = np.bincount(numbers)
        folds = min(5, int(counts.min()))
        if folds < 2 or len(counts) < 2:
            return 0.0025, "MSN's: one image per class leaves nothing to cross-validate on"
        right = dict.fromkeys(GRID, 0)
        fold = stratified_folds(numbers, folds, self.seed)
        for kept, held in ((fold != f, fold == f) for f in range(folds)):
            for lambd in GRID:
                weights = self._solved(rows[kept], numbers[kept], len(counts), lambd)
                scores = rows[held] @ weights.weights.T + weights.intercept
                right[lambd] += int((scores.argmax(axis=1) == numbers[held]).sum())
        best = max(right.values())
        lambd = max(lambd for lambd, hits in right.items() if hits == best)
        return lambd, f"best of {len(GRID)} by {folds}-fold cross-validation, {100 * best / len(rows):.1f} % right"


def _device(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
