"""Input formats: one file each, found by what a source looks like.

A source (`SRC`) is a folder of class folders, a flat folder, one image, a CSV/TSV/Parquet table of paths or of images,
a folder of `save_to_disk`, WebDataset shards, a zip archive or `digits`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import plugins
from ..errors import DataError
from ..files import require_file
from ..labels import Marking


@dataclass(frozen=True)
class Listing:
    """How a source is listed. Options of every format, whether it has a use for them or not."""

    follow_links: bool = False  # also follow links that leave the root
    allow_empty_class: bool = False  # keep a class folder without a single image
    path_column: str | None = None  # what the column of paths in a table is called; None: by the names that are known
    label_column: str | None = None  # and that of labels, or the key in records of shards
    label_flag: str = "--label-column"  # the option that named it, for messages
    read_besides: str | None = None  # a column that another listing of the same table reads: it is not left unread
    max_bytes: int = 256 << 20  # of one image; more is refused unread


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
    """Images by row number, with labels.

    An id is a path relative to the source; the order is the order of the ids' bytes.
    """

    name: str  # what result rows call it
    ids: Sequence[str]  # N; odd bytes of file names as surrogates
    labels: np.ndarray  # (N,) int64, -1 = unlabelled
    classes: Sequence[str]
    reader: Reader
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many entries of the source were passed over
    notes: Sequence[str] = ()  # what a user should know about the source, a line each
    # reason -> the first names of those entries, where they are known
    examples: dict[str, list[str]] = field(default_factory=dict)
    marking: Marking | None = None  # of predictions, where labels do not say it all

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> bytes:
        """The bytes of image `i`, undecoded. Raises OSError as the operating system does."""
        return self.reader.read(i)

    def place(self, i: int) -> str:
        """Where image `i` lies: its path, or that of what holds it with its name there; its id if it is in no file."""
        return self.reader.place(i) or self.ids[i]

    def identity(self, i: int) -> bytes | None:
        """40 bytes (device, inode, size, mtime_ns, ctime_ns as int64) that change when the file does, or None."""
        return self.reader.identity(i)

    @property
    def digest(self) -> str:
        """sha256 over ids, labels and classes: equal for equal listings, whatever the images hold."""
        text = "\0".join([*self.ids, "", *self.classes]).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text + np.ascontiguousarray(self.labels, dtype="<i8").tobytes()).hexdigest()


def select(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The images of some rows, under their own ids and classes."""
    rows = list(rows)
    return replace(
        dataset,
        ids=[dataset.ids[row] for row in rows],
        labels=dataset.labels[rows],
        reader=_Selected(dataset.reader, rows),
        marking=None if dataset.marking is None else dataset.marking.select(rows),
    )


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

    def read(self, i: int) -> bytes:
        """The bytes of image `i`, undecoded. Raises OSError as the operating system does."""

    def identity(self, i: int) -> bytes | None:
        """40 bytes that change when the file of image `i` does, as `Dataset.identity`; None where nothing shows it."""

    def place(self, i: int) -> str | None:
        """Where image `i` lies, for messages: its path, or that of what holds it with its name there; or None."""


def open_dataset(source: str, listing: Listing | None = None) -> Dataset:
    """The data set behind `source`, in whatever format it is. Raises DataError if nothing is there or nothing fits."""
    require_file(source)
    for name in plugins.names("datasets"):
        format_: type[Format] = plugins.find("datasets", name)
        if format_.accepts(source):
            return format_.open(source, listing or Listing())
    if not Path(source).exists():
        raise DataError(
            "no such file or folder",
            file=source,
            fix="Give a folder of class folders, a flat folder, an image, a table, shards, a zip archive or `digits`.",
        )
    raise DataError(
        "not a source of images that is known",
        file=source,
        fix="Give a folder, an image, .csv, .tsv, .parquet, .tar, .zip or `digits`.",
    )
