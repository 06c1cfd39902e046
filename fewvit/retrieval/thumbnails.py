"""Small pictures of images, for pages."""

from __future__ import annotations

import io

import numpy as np

from ..images import decode_whole

_QUALITY = 82  # of JPEG


def thumbnail(data: bytes, side: int, max_pixels: int = 50_000_000) -> bytes:
    """An image's bytes as JPEG whose longer side has at most `side` pixels, turned as its camera was held.

    Raises BadImage for what cannot be decoded.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(decode_whole(data, max_pixels)))
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
