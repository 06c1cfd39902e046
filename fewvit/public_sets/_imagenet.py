"""What ImageNet and its relatives share: the order of the classes, their wnids, the numbers of validation images."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..datasets import Dataset, Listing
from ..datasets._listing import Tree
from ..errors import DataError, are, counted, some
from ..labels import Marking
from ._files import listed, of_tree

VALIDATION = 50_000  # images
_NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})\.[a-z0-9]+", re.IGNORECASE)
# where validation images lie below the folder that was given, as the archives and Kaggle's competition unpack
_VALIDATION = ("val", "validation", "ILSVRC2012_img_val", os.path.join("ILSVRC", "Data", "CLS-LOC", "val"), "")


@functools.cache
def synsets(name: str = "imagenet") -> tuple[str, ...]:
    """The wnids of a set in the order of its class numbers, which is that of the wnids as text."""
    return tuple((Path(__file__).parent / "lists" / f"{name}.txt").read_text(encoding="ascii").split())


def validation_images(folder: str, listing: Listing) -> tuple[str, Tree]:
    """The folder of the validation images, and what is in it: `folder` itself, or one in it. Raises DataError."""
    root = next(path for name in _VALIDATION if os.path.isdir(path := os.path.join(folder, name).rstrip(os.sep)))
    return root, listed(root, listing)


def image_numbers(ids: Sequence[str], folder: str) -> np.ndarray:
    """The number (N,) of each validation image, from 1, as it stands in the file's name.

    Raises DataError for a name without one, for numbers beyond 50,000 and for one that stands twice.
    """
    matches = [_NUMBER.fullmatch(name.rpartition("/")[2]) for name in ids]
    nameless = [name for name, match in zip(ids, matches, strict=True) if match is None]
    if nameless:
        raise DataError(
            f"{counted(len(nameless), 'image')} {are(len(nameless))} not called ILSVRC2012_val_00000001.JPEG or the "
            f"like, so which of the validation images it is isn't known: {some(nameless, 3)}",
            file=folder,
            fix="Keep the files' own names.",
        )
    numbers = np.array([int(match[1]) for match in matches if match is not None], np.int64)
    if numbers.min() < 1 or numbers.max() > VALIDATION:
        raise DataError(f"holds image number {numbers[(numbers < 1) | (numbers > VALIDATION)][0]}", file=folder)
    refuse_twice(ids, numbers.tolist(), folder)
    return numbers


def refuse_twice(ids: Sequence[str], called: Sequence[object], folder: str) -> None:
    """Raise DataError for images of one folder that are `called` alike, such as 00000007.JPEG and 00000007.png."""
    first: dict[object, str] = {}
    again = [
        f"{first[key]} and {name}" for name, key in zip(ids, called, strict=True) if first.setdefault(key, name) != name
    ]
    if again:
        raise DataError(
            f"holds {counted(len(again), 'validation image')} there twice, by the names: {some(again, 2)}",
            file=folder,
            fix="Move one of the two elsewhere.",
        )


def refuse_other_classes(names: Sequence[str], folder: str, known: Sequence[str], what: str) -> None:
    """Raise DataError for class folders that are not among the `known` wnids."""
    others = sorted(set(names) - set(known))
    if others:
        raise DataError(
            f"{counted(len(others), 'folder')} {are(len(others))} none of {what}'s {len(known)} wnids: {some(others)}",
            file=folder,
        )


def of_wnid_folders(
    name: str, folder: str, listing: Listing, known: Sequence[str], title: str, *, masked: bool
) -> Dataset:
    """A relative of ImageNet in folders called by wnids, which must be just the `known` ones.

    `masked`: the prediction is the best of its classes, whatever else was learnt. Raises DataError.
    """
    tree = listed(folder, listing)
    refuse_other_classes(tree.folders, folder, known, title)
    labels = [id_.partition("/")[0] if "/" in id_ else "" for id_ in tree.ids]
    refuse_other_classes(labels, folder, known, title)
    missing = sorted(set(known) - set(labels))
    if missing:
        raise DataError(
            f"{counted(len(missing), 'class has', 'classes have')} no image: {some(missing)}; a number on the others "
            f"alone would not be {title}'s",
            file=folder,
        )
    dataset = of_tree(name, folder, tree, labels, listing)
    if not masked:
        return dataset
    note = f"predictions are the best of its {len(known)} classes, whichever others are learnt"
    marking = Marking(answers=np.arange(len(dataset.classes), dtype=np.int64))
    return dataclasses.replace(dataset, marking=marking, notes=[*dataset.notes, note])
