"""What `add` does: of a source it takes what the index lacks, and knows renamed and replaced images by their bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import DataError, counted, printable
from ..extraction.pipeline import Pipeline
from ..sources import FeatureSource, ImageSource, Notify, Source
from .columns import Strings
from .folder import IndexFolder
from .growth import Changes, buried, for_change, require_fingerprint, require_width, rewritten
from .manifest import Manifest, StoredSegment, StoredSource
from .opened import OpenIndex
from .parts import Parts, identities, in_order, part_rows, stored_source
from .segment import UNKNOWN, Rows, Segment, SegmentWriter

_SHOWN = 3  # names in an error
_MANY_LOOSE = 0.1  # share of rows outside the structure from which on a line says so
_ABSORBED = 2  # earlier additions are rewritten with the new rows where they have at most twice as many


def add(
    folder: IndexFolder,
    source: Source,
    pipeline: Pipeline | None,
    fingerprint: str,
    *,
    size: int | None = None,
    notify: Notify = lambda line: None,
) -> Changes:
    """Add the images of a source that the index lacks, in place of those that they replace.

    `fingerprint`: of what makes the features, as in the manifest. Raises FingerprintMismatch for another backbone,
    DataError for ids that are taken by images of another place, and as `extract`.
    """
    folder.require_index()
    with folder.writing():
        index = for_change(folder)
        require_fingerprint(index.manifest, fingerprint)
        if isinstance(source, FeatureSource):
            require_width(index, source.given, source.place)
        return _Addition(folder, index, source, pipeline, size or part_rows(index.dimension), notify).run()


@dataclass
class _Addition:
    """One addition: what becomes of each row of the source, and then the commit."""

    folder: IndexFolder
    index: OpenIndex
    source: Source
    pipeline: Pipeline | None
    size: int
    notify: Notify
    fresh: list[int] = field(default_factory=list)  # rows of the source whose features are made
    copied: list[tuple[int, int]] = field(default_factory=list)  # row of the source, row of the index with its bytes
    gone: list[int] = field(default_factory=list)  # rows of the index in whose place others come
    twice: int = 0  # rows that are added with the bytes of an image that the index has under another id
    changes: Changes = field(default_factory=Changes)

    def run(self) -> Changes:
        self.order = in_order(self.source.ids, self.source.place)
        self.known = self.index.rows_of(self.source.ids)  # (N,) row of the index, -1 = none
        self.classes, self.labels = _labels(self.index.classes, self.source)
        where = stored_source(self.source)
        self.sources = self.index.manifest.sources
        self.number = -1 if where is None else self._number(where)
        self.digests = self._digests()
        unchanged = self._unchanged()
        if where is not None:
            self._settle_place(where, unchanged)
        self._plan(unchanged)
        self._commit()
        return self.changes

    # ---- where the images lie

    def _number(self, where: StoredSource) -> int:
        """The place of a source among the index's; one that is new comes behind them."""
        known = [(one.place, one.root) for one in self.sources]
        place = (where.place, where.root)
        return known.index(place) if place in known else len(known)

    def _settle_place(self, where: StoredSource, unchanged: np.ndarray) -> None:
        """Enter a new source; the index's own, if all its images are in it and it is not where it was.

        Raises DataError for ids that images of another place have.
        """
        if self.number < len(self.sources):
            return
        shared = np.flatnonzero(self.known >= 0)
        taken = shared[~unchanged[shared]]
        if len(taken):
            shown = ", ".join(printable(self.source.ids[row]) for row in taken[:_SHOWN])
            raise DataError(
                f"{counted(len(taken), 'id is', 'ids are')} taken by other images in the index: {shown}"
                f"{' …' if len(taken) > _SHOWN else ''}",
                file=self.source.place,
                fix="Ids are paths in the source given: give the folder that holds both sources, here and at `build`.",
            )
        old = np.unique(self._records_of(shared)["source"]).tolist() if len(shared) else []
        if len(old) == 1 and old[0] >= 0 and not os.path.exists(self.sources[old[0]].place):
            self.notify(f"the images of {self.sources[old[0]].place} are read from {where.place} from now on")
            self.number = old[0]
            self.sources = (*self.sources[: old[0]], where, *self.sources[old[0] + 1 :])
        else:
            self.sources = (*self.sources, where)

    def _records_of(self, rows: np.ndarray) -> np.ndarray:
        return self.index.records(self.known[rows])

    # ---- what changed

    def _digests(self) -> list[bytes]:
        """sha256 (N) of the images' bytes, `UNKNOWN` where features were given or the file cannot be read.

        A file that is what it was when its row was written is not read.
        """
        if not isinstance(self.source, ImageSource):
            return [UNKNOWN] * len(self.source.ids)
        images, memory = self.source.images, self.source.extractor.memory
        now = identities(images, np.arange(len(images)))
        there = np.flatnonzero(self.known >= 0)
        records = self._records_of(there)
        same = (records["identity"] == now[there]).all(axis=1) & (now[there] != 0).any(axis=1)
        digests: list[bytes | None] = memory.get_all([images.identity(row) for row in range(len(images))])
        for row, digest in zip(there[same].tolist(), records["digest"][same].tolist(), strict=True):
            digests[row] = digest
        for row, digest in enumerate(digests):
            if digest is None:
                digests[row] = _read_digest(images.read, row)
        return [digest if digest is not None else UNKNOWN for digest in digests]

    def _unchanged(self) -> np.ndarray:
        """Whether each row (N,) bool of the source is in the index with the same bytes, or the same features."""
        same = np.zeros(len(self.source.ids), bool)
        there = np.flatnonzero(self.known >= 0)
        if not isinstance(self.source, ImageSource):
            self._require_features()
            for start in range(0, len(there), self.size):
                rows = there[start : start + self.size]
                new = self._parts(rows.tolist()).part(0).features.astype(self.index.manifest.dtype)
                same[rows] = (new == self.index.features(self.known[rows]).astype(new.dtype)).all(axis=1)
            return same
        digests = self._records_of(there)["digest"].tolist()
        for row, digest in zip(there.tolist(), digests, strict=True):
            same[row] = digest == self.digests[row] != UNKNOWN
        return same

    def _plan(self, unchanged: np.ndarray) -> None:
        """Sort the rows of the source into what is made, what is copied, and what it takes the place of."""
        twins = _Twins(self.index, [self.digests[row] for row in self.order if not unchanged[row]])
        names = set(self.source.ids)
        old_labels = self.index.labels(np.maximum(self.known, 0)) if self.index.manifest.rows else self.known
        for row in self.order.tolist():
            known, changes = int(self.known[row]), self.changes
            if unchanged[row] and old_labels[row] == self.labels[row]:
                changes.unchanged += 1
                continue
            if known >= 0:
                self.gone.append(known)
                changes.relabelled += bool(unchanged[row])
                changes.replaced += not unchanged[row]
            twin = known if unchanged[row] else twins.of(self.digests[row])
            if twin is None:
                self.fresh.append(row)
                changes.added += known < 0
                continue
            self.copied.append((row, twin))
            former = twins.renamed(twin, names, self.number) if known < 0 else False
            if former:
                self.gone.append(twin)
            changes.renamed += former
            changes.added += known < 0 and not former
            self.twice += known < 0 and not former and self.index.is_live(twin)
        changes.copied = len(self.copied)
        changes.missing = self._missing(names)

    def _missing(self, names: set[str]) -> int:
        """Images of this source that are in the index and no longer in the source."""
        if self.number < 0:
            return 0
        live = np.setdiff1d(self.index.live, self.gone)
        own = live[self.index.records(live)["source"] == self.number]
        return sum(name not in names for name in self.index.ids(own))

    # ---- the commit

    def _commit(self) -> None:
        new = self._written()
        before = self.index.manifest
        manifest = replace(before, sources=self._sources_with(new))
        if not new and not self.gone and manifest == before:
            self.notify(f"nothing changed: version {before.version} of the index stays")
            return
        manifest = replace(manifest, version=before.version + 1)
        if new or self.gone:
            segments = list(buried(self.folder, self.index, np.unique(self.gone).astype(np.int64)))
            manifest = replace(manifest, classes=self.folder.store(Strings.of(self.classes), ".classes"))
            manifest = replace(manifest, segments=tuple(self._absorbed(manifest, segments, new)))
        self.folder.commit(manifest)
        self._say_twice()
        self._say_loose(manifest)

    def _written(self) -> list[StoredSegment]:
        """The new rows in files that no version has yet; what could not be decoded stands in `changes`."""
        if self.copied:
            self._require_features()
        parts = self._parts(self.fresh)
        writer = SegmentWriter(self.folder, self.index.manifest.dtype)
        new = [stored for blocks in (iter(parts), self._copies()) if (stored := writer.write(blocks)) is not None]
        self.changes.skipped, self.changes.computed = parts.skipped, parts.computed
        for doubt in parts.doubts:
            self.notify(doubt)
        self._keep_where_nothing_came({record["id"] for record in parts.skipped})
        return new

    def _sources_with(self, new: Sequence[StoredSegment]) -> tuple[StoredSource, ...]:
        """The index's sources and this one, of which as many images were skipped as now; without it if it has none."""
        if self.number < 0:
            return self.sources
        bad = len(self.changes.skipped)
        if self.number == len(self.index.manifest.sources) and not new and not bad:
            return self.index.manifest.sources
        sources = list(self.sources)
        sources[self.number] = replace(sources[self.number], skipped=bad)
        return tuple(sources)

    def _say_twice(self) -> None:
        """Say how many pictures are in the index under two ids from now on, as those of a folder and its parent are."""
        if self.twice:
            self.notify(
                f"{counted(self.twice, 'image')} {'was' if self.twice == 1 else 'were'} added with the bytes of "
                "images that the index has under other ids, and count as their copies: ids are paths in the source, "
                "so add the source that was built from; `fewvit index duplicates` names copies"
            )

    def _say_loose(self, manifest: Manifest) -> None:
        """Say where so many rows are outside the structure that searches take longer for it."""
        loose = sum(segment.rows for segment in manifest.segments[1:])
        if manifest.effort is not None and loose > _MANY_LOOSE * manifest.rows:
            self.notify(
                f"{loose} of {counted(manifest.rows, 'row')} were added since the {manifest.kind} structure was built, "
                "and are compared one by one; `fewvit index compact` takes them into it"
            )

    def _keep_where_nothing_came(self, skipped: set[str]) -> None:
        """An image that cannot be decoded takes the place of none: the one before it stays, and is `changed`."""
        kept = {int(self.known[row]) for row in self.fresh if self.source.ids[row] in skipped} - {-1}
        self.gone = [row for row in self.gone if row not in kept]
        self.changes.replaced -= len(kept)
        self.changes.added -= len(skipped) - len(kept)

    def _parts(self, rows: Sequence[int]) -> Parts:
        return Parts(self.source, self.pipeline, self.number, self.labels, np.array(rows, np.int64), self.size)

    def _copies(self) -> Iterator[Rows]:
        """Rows of the source whose features the index has already."""
        for start in range(0, len(self.copied), self.size):
            rows, twins = np.array(self.copied[start : start + self.size], np.int64).T
            records = self.index.records(twins)
            records["label"], records["source"] = self.labels[rows], self.number
            if isinstance(self.source, ImageSource):
                records["identity"] = identities(self.source.images, rows)
            yield Rows(self.index.features(twins), [self.source.ids[row] for row in rows.tolist()], records)

    def _absorbed(
        self, manifest: Manifest, before: list[StoredSegment], new: list[StoredSegment]
    ) -> list[StoredSegment]:
        """The segments with the new one; small ones before it are rewritten with it, so that they stay few.

        The first one is left alone: a structure may stand over it.
        """
        total, kept = sum(stored.rows for stored in new), list(before)
        joined = list(new)
        while len(kept) > 1 and kept[-1].rows <= _ABSORBED * total:
            total += kept[-1].rows
            joined.insert(0, kept.pop())
        if len(joined) < 2:
            return kept + joined
        mapped = {file.path: self.folder.mapped(file) for stored in joined for file in stored.files}
        self.folder.require_digests([file for stored in joined for file in stored.files], mapped)
        opened = [Segment(stored, manifest, mapped) for stored in joined]
        segment = rewritten(self.folder, self.index, opened, self.size)
        return [*kept, segment] if segment is not None else kept

    def _require_features(self) -> None:
        """Compare the digests of the features, which an addition reads only where some are in the index already."""
        self.index.require_digests()


