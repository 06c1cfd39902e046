"""Copies of images as people make them, by a seed: to see what score a copy has, and what score none has.

Each copy is saved as a JPEG of quality 90, but for those whose recompression is the change.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import DataError
from ..images import BadImage, decode_whole
from ..seeds import generator

if TYPE_CHECKING:
    from PIL.Image import Image

_QUALITY = 90


def _crop(image: Image, random: np.random.Generator) -> bytes:
    """50 to 90 % of the area, anywhere."""
    share = np.sqrt(random.uniform(0.5, 0.9))
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return _jpeg(image.crop((int(left), int(top), int(left) + width, int(top) + height)))


def _recompressed(image: Image, random: np.random.Generator) -> bytes:
    """JPEG of quality 10 to 60."""
    return _jpeg(image, int(random.integers(10, 61)))


def _resized(image: Image, random: np.random.Generator) -> bytes:
    """Each side at 30 to 75 %."""
    factor = random.uniform(0.3, 0.75)
    return _jpeg(image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor)))))


def _overlaid(image: Image, random: np.random.Generator) -> bytes:
    """A filled box over 5 to 15 % of the area, with a line of text in it."""
    from PIL import ImageDraw, ImageFont

    image = image.copy()
    area, ratio = random.uniform(0.05, 0.15), random.uniform(1.5, 4)
    width = min(image.width, max(1, round(np.sqrt(area * ratio * image.width * image.height))))
    height = min(image.height, max(1, round(area * image.width * image.height / width)))
    left, top = (int(random.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    colour, ink = (tuple(int(c) for c in random.integers(0, 256, 3)) for _ in range(2))
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    font = ImageFont.load_default(max(6, 0.6 * height))
    draw.text((left + 0.1 * height, top + 0.1 * height), "copy 1234", fill=ink, font=font)
    return _jpeg(image)


def _mirrored(image: Image, random: np.random.Generator) -> bytes:
    """Left and right exchanged."""
    from PIL.Image import Transpose

    return _jpeg(image.transpose(Transpose.FLIP_LEFT_RIGHT))


EDITS: dict[str, Callable[[Image, np.random.Generator], bytes]] = {
    "crop": _crop,
    "jpeg": _recompressed,
    "resize": _resized,
    "overlay": _overlaid,
    "mirror": _mirrored,
}


@dataclass(frozen=True)
class Plan:
    """Which copies are made: of row `rows[i]` the kind `kinds[i]`."""

    rows: np.ndarray  # (n,) int64, of the set
    kinds: Sequence[str]
    names: Sequence[str]  # ids of the rows
    seed: int


def made_copies(plan: Plan, read: Callable[[int], bytes], max_pixels: int) -> Dataset:
    """A data set of the copies, each made when it is read. `read` gives the bytes of an image of the set."""
    ids = [f"{name} ({kind})" for name, kind in zip(plan.names, plan.kinds, strict=True)]
    return Dataset("copies", ids, np.full(len(ids), -1, np.int64), [], _Made(plan, read, max_pixels))


@dataclass(frozen=True)
class _Made:
    plan: Plan
    source: Callable[[int], bytes]
    max_pixels: int

    def read(self, i: int) -> bytes:
        from PIL.Image import fromarray

        kind, name = self.plan.kinds[i], self.plan.names[i]
        try:
            image = fromarray(decode_whole(self.source(int(self.plan.rows[i])), self.max_pixels))
        except (BadImage, DataError) as error:
            raise OSError(str(error)) from error
        return EDITS[kind](image, generator("copy", self.plan.seed, name, kind))

    def identity(self, i: int) -> bytes | None:
        return None

    def place(self, i: int) -> str | None:
        return None


def _jpeg(image: Image, quality: int = _QUALITY) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
