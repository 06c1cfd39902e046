"""Opening a weights file: a regular file that can be read, with the words for what is wrong otherwise."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, from_os_error, printable
from ..runs.folder import ANEW

if TYPE_CHECKING:
    from torch import Tensor


_BLOCK = 1 << 20  # bytes read at a time
_HEAD = 1 << 16  # bytes looked at to say what a file is
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # how torch's own format from before 1.6 begins
AGAIN = "Delete it and fetch it again (`fewvit backbones fetch NAME`), or get it anew where it came from."


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise DataError unless `path` is a regular file that can be opened."""
    with _opened(path):
        pass


def _again(path: str | os.PathLike[str]) -> str:
    """What to do about a damaged file: nobody but the run that made it can give a run's own again."""
    return ANEW if (Path(path).parent / "manifest.json").is_file() else AGAIN


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise DataError(
                "is a folder, not a weights file" if os.path.isdir(path) else "is no regular file", file=path
            )
        handle = open(path, "rb")  # noqa: SIM115  closed below; errors of the body are not this one's
    except FileNotFoundError as error:
        raise DataError("no such file", file=path, fix="Check the spelling of --weights or --backbone.") from error
    except OSError as error:
        raise from_os_error(error, "opening a weights file") from error
    with handle:
        yield handle


def _megabytes(have: int, want: int) -> str:
    """`41.2 of 82.7 MB`, and the bytes where megabytes would not show the difference."""
    shown = f"{have / 1e6:.1f} of {want / 1e6:.1f} MB"
    return shown if f"{have / 1e6:.1f}" != f"{want / 1e6:.1f}" else f"{have:,} of {want:,} bytes"


def _is_plain(tensor: Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _reason(error: BaseException) -> str:
    """The error's type and the last line of its text that says something, cut at 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "docs/stable" not in line]
    return f"{type(error).__name__}: {printable(lines[-1])[:160]}" if lines else type(error).__name__
