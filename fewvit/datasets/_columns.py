"""Which columns of a table, or keys of a record, hold paths and labels, and what a label in one means."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError, printable, some
from . import Listing

# the names that are taken, the best first; compared without case, `-` and blanks as `_`
PATHS = (
    *("path", "file_name", "filename", "file", "file_path", "filepath", "image_path", "img_path", "image_file"),
    *("image_name", "image", "img"),
)
LABELS = (
    *("label", "class", "category", "class_name", "classname", "label_name", "category_name", "labels", "classes"),
    *("target", "choice"),
)


class NoPaths(DataError):
    """A table without a column of paths."""


@dataclass(frozen=True)
class Columns:
    """The places of the columns that are read, among all."""

    names: Sequence[str]  # of all columns
    path: int
    label: int | None
    assumed: bool  # one of them is known by another name than `path` and `label`, and nobody named it
    holds: str = "paths"  # or images
    besides: str | None = None  # a column that is read for something else

    @property
    def others(self) -> list[int]:
        """The places of the columns that are left."""
        return [i for i in range(len(self.names)) if i not in (self.path, self.label)]

    def notes(self) -> list[str]:
        """A line on what was taken for paths and labels, unless it is called so, and one on what was left unread."""
        label = "no labels" if self.label is None else f"labels from {_column(self.names, self.label)}"
        lines = [f"{self.holds} from {_column(self.names, self.path)}, {label}"] if self.assumed else []
        left = [i for i in self.others if self.besides is None or folded(self.names[i]) != folded(self.besides)]
        if unread := [printable(self.names[i].strip()) or f"number {i + 1}" for i in left]:
            advice = "; --label-column names one that holds labels" if self.label is None else ""
            lines.append(f"{'column' if len(unread) == 1 else 'columns'} left unread: {some(unread, 12)}{advice}")
        return lines


def choose_columns(source: str, names: Sequence[str], listing: Listing) -> Columns:
    """The columns of paths and labels.

    Raises NoPaths where there is none of paths, DataError where the one that was asked for is not there, and for two of
    one name.
    """
    path = find_name(source, names, PATHS, listing.path_column, "--path-column")
    if path is None:
        raise NoPaths(
            f"no column `path`; its columns are {some(list(names), 12) or 'none'}",
            file=source,
            fix="Name the columns path and label in the first line, or give --path-column and --label-column.",
        )
    label = find_name(source, names, LABELS, listing.label_column, listing.label_flag)
    if label == path:
        raise DataError(f"{_column(names, path)} holds paths and cannot hold labels too", file=source)
    assumed = (listing.path_column is None and folded(names[path]) != PATHS[0]) or (
        label is not None and listing.label_column is None and folded(names[label]) != LABELS[0]
    )
    return Columns(names, path, label, assumed, besides=listing.read_besides)


def find_name(source: str, names: Sequence[str], known: Sequence[str], asked: str | None, flag: str) -> int | None:
    """The place of the name that was asked for, or else of the best one that is known; None where there is none.

    Raises DataError where the one that was asked for is not there, and for two of the same name.
    """
    spelled = [folded(name) for name in names]
    if asked is not None:
        exactly = [i for i, name in enumerate(names) if name == asked]
        found = exactly or [i for i, name in enumerate(spelled) if name == folded(asked)]
        if not found:
            raise DataError(
                f"no column {printable(asked)}; its columns are {some(list(names), 12) or 'none'}",
                file=source,
                fix=f"Give one of them with {flag}.",
            )
    else:
        best = next((name for name in known if name in spelled), None)
        found = [i for i, name in enumerate(spelled) if name == best]
    if len(found) > 1:
        raise DataError(
            f"{len(found)} columns are called {printable(names[found[0]].strip())}",
            file=source,
            fix=f"Rename all but one, or name another with {flag}.",
        )
    return found[0] if found else None


def folded(name: str) -> str:
    """A name as it is compared: `Image Path` is `image_path`."""
    return "_".join(name.strip().casefold().replace("-", " ").split())


def _column(names: Sequence[str], place: int) -> str:
    return f"column {printable(names[place].strip())}"


def class_name(value: object) -> str | None:
    """The class that a value names: 3.0 is '3', as pandas writes integers beside missing values; blanks around it are
    no part of a name; None, NaN and '' are no label.

    Raises ValueError for what is neither text nor a number.
    """
    if value is None or value != value:
        return None
    if isinstance(value, list | tuple | dict):
        raise ValueError(f"is a {type(value).__name__}, not text or a number")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return (os.fsdecode(value) if isinstance(value, bytes) else str(value)).strip() or None


@dataclass
class Rows:
    """The rows of a table, while it is read: millions of them fit into memory."""

    paths: list[str] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("i"))  # of each row's class, -1 = unlabelled
    classes: dict[str | None, int] = field(default_factory=lambda: {None: -1})

    def add(self, path: str, label: str | None) -> None:
        """A row more."""
        self.paths.append(path)
        self.numbers.append(self.classes.setdefault(label, len(self.classes) - 1))

    def unlabel(self) -> None:
        """Forget all labels."""
        self.numbers, self.classes = array("i", [-1]) * len(self.paths), {None: -1}

    def numbered(self) -> tuple[np.ndarray, list[str]]:
        """Labels (N,) int64 of the rows as they stand, and the class names sorted by their bytes."""
        names = [name for name in self.classes if name is not None]
        order = sorted(range(len(names)), key=lambda k: os.fsencode(names[k]))
        place = np.full(len(names) + 1, -1, np.int64)  # the last entry serves -1
        place[order] = np.arange(len(names))
        return place[np.frombuffer(self.numbers, np.intc)] if len(self.numbers) else np.zeros(0, np.int64), [
            names[k] for k in order
        ]
