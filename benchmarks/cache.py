"""The feature cache against raw files: 200,000 x 384 float32 written and read, with and without the digest.

Raw files are `tofile` and `fromfile`. The goals are about what a core has to do, so they are measured in a memory file
system (/dev/shm), where syncing costs nothing; reading there is reading from the page cache. The same writes follow in
$TMPDIR, synced on every side: there the disk decides, and the cache, which promises that a committed shard survives a
power loss, syncs four times per shard; the peer beside the one raw file is then as many raw files as there are shards,
each synced once. `without digest`: sha256 sees only the ends of the content while writing, and the shards have been
checked before while reading.
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

from fewvit.extraction import cache
from fewvit.extraction.cache import Cache, FeatureStore
from fewvit.extraction.extract import _SHARD_BYTES

from .measure import Claim, Outcome, Timing, main, round_robin

WHAT = "feature cache, float32 rows of width 384"
WIDTH = 384
SHARD_ROWS = _SHARD_BYTES // (4 * WIDTH)
MEMORY = Path("/dev/shm")
RAW, RAW_SHARDS, NPY = "raw file", "raw files, one per shard", "np.save / np.load"
PLAIN, CHECKED = "fewvit without digest", "fewvit"
KEY = {"weights": "none", "purpose": "benchmark"}


class NoDigest:
    """Stands in for sha256: of what is larger than a name or a header it hashes the two ends only."""

    def __init__(self, data: bytes = b""):
        self.real = hashlib.sha256()
        self.update(data)

    def update(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        for piece in [view] if len(view) <= 4096 else [view[:32], view[-32:]]:
            self.real.update(piece)

    def digest(self) -> bytes:
        return self.real.digest()

    def hexdigest(self) -> str:
        return self.real.hexdigest()


class Bench:
    """The same rows, written and read in every way, below one folder."""

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        self.features = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
        self.digests = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
        self.parts = [slice(start, start + SHARD_ROWS) for start in range(0, count, SHARD_ROWS)]
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
        with patch.object(cache, "hashlib", SimpleNamespace(sha256=NoDigest)):
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


def time_both(folder: Path | None, count: int, rounds: int) -> tuple[Timing, Timing, bool]:
    """Timings of writing and of reading below `folder`, and whether every way read what was written."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bench = Bench(Path(name), count)
        writes = {
            RAW: bench.write_raw,
            RAW_SHARDS: bench.write_raw_shards,
            NPY: bench.write_npy,
            PLAIN: bench.write_store_without_digest,
            CHECKED: bench.write_store,
        }
        reads = {
            RAW: bench.read_raw,
            NPY: bench.read_npy,
            CHECKED: bench.read_store,
            PLAIN: bench.read_store_without_digest,
        }
        writing = round_robin(writes, [None], rounds)
        bench.write_store(None)
        same = all(np.array_equal(read(None), bench.features) for read in reads.values())
        return writing, round_robin(reads, [None], rounds), same


def measure(quick: bool) -> Outcome:
    count, rounds = (20_000, 3) if quick else (200_000, 9)
    writing, reading, same = time_both(MEMORY if MEMORY.is_dir() else None, count, rounds)
    on_disk, _, _ = time_both(None, count // 4, 2 if quick else 3)
    size = 4 * WIDTH * count
    rows = []
    for what, timing, written in (
        ("write", writing, size),
        ("read", reading, size),
        ("write, synced to disk", on_disk, size // 4),
    ):
        rows += [{**row, "gb_per_s": round(written / row["median_s"] / 1e9, 2)} for row in timing.rows(RAW, scope=what)]
    claims = [
        Claim(
            "Cache, time to write without the digest, in memory",
            "one raw file",
            1 / writing.ratio(PLAIN, RAW),
            "x",
            "<= 1.3",
        ),
        Claim(
            "Cache, time to read without the digest, in memory",
            "one raw file",
            1 / reading.ratio(PLAIN, RAW),
            "x",
            "<= 1.3",
        ),
        Claim(
            "Cache, write with the digest, hashed beside the writing",
            "the clock",
            size / writing.median(CHECKED) / 1e9,
            "GB/s",
            ">= 1",
        ),
        Claim(
            "Cache, open and read with the digest, one core",
            "the clock",
            size / reading.median(CHECKED) / 1e9,
            "GB/s",
            ">= 1",
        ),
        Claim(
            "Cache, time to write, synced to disk",
            "as many raw files as shards, synced",
            1 / on_disk.ratio(CHECKED, RAW_SHARDS),
            "x",
        ),
    ]
    facts = {
        "rows": count,
        "megabytes": round(size / 1e6),
        "rows_per_shard": SHARD_ROWS,
        "reads_equal_what_was_written": same,
        "rounds": rounds,
    }
    return Outcome(claims, rows, facts)


if __name__ == "__main__":
    main("cache", WHAT, measure)
