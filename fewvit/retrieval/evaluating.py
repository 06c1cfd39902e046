"""What `fewvit index evaluate` does: how well the images of an index are found by the queries of a benchmark."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Dataset, Listing, select
from ..errors import DataError, UsageError
from ..evaluate.inputs import FeatureReader
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet
from ..neighbors import Bank
from ..results import Facts, Row
from ..sources import FeatureSource, ImageSource, Source, open_source
from .evaluation import Search, evaluate_search, whitened_by
from .growth import require_fingerprint
from .opened import OpenIndex
from .protocols import RetrievalProtocol, find_retrieval_protocol
from .queries import required_pipeline
from .query_boxes import boxed

DEFAULT = "labels/1"


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of an index."""

    queries: str | None  # a source; None: the index's own images, each left out of its own answer
    protocol: str = DEFAULT
    truth: str | None = None  # the protocol's ground truth
    leave_one_out: bool = False
    background: str | None = None  # a source, for whitening
    validation: str | None = None  # a source, for what is chosen
    query_box: bool | None = None  # None: as the protocol says


@dataclass(frozen=True)
class _Images:
    """The live images of an index, by their places among them."""

    rows: np.ndarray  # (n,) of the index
    ids: Sequence[str]
    labels: np.ndarray  # (n,)
    classes: Sequence[str]
    marking: None = None  # an index keeps one label for an image


@dataclass(frozen=True)
class _Asking:
    """What makes the features of queries."""

    index: OpenIndex
    reader: FeatureReader
    listing: Listing

    def source(self, name: str) -> Source:
        """Images or features."""
        return open_source(name, self.listing, self.reader.extractor, self.reader.notify, unlabelled=True)

    def features(self, source: Source) -> FeatureSet:
        """Made as the index's were. Raises FingerprintMismatch for others, DataError for another width."""
        pipeline: Pipeline | None = None
        if source.images is not None:
            pipeline = required_pipeline(self.index, self.reader)
        found = source.features(pipeline)
        if pipeline is None:
            require_fingerprint(self.index.manifest, found.fingerprint)
        if found.features.shape[1] != self.index.dimension:
            what = f"its features have {found.features.shape[1]} columns, those of the index {self.index.dimension}"
            raise DataError(what, file=source.place)
        return found


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
    asking, started = _Asking(index, reader, listing), time.perf_counter()
    _say_reading(index, protocol, reader)
    source, is_boxed = _queries(asking, images, protocol, request)
    leave_one_out = request.leave_one_out or request.queries is None
    # what cannot be judged is known by names and labels, before any feature is made
    protocol.judge(request.truth, source, images, leave_one_out=leave_one_out)
    queries = asking.features(source)
    others = [asking.features(asking.source(one)) if one else None for one in (request.background, request.validation)]
    made = time.perf_counter()
    found = evaluate_search(
        protocol,
        queries,
        images,
        _search(index, images, protocol, others[0]),
        request.truth,
        leave_one_out=leave_one_out,
        validation=others[1],
    )
    columns = {"dataset": queries.name, "backbone": index.manifest.backbone or "features", "method": protocol.name}
    facts = {
        "index": str(index.path),
        "protocol": protocol.name,
        "query_box": is_boxed,
        "version": index.manifest.version,
        "fingerprint": index.manifest.fingerprint,
        "seconds": {"features": round(made - started, 3), "search": round(time.perf_counter() - made, 3)},
    }
    return [{**columns, **row, "n_index": len(images.ids)} for row in found], facts


def _say_reading(index: OpenIndex, protocol: RetrievalProtocol, reader: FeatureReader) -> None:
    """Say where the index was not made as the protocol, or one of its benchmarks, reads images."""
    made = index.manifest.facts.get("preprocess", {})
    known = [protocol.reading, *protocol.readings.values()]
    plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in one.transform.items()} for one in known]
    if made and not any(all(made.get(name) == value for name, value in one.items()) for one in plain):
        reader.notify(
            f"{protocol.name} reads images in another way than this index was built with; "
            f"`index build --reading {protocol.name}` builds one that the published numbers can be compared with"
        )


def _queries(
    asking: _Asking, images: _Images, protocol: RetrievalProtocol, request: EvaluationRequest
) -> tuple[Source, bool]:
    """The queries, cropped to their boxes where that is asked for; whether they are."""
    if request.queries is None:
        index = asking.index
        features = index.features(images.rows)
        own = FeatureSet(features, images.labels, images.ids, images.classes, index.manifest.fingerprint, "index")
        return FeatureSource(str(index.path), own), False
    source = asking.source(request.queries)
    wanted = protocol.query_box if request.query_box is None else request.query_box
    if not wanted:
        return source, False
    if not isinstance(source, ImageSource):
        if request.query_box:
            raise UsageError("--query-box crops images, and the queries are features")
        asking.reader.notify(f"{protocol.name} crops queries to their box; whether these features are is not known")
        return source, False
    relevance = protocol.judge(request.truth, source, images)
    boxes = getattr(relevance, "boxes", None)
    if boxes is None:
        raise UsageError(f"--query-box: the ground truth of {protocol.name} has no boxes")
    return dataclasses.replace(source, images=_cropped(source.images, relevance.queries, boxes)), True


def _cropped(images: Dataset, rows: np.ndarray, boxes: Sequence[tuple[float, float, float, float] | None]) -> Dataset:
    return boxed(select(images, rows.tolist()), boxes)


def _search(index: OpenIndex, images: _Images, protocol: RetrievalProtocol, background: FeatureSet | None) -> Search:
    """Exact search among the live images, whitened where the protocol says so."""
    whitened = whitened_by(protocol, background)
    kept = _features(index, images.rows)
    bank = Bank.of_unit_rows(kept) if background is None else Bank(whitened(np.asarray(kept, np.float32)))
    return lambda rows, k, own: bank.chunks(whitened(rows), k, exclude=own)


def _features(index: OpenIndex, rows: np.ndarray) -> np.ndarray:
    """The features of the live rows: mapped where they are all in one segment, else copied."""
    if len(index.segments) == 1 and len(rows) == index.segments[0].rows:
        return index.segments[0].features
    return index.features(rows)
