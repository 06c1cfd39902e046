"""Labels that spread over the neighbour graph of support and queries together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..errors import UsageError
from ._episodic import EpisodicClassifier, Support, neighbor_lists, require_above, require_at_least

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_DENSE = 3000  # points of an episode whose system is solved as a dense matrix; more by conjugate gradients
_CG_TOLERANCE = 1e-10  # of the residual, relative


class LabelPropagation(EpisodicClassifier):
    """F = (1 - alpha S)⁻¹ Y on the symmetric k-nearest-neighbour graph, each query's row of F made to sum to one.

    Source: Zhou et al. 2004, section 2: S = D^(-1/2) W D^(-1/2), W = exp(-|x - x'|² / 2 sigma²), here between rows of
    unit length of which one is among the k nearest of the other. Transductive. A query that no label reaches is
    uniform.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, k: int = 10, alpha: float = 0.99, sigma: float | None = None):
        self.k = k  # neighbours; all others where there are fewer
        self.alpha = alpha  # share that comes from the neighbours; 0.99 is the paper's
        self.sigma = sigma  # width of the kernel; None: the root of the mean squared distance between neighbours

    def check_options(self) -> None:
        """Raise UsageError where k is below 1, alpha outside [0, 1), or sigma not above 0."""
        require_at_least(1, k=self.k)
        if not 0 <= self.alpha < 1:
            raise UsageError(f"alpha = {self.alpha} must be at least 0 and below 1")
        if self.sigma is not None:
            require_above(0, sigma=self.sigma)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): their rows of F; uniform where no label reaches."""
        import torch

        near, cosines = neighbor_lists(torch.cat([learnt.rows, queries], dim=1), self.k)
        weights = self._weights(2 - 2 * cosines.double())
        labels = torch.nn.functional.pad(learnt.one_hot.double(), (0, 0, 0, queries.shape[1]))  # (E, n + q, C)
        solve = _solve_dense if near.shape[1] <= _LARGEST_DENSE else _solve_sparse
        spread = solve(near, weights, labels, self.alpha)[:, learnt.rows.shape[1] :].clamp_min(0)
        total = spread.sum(dim=2, keepdim=True)
        return torch.where(total > 0, spread / total.clamp_min(1e-300), 1 / learnt.n_classes).to(queries.dtype)

    def _weights(self, distances: Tensor) -> Tensor:
        """Kernel values (E, m, k) of squared distances; sigma is each episode's own."""
        if self.sigma is not None:
            return (-distances / (2 * self.sigma**2)).exp()
        scale = distances.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)  # all points alike: every weight is 1
        return (-distances.clamp_min(0) / (2 * scale)).exp()


def _solve_dense(near: Tensor, weights: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """F (E, m, C) of neighbour lists (E, m, k), their weights, and Y (E, m, C)."""
    import torch

    m = near.shape[1]
    directed = weights.new_zeros((len(near), m, m)).scatter_(2, near, weights)
    graph = torch.maximum(directed, directed.mT)
    scale = _inverse_root(graph.sum(dim=2))
    similar = scale[..., None] * graph * scale[:, None]
    return torch.linalg.solve(torch.eye(m, dtype=graph.dtype) - alpha * similar, labels)


def _solve_sparse(near: Tensor, weights: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """The same with sparse matrices, episode by episode and class by class.

    The system is symmetric and positive definite.
    """
    import numpy as np
    import torch
    from scipy import sparse
    from scipy.sparse.linalg import cg

    m, k = near.shape[1:]
    found = labels.clone()
    for episode, (rows, values) in enumerate(zip(near.numpy(), weights.numpy(), strict=True)):
        directed = sparse.csr_array((values.ravel(), rows.ravel(), np.arange(0, m * k + 1, k)), shape=(m, m))
        graph = directed.maximum(directed.T)
        scale = sparse.diags_array(_inverse_root(torch.from_numpy(graph.sum(axis=1))).numpy())
        system = sparse.eye_array(m) - alpha * (scale @ graph @ scale)
        for c in range(labels.shape[2]):
            found[episode, :, c] = torch.from_numpy(cg(system, labels[episode, :, c].numpy(), rtol=_CG_TOLERANCE)[0])
    return found


def _inverse_root(degrees: Tensor) -> Tensor:
    """degrees^(-1/2), finite for a point without neighbours too: there are only zeros for it to scale."""
    return degrees.clamp_min(1e-300).rsqrt()
