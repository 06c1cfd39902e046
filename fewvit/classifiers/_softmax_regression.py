"""Multinomial logistic regression with an L2 penalty, solved to a certified gap.

    minimise over W   P(W) = (1/n) sum_i [logsumexp(W x_i) - (W x_i)[y_i]] + (mu / 2) ||W||^2,   mu = lambda / n

With g the gradient at W, Fenchel duality gives P(W) - D = ||g||^2 / (2 mu), D being the dual value at the predicted
probabilities: an upper bound of what is missing to the optimum that costs nothing, so it is what the solver stops on.
Method: limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4) in the span of the features, with a Newton step
along each direction: the logits are linear in W, so the curvature along a direction costs no matrix product of its own.

Rows may have weights w_i: n is then their sum, and each term of the first sum counts w_i times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..models.products import Products, settle_threads
from ._lbfgs import Memory, Progress

if TYPE_CHECKING:
    from torch import Tensor

ARMIJO = 1e-4
HALVINGS = 30  # of a step that does not lead down, before the solver gives up
_BLOCK_BYTES = 1 << 20  # of logits: a block stays in the cache of a core
_EXACT_ROWS = 1024
ROUNDING = 1e-7  # of P in float32
REFRESH = 25  # iterations between products that undo the rounding of the updated logits


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
    weights: np.ndarray | None = None,
    intercept: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    dtype: str = "float32",
    device: str = "cpu",
) -> Solution:
    """The minimiser W (C, D) for features (n, D) and labels (n,) in 0..C-1, to a relative gap of `tol`.

    What float32 cannot reach is finished in float64. `weights` (n,), above zero: how often each row counts.
    `intercept` adds a constant per class that is not penalised. The bound of the gap then holds but for the constants,
    whose part is estimated by their curvature.
    """
    import torch

    x, y, frame = loaded(features, labels, intercept, dtype, device)
    problem = _Problem(x, y, n_classes, lambd, free_columns=int(intercept), weights=weights)
    found, gap, iterations = _descend(
        problem, torch.zeros(n_classes, x.shape[1], dtype=x.dtype, device=device), tol, max_iter
    )
    if gap > tol and iterations < max_iter and dtype == "float32":  # rounding hid the way down
        x = x.double()
        problem = _Problem(x, y, n_classes, lambd, free_columns=int(intercept), weights=weights)
        found, gap, more = _descend(problem, found.double(), tol, max_iter - iterations)
        iterations += more
    objective = exact_objective(x, y, found, problem.mu, problem.penalised, weights)
    return Solution(*frame.leave(found, dtype), objective, gap, iterations, gap <= tol)


def penalty_path(
    features: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    lambdas: Sequence[float],
    *,
    intercept: bool = False,
    tol: float = 1e-3,
    max_iter: int = 50,
    dtype: str = "float64",
    device: str = "cpu",
) -> Iterator[Solution]:
    """A rough solution for each lambda, in their order, each search beginning where the one before ended.

    From strong penalties to weak ones that takes few steps: DINOv2's 45 values take about as many as one exact search.
    """
    import torch

    x, y, frame = loaded(features, labels, intercept, dtype, device)
    problem = _Problem(x, y, n_classes, 1.0, free_columns=int(intercept))
    weights = torch.zeros(n_classes, x.shape[1], dtype=x.dtype, device=device)
    for lambd in lambdas:
        problem.mu = lambd / problem.n
        weights, gap, iterations = _descend(problem, weights, tol, max_iter)
        objective = problem.at(problem.logits(weights), weights)[0]
        yield Solution(*frame.leave(weights, dtype), objective, gap, iterations, gap <= tol)


@dataclass(frozen=True)
class Frame:
    """The coordinates that the search is made in."""

    basis: Tensor | None  # (D, r) of the rows' span; None: the features' own
    shift: Tensor | None  # (D,), subtracted from every row, which a constant makes up for; None: there is no constant

    def leave(self, weights: Tensor, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """W (C, D) and constants (C,) in the features' coordinates, of weights (C, r), (C, r + 1) with a constant."""
        import torch

        constant = torch.zeros_like(weights[:, 0]) if self.shift is None else weights[:, -1]
        weights = weights if self.shift is None else weights[:, :-1]
        if self.basis is not None:
            weights = weights @ self.basis.T.to(weights)
        if self.shift is not None:
            constant = constant - weights @ self.shift.to(weights)
        wanted = getattr(torch, dtype)
        return weights.to(wanted).cpu().numpy(), constant.to(wanted).cpu().numpy()


