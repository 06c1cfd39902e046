"""The folder of an index. `CURRENT` names one manifest, and the manifest every file: replacing `CURRENT` is the commit.

    CURRENT                    {"manifest": "manifests/3-1f2e….json", "sha256": "…"}
    manifests/3-1f2e….json     version 3: what the index is, and size and sha256 of every file
    data/<digest>.ids …        files that are never rewritten; versions share them

A reader maps what the manifest names and compares the digests before a byte is used. A writer adds files, then a
manifest, then replaces `CURRENT`; what no version needs is removed after that. A reader that has files open keeps them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..cpu import in_threads
from ..errors import DataError, IntegrityError, UsageError, from_os_error, printable
from ..files import replacing
from ..untrusted.texts import json_of
from .manifest import Manifest, StoredFile

_CURRENT = "CURRENT"
_MANIFEST = re.compile(r"manifests/\d+-[0-9a-f]{16}\.json")
_OWN = re.compile(rf"{_MANIFEST.pattern}|data/[0-9a-f]{{32}}\.[a-z]+")  # all else in these folders is somebody else's
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # of `files.replacing`
_REBUILD = "Build the index again with `fewvit index build`."
_PLACE = "--index"  # what chooses another disk for it
_QUICK = 1 << 20  # bytes that are digested sooner than threads are started
_TRIES = 5  # how often a reader looks again where a writer removed what it was about to open


class IndexFolder:
    """A folder that holds an index, or will."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @property
    def is_there(self) -> bool:
        """Whether an index was committed here."""
        return (self.path / _CURRENT).is_file()

    def require_index(self) -> None:
        """Raise DataError unless an index was committed here."""
        if not self.is_there:
            what = "no index" if self.path.is_dir() else "no such folder"
            raise DataError(what, file=self.path, fix="Make one with `fewvit index build --data SRC --index IDX`.")

    def require_free(self) -> None:
        """Raise UsageError where something other than an index stands."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("--index is a file; give the name of a folder", file=self.path)
        if self.path.is_dir() and not self.is_there:
            foreign = next(self._foreign(), None)
            if foreign is not None:
                raise UsageError(
                    f"this folder holds other things than an index ({printable(foreign)})",
                    file=self.path,
                    fix="Give --index another name.",
                )

    def _foreign(self) -> Iterator[str]:
        """What no writer of an index has put here, by its path in the folder; hidden things beside it may stay."""
        for path in sorted(self.path.iterdir()):
            if path.name in ("manifests", "data") and path.is_dir():
                inside = (f"{path.name}/{name}" for name in sorted(os.listdir(path)) if not name.startswith("."))
                yield from (name for name in inside if not _OWN.fullmatch(name))
            elif not path.name.startswith("."):
                yield path.name

    def current(self) -> Manifest:
        """The manifest that `CURRENT` names. Raises DataError for no index, IntegrityError for a damaged one."""
        self.require_index()
        with _regular(self.path / _CURRENT) as handle:
            data = handle.read()
        try:
            text = data.decode("utf-8")
            named = json_of(text)
            name, wanted = str(named["manifest"]), str(named["sha256"])
            is_whole = text == _current(name, wanted)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("it does not name a manifest", file=self.path / _CURRENT, fix=_REBUILD) from error
        if not is_whole or not _MANIFEST.fullmatch(name):
            raise IntegrityError("it does not name a manifest", file=self.path / _CURRENT, fix=_REBUILD)
        with _regular(self.path / name) as handle:
            data = handle.read()
        if (found := hashlib.sha256(data).hexdigest()) != wanted:
            raise damaged(self.path / name, f"its sha256 is {found[:12]}…, and {wanted[:12]}… was written")
        return Manifest.of_text(data.decode("utf-8", "surrogateescape"), str(self.path / name))

    def opened(self) -> tuple[Manifest, dict[str, memoryview]]:
        """The current manifest and its files, mapped and of the right size; by their paths in it.

        Raises as `current`, and IntegrityError for a file that is gone.
        """
        for _ in range(_TRIES):
            before = self._token()
            try:
                manifest = self.current()
                return manifest, {file.path: self.mapped(file) for file in manifest.files}
            except IntegrityError:
                # else another version was committed meanwhile, and what it does not need is gone
                if self._token() == before:
                    raise
        raise IntegrityError("it changes too fast to be opened", file=self.path, fix="Try again.")

    def _token(self) -> bytes:
        with contextlib.suppress(OSError):
            return (self.path / _CURRENT).read_bytes()
        return b""

    def mapped(self, file: StoredFile) -> memoryview:
        """A file's bytes, mapped for reading: as many as the manifest says.

        Raises IntegrityError where it is gone, no file or one of another size. A file that another program cuts after
        that ends the reader with SIGBUS; fewvit itself never writes into a file that is there.
        """
        path = self.path / file.path
        with _regular(path) as handle:
            if (size := os.fstat(handle.fileno()).st_size) != file.bytes:
                raise damaged(path, f"it has {size} bytes instead of {file.bytes}")
            if file.bytes == 0:
                return memoryview(b"")
            try:
                return memoryview(mmap.mmap(handle.fileno(), file.bytes, access=mmap.ACCESS_READ))
            except ValueError as error:
                raise damaged(path, f"it was cut while it was opened ({error})") from error

    def require_digests(self, files: Iterable[StoredFile], mapped: dict[str, memoryview]) -> None:
        """Raise IntegrityError, naming the file, unless every file's sha256 is the manifest's."""
        wanted = list(files)
        apart = map if sum(file.bytes for file in wanted) < _QUICK else in_threads
        digests = apart(lambda file: hashlib.sha256(mapped[file.path]).hexdigest(), wanted)
        for file, found in zip(wanted, digests, strict=True):
            if found != file.sha256:
                why = f"its sha256 is {found[:12]}…, and {file.sha256[:12]}… was written"
                raise damaged(self.path / file.path, why)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While the block runs, no other process changes this index. Raises UsageError where one does already."""
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise from_os_error(error, "writing to this index", place=_PLACE) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    "another command is changing this index",
                    file=self.path,
                    fix="Wait until it ends, or stop it: the index stays as it was.",
                ) from None
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    def store(self, data: bytes | memoryview, suffix: str) -> StoredFile:
        """A file with this content, named by its digest; one that is there already is left as it is."""
        with self.storing(suffix) as writer:
            writer.write(data)
        return writer.file

    @contextlib.contextmanager
    def storing(self, suffix: str) -> Iterator[HashingWriter]:
        """A file that is written in pieces and named by the digest of its content when the block ends."""
        target = self.path / "data" / f"new{suffix}"
        with replacing(target, named=lambda: Path(writer.file.path).name, place=_PLACE) as handle:
            writer = HashingWriter(handle, suffix)
            yield writer

    def commit(self, manifest: Manifest) -> None:
        """Make this the current version; then remove what it does not need."""
        data = manifest.to_text().encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(data).hexdigest()
        name = f"manifests/{manifest.version}-{digest[:16]}.json"
        with replacing(self.path / name, place=_PLACE) as handle:
            handle.write(data)
        with replacing(self.path / _CURRENT, "w", place=_PLACE) as handle:
            handle.write(_current(name, digest))
        self._remove_all_but(manifest, name)

    def _remove_all_but(self, manifest: Manifest, name: str) -> None:
        needed = {name, *(file.path for file in manifest.files)}
        for folder in ("manifests", "data"):
            self._remove(path for path in (self.path / folder).iterdir() if f"{folder}/{path.name}" not in needed)

    def _sweep(self) -> None:
        """Remove what killed writers left: only the holder of the lock has files of its own under way."""
        for folder in (self.path, self.path / "data", self.path / "manifests"):
            self._remove(folder.glob(".*.tmp"))
        if not self.is_there:  # files of a first build that was killed belong to no version
            self._remove((self.path / "data").glob("*"))

    def _remove(self, paths: Iterable[Path]) -> None:
        """Remove these files, but none whose name no writer of an index gives."""
        for path in paths:
            if _TEMPORARY.fullmatch(path.name) or _OWN.fullmatch(f"{path.parent.name}/{path.name}"):
                with contextlib.suppress(OSError):  # it is only in the way
                    path.unlink()


