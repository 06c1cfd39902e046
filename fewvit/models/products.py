"""Matrix products on CPUs by oneDNN's kernels: as wide as the CPU allows on every maker's, and the same for every row
of a block.

BLAS libraries (MKL behind torch, OpenBLAS behind NumPy) take other kernels for a matrix's last rows, for few rows, and
for memory that lies otherwise, so that the last digits of a row depend on its neighbours. oneDNN's kernels add a row's
terms up in one order wherever it stands in a matrix of the same shape; so what must be a function of the row alone goes
through them, a block of one shape at a time (`of_rows`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


BLOCK_ROWS = 64  # of one product: few are soon done, and enough that the weight's way through memory does not count


def of_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b (n, C) of x (n, D), weight (C, D), bias (C,), without gradients; a row's answer is a function of that
    row alone.

    The same bits whatever the other rows are, how many, in which order and where in memory: on a CPU, in float32, with
    oneDNN in torch. In float64, on a GPU and without oneDNN they are close only, to the rounding of D additions.
    """
    import torch

    x, weight = x.detach(), weight.detach()
    if x.device.type != "cpu" or torch.compiler.is_exporting():  # a file for other programs has their own product
        return torch.nn.functional.linear(x, weight, bias)
    # oneDNN speaks of primitives, as where memory is short, when shapes do not fit; torch says that they do not
    fits = x.shape[-1:] == weight.shape[1:] and weight.numel()
    fits = fits and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == weight.dtype))
    if fits and x.dtype == weight.dtype == torch.float32 and packing_works():
        laid_out = packed(weight)
        return in_blocks(lambda part: packed_product(part, laid_out, bias), x, BLOCK_ROWS)
    return in_blocks(lambda part: torch.nn.functional.linear(part, weight, bias), x, BLOCK_ROWS)


def in_blocks(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """`function` of rows (n, ...), always `size` of them at a time: the last block is filled up with its last row,
    whose answers are cut off.
    """
    import torch

    found = []
    for part in rows.split(size):
        n = len(part)
        if n < size:  # all zeros where there is no row at all
            filling = part[-1:].expand(size - n, *part.shape[1:]) if n else part.new_zeros(size, *part.shape[1:])
            part = torch.cat([part, filling])
        found.append(function(part.contiguous())[:n])
    return torch.cat(found)


def settle_threads() -> int:
    """How many threads this process computes with; from now on, whatever other threads of it say for themselves.

    Sums may end in other digits on another number of threads. If none was set, torch asks when a thread first computes,
    and gets what was last set in any thread, such as the 1 of those that decode; and MKL chooses for itself until it
    was set in any thread. To be called where computing begins, in the thread that computes.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    return threads


class Products:
    """W -> W X^T and R -> R X for a constant X (n, D), both with classes in the rows."""

    def __init__(self, x: Tensor):
        self.logits = _times(x)  # (C, D) -> (C, n)
        self.gradient = _times(x.T)  # (C, n) -> (C, D)


def _times(constant: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from A to A constant^T."""
    import torch

    if constant.device.type == "cpu" and constant.dtype == torch.float32 and packing_works():
        weight = packed(constant)  # a copy: where NumPy's memory begins decides nothing, as it would in MKL
        return lambda a: packed_product(a, weight)
    constant = aligned(constant)
    return lambda a: a @ constant.T


def aligned(x: Tensor) -> Tensor:
    """x, or a copy where it does not begin at a multiple of 64 bytes, on which MKL's last digits depend."""
    return x if x.device.type != "cpu" or x.data_ptr() % 64 == 0 else x.clone()


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

    return _packing_works(torch.float32, 1e-5)


@lru_cache(maxsize=1)
def bf16_packing_works() -> bool:
    """As `packing_works`, in bfloat16: torch refuses CPUs that have neither AVX-512 (BW, VL, DQ) nor AVX-NE-CONVERT."""
    import torch

    return _packing_works(torch.bfloat16, 0.1)


def _packing_works(dtype: Any, tolerance: float) -> bool:
    import torch

    stream = torch.Generator().manual_seed(0)
    x, weight, bias, residual = (
        torch.randn(shape, generator=stream).to(dtype) for shape in ((13, 48), (32, 48), (32,), (13, 32))
    )
    try:
        with torch.inference_mode():
            laid_out, plain = packed(weight), x @ weight.T
            pairs = [
                (packed_product(x, laid_out), plain),
                (packed_product(x, laid_out, bias, "gelu"), torch.nn.functional.gelu(plain + bias)),
                (packed_sum(x, residual, laid_out, bias), residual + plain + bias),
            ]
            return all(torch.allclose(found, wanted, atol=tolerance, rtol=10 * tolerance) for found, wanted in pairs)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
