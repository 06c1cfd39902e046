"""Many small pictures as one JPEG, shrunk and thinned until it fits."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..cpu import in_threads
from ..datasets import Dataset
from ..images import MAX_PIXELS, BadImage, decode_whole
from ..seeds import generator

SIDES = (64, 48, 40, 32)  # pixels of a cell, the largest first
MOST = 5000  # pictures of a sprite
_QUALITY = 78  # of JPEG
_ACROSS = 64  # cells in a row: no browser has a limit below 4,096 pixels


@dataclass(frozen=True)
class Sprite:
    """Square cells in rows of `across`, the pictures in the middle of their cells."""

    jpeg: bytes  # empty: there are no pictures
    side: int  # pixels of a cell
    across: int
    cell: np.ndarray  # (N,) int64: the cell of each image, -1 where it has none
    undecodable: int = 0


NO_SPRITE = Sprite(b"", SIDES[-1], _ACROSS, np.zeros(0, np.int64))


def make_sprite(images: Dataset, rows: Sequence[int], room: int, seed: int, max_pixels: int = MAX_PIXELS) -> Sprite:
    """Thumbnails of the images with numbers `rows` (N,), in at most `room` bytes.

    Of more than 5,000 the seed picks; what does not fit at 64 pixels is made smaller, down to 32, and then the seed
    picks fewer. An image that cannot be decoded has no cell.
    """
    chosen = np.arange(len(rows))
    if len(rows) > MOST:
        chosen = np.sort(generator("sprite", seed).choice(len(rows), MOST, replace=False))
    cells = _decoded(images, [rows[at] for at in chosen.tolist()], max_pixels)
    there = [at for at, cell in zip(chosen.tolist(), cells, strict=True) if cell is not None]
    small = [cell for cell in cells if cell is not None]
    undecodable = len(cells) - len(small)
    if not small:
        return Sprite(b"", SIDES[-1], _ACROSS, np.full(len(rows), -1), undecodable)
    kept, side, jpeg = _fitting(np.stack(small), room, seed)
    cell = np.full(len(rows), -1, np.int64)
    cell[np.array(there)[kept]] = np.arange(len(kept))
    return Sprite(jpeg, side, _ACROSS, cell, undecodable)


def _fitting(cells: np.ndarray, room: int, seed: int) -> tuple[np.ndarray, int, bytes]:
    """Which cells (n,) are kept, the side of each and the JPEG of all."""
    kept = np.arange(len(cells))
    for side in SIDES:
        jpeg = _jpeg(cells, side)
        if len(jpeg) <= room:
            return kept, side, jpeg
    while len(jpeg) > room and len(kept) > 1:
        fewer = max(1, min(len(kept) - 1, int(0.95 * len(kept) * room / len(jpeg))))
        kept = np.sort(generator("sprite", seed, "fewer").choice(len(cells), fewer, replace=False))
        jpeg = _jpeg(cells[kept], side)
    return kept, side, jpeg


def _decoded(images: Dataset, rows: Sequence[int], max_pixels: int) -> list[np.ndarray | None]:
    """Cells (64, 64, 3) uint8, as `square` makes them; None for what is no image."""

    def cell(row: int) -> np.ndarray | None:
        try:
            return square(decode_whole(images.read(row), max_pixels), SIDES[0])
        except (BadImage, OSError):
            return None

    return list(in_threads(cell, rows))


def square(pixels: np.ndarray, side: int, ground: int | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 whole in a square (side, side, 3), on a grey, or its edge's mean colour."""
    from PIL import Image

    scale = side / max(pixels.shape[:2])
    tall, wide = (max(1, round(length * scale)) for length in pixels.shape[:2])
    how = Image.Resampling.BICUBIC if scale <= 1 else Image.Resampling.NEAREST  # what is tiny keeps its pixels
    small = np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).resize((wide, tall), how, reducing_gap=2.0), np.uint8
    )
    edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]).mean(axis=0).round()
    cell = np.empty((side, side, 3), np.uint8)
    cell[:] = edge.astype(np.uint8) if ground is None else ground
    top, left = (side - tall) // 2, (side - wide) // 2
    cell[top : top + tall, left : left + wide] = small
    return cell


def _jpeg(cells: np.ndarray, side: int) -> bytes:
    """The cells in rows, as one JPEG."""
    from PIL import Image

    across, down = min(_ACROSS, len(cells)), math.ceil(len(cells) / _ACROSS)
    sheet = np.full((down * side, across * side, 3), 128, np.uint8)
    for at, cell in enumerate(_resized(cells, side)):
        top, left = at // _ACROSS * side, at % _ACROSS * side
        sheet[top : top + side, left : left + side] = cell
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _resized(cells: np.ndarray, side: int) -> list[np.ndarray]:
    if side == cells.shape[1]:
        return list(cells)
    from PIL import Image

    smaller: Callable[[np.ndarray], np.ndarray] = lambda cell: np.asarray(  # noqa: E731
        Image.fromarray(cell).resize((side, side), Image.Resampling.BICUBIC)
    )
    return [smaller(cell) for cell in cells]
