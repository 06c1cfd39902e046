"""What changes an index: every change writes new files and commits them as the next version, or leaves the old one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataError, FingerprintMismatch, IntegrityError, counted
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet
from ..neighbors.approximate import FEWEST, KINDS, Candidates
from ..sources import Notify, Source
from .columns import Strings
from .folder import IndexFolder
from .manifest import FLAT, Manifest, StoredSegment
from .opened import OpenIndex
from .parts import Parts, in_order, part_rows, stored_source
from .recall import exact, held_out, settled
from .segment import Rows, Segment, SegmentWriter, with_dead

AUTO = "auto"
KIND_NAMES = (FLAT, *KINDS)
FLAT_ROWS = 200_000  # up to so many images every row is compared, where the kind is left open


@dataclass(frozen=True)
class Wish:
    """What a user wants of an index; `auto` takes the fastest kind that keeps the promise of recall in the memory."""

    kind: str = AUTO
    memory: int = 4 << 30  # bytes that a search may hold
    recall: float = 0.95

    def kind_for(self, rows: int, dimension: int) -> str:
        """The kind for so many rows."""
        if self.kind != AUTO:
            return self.kind
        if rows <= FLAT_ROWS or self.recall >= 1:
            return FLAT
        fitting = (name for name, kind in KINDS.items() if kind.bytes_per_row(rows, dimension) * rows <= self.memory)
        return next(fitting, list(KINDS)[-1])


@dataclass(frozen=True)
class Made:
    """What the features of an index were made with."""

    fingerprint: str  # empty: unknown
    backbone: str  # its name; empty: unknown
    recipe: Mapping[str, Any]  # how a backbone makes them again; empty where features were given
    facts: Mapping[str, Any]  # for people


@dataclass
class Changes:
    """What a change did, in images."""

    added: int = 0
    unchanged: int = 0
    renamed: int = 0
    replaced: int = 0
    removed: int = 0
    missing: int = 0  # images of the index that are not in the source any more
    relabelled: int = 0
    copied: int = 0  # rows that were not computed, because the index had the bytes already
    computed: int = 0  # images that went through the model
    skipped: list[dict[str, str]] = field(default_factory=list)


def build(
    folder: IndexFolder,
    source: Source,
    pipeline: Pipeline | None,
    made: Made,
    wish: Wish,
    *,
    size: int | None = None,
    notify: Notify = lambda line: None,
) -> Changes:
    """Make an index of every image of a source, in place of the one that is there.

    `size`: rows of a part. Readers have the old index until the new one is whole. Raises DataError for no image, and as
    `extract`.
    """
    folder.require_free()
    with folder.writing():
        order = in_order(source.ids, source.place)
        where = stored_source(source)
        parts = Parts(source, pipeline, -1 if where is None else 0, source.labels, order, size or _size(pipeline))
        dimension, blocks = _begun(parts)
        kind = wish.kind_for(len(order), dimension)
        dtype = "<f2" if kind != FLAT and KINDS[kind].half else "<f4"
        segment = SegmentWriter(folder, dtype).write(blocks)
        if segment is None:
            raise DataError("there is no image to make an index of", file=source.place)
        manifest = Manifest(
            _next_version(folder),
            kind,
            dimension,
            made.fingerprint,
            made.backbone,
            made.recipe,
            made.facts,
            folder.store(Strings.of(list(source.classes)), ".classes"),
            () if where is None else (replace(where, skipped=len(parts.skipped)),),
            (segment,),
        )
        folder.commit(_structured(folder, manifest, wish.recall, notify))
    for doubt in parts.doubts:
        notify(doubt)
    return Changes(added=segment.rows, computed=parts.computed, skipped=parts.skipped)


def _size(pipeline: Pipeline | None) -> int:
    """Rows of a part, by the width of the backbone's tokens: that of the features is known with the first part."""
    return part_rows(768 if pipeline is None else pipeline.spec.architecture.width)


def _begun(parts: Parts) -> tuple[int, Iterator[Rows]]:
    """The width of the features, known with the first part, and all parts."""
    blocks = iter(parts)
    first = next(blocks, None)
    if first is None:
        raise DataError("there is no image to make an index of", file=parts.source.place)

    def every() -> Iterator[Rows]:
        yield first
        yield from blocks

    return first.features.shape[1], every()


def _next_version(folder: IndexFolder) -> int:
    """One more than the version that is there; of a damaged index, which is replaced, the first."""
    try:
        return folder.current().version + 1 if folder.is_there else 1
    except IntegrityError:
        return 1


def _structured(folder: IndexFolder, manifest: Manifest, wanted: float, notify: Notify) -> Manifest:
    """The manifest with a structure over its one segment, as its kind wants, and the recall that was measured.

    Too few rows for a structure are compared one by one, whatever the kind.
    """
    [stored] = manifest.segments
    if manifest.kind == FLAT or stored.rows < FEWEST:
        return replace(manifest, effort=None, recall=exact(wanted))
    kind = KINDS[manifest.kind]
    bare = Segment(stored, manifest, {file.path: folder.mapped(file) for file in stored.files})
    data = Candidates.built(kind, bare.features, held_out(bare.rows))
    stored = replace(stored, structure=folder.store(data.data.cast("B"), ".faiss"))
    segment = Segment(stored, manifest, {file.path: folder.mapped(file) for file in stored.files})
    effort, recall = settled(segment, kind.efforts(segment.rows), wanted)
    if not recall.is_met:
        notify(
            f"recall@{recall.at} is {recall.value:.4f} ({recall.low:.4f} to {recall.high:.4f}) at the greatest effort "
            f"of {manifest.kind}, and {wanted} was wanted; --kind flat finds all"
        )
    return replace(manifest, segments=(stored,), effort=effort, recall=recall)


