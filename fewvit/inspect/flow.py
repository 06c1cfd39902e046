"""How much of each patch flows into the class token through all blocks. Source: Abnar & Zuidema 2020, section 3."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import UsageError
from .figure import Figure, tiles_panel
from .heads import left_out
from .masks import mass_mask, shown_through
from .pictures import Pictures, at_once_for, in_parts, pictures_of
from .tokens import about_query, block_at, called_in, patch_grid, query_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone

_SIDE = 110.0  # points of a tile


def rollout(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    *,
    block: int = -1,
    discard: float = 0.0,
    mass: float = 0.6,
    query: str | None = None,
    sample: int | None = 4,
    seed: int = 0,
) -> Figure:
    """Attention rollout of the blocks up to `block`, beside that block's own attention, the mean of its heads.

    `discard`: the share of each mean attention matrix, its smallest entries, that counts as nothing. Arrays: `ids`,
    `pixels`, and (N, rows, columns) `rollout`, `mask`, `last`; `others` (N,), what the tokens before the patches get.
    Rows: `mask_area` and `other_tokens` of the rollout. Raises UsageError.
    """
    place, whose = block_at(backbone, block), query_of(backbone, query)
    if not 0 <= discard < 1:
        raise UsageError(f"--discard {discard:g} is not a share from 0 and below 1")
    pictures = pictures_of(backbone, source, sample, seed)
    flowed, last, others = _flows(backbone, pictures, place, whose, discard)
    masks = mass_mask(flowed.reshape(len(flowed), -1), mass).reshape(flowed.shape)
    tiles = [
        [pixels, own, through, shown_through(pixels, mask)]
        for pixels, own, through, mask in zip(pictures.pixels, last, flowed, masks, strict=True)
    ]
    panel = tiles_panel(
        f"{called_in(backbone)}: rollout of blocks 1 to {place + 1}"
        + (f", {100 * discard:g} % of each discarded" if discard else ""),
        tiles,
        _SIDE,
        above=("picture", f"block {place + 1} alone", "rollout", f"its {100 * mass:g} %"),
    )
    rows = [
        {"id": name, "block": place + 1, "metric": metric, "value": float(value)}
        for name, mask, other in zip(pictures.ids, masks, others, strict=True)
        for metric, value in (("mask_area", mask.mean()), ("other_tokens", other))
    ]
    arrays = {"ids": np.array(pictures.ids), "pixels": pictures.pixels, "rollout": flowed, "mask": masks, "last": last}
    notes = [*about_query(backbone, query, whose), *left_out(backbone, others)]
    return Figure("rollout", [panel], {**arrays, "others": others}, rows, notes=notes)


def added_flow(mean: Tensor, flow: Tensor | None, discard: float) -> Tensor:
    """The rollout (B, T, T) after one more block whose heads attend, on average, as `mean` (B, T, T) says.

    (A + I) with rows that sum to 1, times what flowed before: half of a token comes through the block's shortcut.
    """
    import torch

    if discard > 0:
        flat = mean.flatten(1)
        least = flat.argsort(dim=1)[:, : int(discard * flat.shape[1])]
        mean = flat.scatter(1, least, 0.0).view_as(mean)
    mixed = mean + torch.eye(mean.shape[-1], device=mean.device)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)
    return mixed if flow is None else mixed @ flow


def _flows(
    backbone: Backbone, pictures: Pictures, place: int, query: str, discard: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rollout and the last block's mean attention (N, rows, columns), and what others have of the rollout (N,)."""
    prefix = backbone.model.prefix
    flowed, last, others = [], [], []
    for images in in_parts(backbone, pictures, at_once_for(backbone, pictures)):
        state: list[Tensor] = []  # the rollout so far, and the mean attention of the block before

        def fold(found: Tensor, state: list[Tensor] = state) -> Tensor:
            mean = found.mean(dim=1)  # (B, T, T) of (B, heads, T, T)
            state[:] = [added_flow(mean, state[0] if state else None, discard), mean]
            return mean[:, 0, :0]  # nothing is held of a block but the product

        backbone.attend(images, range(place + 1), fold)
        flow, own = (_row(one, query, prefix) for one in state)
        grid = patch_grid(backbone, images, flow.shape[-1])
        flowed.append(flow[:, prefix:].unflatten(-1, grid).float().cpu().numpy())
        last.append(own[:, prefix:].unflatten(-1, grid).float().cpu().numpy())
        others.append(flow[:, :prefix].sum(dim=-1).float().cpu().numpy())
    return np.concatenate(flowed), np.concatenate(last), np.concatenate(others)


def _row(matrix: Tensor, query: str, prefix: int) -> Tensor:
    """What the class token, or the patches on average, have of each token: (B, T) of (B, T, T)."""
    return matrix[:, 0] if query == "cls" else matrix[:, prefix:].mean(dim=1)
