"""Position tables for images of other sizes than they were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backbones import Architecture, position_rule
from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def resize_positions(
    table: Tensor, architecture: Architecture, rows: int, columns: int, *, square: bool = True
) -> Tensor:
    """The position table (1, 1+N, D) for `rows` x `columns` patches under the family's rule; the class token's stays.

    `square`: whether the image is one where its patches are, or has just the pixels of a table that is none; if not,
    the table is not taken as it is.
    Raises UsageError where the rule gives another number of patches.
    """
    import torch

    rule, shape = position_rule(architecture.positions), architecture.table
    if rule.serves(shape, rows, columns) and (square or rule.by_count):
        return table
    resized = rule.resized(table[:, 1:].reshape(1, *shape, -1).permute(0, 3, 1, 2).float(), rows, columns)
    if resized.shape[-2:] != (rows, columns):
        raise UsageError(
            f"the {architecture.positions} position rule gives {tuple(resized.shape[-2:])} patches where "
            f"{rows}x{columns} are needed; choose another --img-size"
        )
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
