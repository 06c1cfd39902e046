"""Images whose pixels lie in an array, as in scikit-learn's digits, CIFAR's pickles and STL-10's binary files."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pixels:
    """Images (N, H, W) or (N, H, W, 3) uint8, given as PNG, which loses nothing."""

    pixels: np.ndarray
    file: str = ""  # what holds them, for messages; empty: none

    def read(self, i: int) -> bytes:
        """The PNG of image `i`."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(self.pixels[i])).save(file, format="PNG")
        return file.getvalue()

    def identity(self, i: int) -> bytes | None:
        """The digest of the pixels themselves, as old as can be."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels[i]).tobytes()).digest() + bytes(8)

    def place(self, i: int) -> str | None:
        """The file, and the image's row in it."""
        return f"{self.file}/{i}" if self.file else None
