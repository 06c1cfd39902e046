"""Tip-Adapter's key-value cache without training and without text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._episodic import EpisodicClassifier, Support, inner_products, require_above, unit

if TYPE_CHECKING:
    from torch import Tensor


class CacheModel(EpisodicClassifier):
    """Labels of all support rows, weighted by the affinity exp(-beta (1 - cosine)) and made to sum to one.

    Source: Zhang et al. 2022 (Tip-Adapter), equations 5 and 6 without the zero-shot term, for there is no text encoder
    here.
    """

    def __init__(self, beta: float = 5.5):
        self.beta = beta  # sharpness; 5.5 is the paper's

    def check_options(self) -> None:
        """Raise UsageError where beta is not above 0."""
        require_above(0, beta=self.beta)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): each class's share of the affinities to the support."""
        cosines = inner_products(unit(queries), unit(learnt.rows))  # (E, q, n)
        affinity = (self.beta * cosines).softmax(dim=2)  # exp(-beta (1 - cosine)), divided by its sum over the cache
        return inner_products(affinity, learnt.one_hot.mT)
