"""A weights file, opened without ever running what is in it: the tree of its tensors, or one error that says what the
file is.

Three doors: `verify_file` (are these the published bytes?), `read_checkpoint` (what is in them?), `fill` (do they fit
this module, all of them?).
"""

from __future__ import annotations

import json
import os
import zipfile
from typing import IO, TYPE_CHECKING, Any

from ..errors import CheckpointError, printable, refuse_out_of_memory
from ..untrusted.arrays import numbers_in
from .digests import _hashed, _refuse_other_digest
from .hostile import _check_archive, _read_torch
from .kinds import _kind, _refuse_foreign
from .opening import _again, _megabytes, _opened, _reason

if TYPE_CHECKING:
    from torch import Tensor


_MAX_HEADER = 16 << 20  # bytes of a safetensors header; that of a ViT-g with optimizer stays below one MiB


def read_checkpoint(
    path: str | os.PathLike[str], expected_sha256: str | None = None, expected_bytes: int | None = None
) -> dict[Any, Any]:
    """The tree in a .pth, .pt, .tar, .safetensors or .npz file, on the CPU, sharing no memory with the file; the last
    two give a flat dict.

    What the file is, its first bytes say, never its name. Everything is read through one open file, so that the bytes
    checked are the bytes loaded. Raises DataError when there is no such file, CheckpointError for whatever is wrong
    inside it.
    """
    with _opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        _refuse_foreign(handle, path)
        _refuse_other_size(path, size, expected_bytes)
        if expected_sha256 is not None:
            _refuse_other_digest(path, _hashed(handle, "sha256"), expected_sha256)
        kind = _kind(handle, path, size)
        if kind == "zip" and _is_of_arrays(handle):
            return _read_arrays(handle, path, size)
        if kind == "zip":
            # a matching sha256 vouches for more than CRCs do
            _check_archive(handle, path, size, check_crc=expected_sha256 is None)
        tree = _read_safetensors(handle, path, size) if kind == "safetensors" else _read_torch(handle, path, kind)
    if not isinstance(tree, dict):
        raise CheckpointError(f"holds a {type(tree).__name__} where a dict of tensors was expected", file=path)
    return tree


def _refuse_other_size(path: str | os.PathLike[str], size: int, expected: int | None) -> None:
    if expected is not None and size != expected:
        what = (
            f"cut: {_megabytes(size, expected)}"
            if size < expected
            else f"too long: {size:,} bytes where {expected:,} were published"
        )
        raise CheckpointError(what, file=path, fix=_again(path))


def _is_of_arrays(handle: IO[bytes]) -> bool:
    """Whether a zip holds NumPy's arrays and nothing else."""
    try:
        with zipfile.ZipFile(handle) as archive:
            names = archive.namelist()
    except Exception:  # zipfile meets hostile bytes with half a dozen types of error; what is wrong is said later
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_arrays(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> dict[str, Tensor]:
    import torch

    try:
        # a copy where the bytes are the other way round, which torch has not
        return {
            name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
            for name, array in numbers_in(handle, size).items()
        }
    except (ValueError, TypeError) as error:  # TypeError: numbers that torch has not
        raise CheckpointError(f"is a damaged .npz file ({_reason(error)})", file=path, fix=_again(path)) from error


def _read_safetensors(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> dict[str, Tensor]:
    """The tensors, in memory of their own: a mapped file that someone cuts kills the process that reads it (SIGBUS)."""
    from safetensors.torch import load

    _check_header(handle, path, size)
    handle.seek(0)
    try:
        return load(handle.read())
    except Exception as error:  # its own error, and those of torch for dtypes and shapes
        refuse_out_of_memory(error, f"reading {printable(path)}", size)
        raise CheckpointError(
            f"is a damaged safetensors file ({_reason(error)})", file=path, fix=_again(path)
        ) from error


def _check_header(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> None:
    """Raise CheckpointError unless the header fits in the file, is JSON and names each tensor once."""
    handle.seek(0)
    length = int.from_bytes(handle.read(8), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"announces a safetensors header of {length:,} bytes; {_MAX_HEADER:,} is the limit",
            file=path,
            fix=_again(path),
        )
    if length > size - 8:
        raise CheckpointError(
            f"cut: the safetensors header alone has {length:,} bytes, {max(size - 8, 0):,} are here",
            file=path,
            fix=_again(path),
        )
    try:
        header = json.loads(handle.read(length), object_pairs_hook=_unique)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except Exception as error:  # not UTF-8, not JSON, nested beyond the stack, of another structure
        refuse_out_of_memory(error, f"reading {printable(path)}", length)
        raise CheckpointError(
            f"has a damaged safetensors header ({_reason(error)})", file=path, fix=_again(path)
        ) from error
    if size != whole:
        raise CheckpointError(
            f"{'cut' if size < whole else 'too long'}: {_megabytes(size, whole)}", file=path, fix=_again(path)
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict.

    Two readers may choose differently between two values of one name, so a repeated name is an error.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found
