"""What kind of file this is, by its first bytes: torch's zip, torch's old format, safetensors, or something else by its
name.
"""

from __future__ import annotations

import os
import re
import tarfile
from typing import IO

from ..errors import CheckpointError, printable
from .opening import _HEAD, _LEGACY, _again


def foreign_kind(head: bytes) -> str | None:
    """What a file is that begins with `head` and can be no weights file: "a web page (its title: …)", "a gzip file";
    None if it may be one.
    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "a tar archive; unpack it, the weights are a file inside"
    if head.startswith(b"version https://git-lfs"):
        oid, size = re.search(rb"oid sha256:([0-9a-f]{64})", head), re.search(rb"size (\d+)", head)
        size_and_digest = f" for {int(size[1]):,} bytes with sha256 {oid[1][:16].decode()}…" if oid and size else ""
        return f"a Git-LFS pointer{size_and_digest}; `git lfs pull` fetches the weights"
    return _text_kind(head)


_MAGIC = {
    b"\x1f\x8b": "a gzip file; gunzip it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it first",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file; fewvit reads torch, safetensors and .npz files",
    b"\x93NUMPY": "a NumPy array; fewvit reads torch, safetensors and .npz files",
}


def _is_old_tar(head: bytes) -> bool:
    """Whether the first block is the header of a tar without the ustar mark: the sum in it must be right."""
    try:
        return (
            len(head) >= 512
            and head[0] != 0x80
            and bool(tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape").name)
        )
    except (tarfile.HeaderError, ValueError):
        return False


def _text_kind(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    low = text[:1024].lower()
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<script")) or (
        low.startswith(b"<") and b"<html" in low
    ):
        title = re.search(rb"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
        shown = " ".join(title[1].decode("utf-8", "replace").split())[:80] if title else ""
        return f"a web page (its title: {printable(shown)})" if shown else "a web page without a title"
    if low.startswith(b"<?xml"):
        return "an XML document, as servers send for an error"
    if not text or not _is_text(head):
        return None
    return (
        "JSON text, as servers send for an error"
        if text[:1] in b"{["
        else f"plain text ({printable(text[:40].decode('utf-8', 'replace'))}…)"
    )


def _is_text(head: bytes) -> bool:
    """Whether `head` is UTF-8 without control characters; a character cut at its end is forgiven."""
    try:
        text = head[: len(head) - 3 if len(head) >= _HEAD else len(head)].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode("utf-8")
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)


def _refuse_foreign(handle: IO[bytes], path: str | os.PathLike[str]) -> None:
    handle.seek(0)
    head = handle.read(_HEAD)
    if not head:
        raise CheckpointError("is empty (0 bytes); its download did not finish", file=path, fix=_again(path))
    kind = foreign_kind(head)
    if kind is not None:
        raise CheckpointError(f"is not a weights file but {kind}", file=path, fix=None if ";" in kind else _again(path))


def _kind(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> str:
    """`zip`, `safetensors`, `legacy` (torch before 1.6) or `pickle`, which means anything else."""
    handle.seek(0)
    head = handle.read(64)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(_LEGACY):
        return "legacy"
    return "safetensors" if head[8:9] == b"{" or os.fspath(path).endswith(".safetensors") else "pickle"
