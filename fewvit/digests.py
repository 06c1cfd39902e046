"""What a file's bytes were when it had this identity: sha256 remembered under (device, inode, size, mtime_ns,
ctime_ns).

Immutable record files whose name is the digest of their content: writers never conflict, and a damaged one is simply
not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .cpu import in_threads
from .errors import refuse_out_of_memory
from .files import replacing, require_writable, sha256_of

if TYPE_CHECKING:
    from .datasets import Dataset

_RECORD = np.dtype([("identity", "<i8", 5), ("digest", "u1", 32)])
_RECENT_NS = 100_000_000  # a file changed within 0.1 s of now may change again under the same time stamps
_MANY_FILES = 32  # record files before they are merged into one
_AT_ONCE = 16_384  # images read between two stores


def identity_of(status: os.stat_result) -> bytes:
    """40 bytes that change when the file is replaced, rewritten or touched: device, inode, size, mtime_ns, ctime_ns."""
    return struct.pack("<QQQqq", status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def part_identity(container: bytes, number: int) -> bytes:
    """40 bytes for one part of a file, such as a member of an archive: they change with the file's own identity."""
    # the last 8 bytes stay ctime_ns
    return hashlib.sha256(container + number.to_bytes(8, "little")).digest() + container[32:40]


class DigestMemory:
    """Digests by identity. `folder` None remembers within the process only; `rehash` forgets what was stored."""

    def __init__(self, folder: Path | None = None, *, rehash: bool = False):
        self.folder, self._fresh = folder, {}  # type: tuple[Path | None, dict[bytes, bytes]]
        self._rehash = rehash
        self._hold(np.zeros(0, _RECORD))
        self.refresh()

    def refresh(self) -> None:
        """Know what others have stored by now. With `rehash` nothing that was stored is believed."""
        if not self._rehash and self.folder is not None:
            self._hold(_load(self.folder))

    def _hold(self, stored: np.ndarray) -> None:
        order = np.argsort(_mix(stored["identity"]), kind="stable")
        self._stored, self._mixed = stored[order], _mix(stored["identity"])[order]

    def get(self, identity: bytes) -> bytes | None:
        """The 32-byte sha256 of the file that has this identity, or None if it was never read.

        None too where two digests are stored: `--rehash` found that the file had changed unseen, and only reading it
        again shows which one is right.
        """
        if identity in self._fresh:
            return self._fresh[identity]
        wanted = np.frombuffer(identity, "<i8")
        mixed = _mix(wanted[None])[0]
        at = int(np.searchsorted(self._mixed, mixed))
        found = set()
        while at < len(self._stored) and self._mixed[at] == mixed:
            if np.array_equal(self._stored["identity"][at], wanted):
                found.add(self._stored["digest"][at].tobytes())
            at += 1
        return found.pop() if len(found) == 1 else None

    def get_all(self, identities: Sequence[bytes | None]) -> list[bytes | None]:
        """`get` of each identity, None for None; a million of them take a second rather than a minute."""
        asked = [i for i, identity in enumerate(identities) if identity is not None]
        found: list[bytes | None] = [None] * len(identities)
        wanted = np.frombuffer(b"".join(identities[i] or b"" for i in asked), "<i8").reshape(-1, 5)
        first, last = (np.searchsorted(self._mixed, _mix(wanted), side) for side in ("left", "right"))
        # several records, or a key that two identities share, are left to `get`
        hit = np.flatnonzero(last - first == 1)
        hit = hit[(self._stored["identity"][first[hit]] == wanted[hit]).all(axis=1)]
        digests = self._stored["digest"][first[hit]].tobytes()
        for place, row in enumerate(hit.tolist()):
            found[asked[row]] = digests[32 * place : 32 * place + 32]
        for row in np.flatnonzero(last - first > 1).tolist():
            found[asked[row]] = self.get(identities[asked[row]] or b"")
        for i in asked if self._fresh else ():
            found[i] = self._fresh.get(identities[i] or b"", found[i])
        return found

    def put(self, identity: bytes, digest: bytes) -> None:
        """Remember a digest, unless the file is so young that it could still change unseen."""
        changed = int(np.frombuffer(identity, "<i8")[4])
        if time.time_ns() - changed > _RECENT_NS:
            self._fresh[identity] = digest

    def digest_of(self, path: Path) -> str:
        """The sha256 of a file, in hex, read only if it is not remembered."""
        identity = identity_of(path.stat())
        known = self.get(identity)
        if known is None:
            known = bytes.fromhex(sha256_of(path))
            self.put(identity, known)
            self.save()
        return known.hex()

    def save(self) -> None:
        """Store what is new. Safe beside other processes that do the same."""
        if self.folder is None or not self._fresh:
            return
        records = np.zeros(len(self._fresh), _RECORD)
        records["identity"] = np.frombuffer(b"".join(self._fresh), "<i8").reshape(-1, 5)
        records["digest"] = np.frombuffer(b"".join(self._fresh.values()), "u1").reshape(-1, 32)
        _store(self.folder, records)
        self._hold(np.concatenate([self._stored, records]))
        self._fresh = {}
        _merge(self.folder)


