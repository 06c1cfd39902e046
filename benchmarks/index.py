"""The image index on a million features: exact search beside torch and FAISS, structures at a promised recall, upkeep.

Features lie around 1000 centres of a 48-dimensional space with noise in all 384 columns, as features of images do. The
peers: torch's product and topk in chunks of 128 queries; FAISS's flat index for one query at a time; usearch and
hnswlib, graphs as ours, for building, recall and memory, at a fifth of the rows. Recall is recounted here, with queries
that are in no index.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewvit.features import FeatureSet
from fewvit.neighbors import Bank
from fewvit.retrieval import growth
from fewvit.retrieval.describe import memory_per_row
from fewvit.retrieval.growth import Made, Wish
from fewvit.retrieval.index import ImageIndex
from fewvit.sources import FeatureSource

from .measure import Claim, Outcome, cores, in_fresh_process, main, peak_growth, round_robin

WHAT = "image index, width 384, k = 10, all cores"
WIDTH, INTRINSIC, CENTRES, K = 384, 48, 1000, 10
OURS, TORCH, FAISS = "fewvit, flat", "torch: product and topk", "FAISS IndexFlatIP"
_TORCH_QUERIES = 128  # at a time: its scores are a matrix
_MADE = Made("", "", {}, {})


def features(rows: int, seed: int) -> np.ndarray:
    """Rows of unit length (N, 384) float32."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    centres = shared.normal(size=(CENTRES, INTRINSIC))
    axes = (shared.normal(size=(INTRINSIC, WIDTH)) / INTRINSIC**0.5).astype(np.float32)
    out = np.empty((rows, WIDTH), np.float32)
    for start in range(0, rows, 50_000):
        part = out[start : start + 50_000]
        near = centres[own.integers(0, CENTRES, len(part))] + 0.7 * own.normal(size=(len(part), INTRINSIC))
        part[:] = near.astype(np.float32) @ axes + 0.15 * own.normal(size=part.shape).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def named(rows: np.ndarray, first: int = 0) -> FeatureSource:
    ids = [f"{first + row:08d}.jpg" for row in range(len(rows))]
    return FeatureSource("features", FeatureSet(rows, np.zeros(len(rows), np.int64), ids, ["all"]))


def built(folder: Path, source: FeatureSource, kind: str) -> tuple[ImageIndex, float]:
    """An index and the seconds that it took."""
    from fewvit.retrieval.folder import IndexFolder

    started = time.perf_counter()
    growth.build(IndexFolder(folder), source, None, _MADE, Wish(kind, recall=0.95))
    return ImageIndex.open(folder), time.perf_counter() - started


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def rows_of(index: ImageIndex, queries: np.ndarray) -> np.ndarray:
    return index.search(queries, K).rows.reshape(len(queries), K)


# ---- exact search --------------------------------------------------------------------------------------------------


def torch_search(bank: torch.Tensor, queries: torch.Tensor) -> np.ndarray:
    parts = [
        (queries[i : i + _TORCH_QUERIES] @ bank.T).topk(K, dim=1)[1] for i in range(0, len(queries), _TORCH_QUERIES)
    ]
    return torch.cat(parts).numpy()


