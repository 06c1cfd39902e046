"""Multinomial logistic regression on frozen features, as MSN's low-shot evaluation defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from ..calibration import stratified_folds
from ..errors import NumericalError, UsageError, counted
from ..models.graph import Graph
from ..models.products import of_rows
from ._estimator import ProbabilisticClassifier, checked_weights, of_two
from ._labels import numbered
from ._softmax_batches import batches_pay, solve_together
from ._softmax_regression import Solution, penalty_path, solve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

GRID = tuple(10.0**power for power in np.arange(-4, 1.5, 0.5))  # lambdas that cross-validation tries
# lambda = 1 / C of the values of C that DINOv2 tries
DINOV2_GRID = tuple(10.0 ** -float(power) for power in np.linspace(-6, 5, 45))
_ENOUGH = 200  # held-out rows that are evaluated, where one tenth has fewer
_FALLBACK = 0.0025  # lambda where nothing can be held out
_CHUNK_BYTES = 16 << 20  # of scores that are turned into probabilities at once


class LogisticRegression(ProbabilisticClassifier):
    """Minimises (1/n) sum_i -log softmax(W x_i)[y_i] + (lambda / 2n) ||W||^2.

    Each x_i is centred over its own coordinates and of unit length.

    Source: Assran et al. 2022, appendix (MSN's logistic evaluation); equals scikit-learn's LogisticRegression with
    C = 1 / lambda on the same rows. Stops when the duality gap is below `tol` of the objective; raises NumericalError
    when it does not get there.
    """

    needs: ClassVar[str] = "features"
    penalty: ClassVar[str] = "lambd"
    default_penalty_of: ClassVar[str] = "MSN's"
    facts: ClassVar[Mapping[str, str]] = {"lambd": "lambd_", "why": "why_", "iterations": "n_iter_", "gap": "gap_"}

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
        selection: Literal["folds", "tenth"] = "folds",
    ):
        self.lambd = lambd  # None: chosen on parts of the rows that are fitted, as `selection` says
        self.rows = rows  # centred: minus its own mean, then unit length; unit: unit length; raw: as given
        self.intercept = intercept
        self.tol = tol
        self.max_iter = max_iter
        self.dtype = dtype
        self.device = device
        self.seed = seed  # of the folds; 0 is DINOv2's tenth
        # folds: 11 values by 5-fold cross-validation; tenth: DINOv2's 45 values of C on a random tenth
        self.selection = selection

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LogisticRegression:
        """Find W for rows (n, D) and labels (n,).

        A row of `sample_weight` (n,) 2 counts as if it stood there twice, and n in the objective is their sum. Raises
        UsageError for weights with `selection="tenth"`, which holds out rows, not weights.
        """
        if sample_weight is None:
            self.fit_together([self], [(X, y)])
            return self
        rows, labels = self._validated(X, y)
        weights = checked_weights(sample_weight, rows)
        counts = weights > 0
        self.classes_, numbers = numbered(labels[counts])
        rows, weights = self._prepared(rows[counts]), weights[counts]
        self.lambd_, self.why_ = self._chosen(rows, numbers, weights)
        self._keep(self._solved([(rows, numbers)], len(self.classes_), [self.lambd_], weights)[0])
        return self

    @staticmethod
    def fit_together(estimators: Sequence[LogisticRegression], sets: Sequence[tuple[ArrayLike, ArrayLike]]) -> None:
        """Fit each estimator on its own (X, y); on a GPU problems of one shape are solved as one.

        Their options are the same but for lambda.
        """
        taken = [estimator._taken(X, y) for estimator, (X, y) in zip(estimators, sets, strict=True)]
        for n_classes in {len(estimator.classes_) for estimator in estimators}:
            group = [i for i, estimator in enumerate(estimators) if len(estimator.classes_) == n_classes]
            first = estimators[group[0]]
            found = first._solved([taken[i] for i in group], n_classes, [estimators[i].lambd_ for i in group])
            for i, solution in zip(group, found, strict=True):
                estimators[i]._keep(solution)

    @staticmethod
    def summary(estimators: Sequence[LogisticRegression], shots: str) -> str:
        """The line on the lambda of regressions fitted on as many images per class, which are called `shots`."""
        lambdas = [one.lambd_ for one in estimators]
        same = len({(one.lambd_, one.why_) for one in estimators}) == 1
        which = "" if estimators[0].lambd is not None else f", {shots}"
        how = (
            f"{lambdas[0]:g}, {estimators[0].why_}"
            if same
            else f"{min(lambdas):g} to {max(lambdas):g}, chosen in each trial"
        )
        return f"logistic regression{which}: lambda {how}"

    def _taken(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """The rows as they are fitted and their labels' numbers; classes and lambda are settled."""
        rows, labels = self._validated(X, y)
        self.classes_, numbers = numbered(labels)
        rows = self._prepared(rows)
        self.lambd_, self.why_ = self._chosen(rows, numbers)
        return rows, numbers

    def _validated(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        kind = np.float64 if self.dtype == "float64" else np.float32
        return validate_data(self, X, y, dtype=kind, ensure_min_samples=1)

    def _keep(self, solution: Solution) -> None:
        self.coef_, self.intercept_ = solution.weights, solution.intercept  # (C, D), (C,)
        self.objective_, self.gap_, self.n_iter_ = solution.objective, solution.gap, solution.iterations

    def _logits(self, X: ArrayLike) -> np.ndarray:
        """Logits (Q, C), each row's a function of that row alone.

        In float64 to the last digit or two (see `products.of_rows`).
        """
        check_is_fitted(self)
        queries = validate_data(self, X, reset=False, dtype=self.coef_.dtype)
        return _scores(self._prepared(queries), self.coef_, self.intercept_)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities (Q, C), in the order of `classes_`."""
        logits = self._logits(X)
        shares = np.empty(logits.shape)
        step = max(1, _CHUNK_BYTES // (8 * logits.shape[1]))
        for start in range(0, len(logits), step):
            part = logits[start : start + step].astype(np.float64)
            np.exp(part - part.max(axis=1, keepdims=True), out=part)
            shares[start : start + step] = part / part.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class (Q,); the first in `classes_` on a tie."""
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithms of the class probabilities (Q, C), finite where a probability rounds to zero."""
        logits = self._logits(X).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits (Q, C); of two classes (Q,) their difference, as scikit-learn has it."""
        return of_two(self._logits(X).astype(np.float64))

    def graph(self) -> Graph:
        """`predict_proba` for a file that other programs run."""
        import torch

        check_is_fitted(self)
        way = self.rows

        def shares(rows: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
            rows = rows.to(constants["weight"].dtype)
            if way != "raw":  # as `_prepared`
                centred = rows - rows.mean(dim=1, keepdim=True) if way == "centred" else rows
                length = centred.double().square().sum(dim=1, keepdim=True).sqrt()
                flat = length <= 1e-6 * rows.abs().amax(dim=1, keepdim=True)
                unit = centred / torch.where(flat, torch.ones_like(length), length)
                rows = torch.where(flat, torch.zeros_like(unit), unit).to(rows.dtype)
            return of_rows(rows, constants["weight"], constants["bias"]).double().softmax(dim=1)

        return Graph({"weight": self.coef_, "bias": self.intercept_}, shares)

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        if self.rows == "raw":
            return X
        rows = X - X.mean(axis=1, keepdims=True) if self.rows == "centred" else X
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
        # constant rows: centring leaves rounding only
        flat = length <= 1e-6 * np.abs(X).max(axis=1, keepdims=True, initial=0)
        return np.where(flat, 0, rows / np.where(flat, 1, length)).astype(X.dtype)

    def _solved(
        self,
        sets: Sequence[tuple[np.ndarray, np.ndarray]],
        n_classes: int,
        lambdas: Sequence[float],
        weights: np.ndarray | None = None,
    ) -> list[Solution]:
        """A solution for each set and its lambda, all under the same row weights (n,).

        Raises NumericalError for one that does not converge.
        """
        from ..models.engines import resolve_device

        for lambd in lambdas:
            if not lambd > 0:
                raise ValueError(f"lambd = {lambd}: it must be above zero, or None to have it chosen")
        device = resolve_device(self.device)
        how: dict[str, Any] = {
            "intercept": self.intercept,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "dtype": self.dtype,
            "device": device,
        }
        if len(sets) > 1 and weights is None and batches_pay(device):
            found = solve_together(sets, n_classes, lambdas, **how)
        else:
            found = [
                solve(*one, n_classes, lambd, weights=weights, **how) for one, lambd in zip(sets, lambdas, strict=True)
            ]
        for solution in found:
            if not solution.converged:
                raise NumericalError(
                    f"logistic regression stopped after {counted(solution.iterations, 'iteration')} at a relative "
                    f"gap of {solution.gap:.2g}, above tol = {self.tol:g}",
                    fix="Raise max_iter, use dtype=float64, or a larger lambda.",
                )
        return found

    def _chosen(self, rows: np.ndarray, numbers: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, str]:
        """(lambda, why): as given, or the one with the best accuracy on held-out rows; among equals the largest."""
        if self.lambd is not None:
            return float(self.lambd), "given"
        if weights is not None and self.selection == "tenth":
            raise UsageError("selection='tenth' knows no sample_weight", fix="Give lambd, or take selection='folds'.")
        counts = np.bincount(numbers)
        if len(counts) > 1 and self.selection == "tenth" and counts.max() > 1:
            return self._by_tenths(rows, numbers, len(counts))
        if len(counts) > 1 and self.selection == "folds" and counts.min() > 1:
            return self._by_folds(rows, numbers, min(5, int(counts.min())), weights)
        return _FALLBACK, "MSN's: one image per class leaves nothing to cross-validate on"

    def _by_folds(
        self, rows: np.ndarray, numbers: np.ndarray, folds: int, weights: np.ndarray | None
    ) -> tuple[float, str]:
        """The best lambda of GRID in cross-validation."""
        right = dict.fromkeys(GRID, 0.0)
        fold = stratified_folds(numbers, folds, self.seed)
        counts = np.ones(len(rows)) if weights is None else weights
        for kept, held in ((fold != f, fold == f) for f in range(folds)):
            part = (rows[kept], numbers[kept])
            solutions = self._solved(
                [part] * len(GRID), int(numbers.max()) + 1, GRID, None if weights is None else weights[kept]
            )
            for lambd, solution in zip(GRID, solutions, strict=True):
                right[lambd] += float(counts[held][_right(solution, rows[held], numbers[held])].sum())
        best = max(right.values())
        lambd = max(lambd for lambd, hits in right.items() if hits == best)
        return lambd, f"best of {len(GRID)} by {folds}-fold cross-validation, {100 * best / counts.sum():.1f} % right"

    def _by_tenths(self, rows: np.ndarray, numbers: np.ndarray, n_classes: int) -> tuple[float, str]:
        """The best lambda of DINOV2_GRID on the first tenth of a permutation, and how it was chosen.

        Further tenths are taken until enough rows are held out.
        Source: dinov2 `eval/log_regression.py`, which has one tenth of 1.28 million images. The 45 searches are rough
        ones (see `penalty_path`) and together as long as one exact fit: predictions settle long before the gap closes.
        """
        import torch

        from ..models.engines import resolve_device

        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed)).numpy()
        size = max(1, len(rows) // 10)
        hits, evaluated = np.zeros(len(DINOV2_GRID), np.int64), 0
        for start in range(0, min(10 * size, len(rows)), size):
            held, kept = order[start : start + size], np.concatenate([order[:start], order[start + size :]])
            device = resolve_device(self.device)
            found = penalty_path(
                rows[kept],
                numbers[kept],
                n_classes,
                DINOV2_GRID,
                intercept=self.intercept,
                dtype=self.dtype,
                device=device,
            )
            hits += [int(_right(solution, rows[held], numbers[held]).sum()) for solution in found]
            evaluated += len(held)
            if evaluated >= _ENOUGH:
                break
        best = int(hits.argmax())  # the first of equals has the largest lambda
        share = f"{100 * hits[best] / evaluated:.1f} % of {counted(evaluated, 'held-out image')} right"
        return DINOV2_GRID[best], f"best of {len(DINOV2_GRID)} by DINOv2's rule, {share}"


def _right(solution: Solution, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Which of the rows (n,) get their class."""
    return _scores(rows, solution.weights, solution.intercept).argmax(axis=1) == numbers


def _scores(rows: np.ndarray, weights: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """Logits (Q, C) of rows (Q, D), weights (C, D) and constants (C,)."""
    import torch

    x, w, b = (torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in (rows, weights, constants))
    return of_rows(x, w, b).numpy()
