"""A weights file that was packed and cut into parts, `NAME.tar.gz.part_aa`, `…_ab` and so on: joined and unpacked once.

Nothing in the archive says where it is written: one regular file has to be in it, and that is called by its digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ..errors import CheckpointError, DataError, printable
from ..files import replacing
from .opening import require_file

if TYPE_CHECKING:
    from ..digests import DigestMemory

_PART = re.compile(r"(?P<stem>.+\.tar\.gz\.part_)(?P<place>[a-z]{2})")
_FIRST = "aa"
_BLOCK = 1 << 20  # bytes unpacked at a time
MOST_UNPACKED = 16  # times the size of the parts


def is_in_parts(path: str | os.PathLike[str]) -> bool:
    """Whether it is a part by its name, or a folder with a first part in it."""
    return _PART.fullmatch(Path(path).name) is not None or bool(_first_parts(Path(path)))


def whole_file(
    path: str | os.PathLike[str],
    cache_dir: Path,
    memory: DigestMemory,
    notify: Callable[[str], None] = lambda line: None,
    names: Sequence[str] = (),
) -> Path:
    """The weights file that the parts beside `path` hold, unpacked into the cache if it is not there yet.

    `path` is one of the parts or their folder; `names` are the names of all of them where they are known. Raises
    DataError for a part that is missing, naming it; CheckpointError for what is no archive of one regular file;
    ResourceError where the disk is full.
    """
    parts = _parts_of(Path(path), names)
    key = hashlib.sha256("".join(memory.digest_of(part) for part in parts).encode()).hexdigest()
    target = cache_dir / "unpacked" / f"{key[:32]}.pth"
    if not target.is_file():
        notify(f"{parts[0].name}: {len(parts)} parts are joined and unpacked to {target}")
        _unpack(parts, target)
    return target


def _first_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*.tar.gz.part_{_FIRST}")) if folder.is_dir() else []


def _parts_of(path: Path, names: Sequence[str]) -> list[Path]:
    """All parts in their order. Raises DataError where one is missing."""
    if path.is_dir():
        found = _first_parts(path)
        if len(found) != 1:
            listed = " and ".join(printable(one.name) for one in found) or f"no part_{_FIRST}"
            raise DataError(f"holds {listed}; one archive's parts are wanted", file=path, fix="Name the first part.")
        path = found[0]
    match = _PART.fullmatch(path.name)
    if match is None:
        raise DataError("is no part of an archive", file=path)
    stem, here = match["stem"], {one.name for one in path.parent.glob("*.part_*")} | {path.name}
    places = sorted(one[len(stem) :] for one in here if one.startswith(stem) and len(one) == len(stem) + len(_FIRST))
    wanted = list(names) or [stem + _name_of(number) for number in range(1 + _number_of(max(places)))]
    missing = [one for one in wanted if not (path.parent / one).is_file()]
    if missing:
        raise DataError(
            f"a part is missing: {', '.join(map(printable, missing))}",
            file=path,
            fix=f"Put all {len(wanted)} parts into one folder: {', '.join(map(printable, wanted))}.",
        )
    found = [path.parent / one for one in wanted]
    for one in found:
        require_file(one)
    return found


def _number_of(place: str) -> int:
    """0 of `aa`, 1 of `ab`, 26 of `ba`, as `split` counts."""
    return 26 * (ord(place[0]) - ord("a")) + ord(place[1]) - ord("a")


def _name_of(number: int) -> str:
    return chr(ord("a") + number // 26) + chr(ord("a") + number % 26)


class _Joined(io.RawIOBase):
    """The parts as one stream."""

    def __init__(self, parts: Sequence[Path]):
        self._waiting = list(parts)
        self._open: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._open is None:
                if not self._waiting:
                    return 0
                self._open = open(self._waiting.pop(0), "rb")  # noqa: SIM115  closed below
            read = self._open.read(len(buffer))
            if read:
                buffer[: len(read)] = read
                return len(read)
            self._open.close()
            self._open = None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()


class _DamagedError(Exception):
    """What is wrong with the joined parts."""


class _Counted:
    """What is unpacked of a stream, and no more than `limit` bytes of it: headers announce what they like."""

    def __init__(self, stream: gzip.GzipFile, limit: int):
        self._stream, self._left, self._limit = stream, limit + _BLOCK, limit  # archives are padded

    def read(self, size: int) -> bytes:
        """The next bytes. Raises _DamagedError beyond the limit."""
        found = self._stream.read(min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise _DamagedError(f"unpack to more than {self._limit:,} bytes")
        return found


def _unpack(parts: Sequence[Path], target: Path) -> None:
    """Write the one file that is in the parts to `target`, all at once. Raises as `whole_file`."""
    limit = MOST_UNPACKED * sum(part.stat().st_size for part in parts)
    try:
        with io.BufferedReader(_Joined(parts), _BLOCK) as joined, replacing(target) as out:
            for block in _content(_Counted(gzip.GzipFile(fileobj=joined), limit), limit):
                out.write(block)
    except _DamagedError as error:
        last = parts[-1].name[-len(_FIRST) :]
        raise CheckpointError(
            f"the {len(parts)} joined parts {error}",
            file=parts[0],
            fix=f"Fetch them again; if more follow part_{last}, such as part_{_name_of(1 + _number_of(last))}, put "
            "those beside them.",
        ) from error


def _content(stream: _Counted, limit: int) -> Iterator[bytes]:
    """The bytes of the one regular file in an archive, to the end of the stream, whose sums are compared.

    Raises _DamagedError.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:  # it only reads
            member = archive.next()
            if member is None or not member.isreg() or member.issparse():
                kind = "nothing" if member is None else f"{printable(member.name)}, which is no regular file"
                raise _DamagedError(f"hold {kind}")
            if member.size > limit:
                raise _DamagedError(f"announce a file of {member.size:,} bytes; {limit:,} is the most for their size")
            file = archive.extractfile(member)
            left = member.size
            while left and file is not None:
                block = file.read(min(_BLOCK, left))
                if not block:
                    raise EOFError("the file in it ends too early")
                left -= len(block)
                yield block
            more = archive.next()
        if more is not None:
            raise _DamagedError(f"hold {printable(more.name)} beside {printable(member.name)}, and one file is wanted")
        while stream.read(_BLOCK):
            pass
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise _DamagedError(f"are cut or damaged ({type(error).__name__}: {printable(str(error))[:80]})") from error
