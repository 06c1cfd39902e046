"""What an index is, in one file of JSON a version: its kind, what made its features, and the sha256 of every file."""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import IntegrityError
from ..neighbors.approximate import KINDS, Effort
from ..untrusted.texts import json_of

SCHEMA = "fewvit.index/1"
READER = 1  # the format that this code reads; a file says the least that a reader must know
FLAT = "flat"


@dataclass(frozen=True)
class StoredFile:
    """A file of the index: where it is, relative to the index's folder, and what its bytes are."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredSource:
    """Where images lie: the source as it was given, and the folder that its ids are paths in, if they are."""

    place: str
    root: str | None
    skipped: int = 0  # images that could not be decoded when it was last read


@dataclass(frozen=True)
class StoredSegment:
    """Rows that were written together, and which of them are dead."""

    rows: int
    features: StoredFile  # (rows, dimension), unit rows
    ids: StoredFile  # a column of strings, sorted by their bytes
    records: StoredFile  # label, source, digest and identity of each row
    dead: StoredFile | None = None  # sorted row numbers, int64
    dead_rows: int = 0
    structure: StoredFile | None = None  # FAISS's, over all of these rows

    @property
    def files(self) -> list[StoredFile]:
        """All of its files."""
        return [file for file in (self.features, self.ids, self.records, self.dead, self.structure) if file is not None]


@dataclass(frozen=True)
class Recall:
    """The share of the true k nearest that a search finds, as it was measured."""

    value: float  # mean over the queries, 0..1
    low: float  # of its 95 % interval
    high: float
    at: int  # k
    queries: int  # rows of the index, each left out of its own answer; 0: exact by construction
    wanted: float

    @property
    def is_met(self) -> bool:
        """Whether even the lower end of the interval is what was wanted."""
        return self.low >= self.wanted


@dataclass(frozen=True)
class Manifest:
    """One version of an index."""

    version: int
    kind: str
    dimension: int
    fingerprint: str  # of what made the features; empty: unknown
    backbone: str  # its name; empty: unknown
    recipe: Mapping[str, Any]  # how it makes features of images; empty: of an index of features, which does not know
    facts: Mapping[str, Any]  # of the pipeline, for people
    classes: StoredFile  # a column of strings
    sources: tuple[StoredSource, ...] = ()
    segments: tuple[StoredSegment, ...] = ()
    effort: Effort | None = None  # None: every row is compared
    recall: Recall | None = None

    @property
    def skipped(self) -> int:
        """Images of the sources that could not be decoded, and so are not in the index."""
        return sum(source.skipped for source in self.sources)

    @property
    def rows(self) -> int:
        """Rows, dead ones too."""
        return sum(segment.rows for segment in self.segments)

    @property
    def dead(self) -> int:
        """Rows that were removed and not yet rewritten."""
        return sum(segment.dead_rows for segment in self.segments)

    @property
    def dtype(self) -> str:
        """Of the features at rest."""
        return "<f2" if self.kind != FLAT and KINDS[self.kind].half else "<f4"

    @property
    def files(self) -> list[StoredFile]:
        """Every file but the manifest itself."""
        return [self.classes, *(file for segment in self.segments for file in segment.files)]

    def to_text(self) -> str:
        """JSON, the same for the same manifest."""
        return json.dumps({"schema": SCHEMA, "min_reader": READER, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def of_text(text: str, name: str) -> Manifest:
        """The manifest in a text whose digest was compared. Raises IntegrityError, naming the file."""
        try:
            values = json_of(text)
            schema, least = values.pop("schema"), values.pop("min_reader")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError("this is no manifest of an index", file=name) from error
        if not isinstance(least, int) or least > READER or not str(schema).startswith("fewvit.index/"):
            raise IntegrityError(
                f"written by a newer fewvit: {schema}, for readers of format {least} on, and this one reads {READER}",
                file=name,
                fix="Update fewvit.",
            )
        try:
            manifest = _of_json(Manifest, values)
            _check(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the manifest contradicts itself ({error})", file=name) from error
        return manifest


_types = functools.cache(typing.get_type_hints)


def _of_json(kind: Any, value: Any) -> Any:
    """The value as the annotation `kind` wants it. Raises TypeError for one of another type, also deep inside.

    What no field is called like is passed over: `min_reader` says whether a reader must know it.
    """
    if isinstance(kind, types.UnionType):  # with None, always
        [other] = (one for one in typing.get_args(kind) if one is not type(None))
        return None if value is None else _of_json(other, value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _types(kind)
        return kind(**{name: _of_json(hints[name], inner) for name, inner in value.items() if name in hints})
    origin = typing.get_origin(kind) or kind
    stored: dict[Any, Any] = {tuple: list, Mapping: dict, float: (int, float)}
    wanted = stored.get(origin, origin)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not {origin.__name__}")
    return tuple(_of_json(typing.get_args(kind)[0], one) for one in value) if origin is tuple else value


def _check(manifest: Manifest) -> None:
    """Raise ValueError for what no index can be: it is what the sizes of everything else are taken from."""
    width = 2 if manifest.kind != FLAT and KINDS[manifest.kind].half else 4  # KeyError for a kind that is none
    structures = sum(segment.structure is not None for segment in manifest.segments)
    if not manifest.segments or structures > (manifest.kind != FLAT):
        raise ValueError(f"{structures} structures over {len(manifest.segments)} segments of kind {manifest.kind}")
    if manifest.effort is not None and min(manifest.effort.visited, manifest.effort.rerank) < 1:
        raise ValueError(f"effort {manifest.effort.facts()}")
    if not 1 <= manifest.dimension <= 1 << 20:
        raise ValueError(f"{manifest.dimension} columns")
    for file in manifest.files:
        path = PurePosixPath(file.path)
        is_a_path = file.path.isascii() and "\0" not in file.path and not path.is_absolute() and ".." not in path.parts
        if not is_a_path or file.bytes < 0 or len(file.sha256) != 64:
            raise ValueError(f"file {file.path!r}")
    for segment in manifest.segments:
        if segment.features.bytes != segment.rows * manifest.dimension * width or segment.rows < 1:
            raise ValueError(f"{segment.rows} rows in {segment.features.bytes} bytes")
        if not 0 <= segment.dead_rows <= segment.rows or (segment.dead is None) != (segment.dead_rows == 0):
            raise ValueError(f"{segment.dead_rows} dead of {segment.rows} rows")