# ---- removal


def remove(folder: IndexFolder, names: Sequence[str]) -> Changes:
    """Mark these images as dead: no search finds them from now on. `compact` takes their rows out of the files.

    Raises DataError, and removes none, where one is not in the index.
    """
    folder.require_index()
    with folder.writing():
        index = for_change(folder)
        rows = np.unique([index.row_of(name) for name in names]).astype(np.int64)
        if len(rows) == 0:
            return Changes()
        manifest = replace(index.manifest, segments=buried(folder, index, rows))
        folder.commit(replace(manifest, version=manifest.version + 1))
    return Changes(removed=len(rows))


def require_fingerprint(manifest: Manifest, fingerprint: str) -> None:
    """Raise FingerprintMismatch unless features of this fingerprint belong in the index."""
    if fingerprint and manifest.fingerprint and fingerprint != manifest.fingerprint:
        raise FingerprintMismatch(
            f"the index is of {manifest.fingerprint[:12]} ({manifest.backbone or 'features'}), these "
            f"features are of {fingerprint[:12]}: another backbone, readout, transform or precision",
            fix="Leave the options of the backbone away: the index knows them.",
        )


def require_width(index: OpenIndex, features: FeatureSet, file: str) -> None:
    """Raise FingerprintMismatch unless features have as many columns as those of the index."""
    if features.features.shape[1] != index.dimension:
        raise FingerprintMismatch(
            f"its features have {counted(features.features.shape[1], 'column')}, those of the index {index.dimension}",
            file=file,
        )


def buried(folder: IndexFolder, index: OpenIndex, rows: np.ndarray) -> tuple[StoredSegment, ...]:
    """The segments of an index with these rows (n,) dead too."""
    segments, start = [], 0
    for segment in index.segments:
        own = rows[(rows >= start) & (rows < start + segment.rows)] - start
        dead = np.union1d(segment.dead, own)
        segments.append(with_dead(folder, segment.stored, dead) if len(own) else segment.stored)
        start += segment.rows
    return tuple(segments)


def for_change(folder: IndexFolder, *, features: bool = False) -> OpenIndex:
    """The index, with the digests compared of what a change reads; `features`: of all."""
    manifest, mapped = folder.opened()
    big = set() if features else {file.path for s in manifest.segments for file in (s.features, s.structure) if file}
    folder.require_digests([file for file in manifest.files if file.path not in big], mapped)
    return OpenIndex(folder, manifest, mapped)


# ---- compaction


def compact(folder: IndexFolder, *, size: int | None = None, notify: Notify = lambda line: None) -> Changes:
    """Rewrite the live rows as one segment, and its structure; answers stay what they were.

    Raises DataError where no row is live.
    """
    folder.require_index()
    with folder.writing():
        index = for_change(folder, features=True)
        before = index.manifest
        if before.dead == 0 and len(before.segments) == 1:
            notify(f"nothing to take out: version {before.version} of the index stays")
            return Changes(unchanged=len(index))
        classes, numbers = _used_classes(index)
        segment = rewritten(folder, index, index.segments, size, numbers)
        if segment is None:
            raise DataError("no image is left in this index", file=folder.path, fix="Remove the folder.")
        named = before.classes if classes == index.classes else folder.store(Strings.of(classes), ".classes")
        manifest = replace(before, version=before.version + 1, classes=named, segments=(segment,))
        wanted = before.recall.wanted if before.recall else 0.95
        folder.commit(_structured(folder, manifest, wanted, notify))
    return Changes(removed=before.dead, unchanged=segment.rows)


def _used_classes(index: OpenIndex) -> tuple[list[str], np.ndarray]:
    """The classes that have an image, and the number (C + 1,) that each class gets among them; the last is -1."""
    used = index.classes_with_images()
    numbers = np.full(len(index.classes) + 1, -1, "<i4")
    numbers[used] = np.arange(len(used))
    return [index.classes[number] for number in used.tolist()], numbers


def rewritten(
    folder: IndexFolder,
    index: OpenIndex,
    segments: Sequence[Segment],
    size: int | None,
    numbers: np.ndarray | None = None,
) -> StoredSegment | None:
    """One segment of the live rows of several, in the order of their ids; None where there is none.

    `numbers`: the label (C + 1,) that each label gets, the last one's being -1; None: each its own.
    """
    blocks = _live_blocks(segments, size or part_rows(index.dimension))
    if numbers is not None:
        blocks = (_relabelled(rows, numbers) for rows in blocks)
    return SegmentWriter(folder, index.manifest.dtype).write(blocks)


def _relabelled(rows: Rows, numbers: np.ndarray) -> Rows:
    rows.records["label"] = numbers[rows.records["label"]]
    return rows


def _live_blocks(segments: Sequence[Segment], size: int) -> Iterator[Rows]:
    """The live rows of segments, by the bytes of their ids, in blocks."""
    keys: list[tuple[bytes, int, int]] = []
    for number, segment in enumerate(segments):
        keys += [(segment.ids.raw(row), number, row) for row in np.flatnonzero(segment.live).tolist()]
    keys.sort()
    for start in range(0, len(keys), size):
        yield _gathered(segments, keys[start : start + size])


def _gathered(segments: Sequence[Segment], keys: Sequence[tuple[bytes, int, int]]) -> Rows:
    number = np.array([key[1] for key in keys])
    rows = np.array([key[2] for key in keys])
    features = np.empty((len(keys), segments[0].features.shape[1]), segments[0].features.dtype)
    records = np.empty(len(keys), segments[0].records.dtype)
    for at in range(len(segments)):
        own = np.flatnonzero(number == at)
        features[own], records[own] = segments[at].features[rows[own]], segments[at].records[rows[own]]
    return Rows(features, [os.fsdecode(key[0]) for key in keys], records)
