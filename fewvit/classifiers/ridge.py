"""Ridge regression on one-hot labels, its strength chosen by exact leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._episodic import EpisodicClassifier, Support, require_above, unit

if TYPE_CHECKING:
    from torch import Tensor

# strengths that leave-one-out chooses from, the strongest first so that ties go to it; rows have unit length, so the
# eigenvalues that alpha is added to sum to at most the number of support rows
_ALPHAS = tuple(10.0 ** (half / 2) for half in range(6, -9, -1))  # 1000, 316, ..., 0.0001


@dataclass(frozen=True)
class _Spectrum:
    """The centred rows in their principal axes: X Xᵀ = Z Zᵀ, and Z's columns are orthogonal with squared lengths `values`."""

    Z: Tensor  # (E, n, r)
    values: Tensor  # (E, r)


@dataclass(frozen=True)
class _Linear:
    """Scores of a row x are (x - centre) @ weights + offset."""

    centre: Tensor  # (E, 1, D)
    weights: Tensor  # (E, D, C)
    offset: Tensor  # (E, 1, C)


class Ridge(EpisodicClassifier):
    """Closed-form ridge regression of one-hot labels on rows of unit length, with an unpenalised offset; the largest score wins.

    Source: Bertinetto et al. 2019 (R2-D2), equation 6, with the dual form where rows are fewer than columns; leave-one-out
    residuals (y - ŷ) / (1 - h) by Allen 1974. Computed in float64: 1 - h loses digits where alpha is small.
    """

    def __init__(self, alpha: float | None = None, temperature: float = 0.1):
        self.alpha = alpha  # None: that of 0.0001, 0.000316, ..., 1000 with the smallest squared leave-one-out residuals
        self.temperature = temperature  # probabilities are the softmax of scores / temperature; a score is near 1 for its class, else 0

    def check_options(self) -> None:
        require_above(0, temperature=self.temperature)
        if self.alpha is not None:
            require_above(0, alpha=self.alpha)

    def learn(self, support: Support) -> _Linear:
        rows, targets = unit(support.rows.double()), support.one_hot.double()
        centre, offset = rows.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)
        X, Y = rows - centre, targets - offset
        spectrum = _spectrum(X)
        if self.alpha is None:
            alpha = _best_alpha(spectrum, Y)
        else:
            alpha = X.new_full((len(X),), self.alpha)
        return _Linear(centre, X.mT @ _dual_weights(spectrum, Y, alpha), offset)

    def judge(self, learnt: _Linear, queries: Tensor) -> Tensor:
        scores = (unit(queries.double()) - learnt.centre) @ learnt.weights + learnt.offset
        return (scores / self.temperature).softmax(dim=2)


def _spectrum(X: Tensor) -> _Spectrum:
    """From the smaller of X Xᵀ and Xᵀ X."""
    import torch

    if X.shape[1] <= X.shape[2]:
        values, U = torch.linalg.eigh(X @ X.mT)
        values = values.clamp_min(0)
        return _Spectrum(U * values.sqrt()[:, None], values)
    values, V = torch.linalg.eigh(X.mT @ X)
    return _Spectrum(X @ V, values.clamp_min(0))


def _dual_weights(spectrum: _Spectrum, Y: Tensor, alpha: Tensor) -> Tensor:
    """(X Xᵀ + alpha)⁻¹ Y, (E, n, C), for one alpha (E,) per episode: (Y - fitted) / alpha."""
    shrink = 1 / (spectrum.values + alpha[:, None])  # (E, r)
    fitted = spectrum.Z @ (shrink[..., None] * (spectrum.Z.mT @ Y))
    return (Y - fitted) / alpha[:, None, None]


def _best_alpha(spectrum: _Spectrum, Y: Tensor) -> Tensor:
    """The alpha (E,) of the grid whose mean squared leave-one-out residual is smallest."""
    import torch

    errors = torch.stack([_left_out(spectrum, Y, alpha).square().sum(dim=(1, 2)) for alpha in _ALPHAS])  # (A, E)
    return Y.new_tensor(_ALPHAS)[errors.argmin(dim=0)]


def _left_out(spectrum: _Spectrum, Y: Tensor, alpha: float) -> Tensor:
    """Residuals (E, n, C) of each row under the regression on all others, offset included."""
    shrink = 1 / (spectrum.values + alpha)  # (E, r)
    fitted = spectrum.Z @ (shrink[..., None] * (spectrum.Z.mT @ Y))
    leverage = (spectrum.Z.square() * shrink[:, None]).sum(dim=2) + 1 / Y.shape[1]  # 1/n is the offset's
    return (Y - fitted) / (1 - leverage).clamp_min(1e-12)[..., None]
