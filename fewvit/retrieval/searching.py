"""What `fewvit index search` does: queries from files and from the index itself, and the images nearest to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..datasets import Listing
from ..errors import UnknownName, UsageError, counted, printable
from ..evaluate.inputs import FeatureReader
from ..results import Facts
from ..sources import is_features
from .examples import COMBINE, search_as_one, search_each
from .opened import OnlyThese, OpenIndex
from .queries import query_features
from .search import Near


@dataclass(frozen=True)
class Request:
    """What is looked for."""

    sources: Sequence[str]  # image files, folders, or one features file
    like: Sequence[str] = ()  # ids of the index
    unwanted: Sequence[str] = ()  # image files or folders
    unlike: Sequence[str] = ()  # ids of the index that are not wanted
    combine: str | None = None  # None: each query by itself
    k: int = 10
    threshold: float | None = None  # the least cosine
    only: OnlyThese = field(default_factory=OnlyThese)


@dataclass(frozen=True)
class Part:
    """One image, or one row of features, that a search goes by."""

    name: str
    row: int | None = None  # of the index; None: it was given
    file: str | None = None  # where its picture is, if it was given as a file or a folder


@dataclass(frozen=True)
class Query:
    """What one answer is to: an image, or several as one."""

    parts: Sequence[Part]

    @property
    def name(self) -> str:
        """What it is called in results."""
        return " + ".join(part.name for part in self.parts)


def run_search(
    index: OpenIndex, request: Request, reader: FeatureReader | None, listing: Listing
) -> tuple[list[Query], Near, Facts]:
    """The queries, the images nearest to each, and facts for the manifest.

    `reader` may be None where no query is an image. Raises UsageError for no query, DataError for an id that is not in
    the index, and as `query_features`.
    """
    if request.combine is not None and request.combine not in COMBINE:
        raise UnknownName("way to combine", request.combine, COMBINE)
    if not request.sources and not request.like:
        raise UsageError("nothing to look for: give image files, folders, or --like ID")
    started = time.perf_counter()
    parts, queries = _queries(index, request, reader, listing)
    _, unwanted = _features(index, request.unwanted, reader, listing)
    unlike = np.array([index.row_of(name) for name in request.unlike], np.int64)
    unwanted = np.concatenate([unwanted, index.features(unlike)])
    made = time.perf_counter()
    if request.combine is not None:
        near = search_as_one(index, queries, unwanted, request.k, request.combine, request.only, request.threshold)
    else:
        near = search_each(index, queries, unwanted, request.k, request.only, request.threshold)
    asked = [Query([part]) for part in parts] if request.combine is None else [Query(parts)]
    seconds = {"features": round(made - started, 3), "search": round(time.perf_counter() - made, 4)}
    return asked, near, {"index": str(index.path), "version": index.manifest.version, "seconds": seconds}


def _queries(
    index: OpenIndex, request: Request, reader: FeatureReader | None, listing: Listing
) -> tuple[list[Part], np.ndarray]:
    names, features = _features(index, request.sources, reader, listing)
    are_files = not any(map(is_features, request.sources))
    given = [Part(name, file=name if are_files else None) for name in names]
    rows = [index.row_of(name) for name in request.like]
    own = [Part(name, row) for name, row in zip(request.like, rows, strict=True)]
    return [*given, *own], np.concatenate([features, index.features(np.array(rows, np.int64))])


def _features(
    index: OpenIndex, sources: Sequence[str], reader: FeatureReader | None, listing: Listing
) -> tuple[list[str], np.ndarray]:
    if not sources:
        return [], np.zeros((0, index.dimension), np.float32)
    if reader is None:
        raise UsageError("images as queries need the index's backbone")
    found = query_features(index, sources, reader, listing)
    if zeros := np.flatnonzero(~found.features.any(axis=1)).tolist():
        reader.notify(
            f"{counted(len(zeros), 'query', 'queries')} of zeros ({printable(found.ids[zeros[0]])}): such a row has no "
            "direction, so every score is 0 and the images are in no order"
        )
    return list(found.ids), found.features
