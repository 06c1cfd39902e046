"""What each head of a block looks at. Source: Caron et al. 2021, figures 1, 3 and 4."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import UsageError
from ..results import Row
from .figure import Figure, tiles_panel
from .masks import COLOURS, in_colours, mass_mask, shown_through
from .pictures import Pictures, at_once_for, in_parts, pictures_of
from .tokens import about_query, block_at, called_in, patch_grid, prefix_named, query_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..figures.picture import Panel
    from ..models.backbone import Backbone

_SIDE, _SMALL = 92.0, 66.0  # points of a tile; with many heads
_MANY = 8


def attention(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    *,
    block: int = -1,
    mass: float = 0.6,
    query: str | None = None,
    coloured: Sequence[int] | None = None,
    sample: int | None = 4,
    seed: int = 0,
) -> Figure:
    """The attention that every head of a block pays to the patches: maps, masks of their mass, one picture in colours.

    `block` from 1, or from -1 backwards; `query`: the class token (`cls`) or all patches on average (`mean`);
    `coloured` are the heads, from 1, in colours, six at most: else the six whose attention is the most concentrated.

    Arrays, of N pictures and H heads: `ids` (N,), `pixels` (N, height, width, 3), `attention` (N, H, rows, columns) as
    the softmax gave it, without the tokens before the patches, `mask` of the same shape, `others` (N, H), what those
    tokens get. Rows: `mask_area`, the share of patches in the mask, and `other_tokens`. Raises UsageError.
    """
    place, whose = block_at(backbone, block), query_of(backbone, query)
    pictures = pictures_of(backbone, source, sample, seed)
    maps, others = head_maps(backbone, pictures, place, whose)
    masks = mass_mask(maps.reshape(*maps.shape[:2], -1), mass).reshape(maps.shape)
    painted = _coloured(maps, coloured)
    rows: list[Row] = [
        {"id": pictures.ids[n], "block": place + 1, "head": h + 1, "metric": metric, "value": float(value)}
        for n in range(len(pictures))
        for h in range(maps.shape[1])
        for metric, value in (("mask_area", masks[n, h].mean()), ("other_tokens", others[n, h]))
    ]
    title = f"{called_in(backbone)}, block {place + 1}: attention {OF[whose]}"
    panel = _panel(pictures, maps, masks, painted, title, f"below each: the patches that hold {100 * mass:g} % of it")
    arrays = {"ids": np.array(pictures.ids), "pixels": pictures.pixels, "attention": maps, "mask": masks}
    notes = [*about_query(backbone, query, whose), *left_out(backbone, others)]
    if coloured is None and maps.shape[1] > len(COLOURS):
        notes.append(
            f"in colours: heads {', '.join(str(h + 1) for h in painted)}, whose attention is the most concentrated; "
            "--coloured names others"
        )
    return Figure("attention", [panel], {**arrays, "others": others}, rows, notes=notes)


OF = {"cls": "of the class token", "mean": "of all patches, on average"}


def head_maps(backbone: Backbone, pictures: Pictures, place: int, query: str) -> tuple[np.ndarray, np.ndarray]:
    """Attention (N, H, rows, columns) of a block, from 0, to the patches, and (N, H) to the tokens before them."""
    prefix = backbone.model.prefix
    queries = slice(0, 1) if query == "cls" else slice(prefix, None)
    maps, others = [], []
    for images in in_parts(backbone, pictures, at_once_for(backbone, pictures)):

        def mean_row(found: Tensor) -> Tensor:
            return found.mean(dim=2)  # (B, H, T)

        [row] = backbone.attend(images, [place], mean_row, queries)
        grid = patch_grid(backbone, images, row.shape[-1])
        maps.append(row[..., prefix:].unflatten(-1, grid).float().cpu().numpy())
        others.append(row[..., :prefix].sum(dim=-1).float().cpu().numpy())
    return np.concatenate(maps), np.concatenate(others)


def left_out(backbone: Backbone, others: np.ndarray) -> list[str]:
    """A line on the tokens before the patches, which no map shows, and their mean share of the attention."""
    named = prefix_named(backbone.model.prefix_kinds)
    if not named:
        return []
    return [f"left out of each map: {named}, which {100 * others.mean():.1f} % of the attention goes to"]


def _coloured(maps: np.ndarray, asked: Sequence[int] | None) -> list[int]:
    """The heads, from 0, of the picture in colours. Raises UsageError for one that is not there, or too many."""
    count = maps.shape[1]
    if asked is not None:
        wrong = [head for head in asked if not 1 <= head <= count]
        if wrong or not 1 <= len(set(asked)) <= len(COLOURS):
            raise UsageError(
                f"--coloured {','.join(map(str, asked))}: there are {count} heads, of which six at most have a colour",
                fix=f"Give numbers from 1 to {count}.",
            )
        return sorted({head - 1 for head in asked})
    shares = maps / maps.sum(axis=(2, 3), keepdims=True)
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=(2, 3)).mean(axis=0)  # (H,)
    return sorted(int(head) for head in np.argsort(entropy, kind="stable")[: len(COLOURS)])


def _panel(
    pictures: Pictures, maps: np.ndarray, masks: np.ndarray, coloured: Sequence[int], title: str, note: str
) -> Panel:
    """Two rows of a picture: it and its heads; below, the heads in one picture and their masks."""
    tiles: list[list[np.ndarray]] = []
    for pixels, heads, marked in zip(pictures.pixels, maps, masks, strict=True):
        tiles.append([pixels, *heads])
        tiles.append([in_colours(pixels, heads[list(coloured)]), *(shown_through(pixels, mask) for mask in marked)])
    inks = {head + 1: COLOURS[at] for at, head in enumerate(coloured)}
    above = ["picture", *(f"head {head + 1}" for head in range(maps.shape[1]))]
    side = _SIDE if maps.shape[1] <= _MANY else _SMALL
    return tiles_panel(title, tiles, side, above=above, inks=inks, together=2, note=note)
