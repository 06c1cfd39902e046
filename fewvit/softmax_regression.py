"""Multinomial logistic regression with an L2 penalty, solved to a certified gap.

    minimise over W   P(W) = (1/n) sum_i [logsumexp(W x_i) - (W x_i)[y_i]] + (mu / 2) ||W||^2,   mu = lambda / n

With g the gradient at W, Fenchel duality gives P(W) - D = ||g||^2 / (2 mu), D being the dual value at the predicted
probabilities: an upper bound of what is missing to the optimum that costs nothing, so it is what the solver stops on.
Method: limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4) in the span of the features, with a Newton step along each
direction: the logits are linear in W, so the curvature along a direction costs no matrix product of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .products import Products

if TYPE_CHECKING:
    from torch import Tensor

_MEMORY = 10  # pairs of steps and gradient changes that are remembered
_ARMIJO = 1e-4
_HALVINGS = 30  # of a step that does not lead down, before the solver gives up
_BLOCK_ROWS = 1024
_REFRESH = 25  # iterations between products that undo the rounding of the updated logits


@dataclass(frozen=True)
class Solution:
    """Where the solver stopped."""

    weights: np.ndarray  # (C, D)
    intercept: np.ndarray  # (C,), zeros without one
    objective: float  # P(W)
    gap: float  # bound of (P(W) - P*) / P(W)
    iterations: int
    converged: bool


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    lambd: float,
    *,
    intercept: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    dtype: str = "float32",
    device: str = "cpu",
) -> Solution:
    """The minimiser W (C, D) for features (n, D) and labels (n,) in 0..C-1, to a relative gap of `tol`.

    `intercept` adds a constant per class that is not penalised; the bound of the gap then counts its gradient like the others.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(features)).to(device, getattr(torch, dtype))
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    x, basis = _in_span(x)
    if intercept:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    problem = _Problem(x, y, n_classes, lambd / len(x), free_columns=int(intercept))
    weights, gap, iterations = _descend(problem, tol, max_iter)
    objective = _exactly(problem, weights, y)
    constant = weights[:, -1] if intercept else torch.zeros_like(weights[:, 0])
    weights = weights[:, :-1] if intercept else weights
    if basis is not None:
        weights = weights @ basis.T
    found, free = weights.cpu().numpy(), constant.cpu().numpy()
    return Solution(found, free, objective, gap, iterations, gap <= tol)


