"""The content-addressed feature store: one folder per pipeline, in it rows addressed by the digest of the image's bytes.

A shard is three files of one name, the digest of its content: `.features.npy`, `.rows.npy` and, written last, `.json` with sizes
and sha256 of both. Only the last one makes a shard exist, nothing is ever rewritten, and equal work has equal names: writers need
no lock, and a kill loses at most the rows that were not yet in a shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .digests import DigestMemory
from .errors import CacheError
from .files import replacing, sweep, write_json

_FORMAT = 1
_ROW = np.dtype([("digest", "V32"), ("notes", "<u2")])  # image bytes' sha256, decoding notes
_DAY_S = 86400.0


def default_cache_dir() -> Path:
    """`$FEWVIT_CACHE_DIR`, else the user's cache folder."""
    if folder := os.environ.get("FEWVIT_CACHE_DIR"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewvit"


@dataclass(frozen=True)
class Cache:
    """The cache folder: feature stores, digests of files, weights, licences accepted, what bare files turned out to be."""

    folder: Path

    def store(self, key: Mapping[str, Any]) -> FeatureStore:
        """The store of a pipeline; made when the first shard is written."""
        return FeatureStore(self.folder / "features" / key_digest(key)[:32], key)

    def digests(self, *, rehash: bool = False) -> DigestMemory:
        return DigestMemory(self.folder / "digests", rehash=rehash)

    def stores(self) -> Iterator[dict[str, Any]]:
        """Facts about each store: its key, rows, bytes and folder."""
        for path in sorted((self.folder / "features").glob("*/key.json")):
            with contextlib.suppress(OSError, ValueError):
                manifests = [json.loads(shard.read_text()) for shard in _manifests(path.parent)]
                size = sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file())
                yield {
                    "folder": str(path.parent),
                    "key": json.loads(path.read_text()),
                    "images": sum(m["count"] for m in manifests),
                    "shards": len(manifests),
                    "bytes": size,
                }

    def clear(self, *, backbone: str | None = None) -> int:
        """Remove all feature stores, or those of one backbone; how many bytes were freed. Weights and licences stay."""
        freed = 0
        for store in list(self.stores()):
            if backbone is None or store["key"].get("backbone") == backbone:
                freed += store["bytes"]
                shutil.rmtree(store["folder"], ignore_errors=True)
        if backbone is None:
            for name in ("features", "digests", "backbones"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return freed


def key_digest(key: Mapping[str, Any]) -> str:
    """sha256 of a pipeline key, the name of its store. What only labels it (names) is left out."""
    decisive = {name: value for name, value in key.items() if name != "backbone"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _manifests(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if len(path.stem) == 32)


class FeatureStore:
    """Rows of one pipeline. Opening reads digests only; features are read, checked and gathered when asked for."""

    def __init__(self, folder: Path, key: Mapping[str, Any]):
        self.folder, self.key = folder, key
        self._shards: list[tuple[str, dict[str, Any]]] = []
        self._at: dict[bytes, tuple[int, int]] = {}  # digest -> (shard, row)
        self._notes: list[np.ndarray] = []
        self._checked: set[str] = set()  # files whose sha256 this process has seen to be right
        self.width = 0
        for path in _manifests(folder):
            self._open(path)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._at

    def __len__(self) -> int:
        return len(self._at)

    def put(self, digests: list[bytes], notes: list[int], features: np.ndarray) -> None:
        """Commit rows (n, D) as one shard. Raises ResourceError when the disk is full; earlier shards stay valid."""
        rows = np.zeros(len(digests), _ROW)
        rows["digest"] = np.frombuffer(b"".join(digests), "V32")
        rows["notes"] = notes
        content = {"features": _npy(np.ascontiguousarray(features, dtype=np.float32)), "rows": _npy(rows.view("u1").reshape(len(rows), -1))}
        sha = {part: hashlib.sha256(data).hexdigest() for part, data in content.items()}
        name = hashlib.sha256((sha["features"] + sha["rows"]).encode()).hexdigest()[:32]
        if not (self.folder / "key.json").exists():
            write_json(self.folder / "key.json", dict(self.key))
            sweep(self.folder, _DAY_S, time.time())
        for part, data in content.items():
            with replacing(self.folder / f"{name}.{part}.npy") as handle:
                handle.write(data)
        facts = {part: {"sha256": sha[part], "bytes": len(data)} for part, data in content.items()}
        write_json(self.folder / f"{name}.json", {"format": _FORMAT, "count": len(rows), "width": int(features.shape[1]), **facts})
        self._checked |= {f"{name}.features.npy", f"{name}.rows.npy"}
        self._add(name, {"count": len(rows), "width": int(features.shape[1]), **facts}, rows)

    def gather(self, digests: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) float32 and notes (n,) of images that are all in the store, in their order.

        Raises CacheError if a shard is not what its manifest says.
        """
        places = np.array([self._at[digest] for digest in digests], dtype=np.int64).reshape(-1, 2)
        features = np.empty((len(digests), self.width), np.float32)
        notes = np.zeros(len(digests), np.uint16)
        order = np.argsort(places[:, 0], kind="stable")
        bounds = np.flatnonzero(np.diff(places[order, 0])) + 1
        for wanted in np.split(order, bounds) if len(order) else []:
            shard = int(places[wanted[0], 0])
            name, facts = self._shards[shard]
            rows = places[wanted, 1]
            features[wanted] = self._array(name, "features", facts)[rows]
            notes[wanted] = self._notes[shard][rows]
        return features, notes

    def bad(self, digest: bytes) -> str | None:
        """Why an image with these bytes cannot be decoded, if that was found before."""
        try:
            return str(json.loads((self.folder / "bad" / f"{digest.hex()}.json").read_text())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put_bad(self, digest: bytes, image: str, reason: str) -> None:
        """Remember that an image with these bytes cannot be decoded."""
        write_json(self.folder / "bad" / f"{digest.hex()}.json", {"image": image, "reason": reason})

    def _open(self, path: Path) -> None:
        try:
            facts = json.loads(path.read_text())
            if facts["format"] > _FORMAT:
                raise CacheError("written by a newer fewvit", file=path, fix="Update fewvit, or use another --cache-dir.")
            rows = self._array(path.stem, "rows", facts)
            if self._shards and facts["width"] != self.width:
                raise self._damaged(path, f"its rows are {facts['width']} wide, those of the other shards {self.width}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, "it cannot be read") from error
        self._add(path.stem, facts, np.ascontiguousarray(rows).reshape(-1).view(_ROW))

    def _add(self, name: str, facts: dict[str, Any], rows: np.ndarray) -> None:
        shard, self.width = len(self._shards), facts["width"]
        self._shards.append((name, facts))
        self._notes.append(rows["notes"].copy())
        data = rows["digest"].tobytes()
        for row in range(len(rows)):
            self._at.setdefault(data[32 * row : 32 * row + 32], (shard, row))

    def _array(self, name: str, part: str, facts: dict[str, Any]) -> np.ndarray:
        """One array of a shard: its size is checked always, its sha256 once per process."""
        path = self.folder / f"{name}.{part}.npy"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, "it is gone") from error
        if len(data) != facts[part]["bytes"]:
            raise self._damaged(path, f"it has {len(data)} bytes instead of {facts[part]['bytes']}")
        if path.name not in self._checked:
            if hashlib.sha256(data).hexdigest() != facts[part]["sha256"]:
                raise self._damaged(path, "its sha256 is not the one in its manifest")
            self._checked.add(path.name)
        offset = 10 + int.from_bytes(data[8:10], "little")  # magic, version, header length, header: a view, where read_array would copy
        array = np.frombuffer(data, "<f4" if part == "features" else "u1", offset=offset)
        columns = self.width if part == "features" else _ROW.itemsize
        if array.size != facts["count"] * columns:
            raise self._damaged(path, f"it has {array.size} numbers where its manifest says {facts['count']} rows of {columns}")
        return array.reshape(facts["count"], columns)

    def _damaged(self, path: Path, why: str) -> CacheError:
        return CacheError(
            f"this part of the feature cache is damaged: {why}",
            file=path,
            fix=f"Remove {self.folder} (its features are computed again), or use --no-cache.",
        )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()
