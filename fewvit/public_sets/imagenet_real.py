"""ReaL: ImageNet's validation images, with every label that people found right."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from ..datasets import Dataset, Listing
from ..errors import DataError
from ..labels import Marking
from ..untrusted.texts import json_of
from ._about import About, Part
from ._files import bytes_of, first_there, of_tree
from ._imagenet import VALIDATION, image_numbers, synsets, validation_images

_MOST_BYTES = 64 << 20  # of real.json; the published one has less than one MiB
_NO_LABEL = "no ReaL label"


class ImageNetReal:
    """A prediction is right where it is one of an image's labels; images without any are left out.

    Source: Beyer et al. 2020, "Are we done with ImageNet?". List n of real.json is of the image with number n + 1 in
    its file's name; the README's own snippets open the wrong files.
    """

    about = About(
        title="ImageNet ReaL",
        home="https://github.com/google-research/reassessed-imagenet",
        licence="see the home of real.json; the images: ImageNet's terms of access",
        layout=(
            "DIR/val/: ImageNet's validation images, flat or in folders, under their own names",
            "DIR/real.json: 50,000 lists of class numbers",
        ),
        parts={"val": Part(46_837, 1000)},  # 50,000 less 3,163 empty lists
        lists={"real.json": ""},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images that have a label. Raises DataError as `PublicSet.open`, and for a file of another length."""
        path = first_there(
            folder, ("real.json", os.path.join("val", "real.json"), os.path.join("..", "real.json")), "list of labels"
        )
        lists = _read(path)
        root, tree = validation_images(folder, listing)
        numbers = image_numbers(tree.ids, root)
        right = [lists[number - 1] for number in numbers]
        order = synsets()
        without = [name for name, accepted in zip(tree.ids, right, strict=True) if not accepted]
        if len(without) == len(right):
            raise DataError("none of the images there has a label in it", file=path)
        names = [order[accepted[0]] if accepted else None for accepted in right]
        notes = ["any of an image's labels is right; where one alone is told, it is the first"]
        if len(right) < VALIDATION:
            notes.append(f"{len(right)} of {VALIDATION} validation images are there")
        left_out = {_NO_LABEL: without} if without else {}
        dataset = of_tree("imagenet-real", root, tree, names, listing, left_out=left_out, notes=notes)
        rows = [accepted for accepted in right if accepted]
        padded = np.full((len(rows), max(map(len, rows))), -1, np.int64)
        for row, accepted in enumerate(rows):
            padded[row, : len(accepted)] = accepted
        return dataclasses.replace(dataset, labels=padded[:, 0].copy(), classes=order, marking=Marking(padded))


def _read(path: str) -> list[list[int]]:
    """The lists of class numbers. Raises DataError for a file of another kind or length."""
    try:
        lists = json_of(bytes_of(path, "the labels", _MOST_BYTES))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", file=path) from error
    if not isinstance(lists, list):
        raise DataError("not a list of lists of class numbers", file=path)
    if len(lists) != VALIDATION:
        raise DataError(
            f"has {len(lists)} lists, expected {VALIDATION}: one for each validation image",
            file=path,
            fix="Take real.json as it is published.",
        )
    for number, accepted in enumerate(lists, 1):
        whole = isinstance(accepted, list) and all(type(label) is int and 0 <= label < 1000 for label in accepted)
        if not whole:
            raise DataError(f"list {number} is not of class numbers from 0 to 999", file=path)
    return lists
