"""What `fewvit index evaluate` does: how well the images of an index are found by the queries of a benchmark."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Listing
from ..errors import DataError
from ..evaluate.inputs import FeatureReader
from ..features import FeatureSet
from ..neighbors import Bank, Neighbors
from ..results import Facts, Row
from ..sources import open_source
from .growth import require_fingerprint
from .opened import OpenIndex
from .protocols import RetrievalProtocol, find_retrieval_protocol
from .queries import required_pipeline
from .relevance.ranking import Relevance

DEFAULT = "labels/1"


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of an index."""

    queries: str | None  # a source; None: the index's own images, each left out of its own answer
    protocol: str = DEFAULT
    truth: str | None = None  # the protocol's ground truth
    leave_one_out: bool = False


@dataclass(frozen=True)
class _Images:
    """The live images of an index, by their places among them."""

    rows: np.ndarray  # (n,) of the index
    ids: Sequence[str]
    labels: np.ndarray  # (n,)
    classes: Sequence[str]


def run_evaluate(
    index: OpenIndex, request: EvaluationRequest, reader: FeatureReader, listing: Listing
) -> tuple[list[Row], Facts]:
    """Result rows of a protocol, and facts for the manifest.

    Every image of the index is compared with every query, whatever its kind: a protocol's numbers are those of the
    features. Raises UsageError and DataError as `RetrievalProtocol.judge`, and as the extraction of features.
    """
    protocol = find_retrieval_protocol(request.protocol)
    rows = index.live
    if len(rows) == 0:
        raise DataError("no image is left in this index", file=index.path)
    images = _Images(rows, index.ids(rows), index.labels(rows), index.classes)
    started = time.perf_counter()
    queries = _queries(index, images, request, reader, listing)
    made = time.perf_counter()
    alone = request.leave_one_out or request.queries is None
    relevance = protocol.judge(request.truth, queries, images, leave_one_out=alone)
    found = relevance.measure(_parts(index, images, queries, relevance))
    columns = _columns(index, protocol, queries)
    facts = {
        "index": str(index.path),
        "protocol": protocol.name,
        "version": index.manifest.version,
        "fingerprint": index.manifest.fingerprint,
        "seconds": {"features": round(made - started, 3), "search": round(time.perf_counter() - made, 3)},
    }
    return [{**columns, **row, "n_index": len(images.ids)} for row in found], facts


def _columns(index: OpenIndex, protocol: RetrievalProtocol, queries: FeatureSet) -> Row:
    return {"dataset": queries.name, "backbone": index.manifest.backbone or "features", "method": protocol.name}


def _queries(
    index: OpenIndex, images: _Images, request: EvaluationRequest, reader: FeatureReader, listing: Listing
) -> FeatureSet:
    """Features and labels of the queries, made as the index's were. Raises FingerprintMismatch for others."""
    if request.queries is None:
        features = index.features(images.rows)
        return FeatureSet(features, images.labels, images.ids, images.classes, index.manifest.fingerprint, "index")
    source = open_source(request.queries, listing, reader.extractor, reader.notify)
    pipeline = required_pipeline(index, reader) if source.images is not None else None
    features_of = source.features(pipeline)
    require_fingerprint(index.manifest, features_of.fingerprint if pipeline is None else "")
    if features_of.features.shape[1] != index.dimension:
        raise DataError(
            f"the queries have {features_of.features.shape[1]} columns, the index {index.dimension}",
            file=request.queries,
        )
    return features_of


def _parts(
    index: OpenIndex, images: _Images, queries: FeatureSet, relevance: Relevance
) -> Iterator[tuple[slice, Neighbors]]:
    """The neighbours of one slice of the asked queries after another, in places among the live images."""
    bank = Bank.of_unit_rows(_features(index, images.rows))
    asked, own = queries.select(relevance.queries).features, relevance.own
    most = len(images.ids) - (own is not None)
    yield from bank.chunks(asked, min(relevance.depth, most), exclude=own)


def _features(index: OpenIndex, rows: np.ndarray) -> np.ndarray:
    """The features of the live rows: mapped where they are all in one segment, else copied."""
    if len(index.segments) == 1 and len(rows) == index.segments[0].rows:
        return index.segments[0].features
    return index.features(rows)
