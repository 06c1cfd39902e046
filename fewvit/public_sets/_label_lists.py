"""The published lists of labels for ImageNet's flat validation folder, each known by its look."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np

from ..datasets._devkit import DEVKIT, synsets_by_id
from ..errors import DataError, counted, printable, some
from ._files import NotThereError, is_count, lines_of
from ._imagenet import VALIDATION, image_numbers, refuse_twice, synsets

_WNID = re.compile(r"n\d{8}")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LISTS = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",
    "val_list.txt",
    "validation.txt",
    "val_labels.txt",
    _TRUTH,
    os.path.join(DEVKIT, _TRUTH),
)


def list_for(root: str, folder: str) -> str:
    """The first known list beside the images, in the folder above them or in `folder`. Raises DataError for none."""
    parent = os.path.dirname(os.path.abspath(root))
    for place in dict.fromkeys((os.path.abspath(root), parent, os.path.abspath(folder))):
        for name in LISTS:
            if os.path.isfile(path := os.path.join(place, name)):
                return path
    raise NotThereError(
        f"no list of labels beside its images; known are {some(LISTS, 9)}",
        file=folder,
        fix="Put one of them into the folder, or the images into folders called by wnids.",
    )


def labels_by(path: str, ids: Sequence[str], folder: str) -> list[str]:
    """The wnid of each validation image by a list of any published kind.

    `ImageId,PredictionString` (Kaggle); `file wnid` or `file index`, the index counting wnids in their order, from 0; a
    wnid or an index a line, in the order of the images' numbers; the devkit's ILSVRC ids, which meta.mat explains.
    Raises DataError for other lists, and for images that it does not label.
    """
    lines = lines_of(path)
    if lines and lines[0].replace(" ", "") == "ImageId,PredictionString":
        named = [(line.partition(",")[0], line.partition(",")[2].split(" ")[0]) for line in lines[1:]]
    else:
        words = [line.split() for line in lines]
        if words and all(len(row) == 1 for row in words):
            return _by_number(path, [row[0] for row in words], ids, folder)
        named = [(row[0], row[1]) for row in words if len(row) == 2]
        if not named or len(named) < len(words):
            raise DataError("not a list of labels: its lines are neither one word nor two", file=path)
    wnids = _wnids(path, [label for _, label in named])
    label_of: dict[str, str] = {}
    two = [
        stem
        for (name, _), wnid in zip(named, wnids, strict=True)
        if label_of.setdefault(stem := _stem(name), wnid) != wnid
    ]
    if two:
        raise DataError(f"gives {counted(len(set(two)), 'image')} two classes: {some(sorted(set(two)), 3)}", file=path)
    refuse_twice(ids, list(map(_stem, ids)), folder)
    unlabelled = [name for name in ids if _stem(name) not in label_of]
    if unlabelled:
        raise DataError(f"has no label for {counted(len(unlabelled), 'image')}: {some(unlabelled, 3)}", file=path)
    return [label_of[_stem(name)] for name in ids]


def _stem(name: str) -> str:
    """What a list and a folder both call an image: Kaggle's list leaves the ending away, others put folders before."""
    return os.path.splitext(name.rpartition("/")[2])[0]


def _by_number(path: str, words: Sequence[str], ids: Sequence[str], folder: str) -> list[str]:
    """The labels of a list that names no image: line n is that of image n."""
    if len(words) != VALIDATION:
        raise DataError(
            f"{counted(len(words), 'line')}, expected {VALIDATION}: one for each validation image, by its number",
            file=path,
        )
    if all(map(_WNID.fullmatch, words)):
        wnids = _wnids(path, words)
    elif not all(map(is_count, words)):
        raise DataError("not a list of labels: its words are neither wnids nor numbers", file=path)
    elif min(map(int, words)) >= 1 and max(map(int, words)) <= 1000:  # the only numbers that are published bare
        meaning = synsets_by_id(path)
        unknown = sorted({word for word in words if word not in meaning})
        if unknown:
            raise DataError(f"no synset in meta.mat for {some(unknown)}", file=path)
        wnids = _wnids(path, [meaning[word] for word in words])
    else:
        wnids = _wnids(path, words)
    return [wnids[number - 1] for number in image_numbers(ids, folder)]


def _wnids(path: str, labels: Sequence[str]) -> list[str]:
    """The wnids that labels are or count. Raises DataError for labels of another kind and for numbers from 1."""
    order = synsets()
    if all(map(_WNID.fullmatch, labels)):
        unknown = sorted(set(labels) - set(order))
        if unknown:
            raise DataError(f"names classes that are not ImageNet-1k's: {some(unknown)}", file=path)
        return list(labels)
    if not all(map(is_count, labels)):
        odd = next(label for label in labels if not is_count(label))
        raise DataError(f"a label is neither a wnid nor a number: {printable(odd)[:40]!r}", file=path)
    numbers = np.array([int(label) for label in labels])
    if numbers.max() >= len(order):
        raise DataError(
            f"a label is {numbers.max()}, and the {len(order)} wnids are counted from 0 to {len(order) - 1}",
            file=path,
            fix="A list that counts from 1 counts ILSVRC ids or something else: give one with wnids.",
        )
    return [order[number] for number in numbers]
