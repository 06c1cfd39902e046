"""Whether a weights file is the one it should be: sha256, MD5 prefix, and the digest pinned beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from functools import partial
from io import BufferedReader
from pathlib import Path

from ..errors import CheckpointError, DataError, from_os_error, printable
from ..files import replacing
from .opening import _again, _opened


def verify_file(path: str | os.PathLike[str], sha256: str | None, pin: bool, md5_prefix: str | None = None) -> str:
    """The sha256 of a file, in hex, after it was compared with whatever is known of it: `sha256`, the start of its md5,
    or the pin.

    Without a published `sha256` and with `pin`, the first digest seen is kept in `<file>.sha256`, in the format of
    sha256sum, and every later one must equal it; in a folder that cannot be written there is no pin. Raises
    CheckpointError naming both digests.
    """
    with _opened(path) as handle:
        if md5_prefix is not None:
            _refuse_other_digest(path, _hashed(handle, "md5"), md5_prefix, "md5")
        found = _hashed(handle, "sha256")
    if sha256 is not None:
        _refuse_other_digest(path, found, sha256)
    elif pin:
        _compare_with_pin(Path(path), found)
    return found


def pinned_digest(path: str | os.PathLike[str]) -> str | None:
    """The sha256 that was pinned for `path` when it was first seen, or None.

    Raises CheckpointError when the pin is unreadable.
    """
    pin = _pin_of(Path(path))
    try:
        words = pin.read_text("utf-8", errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, "reading a pinned digest") from error
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0].lower()):
        raise CheckpointError("is no sha256 in hex", file=pin, fix="Delete it, and the file's digest is pinned anew.")
    return words[0].lower()


def _hashed(handle: BufferedReader, algorithm: str) -> str:
    handle.seek(0)
    return hashlib.file_digest(handle, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def _refuse_other_digest(path: str | os.PathLike[str], found: str, expected: str, algorithm: str = "sha256") -> None:
    expected = expected.strip().lower()
    if not expected or not found.startswith(expected) or (algorithm == "sha256" and len(expected) != 64):
        raise CheckpointError(
            f"{algorithm} is {found}, expected {expected}: these are not the published bytes",
            file=path,
            fix=_again(path),
        )


def _pin_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _compare_with_pin(path: Path, found: str) -> None:
    pinned = pinned_digest(path)
    if pinned is None:
        # a shared folder may be read-only
        with contextlib.suppress(DataError), replacing(_pin_of(path), "w") as handle:
            handle.write(f"{found}  {path.name}\n")
    elif pinned != found:
        fix = f"If you replaced the file on purpose, delete {printable(_pin_of(path))}; if not, fetch the file again."
        raise CheckpointError(
            f"sha256 is {found}, but {pinned} when it was first used: the file has changed", file=path, fix=fix
        )
