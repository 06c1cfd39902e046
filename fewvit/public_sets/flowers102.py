"""Oxford Flowers-102. Source: Nilsback and Zisserman 2008."""

from __future__ import annotations

import os

import numpy as np

from ..datasets import Dataset, Listing
from ..errors import DataError
from ..untrusted.matlab import variables_of
from ._about import About, Part
from ._files import bytes_of, first_there, of_list, whole_numbers

_MOST_BYTES = 16 << 20  # of a .mat file; those that are published have 15 kB
# part -> the entries of setid.mat
_SETS = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}


class Flowers102:
    """The official split: ten training and ten validation images of each class, the rest is tested on.

    The .mat files count images and classes from 1; classes are called 001 to 102, for the set names none.
    """

    about = About(
        title="Flowers-102",
        home="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence="see the home",
        layout=("DIR/jpg/image_00001.jpg and so on", "DIR/imagelabels.mat and DIR/setid.mat"),
        parts={
            "train": Part(1_020, 102),
            "val": Part(1_020, 102),
            "trainval": Part(2_040, 102),
            "test": Part(6_149, 102),
        },
        pair=("train", "test"),
        lists={
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        labels_in, sets_in = (first_there(folder, (name,), "file") for name in ("imagelabels.mat", "setid.mat"))
        labels = _entry(labels_in, "labels", 102)  # of image 1, 2, ...
        images = np.concatenate([_entry(sets_in, name, len(labels)) for name in _SETS[part]])
        rows = [(f"image_{image:05d}.jpg", f"{labels[image - 1]:03d}") for image in images.tolist()]
        return of_list("flowers102", os.path.join(folder, "jpg"), rows, listing, sets_in)


def _entry(path: str, name: str, most: int) -> np.ndarray:
    """The numbers (N,), from 1 up to `most`, of an array in a .mat file. Raises DataError."""
    try:
        found = variables_of(bytes_of(path, "the .mat file", _MOST_BYTES), name).get(name)
    except ValueError as error:
        raise DataError(f"not a readable .mat file ({error})", file=path) from error
    if found is None:
        raise DataError(f"has no array `{name}`", file=path)
    if not isinstance(found, np.ndarray):
        raise DataError(f"its `{name}` is no array of numbers", file=path)
    return whole_numbers(found.reshape(-1), 1, most, f"`{name}`", path)
