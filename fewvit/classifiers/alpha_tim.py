"""Information maximisation on the queries, with alpha-divergences that do not presume balanced classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._episodic import EpisodicClassifier, Support, class_means, require_above, require_at_least, unit

if TYPE_CHECKING:
    from torch import Tensor


class AlphaTIM(EpisodicClassifier):
    """Class weights that fit the support and make the queries' classes certain one by one and diverse as a whole.

    Source: Veilleux et al. 2021, section 4: cross-entropy of the support minus the alpha-mutual information of the
    queries and their classes, in Tsallis entropies H(p) = (1 - sum p^alpha) / (alpha - 1), by Adam from the class
    means. Probabilities are those of Boudiaf et al. 2020 (TIM), equation 1: p ∝ exp(-tau/2 |w - z|²) on rows of unit
    length. Transductive.

    The defaults are the authors' for one shot. TIM is `alpha=1` with a support weight and a conditional weight of 0.1.
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 2.0,
        tau: float = 15.0,
        learning_rate: float = 1e-4,
        steps: int = 1000,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 1.0,
    ):
        # 1: Shannon's entropies; larger ones bear less balanced queries. The authors': 2 for one shot, 7 for five
        self.alpha = alpha
        self.tau = tau  # sharpness
        self.learning_rate = learning_rate
        self.steps = steps
        self.support_weight = support_weight  # of the support's cross-entropy
        self.marginal_weight = marginal_weight  # of the entropy of the queries' mean prediction, which is to be large
        self.conditional_weight = conditional_weight  # of the queries' mean entropy, which is to be small

    def check_options(self) -> None:
        """Raise UsageError where alpha, tau or the learning rate is not above 0, or `steps` is below 0."""
        require_above(0, alpha=self.alpha, tau=self.tau, learning_rate=self.learning_rate)
        require_at_least(0, steps=self.steps)

    def class_probabilities(self, learnt: Support, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D) under the class weights that `steps` of Adam came to."""
        import torch

        support = unit(learnt.rows)
        rows = torch.cat([support, unit(queries)], dim=1)  # (E, n + q, D)
        weights = class_means(support, learnt).requires_grad_()  # (E, C, D)
        adam = torch.optim.Adam([weights], lr=self.learning_rate)
        for _ in range(self.steps):
            (weights.grad,) = torch.autograd.grad(self._losses(rows, weights, learnt).sum(), [weights])
            adam.step()  # element by element, so that no episode feels another
        return self._logits(rows[:, support.shape[1] :], weights.detach()).softmax(dim=2)

    def _logits(self, rows: Tensor, weights: Tensor) -> Tensor:
        """-tau/2 |w - z|² up to what all classes share, (E, rows, C)."""
        return self.tau * (rows @ weights.mT - weights.square().sum(dim=2)[:, None] / 2)

    def _losses(self, rows: Tensor, weights: Tensor, support: Support) -> Tensor:
        """The objective of each episode (E,)."""
        n = support.rows.shape[1]
        log_shares = self._logits(rows, weights).log_softmax(dim=2)
        fit = -(support.one_hot * log_shares[:, :n]).sum(dim=2).mean(dim=1)
        shares = log_shares[:, n:].exp()  # (E, q, C)
        certain, diverse = self._entropy(shares).mean(dim=1), self._entropy(shares.mean(dim=1))
        return self.support_weight * fit + self.conditional_weight * certain - self.marginal_weight * diverse

    def _entropy(self, shares: Tensor) -> Tensor:
        """Tsallis entropy over the last axis; Shannon's is its limit for alpha = 1."""
        if self.alpha == 1:
            return -(shares * shares.clamp_min(1e-30).log()).sum(dim=-1)
        return (1 - shares.clamp_min(1e-30).pow(self.alpha).sum(dim=-1)) / (self.alpha - 1)
