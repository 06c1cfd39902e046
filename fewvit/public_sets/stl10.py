"""STL-10: 96 x 96 pixels, ten classes, few labels and many images without. Source: Coates et al. 2011."""

from __future__ import annotations

import os

import numpy as np

from ..datasets import Dataset, Listing
from ..datasets._classes import numbered
from ..datasets._pixels import Pixels
from ..errors import DataError, from_os_error
from ..files import require_file
from ._about import About, Part
from ._files import bytes_of, first_there, lines_of, whole_numbers

_MOST_LABELS = 1 << 20  # bytes; the published file has 8000
_SIDE = 96  # pixels
_IMAGE = 3 * _SIDE**2  # bytes


class Stl10:
    """The binary files. An image is red, green and blue one after another, each column by column; labels begin at 1."""

    about = About(
        title="STL-10",
        home="https://cs.stanford.edu/~acoates/stl10/",
        licence="see the home; the images are ImageNet's",
        layout=(
            "DIR/train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin and class_names.txt, or these in "
            "DIR/stl10_binary/",
        ),
        parts={"train": Part(5_000, 10), "test": Part(8_000, 10), "unlabeled": Part(100_000)},
        pair=("train", "test"),
        lists={
            "stl10_binary/train_y.bin": "5a34089d4802c674881badbb80307741",
            "stl10_binary/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
            "stl10_binary/class_names.txt": "",
        },
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        path = first_there(folder, (f"{part}_X.bin", os.path.join("stl10_binary", f"{part}_X.bin")), "images")
        pixels = _pixels(path)
        ids = [f"{part}/{row:06d}" for row in range(len(pixels))]
        if part == "unlabeled":
            return Dataset("stl10", ids, np.full(len(ids), -1, np.int64), [], Pixels(pixels, path))
        beside = os.path.dirname(path)
        names = lines_of(os.path.join(beside, "class_names.txt"))
        labels = _labels(os.path.join(beside, f"{part}_y.bin"), len(ids), len(names))
        of_images, classes = numbered(names[label - 1] for label in labels.tolist())
        return Dataset("stl10", ids, of_images, classes, Pixels(pixels, path))


def _pixels(path: str) -> np.ndarray:
    """Images (N, 96, 96, 3), left in the file until they are read. Raises DataError for a part of an image."""
    require_file(path)
    try:
        size = os.path.getsize(path)
        if size == 0 or size % _IMAGE:
            raise DataError(f"{size} bytes are no whole number of images of {_IMAGE} bytes", file=path)
        stored = np.memmap(path, np.uint8, "r").reshape(-1, 3, _SIDE, _SIDE)
    except OSError as error:
        raise from_os_error(error, "reading the images") from error
    return stored.transpose(0, 3, 2, 1)  # the file's last axis runs down a column


def _labels(path: str, images: int, classes: int) -> np.ndarray:
    """Labels (N,), from 1. Raises DataError."""
    found = np.frombuffer(bytes_of(path, "the labels", _MOST_LABELS), np.uint8)
    if len(found) != images:
        raise DataError(f"has {len(found)} labels for {images} images", file=path)
    return whole_numbers(found, 1, classes, "labels", path)
