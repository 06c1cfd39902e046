"""Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4): its memory and its end, of one problem or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Factor = TypeVar("Factor", float, "Tensor")  # of one problem, or (B, 1, 1) of B of them

MEMORY = 10  # pairs of steps and gradient changes that are remembered
PATIENCE = 100  # iterations in float32 without a smaller gap than ever before, after which rounding is all that is left


class Progress:
    """Whether a search still comes nearer; in float32 there is an end to that which no tolerance knows of."""

    def __init__(self, rounds: bool):
        self.rounds = rounds  # whether the numbers are float32
        self.lowest, self.reached = float("inf"), 0

    def stalled(self, gap: float, iteration: int) -> bool:
        """Whether the smallest gap is PATIENCE iterations old."""
        if gap < self.lowest:
            self.lowest, self.reached = gap, iteration
        return self.rounds and iteration - self.reached >= PATIENCE


class Memory(Generic[Factor]):
    """The last pairs of L-BFGS, of one problem or of each of B: what turns a gradient into a direction.

    `dot(a, b)` is the product of two W as a float, or (B, 1, 1) of them; `plus(a, factor, b)` adds `factor` times `b`
    to `a` in place.
    """

    def __init__(
        self, dot: Callable[[Tensor, Tensor], Factor], plus: Callable[[Tensor, Factor, Tensor], object]
    ) -> None:
        self.dot: Callable[[Tensor, Tensor], Factor] = dot
        self.plus: Callable[[Tensor, Factor, Tensor], object] = plus
        # step and change of the gradient, 1 / (step . change); oldest first
        self.pairs: list[tuple[Tensor, Tensor, Factor]] = []
        # step . change / change . change of the newest pair: the inverse Hessian across all of them
        self.scale: Factor | None = None

    def add(self, step: Tensor, change: Tensor, inverse: Factor, scale: Factor) -> None:
        """Remember a pair, and forget the oldest of more than MEMORY."""
        self.pairs.append((step, change, inverse))
        del self.pairs[:-MEMORY]
        self.scale = scale

    def direction(self, gradient: Tensor) -> Tensor:
        """-H gradient, by the two-loop recursion."""
        rest, shares = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            share = inverse * self.dot(step, rest)
            self.plus(rest, -share, change)
            shares.append(share)
        if self.scale is not None:
            rest.mul_(self.scale)
        for (step, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            self.plus(rest, share - inverse * self.dot(change, rest), step)
        return rest.neg_()
