"""An open index: what is in it, and the nearest of its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, IntegrityError, UnknownName, UsageError, nearest_names, printable
from ..neighbors import normalise
from .columns import Strings
from .folder import IndexFolder, damaged
from .manifest import Manifest
from .search import Near, nearest
from .segment import RECORD, Segment

_LARGEST = 1.001  # a score of rows kept in float16 may be a little more than 1
_NEAR_IDS = 5000  # ids before and behind a name that is none, which are compared with it
_LOOKED_UP = 50  # a share of the ids from which on reading them all is faster than looking each one up


@dataclass(frozen=True)
class OnlyThese:
    """Which images may be found."""

    classes: Sequence[str] = ()  # names; none: all
    folder: str = ""  # what their ids begin with


class OpenIndex:
    """An index that is open: it stays what it was, whatever is committed meanwhile.

    Rows are counted over everything that was ever written and not yet compacted; a dead row is never found.
    """

    def __init__(self, folder: IndexFolder, manifest: Manifest, mapped: dict[str, memoryview]):
        self.folder, self.manifest, self._mapped = folder, manifest, mapped
        try:
            self.classes = list(Strings(mapped[manifest.classes.path]))
            self.segments = [Segment(stored, manifest, mapped, folder.path) for stored in manifest.segments]
        except IntegrityError as error:
            raise IntegrityError(error.what, file=folder.path, fix="Build the index again.") from error
        for segment in self.segments:
            self._require_known(segment)
        self._starts = np.cumsum([0, *(segment.rows for segment in self.segments)])
        self._every_row = [None if len(s.dead) == 0 else s.live for s in self.segments]

    def _require_known(self, segment: Segment) -> None:
        """Raise IntegrityError for a class or a source that the index does not name."""
        for name, known in (("label", len(self.classes)), ("source", len(self.manifest.sources))):
            numbers = segment.records[name]
            if not -1 <= numbers.min() <= numbers.max() < known:
                path = self.folder.path / segment.stored.records.path
                raise damaged(path, f"its {name}s run from {numbers.min()} to {numbers.max()}, and there are {known}")

    @staticmethod
    def open(path: str | os.PathLike[str], *, check: bool = True) -> OpenIndex:
        """The current version of an index, after comparing the digests of its files.

        `check` False leaves that to the caller, with `require_digests`. Raises DataError where there is no index,
        IntegrityError, naming the file, where one is damaged.
        """
        folder = IndexFolder(path)
        manifest, mapped = folder.opened()
        if check:
            folder.require_digests(manifest.files, mapped)
        return OpenIndex(folder, manifest, mapped)

    def __len__(self) -> int:
        return self.manifest.rows - self.manifest.dead

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def dimension(self) -> int:
        """Columns of a feature."""
        return self.manifest.dimension

    @property
    def live(self) -> np.ndarray:
        """The rows (len,) int64 that are not dead."""
        return self.matching(OnlyThese())

    def matching(self, only: OnlyThese) -> np.ndarray:
        """The live rows (n,) int64 that a search under this filter may find. Raises UnknownName."""
        return np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    np.flatnonzero(np.ones(segment.rows, bool) if mask is None else mask) + start
                    for segment, mask, start in zip(self.segments, self._allowed(only), self._starts, strict=False)
                ),
            ]
        )

    # ---- rows

    def is_live(self, row: int) -> bool:
        """Whether a row is there and not dead."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        return bool(row - self._starts[at] not in self.segments[at].dead)

    def row_of(self, name: str) -> int:
        """The row of an id. Raises DataError, naming the nearest ids, for one that is not in the index."""
        row = self._find(name)
        if row is None:
            near = ", ".join(map(printable, self.nearest_ids(name)))
            fix = f"Did you mean {near}?" if near else None
            raise DataError(f"no image {printable(name)} in this index", file=self.path, fix=fix)
        return row

    def _find(self, name: str) -> int | None:
        for segment, start in zip(self.segments, self._starts, strict=False):
            if (row := segment.row_of(name)) is not None:
                return int(start) + row
        return None

    def nearest_ids(self, name: str) -> list[str]:
        """Ids, three at most, that `name` may be a slip of; in a large index they are looked for near its place."""
        some: list[str] = []
        for segment in self.segments:
            place = segment.ids.place(os.fsencode(name))
            around = np.arange(max(0, place - _NEAR_IDS), min(segment.rows, place + _NEAR_IDS))
            some += segment.ids.take(around[segment.live[around]])
        return nearest_names(name, some)

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """The row (n,) int64 of each id, -1 where it is not in the index."""
        if len(names) * _LOOKED_UP < self.manifest.rows:
            found = [self._find(name) for name in names]
            return np.array([-1 if row is None else row for row in found], np.int64)
        known: dict[str, int] = {}
        for segment, start in zip(self.segments, self._starts, strict=False):
            rows = np.flatnonzero(segment.live)
            known.update(zip(segment.ids.take(rows), (rows + start).tolist(), strict=True))
        return np.array([known.get(name, -1) for name in names], np.int64)

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of rows (n,)."""
        found = [""] * len(rows)
        for segment, at, local in self._by_segment(rows):
            for place, name in zip(at.tolist(), segment.ids.take(local), strict=True):
                found[place] = name
        return found

    def records(self, rows: np.ndarray) -> np.ndarray:
        """What is kept of rows (n,) beside features and ids; see `segment.RECORD`."""
        found = np.zeros(len(rows), RECORD)
        for segment, at, local in self._by_segment(rows):
            found[at] = segment.records[local]
        return found

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The features (n, D) float32 of rows, of unit length."""
        found = np.empty((len(rows), self.dimension), np.float32)
        for segment, at, local in self._by_segment(rows):
            found[at] = segment.features[local]
        return found

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Places in `classes` (n,) int64, -1 = unlabelled."""
        return self.records(rows)["label"].astype(np.int64)

    def class_names(self, rows: np.ndarray) -> list[str | None]:
        """The class of each row (n,), None where it has no label."""
        return [None if label < 0 else self.classes[label] for label in self.labels(rows).tolist()]

    def classes_with_images(self) -> np.ndarray:
        """Places in `classes` (n,) int64 of those that a live row is of, rising."""
        used = np.unique(np.concatenate([s.records["label"][s.live] for s in self.segments]))
        return used[used >= 0].astype(np.int64)

    def without_images(self, names: Sequence[str]) -> list[str]:
        """Those of these classes that no live row is of."""
        if not names:
            return []
        used = {self.classes[number] for number in self.classes_with_images().tolist()}
        return [name for name in names if name not in used]

    def _by_segment(self, rows: np.ndarray) -> list[tuple[Segment, np.ndarray, np.ndarray]]:
        """For each segment that is asked: it, the places in `rows`, and its own row numbers."""
        rows = np.asarray(rows, np.int64)
        home = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            (self.segments[s], at, rows[at] - self._starts[s])
            for s in np.unique(home)
            if len(at := np.flatnonzero(home == s))
        ]

    # ---- search

    def search(
        self, queries: np.ndarray, k: int, *, only: OnlyThese | None = None, threshold: float | None = None
    ) -> Near:
        """The k nearest images of each query (Q, D), by the cosine; fewer where fewer are there.

        `threshold`: the least score. Raises UsageError for k < 1, DataError for another width, NumericalError for
        queries that are not finite, UnknownName for a class that the index does not know.
        """
        if k < 1:
            raise UsageError(f"k = {k}: a search needs at least one neighbour")
        require_threshold(threshold)
        if np.ndim(queries) != 2 or np.shape(queries)[1] != self.dimension:
            raise DataError(
                f"queries of shape {np.shape(queries)} do not fit an index of {self.dimension} columns", file=self.path
            )
        k = min(k, max(len(self), 1))  # what is not there takes no memory
        near = nearest(self.segments, normalise(queries), k, self._allowed(only or OnlyThese()), self.manifest.effort)
        return near if threshold is None else above(near, threshold)

    def _allowed(self, only: OnlyThese) -> list[np.ndarray | None]:
        """Which rows of each segment may be found; None: all."""
        if not only.classes and not only.folder:
            return list(self._every_row)
        for name in only.classes:
            if name not in self.classes:
                raise UnknownName("class of this index", name, self.classes, fix=_apart(name, self.classes))
        wanted = [self.classes.index(name) for name in only.classes]
        return [_allowed(segment, wanted, only.folder) for segment in self.segments]

    # ---- checks

    def require_digests(self) -> None:
        """Raise IntegrityError, naming the file, unless every file is what was written."""
        self.folder.require_digests(self.manifest.files, self._mapped)

    def verify(self) -> None:
        """Compare digests, then look at what is in the files.

        Raises IntegrityError for features that are not finite, ids out of order or in two places, and a structure that
        FAISS cannot read.
        """
        self.require_digests()
        seen = 0
        for segment in self.segments:
            _verify(segment, self.folder.path / segment.stored.features.path)
            seen += segment.rows - len(segment.dead)
        names = {name for segment in self.segments for name in segment.ids.take(np.flatnonzero(segment.live))}
        if len(names) != seen:
            raise damaged(self.path, f"{seen - len(names)} ids are there twice")


def require_threshold(threshold: float | None) -> None:
    """Raise UsageError for what no score can be compared with; None: there is no threshold."""
    if threshold is not None and not abs(threshold) <= _LARGEST:
        raise UsageError(f"threshold {threshold}: the score is a cosine, which lies between -1 and 1")


def above(near: Near, threshold: float) -> Near:
    """Without what scores below the threshold."""
    kept = near.scores >= threshold
    query = np.repeat(np.arange(len(near)), np.diff(near.starts))
    counts = np.bincount(query[kept], minlength=len(near))
    return Near(np.concatenate([[0], np.cumsum(counts)]), near.rows[kept], near.scores[kept])


def _allowed(segment: Segment, classes: Sequence[int], folder: str) -> np.ndarray:
    """Which rows (N,) bool are live, of one of the classes, and have an id that begins with `folder`."""
    allowed = segment.live
    if classes:
        allowed &= np.isin(segment.records["label"], classes)
    if folder:
        inside = np.zeros(segment.rows, bool)
        inside[segment.ids.beginning(folder)] = True
        allowed &= inside
    return allowed


def _apart(name: str, classes: Sequence[str]) -> str | None:
    """The advice where a class that is none is a list of classes with commas."""
    parts = [part.strip() for part in name.split(",")]
    if len(parts) < 2 or not set(parts) <= set(classes):
        return None
    return f"A class may have a comma in its name, so give each by itself: --class {' --class '.join(parts)}."


def _verify(segment: Segment, path: Path) -> None:
    """Raise IntegrityError for rows that no writer writes."""
    for start in range(0, segment.rows, 65536):
        block = segment.features[start : start + 65536].astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        if not ((np.abs(length - 1) < 1e-2) | (length == 0)).all():
            raise damaged(path, "a row is not of unit length")
    try:
        segment.ids.require_sorted()
    except IntegrityError as error:
        raise damaged(path.parent / Path(segment.stored.ids.path).name, error.what) from error
    _ = segment.candidates  # FAISS reads it now
