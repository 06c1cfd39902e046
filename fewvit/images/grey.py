"""Grey in more than 8 bits as a viewer shows it: which value is white, which way round it is, and what is transparent.

A file says so or 65535 is white. A file of 16 bits whose values all lie below 4096 may be one of 12 bits that does not
say so, or of a dark scene: it is shown as it is, and `looks_like_twelve_bits` lets it be told.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .tiff import BITS, PHOTOMETRIC, first_of

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX, _S_MAX = 281, 341  # tags of TIFF: MaxSampleValue, SMaxSampleValue
_WHITE, _WHITE_OF_TWELVE = 65535, 4095


def is_sixteen_bit(image: Image) -> bool:
    """Whether an image that Pillow opened is grey in more than 8 bits, with a scale."""
    # Pillow scales such PGM to 0..65535
    return image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")


def eight_bit_grey(image: Image) -> np.ndarray:
    """(H, W) uint8 of a loaded image that `is_sixteen_bit`, white where it is transparent; writable."""
    values = np.asarray(image)
    white = _declared_white(image)
    if white and values.max(initial=0) > white:
        white = None  # then the tag is not true
    grey = _levels(white or _WHITE)[values]
    if _tag(image, PHOTOMETRIC, 1) == 0:  # WhiteIsZero; Pillow turns 8 bits round itself
        np.subtract(255, grey, out=grey)
    grey[clear_grey(image)] = 255
    return grey


def clear_grey(image: Image) -> np.ndarray:
    """(H, W) bool: which 16-bit grey pixels have the one value that a PNG may declare transparent."""
    return np.asarray(image) == image.info.get("transparency", -1)


def looks_like_twelve_bits(image: Image) -> bool:
    """Whether no value of a 16-bit grey image is over 4095, though nothing in the file says that this is white."""
    return not _declared_white(image) and 0 < np.asarray(image).max(initial=0) <= _WHITE_OF_TWELVE


def _declared_white(image: Image) -> int | None:
    """The value that the file says is white; None where nothing does.

    BitsPerSample below 16 does. A greatest value of 2^n - 1 does too; any other is a figure of this picture, for which
    TIFF 6.0 has MaxSampleValue, and changes nothing.
    """
    bits = int(_tag(image, BITS, 16))
    if 8 < bits < 16:
        return (1 << bits) - 1
    for tag in (_S_MAX, _MAX):
        greatest = _tag(image, tag, 0)
        if greatest in _POWERS:
            return int(greatest)
    return None


_POWERS = {(1 << bits) - 1 for bits in range(9, 16)}


def _tag(image: Image, tag: int, default: int) -> float:
    """A TIFF's tag, the first of its values; `default` for other formats, and where it is no number."""
    first = first_of(getattr(image, "tag_v2", {}).get(tag, default))
    return first if isinstance(first, (int, float)) else default


@functools.cache
def _levels(white: int) -> np.ndarray:
    """(65536,) uint8: the level 255 * v / white of each value v, rounded; 255 above `white`."""
    values = np.minimum(np.arange(65536, dtype=np.uint64), white)
    return ((values * 510 + white) // (2 * white)).astype(np.uint8)
