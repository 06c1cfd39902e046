"""Arrays out of an `.npz` that anyone may have written: all of them, or a ValueError whatever is wrong. NumPy only."""

from __future__ import annotations

import os
import struct
import tokenize
import warnings
import zipfile
import zlib

import numpy as np

from ..errors import refuse_out_of_memory
from ..files import unpacked_size


def arrays_of(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> array. Nothing is unpickled.

    Raises OSError as the system does, ValueError for what is no zip of arrays, ResourceError where memory ran out.
    """
    with open(path, "rb") as handle:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers that it goes on to refuse
                with np.load(handle, allow_pickle=False) as archive:
                    arrays = {key: archive[key] for key in archive.files}
        except _OF_DAMAGE as error:
            refuse_out_of_memory(error, "reading arrays", unpacked_size(path))
            raise ValueError(str(error) or type(error).__name__) from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a zip of other things than arrays")  # NumPy hands out such a member as bytes
    return arrays


# what NumPy and the zip below it raise for bytes that are not what they should be
_OF_DAMAGE = (
    *(ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError, LookupError, AttributeError, zlib.error),
    *(struct.error, NotImplementedError, RuntimeError, MemoryError, ArithmeticError, SyntaxError, tokenize.TokenError),
)
