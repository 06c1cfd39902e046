"""Nearest class mean, made smooth over the neighbour graph of the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ._episodic import (
    EpisodicClassifier,
    Support,
    class_means,
    nearness,
    neighbor_lists,
    require_at_least,
    require_one_of,
    shifted,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

_SHARPNESS = 10.0  # of the weights of rectification: the number in the authors' code


class LaplacianShot(EpisodicClassifier):
    """Assignments that weigh the squared distance to each prototype against agreement with the k nearest other queries.

    Source: Ziko et al. 2020, equation 1 and the updates of algorithm 1, y ∝ exp(-a + lambda W y), on rows of unit
    length, with rectified prototypes: Liu et al. 2020's weighted means under the weights of Ziko's code. Without them
    and with `lambd=0` it chooses the classes of SimpleShot's L2N. Transductive.

    The paper takes the mean of its base classes off every row first, after which rows of unit length are about 1 from
    their mean, and lambda is tuned on such distances. Here there are no base classes. Where cosines all but agree, as
    those of a MAE's class tokens, agreement would outweigh distances that are a hundredth of the paper's; so they are
    measured in units of the mean squared distance of the queries from their mean.
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        lambd: float = 0.7,
        k: int = 3,
        steps: int = 20,
        rectify: bool = True,
        scale: Literal["spread", "none"] = "spread",
    ):
        self.lambd = lambd  # lambda, the weight of agreement; the paper tunes it on other classes, between 0.1 and 1.5
        self.k = k  # other queries; the paper has 3, the authors' code counts the query itself among its 3
        self.steps = steps  # updates; the paper's stop by 20
        # queries are moved onto the support and take part in the prototypes; false: means of the support
        self.rectify = rectify
        # unit of the distances: the queries' spread about their mean, or none, as the paper's equation stands
        self.scale = scale

    def check_options(self) -> None:
        """Raise UsageError where lambda or `steps` is below 0, k below 1, or the scale unknown."""
        require_at_least(0, lambd=self.lambd)
        require_at_least(1, k=self.k)
        require_at_least(0, steps=self.steps)
        require_one_of(("spread", "none"), scale=self.scale)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): the assignments after `steps` updates of algorithm 1."""
        near, _ = neighbor_lists(queries, self.k)  # (E, q, k)
        support, queries = unit(learnt.rows), unit(queries)
        prototypes = class_means(support, learnt)
        if self.rectify:
            queries = shifted(queries, support)
            prototypes = _rectified(support, queries, prototypes, learnt)
        own = nearness(queries, prototypes)  # -a, (E, q, C)
        if self.scale == "spread":
            own = own / _spread(queries)
        assigned = own.softmax(dim=2)
        for _ in range(self.steps):
            assigned = (own + self.lambd * _of_neighbors(assigned, near)).softmax(dim=2)
        return assigned


def _rectified(support: Tensor, queries: Tensor, means: Tensor, labelled: Support) -> Tensor:
    """Prototypes (E, C, D): the weighted mean over a class's support and the queries nearest to it.

    Rows count as much as they are sure: a row's weight is the class's share of softmax(10 cosines to the means). Each
    class's weights are divided by their sum. The authors' code divides by the number of rows, which shortens the
    prototype of a class with doubtful members, so that where all are doubtful the lengths decide.
    """
    import torch

    rows = torch.cat([support, queries], dim=1)  # (E, n + q, D)
    cosines = unit(rows) @ unit(means).mT  # (E, n + q, C)
    nearest = torch.nn.functional.one_hot(cosines[:, support.shape[1] :].argmax(dim=2), labelled.n_classes)
    members = torch.cat([labelled.one_hot, nearest.to(rows.dtype)], dim=1)
    weights = members * (_SHARPNESS * cosines).softmax(dim=2)
    return weights.mT @ rows / weights.sum(dim=1)[..., None]


def _spread(rows: Tensor) -> Tensor:
    """Mean squared distance (E, 1, 1) of `rows` (E, q, D) from their mean; what is only rounding counts as none."""
    import torch

    spread = (rows - rows.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1)
    return spread.clamp_min(torch.finfo(rows.dtype).eps)[:, None, None]


def _of_neighbors(assigned: Tensor, near: Tensor) -> Tensor:
    """W y, (E, q, C): the sum of the assignments of each query's neighbours (E, q, k)."""
    import torch

    episode = torch.arange(len(near))[:, None, None]
    return assigned[episode, near].sum(dim=2)
