"""Ridge regression on one-hot labels, its strength chosen by exact leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ._episodic import EpisodicClassifier, Support, require_above, unit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

# strengths that leave-one-out chooses from, the strongest first so that ties go to it; rows have unit length, so the
# eigenvalues that alpha is added to sum to at most the number of support rows
_ALPHAS = tuple(10.0 ** (half / 2) for half in range(6, -9, -1))  # 1000, 316, ..., 0.0001
_BLOCK_ROWS = 1024  # whose leave-one-out residuals are computed at once, while they are in the CPU's cache


@dataclass(frozen=True)
class _Axes:
    """Centred rows X (E, n, D) in their principal axes.

    Z = X V, whose columns are orthogonal. One-hot labels Y less their mean.
    """

    V: Tensor  # (E, D, r)
    Z: Tensor  # (E, n, r)
    values: Tensor  # (E, r), the squared lengths of Z's columns
    labels: Tensor  # (E, n)
    shares: Tensor  # (E, C), of the rows that each class has: what was taken off the one-hot labels
    ZY: Tensor  # (E, r, C), Zᵀ Y, each row as often as it counts
    weights: Tensor | None  # (E, n), how often that is; None: once

    def fitted(self, alpha: Tensor) -> Tensor:
        """Weights (E, D, C) = (Xᵀ X + alpha)⁻¹ Xᵀ Y for one alpha (E,) per episode."""
        return self.V @ (self.ZY / (self.values + alpha[:, None])[..., None])


@dataclass(frozen=True)
class _Linear:
    """Scores of a row x are (x - centre) @ weights + offset."""

    centre: Tensor  # (E, 1, D)
    weights: Tensor  # (E, D, C)
    offset: Tensor  # (E, 1, C)


class Ridge(EpisodicClassifier):
    """Closed-form ridge regression of one-hot labels on rows of unit length, with an unpenalised offset.

    The largest score wins.

    Source: Bertinetto et al. 2019 (R2-D2), equation 6, with the dual form where rows are fewer than columns;
    leave-one-out residuals (y - ŷ) / (1 - h) by Allen 1974. Computed in float64: 1 - h loses digits where alpha is
    small.
    """

    def __init__(self, alpha: float | None = None, temperature: float = 0.1):
        # None: that of 0.0001, 0.000316, ..., 1000 with the smallest squared leave-one-out residuals
        self.alpha = alpha
        # probabilities are the softmax of scores / temperature; a score is near 1 for its class, else 0
        self.temperature = temperature

    def check_options(self) -> None:
        """Raise UsageError where the temperature or alpha is not above 0."""
        require_above(0, temperature=self.temperature)
        if self.alpha is not None:
            require_above(0, alpha=self.alpha)

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Ridge:
        """Learn from rows (N, D) and their labels (N,).

        A row of `sample_weight` (N,) 2 counts as if it stood there twice; leaving one out then leaves its other there.
        """
        return self._fit(X, y, sample_weight)

    def learn(self, support: Support) -> _Linear:
        """The regression on the support, with the alpha given or, for each episode, the best by leave-one-out."""
        support = replace(support, rows=unit(support.rows.double()), weights=_double(support.weights))
        shares, centre = support.counts / support.counts.sum(dim=1, keepdim=True), support.mean
        axes = _axes(support.rows - centre, support.labels, shares, support.weights)
        alpha = shares.new_full((len(shares),), self.alpha) if self.alpha is not None else _best_alpha(axes)
        return _Linear(centre, axes.fitted(alpha), shares[:, None])

    def class_probabilities(self, learnt: _Linear, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): the softmax of the regression's scores."""
        scores = (unit(queries.double()) - learnt.centre) @ learnt.weights + learnt.offset
        return (scores / self.temperature).softmax(dim=2)


def _double(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.double()


def _axes(X: Tensor, labels: Tensor, shares: Tensor, weights: Tensor | None = None) -> _Axes:
    """From the smaller of Xᵀ X and X Xᵀ, where each row of X has the root of its weight."""
    import torch

    roots = None if weights is None else weights.sqrt()[..., None]
    X = X if roots is None else X * roots
    if X.shape[1] > X.shape[2]:
        values, V = torch.linalg.eigh(X.mT @ X)
        Z = X @ V
    else:
        values, U = torch.linalg.eigh(X @ X.mT)
        length = values.clamp_min(1e-300).sqrt()[:, None]
        V, Z = X.mT @ U / length, U * length
    counted = Z if roots is None else Z * roots  # each row as often as it counts
    # (E, C, r)
    sums = Z.new_zeros((len(Z), shares.shape[1], Z.shape[2]))
    sums.scatter_add_(1, labels[..., None].expand(Z.shape), counted)
    ZY = (sums - shares[..., None] * counted.sum(dim=1, keepdim=True)).mT
    return _Axes(V, Z if roots is None else Z / roots, values.clamp_min(0), labels, shares, ZY, weights)


def _best_alpha(axes: _Axes) -> Tensor:
    """The alpha (E,) of the grid whose mean squared leave-one-out residual is smallest."""
    return axes.Z.new_tensor(_ALPHAS)[_left_out(axes).argmin(dim=0)]


def _left_out(axes: _Axes) -> Tensor:
    """Sums (A, E) for each alpha: each row's squared residual under the regression on all others, offset included.

    With S = 1 / (values + alpha), row i of Z being z and of Y being y, its prediction is p = YᵀZ S z. What is needed of
    it are y·p and p·p, and no (n, C) table of predictions for each alpha: a sixth of the time for 13,000 rows of 1000
    classes.
    """
    import torch

    root = torch.linalg.qr(axes.ZY.mT, mode="r").R.mT  # (E, r, min(r, C)): root rootᵀ = ZᵀY YᵀZ
    own = axes.ZY.mT.gather(1, axes.labels[..., None].expand(axes.Z.shape)) - (axes.ZY @ axes.shares[..., None]).mT
    size = 1 - 2 * axes.shares.gather(1, axes.labels) + axes.shares.square().sum(dim=1, keepdim=True)  # y·y, (E, n)
    errors = axes.Z.new_zeros((len(_ALPHAS), len(axes.Z)))
    total = axes.Z.shape[1] if axes.weights is None else axes.weights.sum(dim=1, keepdim=True)
    for part in _blocks(axes.Z.shape[1]):
        Z = axes.Z[:, part]
        cross, squares = Z * own[:, part], Z.square()  # (E, b, r)
        for at, alpha in enumerate(_ALPHAS):
            S = 1 / (axes.values + alpha)[..., None]  # (E, r, 1)
            residual = size[:, part] - 2 * (cross @ S)[..., 0] + (Z @ (S * root)).square().sum(dim=2)
            kept = 1 - (squares @ S)[..., 0] - 1 / total  # 1 - leverage; 1/n is the offset's
            squared = residual / kept.clamp_min(1e-12).square()
            errors[at] += (squared if axes.weights is None else squared * axes.weights[:, part]).sum(dim=1)
    return errors


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK_ROWS) for start in range(0, n, _BLOCK_ROWS)]
