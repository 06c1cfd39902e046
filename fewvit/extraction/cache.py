"""The content-addressed feature store: a folder per pipeline, with rows addressed by the digest of the image's bytes.

A shard is two files of one name, the digest of its content: `.npy` with the features and, written last, `.rows` with a
line of JSON (sizes, sha256 of the features) and the digests of the images. Only the last one makes a shard exist,
nothing is ever rewritten, and equal work has equal names: writers need no lock, and a kill loses at most the rows that
were not yet in a shard.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from ..digests import DigestMemory
from ..errors import CacheError, counted, refuse_out_of_memory
from ..files import replacing, require_writable, sweep, write_json
from ..untrusted.texts import json_of

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
    """The cache folder: feature stores, digests of files, weights, accepted licences, what bare files are."""

    folder: Path

    def store(self, key: Mapping[str, Any]) -> FeatureStore:
        """The store of a pipeline; made when the first shard is written."""
        return FeatureStore(self.folder / "features" / key_digest(key)[:32], key)

    def digests(self, *, rehash: bool = False) -> DigestMemory:
        """The digests of files seen before, by file identity; with `rehash` what was remembered is not used."""
        return DigestMemory(self.folder / "digests", rehash=rehash)

    @property
    def tuned(self) -> Path:
        """Where low-shot evaluation keeps the networks that it trained."""
        return self.folder / "tuned"

    def stores(self) -> Iterator[dict[str, Any]]:
        """Facts about each store: its key, rows, bytes and folder."""
        for path in sorted((self.folder / "features").glob("*/key.json")):
            with contextlib.suppress(OSError, ValueError):
                manifests = [_first_line(shard) for shard in _manifests(path.parent)]
                size = sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file())
                yield {
                    "folder": str(path.parent),
                    "key": json_of(path.read_text()),
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
            freed += sum(f.stat().st_size for f in self.tuned.rglob("*") if f.is_file())
            for name in ("features", "digests", "backbones", self.tuned.name):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return freed


_LABELS = ("backbone", "protocol", "weights_sha256")  # of a key; the weights' part in it is `weights`, a fingerprint


def key_digest(key: Mapping[str, Any]) -> str:
    """sha256 of a pipeline key, the name of its store. What only labels it is left out."""
    decisive = {name: value for name, value in key.items() if name not in _LABELS}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.rows"))


def _first_line(path: Path) -> dict[str, Any]:
    with open(path, "rb") as handle:
        return dict(json_of(handle.readline()))


class FeatureStore:
    """Rows of one pipeline. Opening reads digests only; features are read, checked and gathered when asked for."""

    def __init__(self, folder: Path, key: Mapping[str, Any]):
        self.folder, self.key = folder, key
        self._shards: list[tuple[str, dict[str, Any]]] = []
        self._starts: list[int] = []  # number of each shard's first row, counted over all shards
        self._rows: dict[bytes, int] = {}  # digest -> its row, counted over all shards; of equal ones the first
        self._digests: list[list[bytes]] = []  # of each shard's rows
        self._notes: list[np.ndarray] = []
        self._checked: set[str] = set()  # shards whose sha256 this process has seen to be right
        self.width = 0
        for path in _manifests(folder):
            self._open(path)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def require_writable(self) -> None:
        """Raise DataError, ResourceError on a full disk, unless shards can be written: to be called before the work."""
        require_writable(self.folder.parent)

    def put(self, digests: list[bytes], notes: list[int], features: np.ndarray) -> None:
        """Commit rows (n, D) as one shard. Raises ResourceError when the disk is full; earlier shards stay valid."""
        rows = np.zeros(len(digests), _ROW)
        rows["digest"] = np.frombuffer(b"".join(digests), "V32")
        rows["notes"] = notes
        content = np.ascontiguousarray(features, dtype="<f4")
        pieces: list[bytes | memoryview] = [_npy_header(content), content.data.cast("B")]
        if not (self.folder / "key.json").exists():
            write_json(self.folder / "key.json", dict(self.key))
            sweep(self.folder, _DAY_S, time.time())
        hashing = _hasher().submit(_sha256, pieces)  # while they are written: only the name waits for it
        with replacing(self.folder / "shard.npy", named=lambda: f"{_shard_name(hashing.result(), rows)}.npy") as handle:
            handle.writelines(pieces)
        sha256, size = hashing.result(), sum(map(len, pieces))
        facts = {
            "format": _FORMAT,
            "count": len(rows),
            "width": int(features.shape[1]),
            "sha256": sha256,
            "bytes": size,
        }
        name = _shard_name(sha256, rows)
        with replacing(self.folder / f"{name}.rows") as handle:
            handle.writelines([json.dumps(facts).encode() + b"\n", rows.tobytes()])
        self._checked.add(name)
        self._add(name, facts, rows)

    def gather(self, digests: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) float32 and notes (n,) of images that are all in the store, in their order.

        Raises CacheError if a shard is not what its manifest says, KeyError, the first digest in hex, for one that is
        in none.
        """
        try:
            numbers = self._numbers(digests)
        except KeyError as error:
            raise KeyError(error.args[0].hex()) from None
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        features = np.empty((len(digests), self.width), np.float32)
        notes = np.zeros(len(digests), np.uint16)
        order = np.argsort(shards, kind="stable")
        for wanted in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else []:
            shard = int(shards[wanted[0]])
            name, facts = self._shards[shard]
            rows = numbers[wanted] - self._starts[shard]
            notes[wanted] = self._notes[shard][rows]
            if len(rows) == facts["count"] and _is_run(rows) and _is_run(wanted):
                # a whole shard: read where it belongs
                self._array(name, facts, out=features[wanted[0] : wanted[-1] + 1])
            else:
                features[wanted] = self._array(name, facts)[rows]
        return features, notes

    def _numbers(self, digests: list[bytes]) -> np.ndarray:
        """The row (n,) of each digest, counted over all shards. Raises KeyError.

        A data set that was stored in its order asks for one whole shard after another: comparing those takes a fifth
        of the time that looking every digest up does.
        """
        numbers, done = [np.zeros(0, np.int64)], 0
        while done < len(digests):
            first = self._rows[digests[done]]
            shard = bisect.bisect_right(self._starts, first) - 1
            stored = self._digests[shard]
            if stored != digests[done : done + len(stored)]:
                return np.fromiter(map(self._rows.__getitem__, digests), np.int64, len(digests))
            numbers.append(np.arange(first, first + len(stored)))  # it begins with the first one asked for
            done += len(stored)
        return np.concatenate(numbers)

    def bad(self, digest: bytes) -> str | None:
        """Why an image with these bytes cannot be decoded, if that was found before."""
        try:
            return str(json_of((self.folder / "bad" / f"{digest.hex()}.json").read_text())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put_bad(self, digest: bytes, image: str, reason: str) -> None:
        """Remember that an image with these bytes cannot be decoded."""
        write_json(self.folder / "bad" / f"{digest.hex()}.json", {"image": image, "reason": reason})

    def _open(self, path: Path) -> None:
        try:
            line, _, content = path.read_bytes().partition(b"\n")
            facts = json_of(line)
            if facts["format"] > _FORMAT:
                raise CacheError(
                    "written by a newer fewvit", file=path, fix="Update fewvit, or use another --cache-dir."
                )
            rows = np.frombuffer(content, _ROW)
            if len(rows) != facts["count"] or _shard_name(facts["sha256"], rows) != path.stem:
                raise self._damaged(path, "its name is not the digest of its content")
            if self._shards and facts["width"] != self.width:
                raise self._damaged(path, f"its rows are {facts['width']} wide, those of the other shards {self.width}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            refuse_out_of_memory(error, "reading the cache")
            raise self._damaged(path, "it cannot be read") from error
        self._add(path.stem, facts, rows)

    def _add(self, name: str, facts: dict[str, Any], rows: np.ndarray) -> None:
        start = self._starts[-1] + self._shards[-1][1]["count"] if self._shards else 0
        self.width = facts["width"]
        self._shards.append((name, facts))
        self._starts.append(start)
        self._notes.append(rows["notes"].copy())
        self._digests.append(rows["digest"].tolist())
        for row, digest in enumerate(self._digests[-1], start):
            self._rows.setdefault(digest, row)

    def _array(self, name: str, facts: dict[str, Any], out: np.ndarray | None = None) -> np.ndarray:
        """The features of a shard, in `out` if given: their size is checked always, their sha256 once per process."""
        path = self.folder / f"{name}.npy"
        array = np.empty((facts["count"], self.width), "<f4") if out is None else out
        expected = _npy_header(array)
        try:
            with open(path, "rb", buffering=0) as handle:
                size = os.fstat(handle.fileno()).st_size
                if size != facts["bytes"]:
                    raise self._damaged(path, f"it has {counted(size, 'byte')} instead of {facts['bytes']}")
                header = handle.read(len(expected))
                if header != expected or size != len(header) + array.nbytes:
                    raise self._damaged(
                        path, f"it is not an array of its manifest's {counted(facts['count'], 'row')} of {self.width}"
                    )
                _fill(array.data.cast("B"), handle)
        except OSError as error:
            refuse_out_of_memory(error, "reading the cache")
            raise self._damaged(path, "it is gone") from error
        if name not in self._checked:
            if _sha256([header, array.data.cast("B")]) != facts["sha256"]:
                raise self._damaged(path, "its sha256 is not the one in its manifest")
            self._checked.add(name)
        return array

    def _damaged(self, path: Path, why: str) -> CacheError:
        return CacheError(
            f"this part of the feature cache is damaged: {why}",
            file=path,
            fix=f"Remove {self.folder} (its features are computed again), or use --no-cache.",
        )


def _npy_header(array: np.ndarray) -> bytes:
    """What stands before the content of a contiguous array in a `.npy` file."""
    return _header(array.dtype.str, array.shape)


@lru_cache(maxsize=64)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _shard_name(sha256: str, rows: np.ndarray) -> str:
    """The digest of a shard's content: of its features' sha256 and its rows."""
    return hashlib.sha256(sha256.encode() + rows.tobytes()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _hasher() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="sha256")


def _sha256(pieces: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _fill(view: memoryview, handle: FileIO) -> None:
    """Read from `handle` until `view` is full; a file that ends before is an OSError."""
    done = 0
    while done < len(view):
        got = handle.readinto(view[done:])
        if not got:
            raise OSError("the file is shorter than it was")
        done += got


def _is_run(numbers: np.ndarray) -> bool:
    """Whether numbers go up one by one."""
    return bool((np.diff(numbers) == 1).all())
