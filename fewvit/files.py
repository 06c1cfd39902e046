"""The only module that replaces a file: unique temporary name, fsync, rename, fsync of the folder.

A reader sees the old file or the new one, never a part. What stands in several files is committed by the one written
last. What is read of a user's is a file that has an end: no pipe, no device, nothing that the kernel makes up.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError, from_os_error

_BLOCK = 1 << 20  # bytes read at a time while hashing


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    named: Callable[[], str] | None = None,
    place: str = "--cache-dir or --out",
) -> Iterator[IO[Any]]:
    """A handle whose content becomes `path` when the block ends without an error, and vanishes otherwise.

    `named` gives another file name once the content is written, for files that are called by their digest; `place` is
    the flag that chooses another disk.
    Raises ResourceError when the disk is full; the old file is then untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
        text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with open(temporary, mode, **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if named is not None:
            target = target.with_name(named())
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except OSError as error:
        error.filename = str(target)  # not the temporary name
        raise from_os_error(error, f"writing {target.name}", place=place) from error
    finally:
        with contextlib.suppress(OSError):  # gone by the rename, or never made: its folder may be a file
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder that becomes `path` when the block ends without an error, and vanishes otherwise.

    A folder that is there is replaced: for a moment there is none, and it comes back where the new one can't take its
    place. Raises ResourceError when the disk is full.
    """
    target = Path(path)
    temporary, old = (target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
        fsync_folder(target.parent)
    except OSError as error:
        if error.filename is None or str(temporary) in str(error.filename):
            error.filename = str(target)  # not the temporary name
        raise from_os_error(error, f"writing {target.name}") from error
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Make a file's or folder's content survive a power loss."""
    if path.is_dir():
        fsync_folder(path)
        return
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """While the block runs no other process is in such a block for the same `path`; others wait.

    The lock is a hidden file beside it, held by flock and so released by the system when a process dies. It is removed
    by its holder, hence the look whether what was waited for is still the file of that name.
    """
    import fcntl

    target = Path(path)
    lock = target.with_name(f".{target.name[:100]}.lock")
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise from_os_error(error, f"locking {target.name}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, lock):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        lock.unlink()
                return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str], *, shared: bool = False, mode: str = "r+") -> Iterator[bool | None]:
    """Whether a file is ours while the block runs; nobody waits. None where that is unknown, as without file locks.

    `shared`: others may have it too, as long as they share it. `mode` as for `open`: `a` makes the file.
    """
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with contextlib.ExitStack() as opened:
        try:
            fcntl.flock(opened.enter_context(open(path, mode)), kind | fcntl.LOCK_NB)
            ours: bool | None = True
        except BlockingIOError:
            ours = False
        except OSError:
            ours = None
        yield ours


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def require_writable(folder: Path) -> None:
    """Raise DataError, ResourceError on a full disk, unless files can be made in a folder of the cache, new or old."""
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        error.filename = str(folder)
        fix = "The cache must be writable: choose another folder with --cache-dir or $FEWVIT_CACHE_DIR."
        raise from_os_error(error, "making a file in this folder of the cache", fix=fix) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss, where the file system supports it."""
    with contextlib.suppress(OSError):  # some network file systems refuse to open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Any, *, in_order: bool = False) -> None:
    """Replace `path` by `value` as JSON; lone surrogates of odd file names are escaped, so they come back whole.

    `in_order`: names stay in the order that they have, as the columns of rows are to; otherwise they are sorted.
    """
    text = json.dumps(value, indent=1, sort_keys=not in_order, allow_nan=False)
    with replacing(path, "w") as handle:
        handle.write(text + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpacked_size(path: str | os.PathLike[str]) -> int:
    """The bytes that reading a file takes: those of its members for a zip archive, else its own; 0 where it is gone."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except Exception:  # zipfile meets hostile bytes with half a dozen types of error
        with contextlib.suppress(OSError):
            return os.path.getsize(path)
        return 0


def is_file(status: os.stat_result) -> bool:
    """Whether it is a file that can be read to its end: a regular one that lies on a disk."""
    return stat.S_ISREG(status.st_mode) and status.st_dev not in _made_up()


@functools.cache
def _made_up() -> frozenset[int]:
    """The devices whose files the kernel makes up as they are read; their sizes say nothing, and some never end."""
    devices = set()
    for place in ("/proc", "/sys"):
        with contextlib.suppress(OSError):
            devices.add(os.stat(place).st_dev)
    return frozenset(devices)


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise DataError for what is there and is neither a file that can be read to its end nor a folder."""
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        if not is_file(status) and not stat.S_ISDIR(status.st_mode):
            raise DataError(
                "not a regular file", file=path, fix="Write what it gives to a file on a disk, and give that."
            )


def between_commas(text: str) -> list[str]:
    """The names of a list with commas; a path that is there is one name, whatever commas are in it."""
    words, names, start = text.split(","), [], 0
    while start < len(words):
        ends = range(len(words), start + 1, -1)
        end = next((end for end in ends if os.path.lexists(",".join(words[start:end]))), start + 1)
        names.append(",".join(words[start:end]))
        start = end
    return [name for name in names if name]


def whole(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """A file's bytes.

    Raises OSError, and does not wait, for what cannot be read to its end, and for more than `max_bytes` unread.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as handle:
        status = os.fstat(descriptor)
        if not is_file(status):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        refuse_size(status.st_size, max_bytes, path)
        return handle.read()


def refuse_size(size: int, max_bytes: int, path: str | os.PathLike[str]) -> None:
    """Raise OSError for an image of more bytes than are allowed, before any is read."""
    if size > max_bytes:
        raise OSError(errno.EINVAL, f"{size} bytes, more than --max-bytes {max_bytes}", str(path))


def sweep(folder: Path, older_than_s: float, now_s: float) -> int:
    """Remove temporary files that killed processes left in `folder`; how many went."""
    gone = 0
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if now_s - path.stat().st_mtime > older_than_s:
                path.unlink()
                gone += 1
    return gone
