"""Where images come from: a data set behind a name, or two of them with one numbering of classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import plugins
from .datasets import Dataset, Format, Listing
from .errors import DataError, UsageError, counted, printable


def open_dataset(source: str, listing: Listing | None = None) -> Dataset:
    """The data set behind `source`, in whatever format it is. Raises DataError if nothing is there or nothing fits."""
    for name in plugins.names("datasets"):
        format_: Format = plugins.find("datasets", name)
        if format_.accepts(source):
            return format_.open(source, listing or Listing())
    if not Path(source).exists():
        raise DataError(
            "no such file or folder",
            file=source,
            fix="Give a folder of class folders, a flat folder, an image, a table, shards, a zip archive or `digits`.",
        )
    raise DataError(
        "not a source of images that is known", file=source, fix="Give a folder, an image, .csv, .tsv, .parquet, .tar, .zip or `digits`."
    )


def told(dataset: Dataset, say: Callable[[str], None]) -> Dataset:
    """The data set, after what a user should know of its listing was said."""
    for reason, count in dataset.left_out.items():
        names = dataset.examples.get(reason, [])
        say(f"{dataset.name}: {count} left out ({reason}){_listed(names, count)}")
    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    return dataset


def _listed(names: Sequence[str], count: int) -> str:
    """The names after a colon, with dots where there are more; nothing where none is known."""
    return f": {', '.join(map(printable, names))}{' …' if len(names) < count else ''}" if names else ""


def open_pair(data: str | None, train: str | None, test: str | None, listing: Listing | None = None) -> tuple[Dataset, Dataset]:
    """The training and the test set: the two parts of `data`, or the sources `train` and `test`; the test labels count train's classes.

    Raises UsageError unless either `data` or both others are given, DataError for a part that is missing and for unknown test classes.
    """
    require_one_way(data, train, test)
    if data is not None:
        train, test, notes = _parts(data)
    elif train is not None and test is not None:
        notes = []
    else:
        raise UsageError(
            "two sets are needed: one to learn from, one to be tested on",
            fix="Give --data DIR with train/ and val/ in it, or --train SRC --test SRC.",
        )
    one, other = align(open_dataset(train, listing), open_dataset(test, listing))
    return one, replace(other, notes=[*other.notes, *notes])


def require_one_way(data: str | None, train: str | None, test: str | None) -> None:
    """Raise UsageError where --data stands beside --train or --test."""
    if data is not None and (train is not None or test is not None):
        raise UsageError("--data excludes --train and --test, and both ways were given", fix="Give --data DIR, or --train SRC --test SRC.")


def align(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Both sets with train's classes, so that equal labels mean equal names. Raises DataError for test images of a class that train lacks.

    Unlabelled test images stay unlabelled; classes without test images are fine.
    """
    number = {name: k for k, name in enumerate(train.classes)}
    used = np.unique(test.labels[test.labels >= 0])
    unknown = [printable(test.classes[k]) for k in used if test.classes[k] not in number]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        known = f"{train.name} has {counted(len(number), 'class', 'classes')}" if number else f"{train.name} has no labels"
        raise DataError(
            f"{counted(len(unknown), 'class of the test set is', 'classes of the test set are')} not in the training set: {shown}",
            fix=f"{printable(known)}; names must agree letter by letter.",
        )
    table = np.full(len(test.classes) + 1, -1, np.int64)  # the last entry serves label -1
    table[used] = [number[test.classes[k]] for k in used]
    return train, replace(test, labels=table[test.labels], classes=train.classes)


def _parts(data: str) -> tuple[str, str, list[str]]:
    """The sources of the training and the test set in `data`, and what to tell about the choice."""
    if data == "digits":
        return "digits/train", "digits/test", []
    there = _sub_folders(data)
    second = next((name for name in ("val", "test") if name in there), None)
    if "train" not in there or second is None:
        if not os.path.exists(data):
            raise DataError("no such file or folder", file=data)
        raise DataError(
            "no train/ with val/ or test/ in it", file=data, fix="Give such a folder or zip archive, or --train SRC --test SRC."
        )
    notes = ["tested on val/; test/ was not used"] if {"val", "test"} <= there else []
    return os.path.join(data, "train"), os.path.join(data, second), notes


def _sub_folders(data: str) -> set[str]:
    """Which of train, val and test are folders of a folder or an archive."""
    from .datasets.archive import top_folders

    inside = top_folders(data)
    return {name for name in ("train", "val", "test") if name in inside or os.path.isdir(os.path.join(data, name))}