def loaded(
    features: np.ndarray, labels: np.ndarray, intercept: bool, dtype: str, device: str
) -> tuple[Tensor, Tensor, Frame]:
    """The rows (n, r) in the frame of the search, with a column of ones for a constant, and the labels (n,).

    With a constant the rows are moved to their mean, which changes no prediction and no penalty: far from the origin, W
    and the constant would pull against each other, and the search would take ten times as long.
    """
    import torch

    settle_threads()
    x = torch.from_numpy(np.require(features, requirements=["C", "W"])).to(device, getattr(torch, dtype))
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    shift = x.mean(dim=0, dtype=torch.float64).to(x) if intercept else None
    x, basis = _in_span(x if shift is None else x - shift)
    return (torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if intercept else x), y, Frame(basis, shift)


def _in_span(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The features (n, D) in an orthonormal basis (D, n) of their span where that is smaller, and the basis.

    The penalty keeps W inside the span.
    """
    import torch

    if len(x) >= x.shape[1]:
        return x, None
    basis, triangle = torch.linalg.qr(x.T)
    return triangle.T.contiguous(), basis


class _Problem:
    """P along lines in W (C, D), by way of the logits, which are linear in W.

    The rows stand in blocks, and so does everything that has a column per row, (C, b) each: a block stays in the CPU's
    cache from the product to the residuals.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        n_classes: int,
        lambd: float,
        free_columns: int,
        weights: np.ndarray | None = None,
    ):
        import torch

        self.x, self.n_classes = x, n_classes
        self.n = len(x) if weights is None else float(weights.sum())
        self.mu = lambd / self.n
        self.penalised = x.shape[1] - free_columns
        size = max(64, _BLOCK_BYTES // (n_classes * x.element_size())) if x.device.type == "cpu" else len(x)
        self.blocks = [Products(part) for part in x.split(size)]
        # of each row's own class in the flat (C, b)
        self.cells = [own * len(own) + torch.arange(len(own), device=x.device) for own in y.split(size)]
        self.weights = [None] * len(self.blocks) if weights is None else torch.from_numpy(weights).to(x).split(size)

    def at(self, logits: list[Tensor], weights: Tensor) -> tuple[float, Tensor, list[Tensor]]:
        """P, its gradient (C, D) and the probabilities at W, whose logits are given."""
        import torch

        loss, gradient, probabilities = 0.0, torch.zeros_like(weights), []
        for products, cells, weights_of, block in zip(self.blocks, self.cells, self.weights, logits, strict=True):
            shares = block.log_softmax(dim=0)
            loss -= float(_weighted(shares.view(-1)[cells], weights_of).double().sum())
            shares.exp_()
            own = shares.view(-1)[cells]
            shares.view(-1)[cells] = own - 1  # residuals, for as long as the product takes
            gradient += products.gradient(_weighted(shares, weights_of))
            shares.view(-1)[cells] = own
            probabilities.append(shares)
        gradient.div_(self.n)
        gradient[:, : self.penalised].add_(weights[:, : self.penalised], alpha=self.mu)
        return loss / self.n + 0.5 * self.mu * float(square(weights, self.penalised)), gradient, probabilities

    def logits(self, weights: Tensor) -> list[Tensor]:
        return [products.logits(weights) for products in self.blocks]

    def along(self, direction: Tensor, probabilities: list[Tensor]) -> tuple[list[Tensor], float]:
        """The logits of a direction, and the second derivative of P along it."""
        slopes, curvature = [], self.n * self.mu * float(square(direction, self.penalised))
        for products, weights_of, shares in zip(self.blocks, self.weights, probabilities, strict=True):
            slope = products.logits(direction)
            weighted = shares * slope
            mean = weighted.sum(dim=0)  # under each row's probabilities
            spread = weighted.mul_(slope).sum(dim=0) - mean.square()
            curvature += float(_weighted(spread, weights_of).double().sum())
            slopes.append(slope)
        return slopes, curvature / self.n

    def gap(self, gradient: Tensor) -> float:
        """The bound of what is missing to the optimum."""
        return float(bound(gradient, self.penalised, self.mu, min(self.mu, 1 / self.n_classes)))


def _weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def square(weights: Tensor, penalised: int) -> Tensor:
    """||W||^2 () of the columns that are penalised, of W (C, D); (B,) of B of them, (B, C, D)."""
    return weights[..., :penalised].square().sum(dim=-1).double().sum(dim=-1)


def bound(gradient: Tensor, penalised: int, mu: float | Tensor, mu_free: float | Tensor) -> Tensor:
    """A bound () of what is missing to the optimum where the gradient is (C, D): ||g||^2 / 2 mu.

    (B,) of B problems, whose gradients are (B, C, D) and whose mu are (B,).
    Constants have no mu but `mu_free`: with even probabilities, where strong penalties keep them, the curvature along
    them is 1 / C.
    """
    squares = gradient.square().sum(dim=-2).double()  # of each column
    return squares[..., :penalised].sum(dim=-1) / (2 * mu) + squares[..., penalised:].sum(dim=-1) / (2 * mu_free)


def exact_objective(
    x: Tensor, y: Tensor, weights: Tensor, mu: float, penalised: int, of_rows: np.ndarray | None = None
) -> float:
    """P(W) in float64, a block of rows at a time: float32 knows small losses to five digits only.

    The penalty is on the first `penalised` columns; `of_rows` (n,) are the rows' weights.
    """
    import torch

    wide, loss = weights.double(), 0.0
    counts = None if of_rows is None else torch.from_numpy(of_rows).to(wide)
    for start in range(0, len(x), _EXACT_ROWS):
        part = slice(start, start + _EXACT_ROWS)
        logits = x[part].double() @ wide.T
        losses = logits.logsumexp(dim=1) - logits.gather(1, y[part, None])[:, 0]
        loss += float(_weighted(losses, None if counts is None else counts[part]).sum())
    n = len(x) if of_rows is None else float(of_rows.sum())
    return loss / n + 0.5 * mu * float(wide[:, :penalised].square().sum())


def _descend(problem: _Problem, weights: Tensor, tol: float, max_iter: int) -> tuple[Tensor, float, int]:
    """(W, bound of the relative gap, iterations) from the weights given; stops early where rounding leaves no way down.

    At least one step is taken: under a strong penalty W = 0 is within any tolerance of the optimum and tells no classes
    apart; the first step turns W to where the optimum points.
    """
    logits = problem.logits(weights)
    value, gradient, probabilities = problem.at(logits, weights)
    memory, progress = Memory(_dot, _plus), Progress(weights.element_size() < 8)
    for iteration in range(max_iter + 1):
        gap = problem.gap(gradient) / max(value, 1e-300)
        if (gap <= tol and iteration > 0) or iteration == max_iter or progress.stalled(gap, iteration):
            break
        direction = memory.direction(gradient)
        slopes, curvature = problem.along(direction, probabilities)
        descent = float((direction * gradient).sum())
        if curvature <= 0:  # rounding: P is strictly convex
            break
        step = -descent / curvature
        for _ in range(HALVINGS):
            moved = weights + step * direction
            afresh = iteration % REFRESH == REFRESH - 1
            there = (
                problem.logits(moved) if afresh else [a.add(b, alpha=step) for a, b in zip(logits, slopes, strict=True)]
            )
            new_value, new_gradient, new_probabilities = problem.at(there, moved)
            if new_value <= value + ARMIJO * step * descent + ROUNDING * abs(value):
                break
            step /= 2
        else:
            break
        _learn(memory, moved - weights, new_gradient - gradient)
        weights, logits, value, gradient, probabilities = moved, there, new_value, new_gradient, new_probabilities
    return weights, gap, iteration


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def _plus(a: Tensor, factor: float, b: Tensor) -> None:
    a.add_(b, alpha=factor)


def _learn(memory: Memory[float], step: Tensor, change: Tensor) -> None:
    """Remember where a step led, unless rounding has spoilt it: the problem is strictly convex."""
    product = _dot(step, change)
    if product > 0:
        memory.add(step, change, 1 / product, 1 / (1 / product * _dot(change, change)))
