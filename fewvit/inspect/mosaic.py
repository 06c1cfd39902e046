"""Many small pictures as one: tiles of equal size in rows and columns, a gap between them."""

from __future__ import annotations

import numpy as np


def tiled(tiles: np.ndarray, columns: int, gap: int = 1, ground: float = np.nan) -> np.ndarray:
    """One picture (H, W) or (H, W, 3) of tiles (N, h, w) or (N, h, w, 3), `columns` in a row, row by row.

    Between tiles `gap` pixels of the value `ground`, and in the places of a last row that has fewer.
    """
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:]), ground, tiles.dtype)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        whole[top : top + height, left : left + width] = tile
    return whole


def stretched(tiles: np.ndarray) -> np.ndarray:
    """Each tile (N, ...) by itself from its least value, 0, to its largest, 1; a tile of one value is 0.5."""
    flat = tiles.reshape(len(tiles), -1).astype(np.float64)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (flat - low) / span, 0.5).reshape(tiles.shape)
