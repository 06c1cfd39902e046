"""Matrix products with one operand that stays: laid out once for oneDNN's widest kernels where torch's own take narrower ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from ..cpu import is_amd_avx512

if TYPE_CHECKING:
    from torch import Tensor


class Products:
    """W -> W X^T and R -> R X for a constant X (n, D), both with classes in the rows."""

    def __init__(self, x: Tensor):
        self.logits = _times(x)  # (C, D) -> (C, n)
        self.gradient = _times(x.T)  # (C, n) -> (C, D)


def _times(constant: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from A to A constant^T."""
    import torch

    if constant.device.type == "cpu" and constant.dtype == torch.float32 and is_amd_avx512() and packing_works():
        weight = packed(constant)
        return lambda a: packed_product(a, weight)
    return lambda a: a @ constant.T


# ---- torch's private operator


def packed(weight: Tensor) -> Tensor:
    """A weight (out, in) in the layout that the two products below take."""
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def packed_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """act(x W^T + b) of a packed weight; the activation is none or gelu, the exact one."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none" if activation == "gelu" else "")


def packed_sum(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """residual + x W^T + b of a packed weight, in one pass over memory."""
    import torch

    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


@lru_cache(maxsize=1)
def packing_works() -> bool:
    """Whether the private operator exists here and gives the right numbers, in each of the ways it is used."""
    import torch

    stream = torch.Generator().manual_seed(0)
    x, weight, bias, residual = (torch.randn(shape, generator=stream) for shape in ((13, 48), (32, 48), (32,), (13, 32)))
    try:
        with torch.inference_mode():
            laid_out, plain = packed(weight), x @ weight.T
            pairs = [
                (packed_product(x, laid_out), plain),
                (packed_product(x, laid_out, bias, "gelu"), torch.nn.functional.gelu(plain + bias)),
                (packed_sum(x, residual, laid_out, bias), residual + plain + bias),
            ]
            return all(torch.allclose(found, wanted, atol=1e-5, rtol=1e-4) for found, wanted in pairs)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