def _mix(identity: np.ndarray) -> np.ndarray:
    """A 64-bit key (N,) of identities (N, 5), for binary search; equality is decided on all 40 bytes."""
    factors = np.array(
        [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63],
        dtype=np.uint64,
    )
    return (identity.astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)


def _store(folder: Path, records: np.ndarray) -> Path:
    require_writable(folder)
    data = records.tobytes()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.bin"
    with replacing(path) as handle:
        handle.write(data)
    return path


def _load(folder: Path) -> np.ndarray:
    parts = [np.zeros(0, _RECORD)]
    for path in sorted(folder.glob("*.bin")):
        with contextlib.suppress(OSError):  # merged away by another process meanwhile
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:32] == path.stem:
                parts.append(np.frombuffer(data, _RECORD))
    return np.concatenate(parts)


def _merge(folder: Path) -> None:
    paths = sorted(folder.glob("*.bin"))
    if len(paths) < _MANY_FILES:
        return
    merged = _store(folder, np.unique(_load(folder)))
    for path in paths:
        if path != merged:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Contents:
    """What is in the images of a data set."""

    ids: Sequence[str]
    each: np.ndarray  # (N, 32) uint8, the sha256 of every image; of one that cannot be read, the error's number
    digest: str  # sha256 in hex over ids, labels and bytes


def contents_of(dataset: Dataset, memory: DigestMemory, notify: Callable[[str], None] = lambda line: None) -> Contents:
    """What is in the images of a data set; files whose digest is remembered are not read again.

    That many have to be read first is told.
    """
    digest = hashlib.sha256(dataset.digest.encode())
    each = np.zeros((len(dataset), 32), np.uint8)
    identities = [dataset.identity(row) for row in range(len(dataset))]
    known = memory.get_all(identities)
    missing = [row for row, one in enumerate(known) if one is None]
    if len(missing) > _AT_ONCE:
        notify(f"reading {len(missing)} images of {dataset.name} once, to know them again")
    for start in range(0, len(missing), _AT_ONCE):
        rows = missing[start : start + _AT_ONCE]
        for row, found in zip(rows, in_threads(lambda row: _read_digest(dataset, row), rows), strict=True):
            known[row], identity = found, identities[row]
            if identity is not None and len(found) == each.shape[1]:
                memory.put(identity, found)
        memory.save()  # a kill costs what was read since
    for row, one in enumerate(known):
        digest.update(one or b"")
        each[row, : len(one or b"")] = np.frombuffer(one or b"", np.uint8)
    return Contents(dataset.ids, each, digest.hexdigest())


def _read_digest(dataset: Dataset, row: int) -> bytes:
    """The sha256 of an image's bytes; the error's number if it cannot be read, as the reading of features raises."""
    try:
        return hashlib.sha256(dataset.read(row)).digest()
    except OSError as error:
        refuse_out_of_memory(error, "reading an image")
        return str(error.errno).encode()


def content_digest(dataset: Dataset, memory: DigestMemory) -> str:
    """sha256 in hex over ids, labels and bytes; files whose digest is remembered are not read again."""
    return contents_of(dataset, memory).digest
