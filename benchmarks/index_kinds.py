"""Every kind of index over all Tiny-ImageNet training images: recall, bytes and times, and what the promise said.

    python -m benchmarks.index_kinds

The 25,000 training images make the index, the 10,000 validation images ask; both come from $FEWVIT_SHARED/data, their
features from `fewvit_tiny` through the cache. Recall is counted against brute force in float64.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.datasets import Listing
from fewvit.evaluate.inputs import Backbones, FeatureReader
from fewvit.extraction.cache import Cache, default_cache_dir
from fewvit.extraction.pipeline import FeatureOptions
from fewvit.extraction.work import Work
from fewvit.models.spec import Access
from fewvit.neighbors import normalise
from fewvit.retrieval.describe import memory_per_row
from fewvit.retrieval.growth import KIND_NAMES, Wish
from fewvit.retrieval.index import ImageIndex, build_index
from fewvit.sources import open_source

from .measure import Outcome, main

WHAT = "kinds of index over Tiny-ImageNet, fewvit_tiny, k = 10, all cores"
K, SINGLE = 10, 500


def measure(quick: bool) -> Outcome:
    data = Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data"
    cache = Cache(default_cache_dir())
    reader = FeatureReader(Backbones(["fewvit_tiny"], Access(cache.folder)), FeatureOptions(), cache, Work())
    [pipeline] = reader.pipelines()
    source = open_source(str(data / "tinyimagenet-val.zip"), Listing(), reader.extractor, lambda line: None)
    asked = source.features(pipeline).features[:: 100 if quick else 1]
    build_from = str(data / ("tinyimagenet-val.zip" if quick else "tinyimagenet-train.zip"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [_kind(Path(folder) / kind, kind, build_from, reader, asked) for kind in KIND_NAMES]
    return Outcome([], rows, {"images": rows[0]["images"], "queries": len(asked), "backbone": "fewvit_tiny"})


def _kind(folder: Path, kind: str, data: str, reader: FeatureReader, asked: np.ndarray) -> dict[str, Any]:
    build_index(folder, data, reader, Wish("flat"), Listing())  # now all features are in the cache
    started = time.perf_counter()
    build_index(folder, data, reader, Wish(kind), Listing())
    built = time.perf_counter()
    index = ImageIndex.open(folder)
    opened = time.perf_counter()
    found = index.search(asked, K).rows.reshape(len(asked), K)
    searched = time.perf_counter()
    for query in asked[:SINGLE]:
        index.search(query[None], K)
    single = (time.perf_counter() - searched) / len(asked[:SINGLE])
    promised = index.manifest.recall
    return {
        "kind": kind,
        "images": len(index),
        "recall": _recall(index, asked, found),
        "promised": [promised.value, promised.low, promised.high] if promised else None,
        "memory_bytes": round(memory_per_row(index.manifest), 1),
        "disk_bytes": round(sum(file.bytes for file in index.manifest.files) / len(index), 1),
        "build_s": round(built - started, 2),
        "open_s": round(opened - built, 3),
        "batch_per_second": round(len(asked) / (searched - opened)),
        "single_ms": round(1000 * single, 3),
        "effort": index.manifest.effort.facts() if index.manifest.effort else None,
    }


def _recall(index: ImageIndex, asked: np.ndarray, found: np.ndarray) -> float:
    """The share of the true ten nearest that was found; an image as near as the tenth counts as one of them."""
    bank, queries = index.features(index.live).astype(np.float64), normalise(asked).astype(np.float64)
    hits = 0
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500] @ bank.T  # the rows of a new index are its live ones, in order
        tenth = np.partition(scores, -K, axis=1)[:, -K]
        near = np.take_along_axis(scores, found[start : start + 500], axis=1)
        hits += int((near >= tenth[:, None] - 1e-9).sum())
    return round(hits / found.size, 5)


if __name__ == "__main__":
    main("index_kinds", WHAT, measure)
