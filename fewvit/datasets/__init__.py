"""Input formats: one file each, found by what a source looks like.

A source (`SRC`) is a folder of class folders, a flat folder, one image, a CSV/TSV/Parquet table, WebDataset shards, a zip archive or `digits`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import plugins
from ..errors import DataError, UsageError, counted, printable


@dataclass(frozen=True)
class Listing:
    """How a source is listed. Options of every format, whether it has a use for them or not."""

    follow_links: bool = False  # also follow links that leave the root
    allow_empty_class: bool = False  # keep a class folder without a single image


class Format(Protocol):
    """What a file in this folder offers: one public class with these two static methods."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether `source` is of this format; looks at names and kinds of files only, never at their content."""

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The data set. Raises DataError for what is missing, empty or inconsistent."""


@dataclass(frozen=True)
class Dataset:
    """Images by row number, with labels. An id is a path relative to the source; the order is the order of the ids' bytes."""

    name: str  # what result rows call it
    ids: Sequence[str]  # N; odd bytes of file names as surrogates
    labels: np.ndarray  # (N,) int64, -1 = unlabelled
    classes: Sequence[str]
    reader: Reader
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many entries of the source were passed over
    notes: Sequence[str] = ()  # what a user should know about the source, a line each
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first names of those entries, where they are known

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> bytes:
        """The bytes of image `i`, undecoded. Raises OSError as the operating system does."""
        return self.reader.read(i)

    def place(self, i: int) -> str:
        """Where image `i` lies: its path, or the path of what holds it and its name there; its id where it lies in no file."""
        return self.reader.place(i) or self.ids[i]

    def identity(self, i: int) -> bytes | None:
        """40 bytes (device, inode, size, mtime_ns, ctime_ns as int64) that change when the file does; None when nothing does."""
        return self.reader.identity(i)

    @property
    def digest(self) -> str:
        """sha256 over ids, labels and classes: equal for equal listings, whatever the pictures hold."""
        text = "\0".join([*self.ids, "", *self.classes]).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text + np.ascontiguousarray(self.labels, dtype="<i8").tobytes()).hexdigest()


def select(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The images of some rows, under their own ids and classes."""
    rows = list(rows)
    return replace(dataset, ids=[dataset.ids[row] for row in rows], labels=dataset.labels[rows], reader=_Selected(dataset.reader, rows))


def select_ids(dataset: Dataset, ids: Sequence[str]) -> Dataset:
    """The images of these ids, in their order."""
    row_of = {name: row for row, name in enumerate(dataset.ids)}
    return select(dataset, [row_of[name] for name in ids])


@dataclass(frozen=True)
class _Selected:
    """Some rows of another reader."""

    reader: Reader
    rows: Sequence[int]

    def read(self, i: int) -> bytes:
        return self.reader.read(self.rows[i])

    def identity(self, i: int) -> bytes | None:
        return self.reader.identity(self.rows[i])

    def place(self, i: int) -> str | None:
        return self.reader.place(self.rows[i])


class Reader(Protocol):
    """Where the bytes of a data set come from. Called from several threads at once."""

    def read(self, i: int) -> bytes: ...

    def identity(self, i: int) -> bytes | None: ...

    def place(self, i: int) -> str | None: ...


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
    from .archive import top_folders

    inside = top_folders(data)
    return {name for name in ("train", "val", "test") if name in inside or os.path.isdir(os.path.join(data, name))}
