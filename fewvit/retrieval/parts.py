"""A source as blocks of rows in the order of their ids, made one part after another so that memory stays bounded."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..datasets import Dataset, select
from ..errors import BadImages, DataError, counted, printable
from ..extraction.pipeline import Pipeline
from ..extraction.work import Progress, Work, allowed_bad, doubts
from ..features import FeatureSet
from ..neighbors import normalise
from ..sources import ImageSource, Source
from ..spellings import absolute, public_set
from .manifest import StoredSource
from .segment import RECORD, Rows

PART_BYTES = 128 << 20  # features of one part
_SHOWN = 3  # names in an error


@dataclass
class Parts:
    """A source that goes into an index, one part after another."""

    source: Source
    pipeline: Pipeline | None
    number: int  # of the source in the manifest; -1 where features were given
    labels: np.ndarray  # (N,) int64 by the index's classes
    rows: np.ndarray  # (n,) which rows of the source, in the order of their ids' bytes
    size: int  # rows of a part
    skipped: list[dict[str, str]] = field(default_factory=list)
    computed: int = 0  # images that went through the model
    like_twelve_bit: int = 0  # as in an extraction's report

    def __iter__(self) -> Iterator[Rows]:
        """The blocks that have a row. Raises as `extract`."""
        for start in range(0, len(self.rows), self.size):
            part = self.part(start)
            if part.ids:
                yield part

    @property
    def doubts(self) -> list[str]:
        """What is to be told of the images once they are read."""
        return doubts(self.source.name, self.like_twelve_bit)

    def part(self, start: int) -> Rows:
        """The rows from `start` on that make one part."""
        rows = self.rows[start : start + self.size]
        if isinstance(self.source, ImageSource):
            return self._of_images(self.source, rows, start)
        given = self.source.features(self.pipeline).select(rows)
        return Rows(unit(given), given.ids, self._records(rows, given, None))

    def _of_images(self, source: ImageSource, rows: np.ndarray, start: int) -> Rows:
        images = select(source.images, rows.tolist())
        seen = identities(images, np.arange(len(images)))  # before they are read: what is replaced later has another
        work, before = self._work(source.extractor.work, start), len(self.skipped)
        extractor = dataclasses.replace(source.extractor, work=work)
        try:
            features = dataclasses.replace(source, images=images, extractor=extractor).features(self.pipeline)
        except BadImages as error:
            allowed = allowed_bad(work.max_bad, len(self.source.ids))
            if len(error.skipped) < len(images) or before + len(error.skipped) > allowed:
                raise
            self.skipped += error.skipped  # a part may be all bad where as many are allowed of the whole
            return Rows(np.zeros((0, 0), np.float32), [], np.zeros(0, RECORD))
        if features.report is not None:
            self.skipped += features.report.skipped
            self.computed += features.report.computed
            self.like_twelve_bit += features.report.like_twelve_bit
        bad = {record["id"] for record in (features.report.skipped if features.report else [])}
        good = np.array([name not in bad for name in images.ids], bool)
        return Rows(unit(features), features.ids, self._records(rows[good], features, seen[good]))

    def _work(self, work: Work, start: int) -> Work:
        """The work of one part: its progress counts all parts; how many images may be bad counts the whole source."""
        progress = _counting_on(work.progress, start, len(self.rows)) if work.progress is not None else None
        return dataclasses.replace(work, part_of=len(self.source.ids), bad_before=len(self.skipped), progress=progress)

    def _records(self, rows: np.ndarray, features: FeatureSet, seen: np.ndarray | None) -> np.ndarray:
        records = np.zeros(len(rows), RECORD)
        records["label"], records["source"] = self.labels[rows], self.number
        if features.digests is not None:
            records["digest"] = np.frombuffer(b"".join(features.digests), "V32")
        if seen is not None:
            records["identity"] = seen
        return records


def unit(features: FeatureSet) -> np.ndarray:
    """The features (n, D) float32 with rows of unit length. Raises NumericalError, naming the image."""
    features.require_finite()
    return normalise(features.features)


def identities(images: Dataset, rows: np.ndarray) -> np.ndarray:
    """What tells that a file changed (n, 5) int64; zeros where nothing does."""
    raw = b"".join(images.identity(int(row)) or bytes(40) for row in rows)
    return np.frombuffer(raw, "<i8").reshape(-1, 5)


def in_order(ids: Sequence[str], place: str) -> np.ndarray:
    """The rows (N,) in the order of their ids' bytes. Raises DataError for ids that are given twice."""
    try:
        keys = [os.fsencode(name) for name in ids]
    except UnicodeEncodeError as error:
        raise DataError(f"an id is no text: {printable(error.object)}", file=place) from error
    if len(set(keys)) < len(keys):
        twice = [os.fsdecode(key) for key, count in Counter(keys).items() if count > 1]
        shown = ", ".join(map(printable, twice[:_SHOWN])) + (" …" if len(twice) > _SHOWN else "")
        raise DataError(
            f"{counted(len(twice), 'id is', 'ids are')} given more than once: {shown}",
            file=place,
            fix="An index knows an image by its id: give each its own.",
        )
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def stored_source(source: Source) -> StoredSource | None:
    """Where the images of a source lie; None where features were given."""
    if source.images is None:
        return None
    named = os.path.exists(source.place) or public_set(source.place) is not None
    place = absolute(source.place) if named else source.place
    first, path = source.ids[0], source.images.place(0)
    root = os.path.normpath(path[: -len(first)]) if path.endswith(first) and os.path.isabs(path) else ""
    return StoredSource(place, root if os.path.isdir(root) else None)  # an archive is no folder


def part_rows(dimension: int) -> int:
    """How many rows a part has."""
    return max(1, PART_BYTES // (4 * dimension))


def _counting_on(progress: Callable[[Progress], None], done: int, total: int) -> Callable[[Progress], None]:
    return lambda p: progress(dataclasses.replace(p, done=done + p.done, total=total))
