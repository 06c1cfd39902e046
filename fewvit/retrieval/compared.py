"""Sets of images whose copies are looked for: an index, images or features, each asked in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..datasets import Dataset, Listing
from ..errors import DataError, FingerprintMismatch, UsageError, counted, printable
from ..evaluate.inputs import FeatureReader
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet
from ..neighbors.pairs import UnitRows
from ..sources import ImageSource, Source, Sources, open_source
from .opened import OpenIndex
from .pictures import Pictures
from .queries import required_pipeline
from .segment import UNKNOWN

DATA, AGAINST = "data", "against"  # what the sets are called in a result


@dataclass(frozen=True)
class ComparedSet:
    """One set. Rows are counted over the images that are there; a dead row of an index is none."""

    place: str
    rows: UnitRows
    dimension: int
    fingerprint: str  # empty: unknown
    names: Callable[[np.ndarray], list[str]]  # ids of rows (n,)
    digests: np.ndarray  # (N,) V32, sha256 of the images' bytes; zeros where unknown
    read: Callable[[int], bytes] | None = None  # an image's bytes; None where there are only features
    skipped: Sequence[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Comparison:
    """One set, or two, of which only pairs across are looked for; and what makes features of images as theirs."""

    sets: tuple[ComparedSet, ...]
    pipeline: Pipeline | None = None

    @property
    def split(self) -> int | None:
        """How many rows the first of two sets has; None for one set."""
        return len(self.sets[0]) if len(self.sets) == 2 else None

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @property
    def rows(self) -> UnitRows:
        """The rows of all sets, one after another."""
        return self.sets[0].rows if self.split is None else UnitRows(len(self), self._take)

    def _take(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.sets[0].dimension), np.float32)
        for one, at, local in self._by_set(rows):
            found[at] = one.rows.take(local)
        return found

    @property
    def digests(self) -> np.ndarray:
        """Those of all sets (N,) V32."""
        return np.concatenate([one.digests for one in self.sets])

    def names(self, rows: np.ndarray) -> list[str]:
        """The ids of rows (n,), counted over all sets."""
        found = [""] * len(rows)
        for one, at, local in self._by_set(rows):
            for place, name in zip(at.tolist(), one.names(local), strict=True):
                found[place] = name
        return found

    def set_names(self, rows: np.ndarray) -> list[str]:
        """`data` or `against` for each row (n,)."""
        return [DATA if self.split is None or row < self.split else AGAINST for row in rows.tolist()]

    def _by_set(self, rows: np.ndarray) -> list[tuple[ComparedSet, np.ndarray, np.ndarray]]:
        """For each set: it, the places in `rows`, and its own row numbers."""
        split = len(self) if self.split is None else self.split
        sides = [(np.flatnonzero(rows < split), 0), (np.flatnonzero(rows >= split), split)]
        return [(one, at, rows[at] - start) for one, (at, start) in zip(self.sets, sides, strict=False)]


# ---- opening


def compare(
    reader: FeatureReader | None,
    listing: Listing,
    *,
    index: OpenIndex | None = None,
    data: str | None = None,
    against: str | None = None,
    images: bool = False,
) -> Comparison:
    """The sets that a user named: an index or a source, and perhaps a source to compare it with.

    `images`: their pipeline is needed whatever they are; `reader` may be None where no image is read. Raises UsageError
    for several backbones, DataError for an empty set, FingerprintMismatch for sets of two backbones, and as `extract`.
    """
    if index is None and data is None:
        raise UsageError("no images: give --index IDX or --data SRC")
    if index is not None and data is not None:
        raise UsageError("--index excludes --data, and both were given", fix="Compare two sets with --against SRC.")
    if index is not None:
        return _of_index(index, against, reader, listing, images)
    if reader is None:
        raise UsageError("images need a backbone")
    return _of_sources([name for name in (data, against) if name is not None], reader, listing)


def _of_index(
    index: OpenIndex, against: str | None, reader: FeatureReader | None, listing: Listing, images: bool
) -> Comparison:
    first = of_index(index)
    if against is None and not images:
        return Comparison((_required(first),))
    if reader is None:
        raise UsageError("images need the index's backbone")
    other = None if against is None else open_source(against, listing, reader.extractor, reader.notify, unlabelled=True)
    pipeline = required_pipeline(index, reader) if images or isinstance(other, ImageSource) else None
    if other is None:
        return Comparison((_required(first),), pipeline)
    _require_one(first.fingerprint, other.fingerprint(pipeline))
    return _of_one_backbone((first, of_features(other.place, other.features(pipeline), other.images)), pipeline)


def _of_sources(names: Sequence[str], reader: FeatureReader, listing: Listing) -> Comparison:
    if len(reader.backbones.names) > 1:
        raise UsageError("features of one backbone are compared; --backbone names several")
    if reader.options.layers == "each":
        raise UsageError("--layers each is one feature per block, and copies are found by one per image; give a number")
    opened = [open_source(name, listing, reader.extractor, reader.notify, unlabelled=True) for name in names]
    for source in opened:
        _require_some(source.place, len(source.ids))
    given: list[Source] = [source for source in opened if source.images is None]
    if len(given) == 2:
        _require_one(*(source.fingerprint(None) for source in given))
    [inputs] = reader.each(Sources(*opened))
    sets = [of_features(s.place, f, s.images) for s, f in zip(opened, inputs.sides, strict=True)]
    return _of_one_backbone(tuple(sets), inputs.pipeline)


def of_index(index: OpenIndex) -> ComparedSet:
    """The live images of an index."""
    live, pictures = index.live, Pictures(index)
    digests = index.records(live)["digest"] if len(live) else np.zeros(0, "V32")
    has_images = bool(index.manifest.sources)
    return ComparedSet(
        str(index.path),
        UnitRows(len(live), lambda rows: index.features(live[rows])),
        index.dimension,
        index.manifest.fingerprint,
        lambda rows: index.ids(live[rows]),
        digests,
        (lambda row: pictures.read(int(live[row]))) if has_images else None,
    )


def of_features(place: str, features: FeatureSet, images: Dataset | None) -> ComparedSet:
    """A set of features, and the images they were made of, if they were made of images now."""
    known = features.digests is not None
    digests = np.frombuffer(b"".join(features.digests or [UNKNOWN] * len(features)), "V32")
    return ComparedSet(
        place,
        UnitRows.of(features.features),
        features.features.shape[1],
        features.fingerprint,
        lambda rows: [features.ids[row] for row in rows.tolist()],
        digests,
        _read_by_id(features.ids, images) if images is not None and known else None,
        list(features.report.skipped) if features.report is not None else [],
    )


def _read_by_id(ids: Sequence[str], images: Dataset) -> Callable[[int], bytes]:
    """What reads the image of a row of the features: some images may have no row."""
    row_of: dict[str, int] = {}

    def read(row: int) -> bytes:
        if not row_of:
            row_of.update({name: at for at, name in enumerate(images.ids)})
        return images.read(row_of[ids[row]])

    return read


def _of_one_backbone(sets: tuple[ComparedSet, ...], pipeline: Pipeline | None) -> Comparison:
    if len({one.dimension for one in sets}) > 1:
        widths = " and ".join(counted(one.dimension, "column") for one in sets)
        raise FingerprintMismatch(f"the features of the two sets have {widths}: they are not of one backbone")
    return Comparison(tuple(_required(one) for one in sets), pipeline)


def _require_one(one: str, other: str) -> None:
    """Raise FingerprintMismatch where both sets have a fingerprint and the two differ."""
    if one and other and one != other:
        raise FingerprintMismatch(
            f"the one set is of {one[:12]}, the other of {other[:12]}: another backbone, readout, transform or "
            "precision",
            fix="Extract both with the same options.",
        )


def _required(one: ComparedSet) -> ComparedSet:
    _require_some(one.place, len(one))
    return one


def _require_some(place: str, count: int) -> None:
    if count == 0:
        raise DataError(f"there is no image in {printable(place)} to find copies of")
