"""Gradients cut back to a largest norm: each parameter by itself, or all together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_each(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """The norms (P,) that the gradients had; then none is above `limit`, each parameter tensor taken by itself.

    A `limit` of 0 measures only. Parameters without gradient are passed over. Source: DINO `utils.clip_gradients`.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return torch.zeros(0)
    norms = torch._foreach_norm(gradients)
    if limit:
        factors = torch.clamp(limit / (torch.stack(norms) + 1e-6), max=1.0)  # times 1 changes no bit
        torch._foreach_mul_(gradients, list(factors.unbind()))
    return torch.stack(norms)


def clip_all(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """The norm () of all gradients as one vector; then it is at most `limit`. A `limit` of 0 measures only."""
    parameters = list(parameters)
    if limit:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    return torch.nn.utils.get_total_norm(_gradients(parameters))


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