class HashingWriter:
    """Counts and digests what is written through it."""

    def __init__(self, handle: IO[Any], suffix: str):
        self.suffix = suffix
        self._handle, self._digest, self._bytes = handle, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        """Write, count and digest these bytes."""
        self._digest.update(data)
        self._bytes += len(data)
        self._handle.write(data)

    @property
    def file(self) -> StoredFile:
        """What was written so far, and its name in the index."""
        digest = self._digest.hexdigest()
        return StoredFile(f"data/{digest[:32]}{self.suffix}", self._bytes, digest)


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """A file of the index, open.

    Raises IntegrityError where it is gone or no file, DataError or ResourceError where the system does not open it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe of that name keeps nobody waiting
    except FileNotFoundError as error:
        raise damaged(path, "it is gone") from error
    except OSError as error:
        raise from_os_error(error, "reading this index") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise damaged(path, "it is no file")
        with open(descriptor, "rb", closefd=False) as handle:
            yield handle
    finally:
        os.close(descriptor)


def _current(name: str, sha256: str) -> str:
    """What `CURRENT` holds."""
    return json.dumps({"manifest": name, "sha256": sha256}) + "\n"


def damaged(path: Path, why: str) -> IntegrityError:
    """The error of a file that is not what the manifest says."""
    return IntegrityError(f"this part of the index is damaged: {why}", file=path, fix=_REBUILD)
