"""Rows that were written together: unit features, ids in the order of their bytes, and a record of each row."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import IntegrityError
from ..neighbors import Bank
from ..neighbors.approximate import KINDS, Candidates
from .columns import Strings
from .folder import IndexFolder
from .manifest import Manifest, StoredFile, StoredSegment

# label: place in the classes, -1 = none; source: place in the manifest's sources, -1 = features were given; digest:
# sha256 of the image's bytes; identity: device, inode, size, mtime_ns, ctime_ns of its file; both zeros where unknown
RECORD = np.dtype([("label", "<i4"), ("source", "<i4"), ("digest", "V32"), ("identity", "<i8", (5,))])
_HERE = Path()
UNKNOWN = bytes(32)  # the digest of an image whose bytes were never seen


@dataclass(frozen=True)
class Rows:
    """Rows on their way into a segment, sorted by the bytes of their ids."""

    features: np.ndarray  # (n, D) float32 of unit length
    ids: Sequence[str]  # n
    records: np.ndarray  # (n,) RECORD


class Segment:
    """An open segment."""

    def __init__(self, stored: StoredSegment, manifest: Manifest, mapped: Mapping[str, memoryview], home: Path = _HERE):
        """`home`: the folder of the index, for messages."""
        self._home = home
        self.stored, self.rows, self._kind = stored, stored.rows, manifest.kind
        self._mapped = mapped
        self.features = np.frombuffer(mapped[stored.features.path], manifest.dtype).reshape(
            stored.rows, manifest.dimension
        )
        self.ids = Strings(mapped[stored.ids.path])
        length = len(mapped[stored.records.path])
        if len(self.ids) != self.rows or length != self.rows * RECORD.itemsize:
            raise IntegrityError(f"a segment of {self.rows} rows has {len(self.ids)} ids and {length} bytes of records")
        self.records = np.frombuffer(mapped[stored.records.path], RECORD)
        self.dead = self._dead()
        self._bank: Bank | None = None
        self._candidates: Candidates | None = None

    def _dead(self) -> np.ndarray:
        """Numbers (n,) of the rows that were removed, in rising order."""
        if self.stored.dead is None:
            return np.zeros(0, np.int64)
        data = self._mapped[self.stored.dead.path]
        is_whole = len(data) == 8 * self.stored.dead_rows
        dead = np.frombuffer(data, "<i8") if is_whole else np.zeros(0, np.int64)
        in_order = len(dead) == 0 or (0 <= dead[0] <= dead[-1] < self.rows and (np.diff(dead) > 0).all())
        if not is_whole or not in_order:
            raise IntegrityError(f"a segment of {self.rows} rows has dead rows that do not fit it")
        return dead

    @property
    def live(self) -> np.ndarray:
        """Whether each row (N,) bool is still there."""
        live = np.ones(self.rows, bool)
        live[self.dead] = False
        return live

    @property
    def bank(self) -> Bank:
        """What compares every row, over the mapped features."""
        if self._bank is None:
            self._bank = Bank.of_unit_rows(self.features)
        return self._bank

    @property
    def candidates(self) -> Candidates | None:
        """The structure over the rows; None where every row is compared. Raises IntegrityError for a hostile one."""
        file = self.stored.structure
        if file is not None and self._candidates is None:
            try:
                self._candidates = Candidates.read(KINDS[self._kind], self._mapped[file.path], self.features)
            except IntegrityError as error:
                raise IntegrityError(error.what, file=self._home / file.path, fix="Build the index again.") from error
        return self._candidates

    def row_of(self, name: str) -> int | None:
        """The row of an id that is not dead; None where there is none."""
        row = self.ids.find(name)
        if row is None:
            return None
        at = int(np.searchsorted(self.dead, row))
        return None if at < len(self.dead) and self.dead[at] == row else row


class SegmentWriter:
    """Writes the files of a segment from blocks of rows that come in the order of their ids."""

    def __init__(self, folder: IndexFolder, dtype: str):
        self._folder, self._dtype = folder, dtype

    def write(self, blocks: Iterator[Rows]) -> StoredSegment | None:
        """The segment; None, and no file, where there is no block. Every block has a row.

        Memory: one block's features, and all ids and records.
        """
        first = next(blocks, None)
        if first is None:
            return None
        ids: list[str] = []
        records: list[np.ndarray] = []
        with self._folder.storing(".features") as features:
            for block in itertools.chain([first], blocks):
                features.write(np.ascontiguousarray(block.features, self._dtype).data.cast("B"))
                ids += block.ids
                records.append(block.records)
        return StoredSegment(
            len(ids),
            features.file,
            self._folder.store(Strings.of(ids), ".ids"),
            self._folder.store(np.concatenate(records).tobytes(), ".records"),
        )


def with_dead(folder: IndexFolder, segment: StoredSegment, dead: np.ndarray) -> StoredSegment:
    """The segment with these dead rows (n,), in rising order."""
    if len(dead) == 0:
        return dataclasses.replace(segment, dead=None, dead_rows=0)
    file: StoredFile = folder.store(np.ascontiguousarray(dead, "<i8").tobytes(), ".dead")
    return dataclasses.replace(segment, dead=file, dead_rows=len(dead))