class _Twins:
    """Rows of the index by the digest of their image's bytes."""

    def __init__(self, index: OpenIndex, wanted: Sequence[bytes]):
        self._index = index
        self._rows: dict[bytes, int] = {}
        known = {digest for digest in wanted if digest != UNKNOWN}
        start = 0
        for segment in index.segments if known else ():
            keys = np.frombuffer(segment.records["digest"].tobytes(), "<u8").reshape(-1, 4)[:, 0]
            asked = np.frombuffer(b"".join(known), "<u8").reshape(-1, 4)[:, 0]
            live = segment.live
            for row in np.flatnonzero(np.isin(keys, asked)).tolist():
                digest = segment.records["digest"][row].tobytes()
                if digest in known and (live[row] or digest not in self._rows):
                    self._rows[digest] = start + row
            start += segment.rows

    def of(self, digest: bytes) -> int | None:
        """A row of the same bytes, a live one if there is one; None where the index has none."""
        return self._rows.get(digest)

    def renamed(self, row: int, names: set[str], number: int) -> bool:
        """Whether the row is a live one of this source whose file the source has no more: then it has a new name.

        Each row is renamed once.
        """
        record, [name] = self._index.records(np.array([row])), self._index.ids(np.array([row]))
        is_gone = name not in names and int(record["source"][0]) == number and self._index.is_live(row)
        if is_gone:
            names.add(name)  # another image of the same bytes is an addition
        return is_gone


def _read_digest(read: Callable[[int], bytes], row: int) -> bytes | None:
    """sha256 of an image's bytes; None where they cannot be read: the extraction says so."""
    try:
        return hashlib.sha256(read(row)).digest()
    except OSError:
        return None


def _labels(classes: Sequence[str], source: Source) -> tuple[list[str], np.ndarray]:
    """The index's classes, those of the source that are new behind them, and the source's labels (N,) by these."""
    joined = list(classes) + [name for name in source.classes if name not in set(classes)]
    place = {name: at for at, name in enumerate(joined)}
    table = np.array([place[name] for name in source.classes] + [-1], np.int64)
    return joined, table[source.labels]
