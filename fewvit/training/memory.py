"""Where a batch finds no room in memory: what the user is to do."""

from __future__ import annotations

from ..errors import ResourceError


class BatchTooLarge(ResourceError):
    """The gradients of a batch do not fit into memory."""

    def __init__(self, batch_size: int, parts: int):
        smaller = f", or take --batch-size {max(1, batch_size // 2)}" if batch_size > 1 else ""
        super().__init__(
            f"out of memory with a batch of {batch_size} in {parts} part{'s' if parts > 1 else ''}",
            fix=f"Compute it in smaller parts with --accumulate {2 * parts}: the batch stays what it is{smaller}.",
        )
