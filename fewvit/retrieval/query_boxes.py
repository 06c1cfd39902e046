"""Queries that are what a box of their image shows: the crop is made before any of its pixels is read otherwise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..datasets import Dataset, Reader
from ..errors import DataError, printable
from ..images import MAX_PIXELS, BadImage
from ..images.pillow import open_wholly

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the file, its EXIF turn ignored


def boxed(dataset: Dataset, boxes: Sequence[Box | None]) -> Dataset:
    """The data set with each image cropped to its box, as a PNG; None leaves one whole.

    The bytes are others than the file's, so a crop never meets the feature of its whole image in the cache.
    """
    return replace(dataset, reader=_Boxed(dataset.reader, dataset.ids, boxes))


@dataclass(frozen=True)
class _Boxed:
    """Another reader's images, cropped."""

    reader: Reader
    ids: Sequence[str]
    boxes: Sequence[Box | None]

    def read(self, i: int) -> bytes:
        """The crop of image `i`; the bytes as they are where they cannot be decoded, which is then found out.

        Raises OSError as the operating system does, DataError for a box beside the image.
        """
        data, box = self.reader.read(i), self.boxes[i]
        return data if box is None else _cropped(data, box, self.ids[i])

    def identity(self, i: int) -> bytes | None:
        """None for a crop: the file's identity stands for its own bytes."""
        return self.reader.identity(i) if self.boxes[i] is None else None

    def place(self, i: int) -> str | None:
        """Where the whole image lies."""
        return self.reader.place(i)


def _cropped(data: bytes, box: Box, name: str) -> bytes:
    try:
        image = open_wholly(data, _refuse_large).convert("RGB")
    except Exception:  # the per-image boundary: decoders raise what they like, and `decode` will say it
        return data
    left, top, right, bottom = map(round, box)  # as Pillow's crop does, which puts black where there is no image
    if right <= 0 or bottom <= 0 or left >= image.width or top >= image.height or left >= right or top >= bottom:
        raise DataError(
            f"the box {left}, {top}, {right}, {bottom} of query {printable(name)} lies beside its image of "
            f"{image.width} x {image.height} pixels",
            fix="Are these the images that the ground truth is of?",
        )
    file = io.BytesIO()
    image.crop((left, top, right, bottom)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _refuse_large(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage("too large")
