"""Small pictures of images, for pages."""

from __future__ import annotations

import io

import numpy as np

from ..images import decode_whole

_QUALITY = 82  # of JPEG
_MAX_PIXELS = 50_000_000


def thumbnail(data: bytes, longest: int, max_pixels: int = _MAX_PIXELS) -> bytes:
    """A small JPEG of an image's bytes, turned as its camera was held. Raises BadImage for what cannot be decoded."""
    return small_jpeg(decode_whole(data, max_pixels), longest)


def small_jpeg(pixels: np.ndarray, longest: int) -> bytes:
    """A new JPEG of pixels (H, W, 3), made smaller where a side is longer than `longest`: nothing else of the file."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
