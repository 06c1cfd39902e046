"""Prototype rectification: the queries are shifted onto the support, and the surest of them join it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._episodic import EpisodicClassifier, Support, class_means, require_above, require_at_least, shifted, unit

if TYPE_CHECKING:
    from torch import Tensor


class BDCSPN(EpisodicClassifier):
    """Cosine to prototypes corrected for two biases: between support and queries, and within a class.

    Source: Liu et al. 2020 (Prototype Rectification for Few-Shot Learning), section 3. Transductive.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, candidates: int = 8, epsilon: float = 1.0, temperature: float = 0.1):
        self.candidates = candidates  # Z: queries that join each class, of those that it is nearest to
        # sharpness of the weights within a class; the paper has 10, under which support outweighs queries
        self.epsilon = epsilon
        self.temperature = temperature  # probabilities are the softmax of cosine / temperature

    def check_options(self) -> None:
        """Raise UsageError where the temperature is not above 0, or `candidates` or epsilon is below 0."""
        require_at_least(0, candidates=self.candidates)
        require_at_least(0, epsilon=self.epsilon)
        require_above(0, temperature=self.temperature)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): the softmax of cosines to the rectified prototypes."""
        import torch

        support, queries = unit(learnt.rows), unit(queries)
        queries = shifted(queries, support)
        basic = unit(class_means(support, learnt))  # (E, C, D)
        joined = _surest(unit(queries) @ basic.mT, self.candidates)
        members = torch.cat([learnt.one_hot > 0, joined], dim=1)  # (E, n + q, C)
        rectified = self._rectified(torch.cat([support, queries], dim=1), members, basic)
        return (unit(queries) @ unit(rectified).mT / self.temperature).softmax(dim=2)

    def _rectified(self, rows: Tensor, members: Tensor, basic: Tensor) -> Tensor:
        """Prototypes (E, C, D): means of each class's members, weighted by exp(epsilon cos(row, basic prototype))."""
        closeness = self.epsilon * unit(rows) @ basic.mT  # (E, n + q, C)
        weights = closeness.masked_fill(~members, -float("inf")).softmax(dim=1)
        return weights.mT @ rows


def _surest(cosines: Tensor, candidates: int) -> Tensor:
    """(E, q, C): whether a query is nearest to a class, and among the `candidates` nearest of those."""
    import torch

    own = torch.zeros_like(cosines).scatter(2, cosines.argmax(dim=2, keepdim=True), 1.0) > 0
    ranked = cosines.masked_fill(~own, -float("inf")).sort(dim=1, descending=True, stable=True).indices  # (E, q, C)
    place = ranked.argsort(dim=1)  # of each query in the order of each class
    return own & (place < candidates)
