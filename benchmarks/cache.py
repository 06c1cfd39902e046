"""The feature cache against raw files: 200,000 x 384 float32 written and read, with and without the digest.

Raw files are `tofile` and `fromfile`; what is written is synced to the disk on every side, since the cache promises that. The cache
writes a shard per 1024 rows, as extraction does, so there are two raw peers: one file with one sync, and as many files as there are
shards, each synced. Reading is from the page cache. `without digest`: sha256 is replaced by a constant while writing, and the shards
have been checked before while reading (a process checks each once).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from fewvit import cache
from fewvit.cache import Cache, FeatureStore

from .measure import Claim, Outcome, main, round_robin

WHAT = "feature cache, float32 rows of width 384 in shards of 1024 rows"
WIDTH, SHARD = 384, 1024
RAW, RAW_SHARDS, NPY = "raw file", "raw files, one per shard", "np.save / np.load"
PLAIN, CHECKED = "fewvit without digest", "fewvit"
KEY = {"weights": "none", "purpose": "benchmark"}


class Bench:
    """The same rows, written and read in every way, below one folder."""

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        self.features = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
        self.digests = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
        self.parts = [slice(start, start + SHARD) for start in range(0, count, SHARD)]
        self.opened: FeatureStore | None = None

    def write_raw(self, _: Any) -> None:
        _write_synced(self.folder / "raw.bin", self.features.tofile)

    def write_raw_shards(self, _: Any) -> None:
        for i, part in enumerate(self.parts):
            _write_synced(self.folder / f"raw{i}.bin", self.features[part].tofile)

    def write_npy(self, _: Any) -> None:
        _write_synced(self.folder / "raw.npy", lambda handle: np.save(handle, self.features))

    def write_store(self, _: Any) -> None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        store = Cache(self.folder / "cache").store(KEY)
        for part in self.parts:
            store.put(self.digests[part], [0] * len(self.digests[part]), self.features[part])

    def write_store_without_digest(self, _: Any) -> None:
        names = iter(f"{i:064x}" for i in range(10**6))
        real = hashlib.sha256
        # only the content of a shard is large; the store's own name must stay what it is
        fake = SimpleNamespace(sha256=lambda data=b"": SimpleNamespace(hexdigest=lambda: next(names)) if len(data) > 4096 else real(data))
        with patch.object(cache, "hashlib", fake):
            self.write_store(None)

    def read_raw(self, _: Any) -> np.ndarray:
        return np.fromfile(self.folder / "raw.bin", np.float32).reshape(-1, WIDTH)

    def read_npy(self, _: Any) -> np.ndarray:
        return np.load(self.folder / "raw.npy")

    def read_store(self, _: Any) -> np.ndarray:
        """Opening included: manifests, rows, digests of both files of every shard."""
        self.opened = Cache(self.folder / "cache").store(KEY)
        return self.opened.gather(self.digests)[0]

    def read_store_without_digest(self, _: Any) -> np.ndarray:
        """From a store that this process has opened and checked before."""
        assert self.opened is not None
        return self.opened.gather(self.digests)[0]


def _write_synced(path: Path, write: Callable[[Any], Any]) -> None:
    with open(path, "wb") as handle:
        write(handle)
        handle.flush()
        os.fsync(handle.fileno())


def measure(quick: bool) -> Outcome:
    count, rounds = (20_000, 3) if quick else (200_000, 7)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk, where /tmp may be memory
        bench = Bench(Path(folder), count)
        writes = {RAW: bench.write_raw, RAW_SHARDS: bench.write_raw_shards, NPY: bench.write_npy, PLAIN: bench.write_store_without_digest, CHECKED: bench.write_store}
        reads = {RAW: bench.read_raw, NPY: bench.read_npy, CHECKED: bench.read_store, PLAIN: bench.read_store_without_digest}
        writing = round_robin(writes, [None], rounds)
        bench.write_store(None)
        same = all(np.array_equal(read(None), bench.features) for read in reads.values())
        reading = round_robin(reads, [None], rounds)
    size = bench.features.nbytes
    rows = [{**row, "gb_per_s": round(size / row["min_s"] / 1e9, 2)} for what, timing in (("write", writing), ("read", reading)) for row in timing.rows(RAW, scope=what)]
    claims = [
        Claim("Cache, time to write without the digest", "one raw file, synced", 1 / writing.ratio(PLAIN, RAW), "x", "<= 1.3"),
        Claim("Cache, time to write without the digest", "as many raw files as shards, synced", 1 / writing.ratio(PLAIN, RAW_SHARDS), "x"),
        Claim("Cache, time to read without the digest", "one raw file", 1 / reading.ratio(PLAIN, RAW), "x", "<= 1.3"),
        Claim("Cache, write with the digest, one core", "the clock", size / writing.median(CHECKED) / 1e9, "GB/s", ">= 1"),
        Claim("Cache, open and read with the digest, one core", "the clock", size / reading.median(CHECKED) / 1e9, "GB/s", ">= 1"),
    ]
    return Outcome(claims, rows, {"rows": count, "megabytes": round(size / 1e6), "shards": len(bench.parts), "reads_equal_what_was_written": same, "rounds": rounds})


if __name__ == "__main__":
    main("cache", WHAT, measure)
