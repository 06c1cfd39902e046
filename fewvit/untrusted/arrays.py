"""Arrays out of an `.npz` or `.npy` that anyone may have written, or a ValueError whatever is wrong. NumPy only."""

from __future__ import annotations

import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..errors import refuse_out_of_memory
from ..files import unpacked_size

_Taken = TypeVar("_Taken")


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
