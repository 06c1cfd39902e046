"""What makes a training step faster on a CPU without changing what it computes; measured in benchmarks/pretrain.py.

Linear layers take oneDNN's kernels where torch's own fp32 products are slow (on AMD CPUs MKL takes its AVX2 path): the
same fp32 sums in another order, forward and both gradients. Attention over few tokens writes its matrix out: torch's
fused kernel goes back through it at a third of the speed in bf16.

Where nothing is learnt, the linear layers are oneDNN's on every maker's CPU: what a network says of an image must not
depend on the images beside it (see `products`). Gradients are sums over a batch, whose last digits are those of the CPU
and of its number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cpu import is_amd_avx512


def speed_up(module: nn.Module) -> int:
    """Let every linear layer of `module` take oneDNN's kernels, where `linear` does; how many may.

    Parameters and names stay.
    """
    if not onednn_linear_works():
        return 0
    layers = [part for part in module.modules() if type(part) is nn.Linear]
    for layer in layers:
        layer.__class__ = FastLinear
    return len(layers)


class FastLinear(nn.Linear):
    """`nn.Linear` whose fp32 products on a CPU are those of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) times the weight (C, D) transposed, plus the bias (C,)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times weight (C, D) transposed, plus bias (C,).

    By oneDNN where that is faster, and where no gradient is wanted; by torch's own kernels under autocast, on GPUs and
    in other types.
    """
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not plain or torch.is_autocast_enabled("cpu") or x.numel() == 0 or not onednn_linear_works():
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _times(x, weight, bias)
    return _Linear.apply(x, weight, bias) if is_amd_avx512() else F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """One affine map and its gradients, each one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # a frozen layer needs no input for its gradients
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _times(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])  # (B, C)
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            gradient @ weight if to_x else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if to_weight else None,
            flat.sum(dim=0) if to_bias else None,
        )


def _times(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (..., D) times b (C, D) transposed."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


@contextlib.contextmanager
def onednn_matmul() -> Iterator[None]:
    """Within the block torch's own fp32 products take oneDNN's kernels too, if they are exact there.

    Those are of gradients, and attention's small ones.
    """
    before = torch.get_float32_matmul_precision()
    if is_amd_avx512() and lower_precision_is_exact():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@lru_cache(maxsize=1)
def lower_precision_is_exact() -> bool:
    """Whether the precision that torch calls medium is still fp32 here: CPUs with AMX really take bf16 for it."""
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.randn(517, 193, generator=stream) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    found = a.t() @ b
    torch.set_float32_matmul_precision(before)
    expected = a.double().t() @ b.double()
    return bool((found - expected).abs().max() < 1e-6 * expected.abs().max() * 10)


def write_out_attention(module: nn.Module, tokens: int) -> int:
    """Let attention over so many tokens be three plain operations, if they are few; in how many layers."""
    layers = [part for part in module.modules() if hasattr(part, "fused_attn")] if tokens <= FEW_TOKENS else []
    for layer in layers:
        layer.fused_attn = False  # type: ignore[assignment]
    return len(layers)


FEW_TOKENS = 260  # a 224-pixel image in patches of 16 has 197; beyond, the matrices take too much memory


@lru_cache(maxsize=1)
def onednn_linear_works() -> bool:
    """Whether torch's private operator takes unpacked weights here, and gives the right numbers."""
    stream = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=stream) for shape in ((3, 13, 7), (11, 7), (11,)))
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            ours, torchs = _Linear.apply(own, weight, bias), F.linear(other, weight, bias)
            ours.square().sum().backward()
            torchs.square().sum().backward()
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    pairs = ((ours, torchs), (own.grad, other.grad))
    return all(a is not None and b is not None and torch.allclose(a, b, atol=1e-4) for a, b in pairs)