def _in_span(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The features (n, D) in an orthonormal basis (D, n) of their span where that is smaller: the penalty keeps W inside it."""
    import torch

    if len(x) >= x.shape[1]:
        return x, None
    basis, triangle = torch.linalg.qr(x.T)
    return triangle.T.contiguous(), basis


class _Problem:
    """P along lines in W (C, D), by way of the logits (C, n), which are linear in W."""

    def __init__(self, x: Tensor, y: Tensor, n_classes: int, mu: float, free_columns: int):
        import torch

        self.x, self.n, self.n_classes, self.mu = x, len(x), n_classes, mu
        self.penalised = x.shape[1] - free_columns
        self.products = Products(x)
        self.cells = y * len(x) + torch.arange(len(x), device=x.device)  # of each row's own class in the flat (C, n)

    def value(self, logits: Tensor, weights: Tensor) -> tuple[float, Tensor]:
        """P, and the probabilities (C, n)."""
        log_probabilities = logits.log_softmax(dim=0)
        loss = -float(log_probabilities.view(-1)[self.cells].double().mean())
        return loss + 0.5 * self.mu * self.square(weights), log_probabilities.exp_()

    def gradient(self, probabilities: Tensor, weights: Tensor) -> Tensor:
        """Of P, (C, D). Consumes the probabilities: they become residuals."""
        probabilities.view(-1)[self.cells] -= 1
        gradient = self.products.gradient(probabilities).div_(self.n)
        gradient[:, : self.penalised].add_(weights[:, : self.penalised], alpha=self.mu)
        return gradient

    def curvature(self, probabilities: Tensor, slope: Tensor, direction: Tensor) -> float:
        """The second derivative of P along a direction whose logits are `slope` (C, n)."""
        weighted = probabilities * slope
        variance = (weighted * slope).sum(dim=0) - weighted.sum(dim=0).square()  # under each row's probabilities
        return float(variance.double().mean()) + self.mu * self.square(direction)

    def square(self, weights: Tensor) -> float:
        """||W||^2 of what is penalised."""
        return float(weights[:, : self.penalised].double().square().sum())


def _exactly(problem: _Problem, weights: Tensor, y: Tensor) -> float:
    """P(W) in float64, a block of rows at a time: float32 knows small losses to five digits only."""
    wide, loss = weights.double(), 0.0
    for start in range(0, problem.n, _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        logits = problem.x[part].double() @ wide.T
        loss += float((logits.logsumexp(dim=1) - logits.gather(1, y[part, None])[:, 0]).sum())
    return loss / problem.n + 0.5 * problem.mu * problem.square(weights)


def _descend(problem: _Problem, tol: float, max_iter: int) -> tuple[Tensor, float, int]:
    """(W, bound of the relative gap, iterations), from W = 0."""
    x = problem.x
    weights = x.new_zeros(problem.n_classes, x.shape[1])
    logits = x.new_zeros(problem.n_classes, problem.n)
    value, probabilities = problem.value(logits, weights)
    gradient = problem.gradient(probabilities.clone(), weights)
    memory = _Memory(gradient)
    for iteration in range(max_iter + 1):
        gap = float(gradient.double().square().sum()) / (2 * problem.mu) / max(value, 1e-300)
        if gap <= tol or iteration == max_iter:
            break
        direction = memory.direction(gradient)
        slope = problem.products.logits(direction)
        descent = float((direction * gradient).sum(dtype=direction.dtype).double())
        step = -descent / max(problem.curvature(probabilities, slope, direction), 1e-300)
        for _ in range(_HALVINGS):
            moved = weights + step * direction
            new_logits = problem.products.logits(moved) if iteration % _REFRESH == _REFRESH - 1 else logits + step * slope
            new_value, new_probabilities = problem.value(new_logits, moved)
            if new_value <= value + _ARMIJO * step * descent + 1e-7 * abs(value):
                break
            step /= 2
        else:
            break  # rounding hides the way down
        new_gradient = problem.gradient(new_probabilities.clone(), moved)
        memory.add(moved - weights, new_gradient - gradient)
        weights, logits, value, probabilities, gradient = moved, new_logits, new_value, new_probabilities, new_gradient
    return weights, gap, iteration


class _Memory:
    """The last pairs of L-BFGS: what turns a gradient into a direction."""

    def __init__(self, like: Tensor):
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.inverses: list[float] = []  # 1 / (step . change)

    def add(self, step: Tensor, change: Tensor) -> None:
        product = float((step * change).sum())
        if product <= 0:  # rounding: the problem is strictly convex
            return
        self.steps = [*self.steps, step][-_MEMORY:]
        self.changes = [*self.changes, change][-_MEMORY:]
        self.inverses = [*self.inverses, 1 / product][-_MEMORY:]

    def direction(self, gradient: Tensor) -> Tensor:
        """-H gradient, by the two-loop recursion."""
        rest, shares = gradient.clone(), []
        for step, change, inverse in zip(reversed(self.steps), reversed(self.changes), reversed(self.inverses), strict=True):
            share = inverse * float((step * rest).sum())
            rest.add_(change, alpha=-share)
            shares.append(share)
        if self.changes:
            rest.mul_(1 / (self.inverses[-1] * float(self.changes[-1].square().sum())))
        for step, change, inverse, share in zip(self.steps, self.changes, self.inverses, reversed(shares), strict=True):
            rest.add_(step, alpha=share - inverse * float((change * rest).sum()))
        return rest.neg_()
