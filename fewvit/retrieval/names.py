"""Names of images in published lists, and the rows that they are in an index or a set of queries.

Lists name an image without its folder and its ending: `all_souls_000013` is the id `jpg/all_souls_000013.jpg`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from ..errors import DataError, are, counted, some


def name_of(id_: str) -> str:
    """An id without folder and ending."""
    return PurePosixPath(id_).stem


class NamedRows:
    """The row of each image name among `ids`; `what` they are, such as `the index`, stands in errors."""

    def __init__(self, ids: Sequence[str], what: str):
        self._what, self._rows = what, {name_of(id_): row for row, id_ in enumerate(ids)}
        if len(self._rows) < len(ids):
            seen: set[str] = set()
            twice = [n for n in map(name_of, ids) if n in seen or seen.add(n)]  # type: ignore[func-returns-value]
            raise DataError(
                f"{counted(len(set(twice)), 'name stands', 'names stand')} in {what} more than once: {some(twice)}",
                fix="Lists name images without folder and ending, so these must differ in their names.",
            )

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def rows(self, names: Iterable[str], listed_in: str | os.PathLike[str]) -> np.ndarray:
        """The rows (n,) int64 of these names. Raises DataError counting those that are not there."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self._rows]
        if missing:
            raise DataError(
                f"{len(missing)} of {counted(len(wanted), 'listed image')} {are(len(missing))} not in {self._what}: "
                f"{some(missing)}",
                file=listed_in,
                fix="Is it the list of another data set?",
            )
        return np.array([self._rows[name] for name in wanted], np.int64)


def rows_of_ids(ids: Sequence[str], index_ids: Sequence[str]) -> np.ndarray:
    """For each of `ids` the row of the index that has this id (N,) int64; -1 where none has."""
    places = {id_: row for row, id_ in enumerate(index_ids)}
    return np.array([places.get(id_, -1) for id_ in ids], np.int64)
