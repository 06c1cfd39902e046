"""Optimizers of the linear probes: SGD with momentum, LARS, and MSN's own Nesterov step.

Each parameter is a stack (K, ...) of K alike ones that train side by side, and each of the K has its own step: `lr` may
be a tensor (K,), and norms are taken of each by itself. What belongs to a single classifier is thus a stack of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Sgd(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum, as torch's: DINO's and DINOv2's linear classifiers."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.9):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group, stack, gradient, speed in _with_gradients(self):
            torch.add(_decayed(stack, gradient, group["weight_decay"]), speed, alpha=group["momentum"], out=speed)
            _descend(stack, speed, group["lr"])


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al. 2017) as MAE's linear probe and DINO have them.

    The step of a weight is scaled to `trust` times its own norm, where both norms are above 0. What has one dimension
    of its own, as a bias, takes the raw learning rate and never decays.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.9, trust: float = 0.001):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group, stack, gradient, speed in _with_gradients(self):
            if stack.ndim > 2:
                gradient = _decayed(stack, gradient, group["weight_decay"])
                size, change = _norms(stack), _norms(gradient)
                ratio = torch.where((size > 0) & (change > 0), group["trust"] * size / change, torch.ones_like(size))
                gradient = gradient * _per_member(ratio, stack)
            speed.mul_(group["momentum"]).add_(gradient)
            _descend(stack, speed, group["lr"])


class MsnSgd(torch.optim.Optimizer):
    """MSN's SGD with Nesterov momentum.

    The learning rate goes in before the momentum, so that a change of it reaches new gradients only.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.9):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group, stack, gradient, speed in _with_gradients(self):
            lr = _per_member(group["lr"], stack) if isinstance(group["lr"], Tensor) else group["lr"]
            move = _decayed(stack, gradient, group["weight_decay"]) * lr
            speed.mul_(group["momentum"]).add_(move)
            stack.sub_(move).sub_(speed, alpha=group["momentum"])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": Sgd, "lars": Lars, "msn": MsnSgd}


def _with_gradients(optimizer: torch.optim.Optimizer) -> Iterable[tuple[dict[str, Any], Tensor, Tensor, Tensor]]:
    """Group, stack, gradient and momentum of each parameter that has a gradient."""
    for group in optimizer.param_groups:
        for stack in group["params"]:
            if stack.grad is None:
                continue
            state = optimizer.state[stack]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(stack)
            yield group, stack, stack.grad, state["momentum"]


def _decayed(stack: Tensor, gradient: Tensor, weight_decay: float) -> Tensor:
    return gradient.add(stack, alpha=weight_decay) if weight_decay else gradient


def _descend(stack: Tensor, direction: Tensor, lr: float | Tensor) -> None:
    """Take `lr` times the direction from every member of the stack."""
    if isinstance(lr, Tensor):
        stack.addcmul_(direction, _per_member(lr, stack), value=-1)
    else:
        stack.sub_(direction, alpha=lr)


def _per_member(values: Tensor, stack: Tensor) -> Tensor:
    """One number for each member (K,), in a shape that multiplies the stack."""
    return values.to(stack).view(-1, *[1] * (stack.ndim - 1))


def _norms(stack: Tensor) -> Tensor:
    """The norm (K,) of each member."""
    return torch.linalg.vector_norm(stack.flatten(1), dim=1)
