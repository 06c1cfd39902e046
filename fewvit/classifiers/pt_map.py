"""Power transform, then class centres by optimal transport of the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import NumericalError
from ._episodic import (
    EpisodicClassifier,
    Support,
    class_means,
    nearness,
    require_above,
    require_at_least,
    require_one_of,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-6  # keeps the power of a zero away from its steep start


class PTMAP(EpisodicClassifier):
    """Sinkhorn's plan between queries and classes, in turn with class centres that move towards their share of it.

    Source: Hu et al. 2021 (Leveraging the Feature Distribution in Transfer-based Few-Shot Learning), equation 2 and
    algorithm 1. Transductive. It presumes the class proportions of the queries: those of the support, which in an
    episode means all equal. One query alone is therefore uniform.

    beta, lambda, alpha and the number of moves are those of the authors' code.

    The paper's features come out of a ReLU; a ViT's are negative as often as positive. `negative="signed"` transforms
    the magnitude and keeps the sign, which is the paper's formula wherever that is defined; `"refuse"` raises
    NumericalError.
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        beta: float = 0.5,
        negative: Literal["signed", "refuse"] = "signed",
        centering: bool = True,
        lambd: float = 10.0,
        step: float = 0.2,
        steps: int = 20,
        sinkhorn_steps: int = 50,
    ):
        self.beta = beta  # exponent of the power transform
        self.negative = negative
        # support and queries each lose their own mean: in the authors' code, not in their formulas
        self.centering = centering
        self.lambd = lambd  # lambda: sharpness of the plan
        self.step = step  # alpha of algorithm 1: how far the centres move at once
        self.steps = steps  # moves
        self.sinkhorn_steps = sinkhorn_steps  # rounds of row and column scaling for each plan; 20 are enough for 5 ways

    def check_options(self) -> None:
        """Raise UsageError for an unknown `negative`, and for a number that its formula cannot take."""
        require_one_of(("signed", "refuse"), negative=self.negative)
        require_above(0, beta=self.beta, lambd=self.lambd, step=self.step)
        require_at_least(0, steps=self.steps)
        require_at_least(1, sinkhorn_steps=self.sinkhorn_steps)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): the last plan.

        Raises NumericalError for negative features where `negative` is `refuse`.
        """
        support, queries = self._transformed(learnt.rows), self._transformed(queries)
        counts = learnt.counts
        mass = counts * queries.shape[1] / counts.sum(dim=1, keepdim=True)  # (E, C): queries that each class is to get
        labelled = learnt.one_hot.mT @ support  # (E, C, D)
        centres = class_means(support, learnt)
        for _ in range(self.steps):
            plan = sinkhorn(self.lambd * nearness(queries, centres), mass, self.sinkhorn_steps)  # (E, q, C)
            means = (labelled + plan.mT @ queries) / (counts + plan.sum(dim=1))[..., None]
            centres = centres + self.step * (means - centres)
        return sinkhorn(self.lambd * nearness(queries, centres), mass, self.sinkhorn_steps)

    def _transformed(self, rows: Tensor) -> Tensor:
        """Rows of unit length after the power transform, centred if asked."""
        import torch

        if self.negative == "refuse" and bool((rows < 0).any()):
            raise NumericalError(
                "PT-MAP's power transform is defined for features that are not negative",
                fix="--set negative=signed transforms magnitudes and keeps signs.",
            )
        rows = unit(torch.copysign((rows.abs() + _EPSILON) ** self.beta, rows))
        return unit(rows - rows.mean(dim=1, keepdim=True)) if self.centering else rows


def sinkhorn(affinity: Tensor, mass: Tensor, steps: int) -> Tensor:
    """The plan (E, q, C) of the form exp(affinity + u + v) whose rows sum to 1 and whose columns sum to `mass` (E, C).

    Source: Cuturi 2013, algorithm 1, in float64. Rows sum to 1 exactly, columns to `mass` as closely as `steps` rounds
    bring them; a class whose affinities all lie more than 700 below the best of their rows gets nothing.
    """
    import torch

    kernel = (affinity - affinity.amax(dim=2, keepdim=True)).double().exp()
    by_class, wanted = kernel.mT.contiguous(), mass.double()[..., None]  # (E, C, q), (E, C, 1)
    scale = torch.ones_like(wanted)  # exp(v)
    for _ in range(steps):
        scale = wanted / (by_class @ (1 / (kernel @ scale))).clamp_min(1e-200)
    plan = kernel * scale.mT
    return (plan / plan.sum(dim=2, keepdim=True)).to(affinity.dtype)
