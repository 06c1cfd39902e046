"""Data sets out of what public ones are made of: lists of files, class folders, and the errors they share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..datasets import Dataset, Listing
from ..datasets._classes import numbered
from ..datasets._listing import EXAMPLES, FileReader, Tree, image_tree, refuse_nothing
from ..digests import identity_of
from ..errors import DataError, are, counted, from_os_error, printable, some
from ..files import is_file, require_file, whole

_MOST_OF_LIST = 256 << 20  # bytes of a list; the longest that is published, tiered-ImageNet's, has some 20 MB
Found = TypeVar("Found")


class NotThereError(DataError):
    """A part of a set that is not there, in contrast to one that is there and refused."""


def of_list(
    name: str, root: str, rows: Sequence[tuple[str, str]], listing: Listing, of: str, notes: Sequence[str] = ()
) -> Dataset:
    """The images of (path below `root`, class name) in the order of their paths; `of` is the file that lists them.

    Raises DataError for no row, for a path that stands twice, and for paths that name no file.
    """
    if not rows:
        raise DataError("names no image", file=of)
    rows = sorted(rows, key=lambda row: os.fsencode(row[0]))
    ids = [path for path, _ in rows]
    spelled = sorted(map(os.path.normpath, ids))
    repeated = sorted({a for a, b in itertools.pairwise(spelled) if a == b})
    if repeated:
        raise DataError(f"names {counted(len(repeated), 'image')} more than once: {some(repeated)}", file=of)
    identities = [_identity(os.path.join(root, path)) for path in ids]
    missing = [path for path, identity in zip(ids, identities, strict=True) if identity is None]
    if missing:
        raise NotThereError(
            f"{len(missing)} of its {counted(len(ids), 'image')} {are(len(missing))} not there: {some(missing)}",
            file=of,
            fix=f"Paths are relative to {printable(root)}.",
        )
    labels, classes = numbered(label for _, label in rows)
    reader = FileReader(os.path.abspath(root), ids, b"".join(filter(None, identities)), listing.max_bytes)
    return Dataset(name, ids, labels, classes, reader, {}, list(notes))


def _identity(path: str) -> bytes | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return None
    return identity_of(status) if is_file(status) else None


def of_tree(
    name: str,
    root: str,
    tree: Tree,
    labels: Sequence[str | None],
    listing: Listing,
    *,
    left_out: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """The images of a listed folder under these class names (N); one without is left out, which `left_out` explains."""
    refuse_nothing(root, tree.ids, tree.left_out)
    rows = [row for row, label in enumerate(labels) if label is not None]
    of_rows, classes = numbered(labels[row] for row in rows)
    told = left_out or {}
    return Dataset(
        name,
        [tree.ids[row] for row in rows],
        of_rows,
        classes,
        FileReader(
            os.path.abspath(root),
            [tree.ids[row] for row in rows],
            b"".join(tree.identities[40 * row : 40 * row + 40] for row in rows),
            listing.max_bytes,
        ),
        {**tree.left_out, **{reason: len(names) for reason, names in told.items()}},
        list(notes),
        {**tree.examples, **{reason: list(names[:EXAMPLES]) for reason, names in told.items()}},
    )


def of_class_folders(name: str, root: str, listing: Listing, depth: int = 1) -> Dataset:
    """The images of class folders; with `depth` 2 a class is a folder in a folder, as Omniglot's characters.

    Raises DataError for a folder that is not there, and for images that lie less deep.
    """
    tree = listed(root, listing)
    loose = [id_ for id_ in tree.ids if id_.count("/") < depth]
    if loose:
        raise DataError(
            f"{counted(len(loose), 'image')} in no class folder: {some(loose)}", file=root, fix="Move them elsewhere."
        )
    return of_tree(name, root, tree, ["/".join(id_.split("/")[:depth]) for id_ in tree.ids], listing)


def listed(root: str, listing: Listing) -> Tree:
    """Every image below a folder. Raises DataError for a folder that is not there, and for one without an image."""
    if not os.path.isdir(root):
        raise NotThereError("no such folder", file=root)
    tree = image_tree(root, listing.follow_links)
    refuse_nothing(root, tree.ids, tree.left_out)
    return tree


def first_there(folder: str, names: Sequence[str], what: str) -> str:
    """The first of some files or folders below `folder`. Raises DataError, naming them, where none is there."""
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise NotThereError(
        f"no {what}: neither of {some(list(names), 8)} is there"
        if len(names) > 1
        else f"no {what}: {names[0]} is not there",
        file=folder,
    )


def bytes_of(path: str, what: str, most: int) -> bytes:
    """The bytes of a file on a disk.

    Raises DataError for what is no such file, such as a pipe or a device, and for more than `most` bytes, unread.
    """
    try:
        if os.path.isfile(path) and os.path.getsize(path) > most:
            raise DataError(f"more than {most >> 20} MiB, which is none of the published files", file=path)
        require_file(path)
        return whole(path, most)
    except FileNotFoundError as error:
        raise NotThereError("no such file", file=path) from error
    except OSError as error:
        raise from_os_error(error, f"reading {what}") from error


def lines_of(path: str) -> list[str]:
    """The lines of a text file that are not empty, without blanks around them.

    Raises DataError where it cannot be read or is no text.
    """
    try:
        text = bytes_of(path, "the list", _MOST_OF_LIST).decode("utf-8-sig")
        return [line for line in map(str.strip, text.replace("\r\n", "\n").replace("\r", "\n").split("\n")) if line]
    except UnicodeDecodeError as error:
        raise DataError("not a list: it is no text", file=path) from error


def rows_of(path: str, read: Callable[[str], tuple[str, str] | None]) -> list[tuple[str, str]]:
    """(path, class name) of each line; a line that `read` knows nothing of raises DataError with its number."""
    rows = []
    for number, line in enumerate(lines_of(path), 1):
        row = read(line)
        if row is None:
            raise DataError(f"line {number} is not one of such a list: {printable(line)[:80]!r}", file=path)
        rows.append(row)
    return rows


def is_count(word: str) -> bool:
    """Whether a word is a whole number from 0 that a label may be; Python reads none of 5000 digits."""
    return word.isascii() and word.isdigit() and len(word) <= 9


def whole_numbers(values: object, low: int, high: int, what: str, path: str) -> np.ndarray:
    """Whole numbers (N,) int64 from `low` up to `high`. Raises DataError for others."""
    if high < low:
        raise DataError(f"has {what}, but no class is named", file=path)
    listed = isinstance(values, list | tuple) and all(type(one) is int for one in values)
    plain = listed or isinstance(values, np.ndarray)
    try:
        array = np.asarray(values) if plain else np.empty(0)  # a list in a list may hold itself
    except (ValueError, OverflowError):  # whole numbers that no array has room for
        array = np.empty(0)
    if isinstance(values, list | tuple) and not values:
        array = array.astype(np.int64)
    if (
        array.ndim != 1
        or array.dtype.kind not in "iu"
        or (array.size and not low <= int(array.min()))
        or (array.size and int(array.max()) > high)
    ):
        raise DataError(f"its {what} are not numbers from {low} to {high}", file=path)
    return array.astype(np.int64)
