"""Maps over patches as pictures: DINO's masks of attention mass, nearest enlargement, overlays, colours of heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UsageError

COLOURS = ("#3b49c9", "#c8452f", "#14a06a", "#e0a800", "#a03fc0", "#0fa7c8")  # of six heads
_TAKES_PART = 0.2  # of a head's largest attention: what is less has no colour
_OUTSIDE = 0.22  # of a pixel's light that is left outside a mask


def mass_mask(attention: np.ndarray, mass: float) -> np.ndarray:
    """Which patches (..., T) hold the largest `mass` of attention (..., T), as DINO marks them.

    In ascending order and divided by their sum, those are marked whose cumulative sum exceeds 1 - mass: the patch in
    which it does so is one of them. Source: Caron et al. 2021, appendix; its script's default is 0.6. Raises
    UsageError.
    """
    if not 0 < mass <= 1:
        raise UsageError(f"--mass {mass:g} is not a share over 0 and up to 1")
    order = np.argsort(attention, axis=-1, kind="stable")
    ascending = np.take_along_axis(attention.astype(np.float64), order, axis=-1)
    total = ascending.sum(axis=-1, keepdims=True)
    reached = np.cumsum(ascending, axis=-1) / np.where(total > 0, total, 1)  # where there is none, none is marked
    marked = np.empty(attention.shape, bool)
    np.put_along_axis(marked, order, reached > 1 - mass, axis=-1)
    return marked


def enlarged(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, …) of a map (rows, columns, …): every patch a block of equal pixels, the nearest one's.

    What is over at the right and below, in images cut to whole patches, belongs to the last ones.
    """
    rows, columns = patches.shape[:2]
    down = np.minimum(np.arange(height) // (height // rows), rows - 1)
    across = np.minimum(np.arange(width) // (width // columns), columns - 1)
    return patches[down[:, None], across]


def shown_through(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8, dark but where the mask (rows, columns) is."""
    light = np.where(enlarged(mask, *pixels.shape[:2]), 1.0, _OUTSIDE)[..., None]
    return np.round(pixels * light).astype(np.uint8)


def in_colours(pixels: np.ndarray, maps: np.ndarray, colours: Sequence[str] = COLOURS) -> np.ndarray:
    """Pixels (H, W, 3) uint8 in grey, every patch in the colour of the head that looks at it most.

    Of maps (heads, rows, columns) each counts in parts of its own largest value; the colour covers by the root of that,
    and not at all up to 0.2.
    """
    most = maps.max(axis=(1, 2), keepdims=True)
    parts = maps / np.where(most > 0, most, 1)
    strongest = parts.argmax(axis=0)  # (rows, columns)
    part = parts.max(axis=0)
    cover = np.where(part > _TAKES_PART, np.sqrt(part), 0.0)
    palette = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours], float)
    paint = enlarged(palette[strongest], *pixels.shape[:2])
    alpha = enlarged(0.85 * cover, *pixels.shape[:2])[..., None]
    grey = 0.75 * (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]  # luma of ITU-R BT.601, a little darker
    return np.round(alpha * paint + (1 - alpha) * grey).astype(np.uint8)
