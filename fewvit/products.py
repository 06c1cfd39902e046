"""Matrix products with one operand that stays: laid out once for oneDNN's widest kernels where torch's own take narrower ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from .cpu import is_amd_avx512

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

    if constant.device.type == "cpu" and constant.dtype == torch.float32 and is_amd_avx512() and packed_products_work():
        packed = torch.ops.mkldnn._reorder_linear_weight(constant.contiguous(), None)
        return lambda a: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")
    return lambda a: a @ constant.T


@lru_cache(maxsize=1)
def packed_products_work() -> bool:
    """Whether torch's private operator for packed products is here and computes what it should."""
    import torch

    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(13, 7, generator=stream), torch.randn(11, 7, generator=stream)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(b, None)
        return torch.allclose(torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""), a @ b.T, atol=1e-5)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
