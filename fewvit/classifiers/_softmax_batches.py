"""Several multinomial logistic regressions at once, for a GPU, which one problem does not fill.

The same problems that `softmax_regression` solves one by one.

Objective, bound of the gap and search are the same ones; every problem has its own step lengths and leaves the batch
when it is solved. On a CPU they are solved one after the other: see `batches_pay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from ._lbfgs import Memory, Progress
from ._softmax_regression import (
    ARMIJO,
    HALVINGS,
    REFRESH,
    ROUNDING,
    Frame,
    Solution,
    bound,
    exact_objective,
    loaded,
    solve,
    square,
)

if TYPE_CHECKING:
    from torch import Tensor


def batches_pay(device: str) -> bool:
    """Whether problems are better solved together than one after the other.

    On a CPU a trial of 5,000 logits or more takes up to twice as long in a batch. Smaller ones take half as long, but
    that is milliseconds, and a trial's last bits should not depend on how many trials there are.
    """
    return device != "cpu"


def solve_together(
    sets: Sequence[tuple[np.ndarray, np.ndarray]],
    n_classes: int,
    lambdas: Sequence[float],
    *,
    intercept: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    dtype: str = "float32",
    device: str = "cpu",
) -> list[Solution]:
    """A Solution for each (features (n, D), labels (n,)) and its lambda, as `softmax_regression.solve` gives it.

    Problems of one shape are solved as one; the same set under several lambdas is stored once. What float32 cannot
    finish is solved alone.
    """
    unique = {id(one): loaded(*one, intercept, dtype, device) for one in sets}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(sets):
        shapes.setdefault(tuple(unique[id(one)][0].shape), []).append(i)
    found: dict[int, Solution] = {}
    for group in shapes.values():
        parts = [unique[id(sets[i])] for i in group]
        batch = _Batch(parts, n_classes, [lambdas[i] for i in group], int(intercept))
        found |= zip(group, batch.solutions(tol, max_iter, dtype), strict=True)
    how = {"intercept": intercept, "tol": tol, "max_iter": max_iter, "dtype": dtype, "device": device}
    alone = {i: solve(*sets[i], n_classes, lambdas[i], **how) for i, one in found.items() if not one.converged}  # type: ignore[arg-type]
    return [alone.get(i, found[i]) for i in range(len(sets))]


class _Batch:
    """B problems of one shape: rows (B, n, D), or (1, n, D) where they share them.

    Everything of a W is (B, C, D) or (B, C, n).
    """

    def __init__(
        self, parts: Sequence[tuple[Tensor, Tensor, Frame]], n_classes: int, lambdas: Sequence[float], free_columns: int
    ):
        import torch

        shared = all(x is parts[0][0] for x, _, _ in parts)
        self.parts, self.n_classes = parts, n_classes
        self.x = torch.stack([x for x, _, _ in (parts[:1] if shared else parts)])
        self.y = torch.stack([y for _, y, _ in parts])
        self.n = self.x.shape[1]
        self.penalised = self.x.shape[2] - free_columns
        self.mu = torch.tensor(lambdas, dtype=torch.float64, device=self.x.device) / self.n

    def solutions(self, tol: float, max_iter: int, dtype: str) -> list[Solution]:
        """Where each search ended."""
        mu = self.mu.tolist()
        ended = self._descend(tol, max_iter)
        solved = []
        for i, (x, y, frame) in enumerate(self.parts):
            weights, gap, iterations = ended[i]
            value = exact_objective(x, y, weights, mu[i], self.penalised)
            solved.append(Solution(*frame.leave(weights, dtype), value, gap, iterations, gap <= tol))
        return solved

    def _descend(self, tol: float, max_iter: int) -> dict[int, tuple[Tensor, float, int]]:
        """(W, bound of the relative gap, iterations) of each problem by its number; see `softmax_regression`."""
        import torch

        weights = torch.zeros(len(self.y), self.n_classes, self.x.shape[2], dtype=self.x.dtype, device=self.x.device)
        search, here = _Search(len(weights), weights.element_size() < 8), self._at(self._times(weights), weights)
        for iteration in range(max_iter + 1):
            missing = bound(here.gradient, self.penalised, self.mu, self.mu.clamp(max=1 / self.n_classes))
            gap = missing / here.value.clamp(min=1e-300)
            direction = search.memory.direction(here.gradient)
            slopes, curvature = self._along(direction, here.shares)
            over = (
                (curvature <= 0)
                | ((gap <= tol) & (iteration > 0))
                | (iteration == max_iter)
                | search.stalled(gap, iteration)
            )
            if bool(over.any()):
                left = self._end(search, over, here, gap, iteration)
                if not len(left):
                    break
                here, direction, slopes, curvature, gap = (
                    here.of(left),
                    direction[left],
                    slopes[left],
                    curvature[left],
                    gap[left],
                )
            there, lower = self._step(here, direction, slopes, curvature, afresh=iteration % REFRESH == REFRESH - 1)
            _learn(search.memory, there.weights - here.weights, there.gradient - here.gradient)
            if not bool(lower.all()):  # rounding hides the way down
                left = self._end(search, ~lower, here, gap, iteration)
                if not len(left):
                    break
                there = there.of(left)
            here = there
        return search.ended

    def _step(
        self, here: _Point, direction: Tensor, slopes: Tensor, curvature: Tensor, *, afresh: bool
    ) -> tuple[_Point, Tensor]:
        """Newton's step along each direction, halved until it leads down; and which of them (B,) do."""
        import torch

        descent = (direction * here.gradient).sum(dim=(1, 2)).double()
        step = -descent / curvature
        for _ in range(HALVINGS):
            length = step.to(direction)[:, None, None]
            moved = here.weights + length * direction
            there = self._at(self._times(moved) if afresh else here.logits + length * slopes, moved)
            lower = there.value <= here.value + ARMIJO * step * descent + ROUNDING * here.value.abs()
            if bool(lower.all()):
                break
            step = torch.where(lower, step, step / 2)
        return there, lower

    def _end(self, search: _Search, over: Tensor, here: _Point, gap: Tensor, iteration: int) -> Tensor:
        """Take the problems that are `over` (B,) out of the batch; the numbers of those that are left."""
        left = search.end(over, here.weights, gap, iteration)
        self.mu, self.y = self.mu[left], self.y[left]
        if len(self.x) > 1:
            self.x = self.x[left]
        return left

    def _times(self, weights: Tensor) -> Tensor:
        """Logits (B, C, n)."""
        if len(self.x) == 1:
            return (weights.flatten(0, 1) @ self.x[0].T).view(*weights.shape[:2], self.n)
        return weights @ self.x.transpose(1, 2)

    def _at(self, logits: Tensor, weights: Tensor) -> _Point:
        """What is known at W, whose logits are given."""
        import torch

        logarithms = logits.log_softmax(dim=1)
        own = self.y[:, None]
        loss = -logarithms.gather(1, own)[:, 0].double().sum(dim=1) / self.n
        shares = logarithms.exp_()
        residuals = shares.scatter_add(1, own, torch.full_like(shares[:, :1], -1.0)) / self.n
        if len(self.x) == 1:
            gradient = (residuals.flatten(0, 1) @ self.x[0]).view_as(weights)
        else:
            gradient = residuals @ self.x
        gradient[:, :, : self.penalised] += self.mu.to(weights)[:, None, None] * weights[:, :, : self.penalised]
        return _Point(weights, logits, loss + 0.5 * self.mu * square(weights, self.penalised), gradient, shares)

    def _along(self, direction: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, n) of the directions, and the second derivative (B,) of P along them."""
        slopes = self._times(direction)
        weighted = shares * slopes
        spread = (weighted * slopes).sum(dim=1) - weighted.sum(dim=1).square()
        return slopes, spread.double().sum(dim=1) / self.n + self.mu * square(direction, self.penalised)


@dataclass(frozen=True)
class _Point:
    """A W of each problem, and what is known there."""

    weights: Tensor  # (B, C, D)
    logits: Tensor  # (B, C, n)
    value: Tensor  # (B,) P, in float64
    gradient: Tensor  # (B, C, D)
    shares: Tensor  # (B, C, n) probabilities

    def of(self, left: Tensor) -> _Point:
        """The same of some of the problems."""
        return _Point(*(getattr(self, field.name)[left] for field in fields(self)))


class _Search:
    """Which problems are still searched, what was learnt of their curvature, and where the others ended."""

    def __init__(self, problems: int, rounds: bool):
        self.numbers = list(range(problems))
        self.progress = [Progress(rounds) for _ in self.numbers]
        self.memory = Memory(_dot, _plus)
        self.ended: dict[int, tuple[Tensor, float, int]] = {}

    def stalled(self, gap: Tensor, iteration: int) -> Tensor:
        """Which problems (B,) come no nearer."""
        import torch

        found = [
            self.progress[number].stalled(one, iteration)
            for number, one in zip(self.numbers, gap.tolist(), strict=True)
        ]
        return torch.tensor(found, device=gap.device)

    def end(self, over: Tensor, weights: Tensor, gap: Tensor, iteration: int) -> Tensor:
        """Note where the problems that are `over` (B,) stand; the places of the others."""
        self.ended |= {self.numbers[i]: (weights[i], float(gap[i]), iteration) for i in over.nonzero()[:, 0].tolist()}
        left = (~over).nonzero()[:, 0]
        self.numbers = [self.numbers[i] for i in left.tolist()]
        _keep(self.memory, left)
        return left


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2), keepdim=True)


def _plus(a: Tensor, factor: Tensor, b: Tensor) -> None:
    a += factor * b


def _learn(memory: Memory[Tensor], step: Tensor, change: Tensor) -> None:
    """Remember where the steps (B, C, D) led; a pair that rounding has spoilt counts for nothing in its problem."""
    import torch

    product = _dot(step, change)
    good = product > 0
    inverse = torch.where(good, 1 / product, torch.zeros_like(product))
    before = torch.ones_like(product) if memory.scale is None else memory.scale
    memory.add(step, change, inverse, torch.where(good, product / _dot(change, change), before))


def _keep(memory: Memory[Tensor], left: Tensor) -> None:
    """Forget the problems that are not in `left`, places in the batch."""
    memory.pairs = [(step[left], change[left], inverse[left]) for step, change, inverse in memory.pairs]
    memory.scale = None if memory.scale is None else memory.scale[left]