def one_by_one(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> Callable[[int], None]:
    return lambda _: [search(queries[i : i + 1]) for i in range(len(queries))] and None


def exact(index: ImageIndex, bank: np.ndarray, queries: np.ndarray, rounds: int) -> tuple[list[Claim], list[dict]]:
    import faiss

    torch.set_num_threads(cores())
    whole, asked = torch.from_numpy(bank), torch.from_numpy(queries)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(bank)
    together = round_robin(
        {OURS: lambda _: rows_of(index, queries), TORCH: lambda _: torch_search(whole, asked)}, [None], rounds
    )
    few = queries[:20]
    single = round_robin(
        {
            OURS: one_by_one(lambda one: rows_of(index, one), few),
            FAISS: one_by_one(lambda one: flat.search(one, K), few),
        },
        [None],
        rounds,
    )
    size = f"{len(bank)} x {WIDTH}"
    claims = [
        Claim(f"Exact search, {len(queries)} queries, {size}", TORCH, together.ratio(OURS, TORCH), "x", ">= 1.8"),
        Claim(f"Exact search, one query at a time, {size}", FAISS, single.ratio(OURS, FAISS), "x", ">= 1"),
    ]
    return claims, [*together.rows(TORCH, len(queries), of="batch"), *single.rows(FAISS, len(few), of="single")]


# ---- structures ----------------------------------------------------------------------------------------------------


def structure(folder: Path, source: FeatureSource, kind: str, queries: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """What one kind takes and gives: seconds of building, recall, single queries a second, bytes a row."""
    index, seconds = built(folder / kind, source, kind)
    found = rows_of(index, queries)
    few = queries[:200]
    started = time.perf_counter()
    for i in range(len(few)):
        index.search(few[i : i + 1], K)
    manifest = index.manifest
    return {
        "kind": kind,
        "rows": len(index),
        "build_s": round(seconds, 1),
        "recall": recall(found, truth),
        "promised": manifest.recall.value if manifest.recall else None,
        "single_per_second": round(len(few) / (time.perf_counter() - started), 1),
        "bytes_in_memory": round(memory_per_row(manifest), 1),
        "bytes_on_disk": round(sum(file.bytes for file in manifest.files) / len(index), 1),
        "effort": manifest.effort.facts() if manifest.effort else None,
    }


def peer(name: str, rows: int, queries: int) -> dict[str, Any]:
    """A graph of usearch or hnswlib with 32 links a row, at the breadth whose recall is first at least 0.95."""
    bank, asked = features(rows, 1), features(queries, 2)
    truth = Bank(bank).search(asked, K).rows
    make = {"usearch": _usearch, "hnswlib": _hnswlib}[name]
    seconds, search = 0.0, None
    before = time.perf_counter()
    grown = peak_growth(lambda: make(bank))
    seconds = time.perf_counter() - before
    search = make(bank)
    for breadth in (32, 64, 128, 256, 512):
        found = search(asked, breadth)
        if recall(found, truth) >= 0.95:
            break
    started = time.perf_counter()
    for i in range(200):
        search(asked[i : i + 1], breadth)
    return {
        "kind": name,
        "rows": rows,
        "build_s": round(seconds, 1),
        "recall": recall(found, truth),
        "single_per_second": round(200 / (time.perf_counter() - started), 1),
        "bytes_in_memory": round(grown / rows, 1),
        "effort": breadth,
    }


def _usearch(bank: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    from usearch.index import Index

    index = Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=32, expansion_add=40)
    index.add(np.arange(len(bank)), bank, threads=cores())

    def search(queries: np.ndarray, breadth: int) -> np.ndarray:
        index.expansion_search = breadth
        return np.asarray(index.search(queries, K, threads=cores()).keys).reshape(len(queries), K)

    return search


def _hnswlib(bank: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=WIDTH)
    index.init_index(max_elements=len(bank), M=32, ef_construction=40)
    index.add_items(bank, num_threads=cores())

    def search(queries: np.ndarray, breadth: int) -> np.ndarray:
        index.set_ef(breadth)
        return index.knn_query(queries, K, num_threads=cores())[0].astype(np.int64)

    return search


# ---- upkeep --------------------------------------------------------------------------------------------------------


def upkeep(index: ImageIndex, rows: int) -> tuple[list[Claim], dict[str, float]]:
    """Seconds of opening with verification, of removing one row in a hundred, and of adding 1000."""
    started = time.perf_counter()
    ImageIndex.open(index.path)
    opened = time.perf_counter()
    gone = index.ids(np.arange(0, rows, 100))
    began = time.perf_counter()
    growth.remove(index.folder, gone)
    removed = time.perf_counter()
    more = named(features(1000, 5), first=rows)
    begun = time.perf_counter()
    ImageIndex.open(index.path, check=False).add(more.given)
    added = time.perf_counter()
    seconds = {"open": opened - started, "remove": removed - began, "add": added - begun}
    size = sum(file.bytes for file in index.manifest.files) / 1e9
    claims = [
        Claim(f"Opening an index of {size:.2f} GB, every digest compared", "nothing", seconds["open"], "s", "<= 3"),
        Claim(f"Removing {len(gone)} of {rows} images", "nothing", seconds["remove"], "s", "<= 1"),
        Claim(f"Adding 1000 images' features to {rows}", "nothing", seconds["add"], "s"),
    ]
    return claims, {name: round(value, 3) for name, value in seconds.items()}


def measure(quick: bool) -> Outcome:
    rows, asked, peers = (20_000, 200, 5_000) if quick else (1_000_000, 1_000, 200_000)
    bank, queries = features(rows, 1), features(asked, 2)
    source = named(bank)
    truth = Bank(bank).search(queries, K).rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flat, seconds = built(folder / "flat", source, "flat")
        claims, timing = exact(flat, bank, queries[: asked // 2], 1 if quick else 3)
        kinds = [structure(folder, source, kind, queries, truth) for kind in ("hnsw", "compact", "ivf")]
        kept, took = upkeep(flat, rows)
    graphs = [in_fresh_process(peer, name, peers, asked) for name in ("usearch", "hnswlib")]
    own = in_fresh_process(_own_graph, peers, asked)
    for row in kinds[:2]:
        claims += [
            Claim(f"`{row['kind']}`, recall@10 of {rows} rows", "exact search", row["recall"], "", ">= 0.95"),
            Claim(f"`{row['kind']}`, single queries", "nothing", row["single_per_second"], "per second", ">= 50"),
        ]
    claims.append(Claim("`compact`, bytes in memory", "nothing", kinds[1]["bytes_in_memory"], "a row", "<= 100"))
    for row in graphs:
        what = f"`hnsw`, building {peers} rows"
        claims.append(Claim(what, f"{row['kind']}", row["build_s"] / own["build_s"], "x"))
        claims.append(
            Claim("The same, memory", f"{row['kind']}", row["bytes_in_memory"] / own["bytes_in_memory"], "x less")
        )
    facts = {"rows": rows, "queries": asked, "flat_build_s": round(seconds, 1), "upkeep_s": took, "threads": cores()}
    return Outcome([*claims, *kept], [*timing, *kinds, *graphs, own], facts)


def _own_graph(rows: int, asked: int) -> dict[str, Any]:
    bank, queries = features(rows, 1), features(asked, 2)
    truth = Bank(bank).search(queries, K).rows
    with tempfile.TemporaryDirectory() as name:
        return structure(Path(name), named(bank), "hnsw", queries, truth)


if __name__ == "__main__":
    main("index", WHAT, measure)
