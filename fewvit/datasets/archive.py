"""A zip archive of class folders, or of images; `file.zip/train` is the folder `train` in it.

Read in place, by offset.
"""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..digests import identity_of, part_identity
from ..errors import DataError, from_os_error, printable, refuse_out_of_memory, some
from ..files import refuse_size
from . import Dataset, Listing
from ._classes import class_folders
from ._listing import OTHER, REPEATED, is_image, name_of, refuse_nothing, unwanted

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A `.zip`, or a folder in it.

    A top folder that only holds one folder after another is passed through: ids start at the class folders.
    """

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether the path goes to a `.zip` file, or on into one."""
        return _split(source) is not None

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The images of the archive, or of the folder in it, read in place. Raises DataError as `Format.open`."""
        content = _source_content(source)
        ids = sorted(content.images, key=os.fsencode)
        folders = content.top_folders()
        refuse_nothing(source, ids, content.left_out)
        labels, classes, notes = class_folders(source, ids, folders, listing.allow_empty_class)
        members = [content.images[name] for name in ids]
        reader = _Reader(content.path, members, identity_of(os.stat(content.path)), listing.max_bytes)
        return Dataset(name_of(source), ids, labels, classes, reader, dict(content.left_out), notes)


def top_folders(source: str) -> list[str]:
    """The folders that stand where an archive's class folders are; none for a source that is no archive."""
    return _source_content(source).top_folders() if Archive.accepts(source) else []


@dataclass(frozen=True)
class _Content:
    """The images and folders at and below one place in an archive, named from there."""

    path: str
    images: dict[str, zipfile.ZipInfo]
    folders: frozenset[str]  # without a slash at the end
    left_out: Counter[str]

    def top_folders(self) -> list[str]:
        return sorted((name for name in self.folders if "/" not in name), key=os.fsencode)

    def below(self, folder: str) -> _Content:
        start = folder + "/"
        images = {name.removeprefix(start): info for name, info in self.images.items() if name.startswith(start)}
        folders = frozenset(name.removeprefix(start) for name in self.folders if name.startswith(start))
        return _Content(self.path, images, folders, self.left_out)

    def without_wrapping(self) -> _Content:
        """This place, or the one below while there is nothing here but one folder that holds nothing but folders."""
        tops = self.top_folders()
        if len(tops) != 1 or any("/" not in name for name in self.images):
            return self
        inner = self.below(tops[0])
        wraps = inner.folders and not any("/" not in name for name in inner.images)
        return inner.without_wrapping() if wraps else self


def _split(source: str) -> tuple[str, str] | None:
    """The archive's path and the folder inside that a source names; None if it names no zip file."""
    path, inside = source.rstrip("/"), ""
    while path and not path.lower().endswith(".zip"):
        path, tail = os.path.split(path)
        if not tail:
            return None
        inside = f"{tail}/{inside}" if inside else tail
    return (path, inside) if path and os.path.isfile(path) else None


def _source_content(source: str) -> _Content:
    """What a source means: the folder it names, as written or below the wrapping folders.

    Raises DataError if there is none.
    """
    path, inside = _split(source) or (source, "")
    content = _content(path)
    unwrapped = content.without_wrapping()
    if not inside:
        return unwrapped
    for place in (content, unwrapped):
        if inside in place.folders:
            return place.below(inside)
    raise DataError(
        f"no folder {printable(inside)} in it; there are {some(unwrapped.top_folders()) or 'none'}", file=path
    )


def _content(path: str) -> _Content:
    """Everything in the zip file `path` that may be read. Raises DataError for a damaged or encrypted one."""
    images: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    left_out: Counter[str] = Counter()
    for info in _infos(path):
        name = info.filename.rstrip("/")
        if reason := _reason(info):
            left_out[reason] += 1
            continue
        folders.update(_parents(name), [name] if info.is_dir() else [])
        if not info.is_dir():
            left_out[REPEATED] += name in images
            images[name] = info
    locked = [name for name, info in images.items() if info.flag_bits & 1]
    if locked:
        raise DataError(f"encrypted: {some(locked, 1)}", file=path, fix="Unpack it first.")
    return _Content(os.path.abspath(path), images, frozenset(folders), +left_out)


def _infos(path: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError as error:
        raise from_os_error(error, "reading the archive") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, MemoryError, struct.error) as error:
        refuse_out_of_memory(error, "reading the archive", os.path.getsize(path))
        raise DataError(f"not a zip file, or a damaged one: {printable(error)}", file=path) from error


def _reason(info: zipfile.ZipInfo) -> str | None:
    """Why a member is passed over, or None."""
    parts = info.filename.rstrip("/").split("/")
    if {"", ".", ".."} & set(parts):
        return "name that leaves the archive"
    if reason := next(filter(None, map(unwanted, parts)), None):
        return reason
    if info.is_dir():
        return None
    if not is_image(parts[-1]):
        return OTHER
    return None if info.compress_type in _METHODS else "compressed otherwise than by deflate"


def _parents(name: str) -> Iterator[str]:
    """The folders above a member: of `a/b/c`, `a/b` and `a`."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


@dataclass(frozen=True)
class _Reader:
    """Reads members by offset.

    The file is opened each time (10 us): no handle is shared by threads or inherited by a fork.
    """

    path: str
    members: list[zipfile.ZipInfo]
    container: bytes  # identity of the file when it was indexed
    max_bytes: int  # of one image, unpacked

    def read(self, i: int) -> bytes:
        member = self.members[i]
        refuse_size(member.file_size, self.max_bytes, self.path)
        packed = _packed(self.path, member)
        data = packed if member.compress_type == zipfile.ZIP_STORED else _inflated(packed, member.file_size)
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise OSError(errno.EIO, "damaged zip member", self.path)
        return data

    def identity(self, i: int) -> bytes | None:
        return part_identity(self.container, self.members[i].header_offset)

    def place(self, i: int) -> str | None:
        return f"{self.path}/{self.members[i].filename}"


def _packed(path: str, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes as they stand in the file; what is no member gives none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if member.header_offset < 0:
            return b""
        header = os.pread(descriptor, 30, member.header_offset)  # the local header: 30 bytes, the name, extra fields
        if len(header) < 30 or header[:4] != b"PK\3\4":
            return b""
        start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        there = max(0, os.fstat(descriptor).st_size - start)  # bytes
        # a size that lies asks for more than there is, or than any packing of the image takes
        return os.pread(descriptor, min(member.compress_size, there, 2 * member.file_size + 1024), start)
    finally:
        os.close(descriptor)


def _inflated(packed: bytes, size: int) -> bytes:
    """At most `size` + 1 bytes, whatever the stream holds; nothing if it is damaged."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error:
        return b""
