"""Nearest class mean, made smooth over the neighbour graph of the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._episodic import EpisodicClassifier, Support, class_means, nearness, neighbor_lists, require_at_least, shifted, unit

if TYPE_CHECKING:
    from torch import Tensor


class LaplacianShot(EpisodicClassifier):
    """Assignments that weigh the squared distance to each class mean against agreement with the k nearest other queries.

    Source: Ziko et al. 2020, equation 1 and the bound's updates of equation 12, y ∝ exp(-a + lambda W y), on rows of unit length.
    With `lambd=0` it is SimpleShot's L2N. Transductive.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, lambd: float = 1.0, k: int = 3, steps: int = 20, shift: bool = False):
        self.lambd = lambd  # lambda, the weight of agreement; the paper tunes it between 0.1 and 1.5
        self.k = k  # neighbours; 3 is the paper's for mini-ImageNet
        self.steps = steps  # updates; the paper's stop by 20
        self.shift = shift  # first move the queries' mean onto the support's, the paper's rectification by Liu et al. 2020

    def check_options(self) -> None:
        require_at_least(0, lambd=self.lambd)
        require_at_least(1, k=self.k)
        require_at_least(0, steps=self.steps)

    def judge(self, learnt: Support, queries: Tensor) -> Tensor:
        near, _ = neighbor_lists(queries, self.k)  # (E, q, k)
        support, queries = unit(learnt.rows), unit(queries)
        if self.shift:
            queries = shifted(queries, support)
        own = nearness(queries, class_means(support, learnt))  # -a, (E, q, C)
        assigned = own.softmax(dim=2)
        for _ in range(self.steps):
            assigned = (own + self.lambd * _of_neighbors(assigned, near)).softmax(dim=2)
        return assigned


def _of_neighbors(assigned: Tensor, near: Tensor) -> Tensor:
    """W y, (E, q, C): the sum of the assignments of each query's neighbours (E, q, k)."""
    import torch

    episode = torch.arange(len(near))[:, None, None]
    return assigned[episode, near].sum(dim=2)
