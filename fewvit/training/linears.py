"""Linear layers that train at oneDNN's speed where torch's own fp32 products are slow: on AMD CPUs MKL takes its AVX2 path.

The same fp32 sums in another order: forward and both gradients. Measured in benchmarks/pretrain.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cpu import is_amd_avx512


def speed_up(module: nn.Module) -> int:
    """Let every linear layer of `module` take oneDNN's kernels, if that wins on this CPU; how many do. Parameters and names stay."""
    if not (is_amd_avx512() and products_work()):
        return 0
    layers = [part for part in module.modules() if type(part) is nn.Linear]
    for layer in layers:
        layer.__class__ = FastLinear
    return len(layers)


class FastLinear(nn.Linear):
    """`nn.Linear` whose fp32 products on a CPU are oneDNN's."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times weight (C, D) transposed, plus bias (C,): torch's own under autocast, on GPUs and in other types."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not plain or torch.is_autocast_enabled("cpu") or x.numel() == 0 or not (is_amd_avx512() and products_work()):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    """One affine map and its gradients, each one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _times(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])  # (B, C)
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _times(gradient.contiguous(), weight.t().contiguous()) if to_x else None,
            _times(flat.t(), x.reshape(-1, x.shape[-1]).t()) if to_weight else None,  # oneDNN reads transposed views as they lie
            flat.sum(dim=0) if to_bias else None,
        )


def _times(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (..., D) times b (C, D) transposed."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


@lru_cache(maxsize=1)
def products_work() -> bool:
    """Whether torch's private operator takes unpacked weights and transposed views here, and gives the right numbers."""
    stream = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=stream) for shape in ((3, 13, 7), (11, 7), (11,)))
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            ours, torchs = _Linear.apply(own, weight, bias), F.linear(other, weight, bias)
            ours.square().sum().backward()
            torchs.square().sum().backward()
            flat = _times(ours.detach().reshape(-1, 11).t(), x.reshape(-1, 7).t())
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    expected = torchs.detach().reshape(-1, 11).t() @ x.reshape(-1, 7)
    pairs = ((ours, torchs), (own.grad, other.grad), (flat, expected))
    return all(a is not None and b is not None and torch.allclose(a, b, atol=1e-4) for a, b in pairs)
