"""Reading torch's files from strangers: an intact archive, plain tensors, and no global but those on one short list."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from ..errors import CheckpointError, printable, refuse_out_of_memory, some
from ..untrusted.plain_numpy import NoNumberError, PlainDtype, plain_scalar
from .opening import _BLOCK, _again, _reason

_NEVER = "fewvit never runs the code of a weights file: ask its author for plain tensors, best as .safetensors."
_ALLOWING = threading.Lock()  # torch keeps one list of allowed globals for the whole process


def _check_archive(handle: IO[bytes], path: str | os.PathLike[str], size: int, check_crc: bool) -> None:
    """Raise CheckpointError unless the zip is whole, written by torch.save, and its records have not changed since."""
    try:
        archive = zipfile.ZipFile(handle)
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # zipfile meets hostile bytes with half a dozen types of error
        refuse_out_of_memory(error, f"reading {printable(path)}", size)
        raise CheckpointError(
            f"cut or damaged: {size / 1e6:.1f} MB are here, but not the end of the archive", file=path, fix=_again(path)
        ) from error
    with archive:
        if "constants.pkl" in names:
            raise CheckpointError("is a TorchScript archive: a program, not weights", file=path, fix=_NEVER)
        if "data.pkl" not in names:
            shown = some([info.filename for info in archive.infolist()], 3) if archive.infolist() else "nothing"
            raise CheckpointError(f"is not a weights file but another zip archive, holding {shown}", file=path)
        if sum(info.file_size for info in archive.infolist()) > size:
            raise CheckpointError(
                "has records that are compressed or overlap; torch writes neither",
                file=path,
                fix="Load it with torch and save it again.",
            )
        if check_crc:
            _check_records(archive, path)


def _check_records(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError when some records differ from their CRC-32, which torch.load never looks at.

    When all of them differ, the writer had CRCs switched off (`torch.serialization.set_crc32_options`): accepted.
    """
    records = [info for info in archive.infolist() if info.file_size]
    damaged = [info.filename for info in records if not _is_intact(archive, info)]
    if 0 < len(damaged) < len(records):
        raise CheckpointError(
            f"damaged: record {some(damaged, 3)} of {len(records)} is not what was written (CRC-32)",
            file=path,
            fix=_again(path),
        )


def _is_intact(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(record) as stream:
            while stream.read(_BLOCK):
                pass
    except Exception as error:  # a wrong CRC, or whatever zipfile makes of a damaged header
        refuse_out_of_memory(error, f"reading {printable(record.filename)}", _BLOCK)
        return False
    return True


def _read_torch(handle: IO[bytes], path: str | os.PathLike[str], kind: str) -> Any:
    """What torch.save wrote; raises CheckpointError, with the globals that the file names when they are the reason."""
    import torch

    with _only_allowed_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles that it goes on to refuse
        foreign = _foreign_globals(handle) if kind == "zip" else []
        if foreign:
            raise _refusal(foreign, path)
        try:
            handle.seek(0)
            return torch.load(handle, map_location="cpu", weights_only=True)
        except Exception as error:  # ten types were seen over a thousand damaged files
            refuse_out_of_memory(error, f"reading {printable(path)}", os.path.getsize(path))
            foreign = re.findall(r"GLOBAL (\S+) (?:was not|whose)", str(error))
            if foreign:
                raise _refusal(foreign, path) from error
            if isinstance(error, NoNumberError):
                raise CheckpointError(f"refused: {error}", file=path, fix=_NEVER) from error
            what = "is no file that torch wrote, or a damaged one" if kind == "pickle" else "damaged or cut"
            raise CheckpointError(f"{what} ({_reason(error)})", file=path, fix=_again(path)) from error


def _foreign_globals(handle: IO[bytes]) -> list[str]:
    """The globals named in a torch zip that are not allowed, found without loading it.

    None if the pickle is unreadable: loading it will raise.
    """
    import torch

    handle.seek(0)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(handle))
    except Exception as error:
        refuse_out_of_memory(error, "looking into a weights file", 1)  # 1: whether the file lies is told by loading it
        return []


def _refusal(names: list[str], path: str | os.PathLike[str]) -> CheckpointError:
    return CheckpointError(
        f"refused: it asks to call {some([printable(name)[:80] for name in names])}, which is not on the allow-list",
        file=path,
        fix=_NEVER,
    )


@contextlib.contextmanager
def _only_allowed_globals() -> Iterator[None]:
    """Within the block torch.load accepts our allow-list alone, not what other libraries added to torch's."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals

    allowed: list[Any] = [
        argparse.Namespace,  # the arguments in the files of DINO and MAE
        (PlainDtype, "numpy.dtype"),
        (plain_scalar, "numpy._core.multiarray.scalar"),
        (plain_scalar, "numpy.core.multiarray.scalar"),  # the spelling of NumPy 1, in every file from 2021
    ]
    with _ALLOWING:
        others = get_safe_globals()
        clear_safe_globals()
        try:
            with safe_globals(allowed):
                yield
        finally:
            add_safe_globals(others)
