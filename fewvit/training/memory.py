"""Where a batch finds no room in memory: how torch says so, and what the user is to do."""

from __future__ import annotations

import torch

from ..errors import ResourceError


class BatchTooLarge(ResourceError):
    """The gradients of a batch do not fit into memory."""

    def __init__(self, batch_size: int, parts: int):
        smaller = f", or take --batch-size {max(1, batch_size // 2)}" if batch_size > 1 else ""
        super().__init__(
            f"out of memory with a batch of {batch_size} in {parts} part{'s' if parts > 1 else ''}",
            fix=f"Compute it in smaller parts with --accumulate {2 * parts}: the batch stays what it is{smaller}.",
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no room for a tensor, on a GPU or in this machine's memory."""
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
