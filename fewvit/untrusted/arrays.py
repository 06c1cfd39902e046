"""Arrays out of an `.npz` or `.npy` that anyone may have written, or a ValueError whatever is wrong. NumPy only."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from ..errors import printable, refuse_out_of_memory
from ..files import unpacked_size

_Taken = TypeVar("_Taken")
MOST_UNPACKED = 16  # times the size of an archive; compressed weights take little less room than others


def arrays_of(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> array, of an `.npz`. Nothing is unpickled.

    Raises OSError as the system does, ValueError for what is no zip of arrays, ResourceError where memory ran out.
    """

    def members(archive: Any) -> dict[str, np.ndarray]:
        with archive:
            return {key: archive[key] for key in archive.files}

    arrays = _loaded(path, members)
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a zip of other things than arrays")  # NumPy hands out such a member as bytes
    return arrays


def array_of(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an `.npy`. Raises as `arrays_of`, for what is no single array."""
    array = _loaded(path, lambda found: found)
    if not isinstance(array, np.ndarray):
        raise ValueError("not a single array")
    return array


def numbers_in(handle: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """Name -> array of numbers, of an `.npz` of `size` bytes that is open; each in memory of its own.

    No more memory is asked for than the archive's directory says, and that is bounded by its size: a header cannot
    announce an array that is not there. Each record is compared with its CRC-32. Raises ValueError for what is no zip
    of such arrays, ResourceError where memory ran out.
    """
    handle.seek(0)
    unpacked = 0
    try:
        with zipfile.ZipFile(handle) as archive:
            records = archive.infolist()
            names = [record.filename.removesuffix(".npy") for record in records]
            unpacked = sum(record.file_size for record in records)
            if len(set(names)) != len(names):
                raise ValueError(f"{printable(next(one for one in names if names.count(one) > 1))} stands there twice")
            if unpacked > MOST_UNPACKED * size:
                raise ValueError(f"{unpacked:,} bytes would come out of {size:,}")
            return {name: _numbers(archive, record) for name, record in zip(names, records, strict=True)}
    except _OF_DAMAGE as error:
        refuse_out_of_memory(error, "reading arrays", unpacked)
        raise ValueError(str(error) or type(error).__name__) from error


def _numbers(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> np.ndarray:
    """The array of one record, whose header must announce just the bytes that are there."""
    name = printable(record.filename)
    with archive.open(record) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers in the spelling of Python 2
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read_header(stream)
        if dtype.hasobject or dtype.kind not in "biufc":
            raise ValueError(f"{name} holds {dtype}, which are no numbers")
        announced = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or stream.tell() + announced != record.file_size:
            raise ValueError(f"{name} announces {announced:,} bytes and has {record.file_size - stream.tell():,}")
        values = np.frombuffer(bytearray(stream.read()), dtype)
    return values.reshape(shape, order="F" if by_columns else "C")


def _loaded(path: str | os.PathLike[str], take: Callable[[Any], _Taken]) -> _Taken:
    """What `take` makes of what NumPy finds in a file."""
    with open(path, "rb") as handle:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers that it goes on to refuse
                return take(np.load(handle, allow_pickle=False))
        except _OF_DAMAGE as error:
            refuse_out_of_memory(error, "reading arrays", unpacked_size(path))
            raise ValueError(str(error) or type(error).__name__) from error


# what NumPy and the zip below it raise for bytes that are not what they should be
_OF_DAMAGE = (
    *(ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError, LookupError, AttributeError, zlib.error),
    *(struct.error, NotImplementedError, RuntimeError, MemoryError, ArithmeticError, SyntaxError, tokenize.TokenError),
)
