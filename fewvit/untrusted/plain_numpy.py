"""Numbers and dtypes of NumPy as strangers' files spell them: these stand in for what the files would call."""

from __future__ import annotations

from typing import Any

import numpy as np


class NoNumberError(ValueError):
    """A NumPy object in a file that is anything but numbers or the dtype of one."""


class PlainDtype:
    """A numeric dtype as a pickle describes it: `code` (`f8`) and byte order. NumPy takes it wherever it takes a dtype.

    NumPy's own `dtype.__setstate__` takes its flags from the file, also the one for "these are pointers" (observed); so
    no file reaches it.
    """

    _CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not isinstance(code, str) or code not in self._CODES:
            shown = repr(code[:40]) if isinstance(code, str) else type(code).__name__  # a list may be endless
            raise NoNumberError(f"NumPy dtype {shown} is not a numeric one")
        self.dtype = np.dtype(code)

    def __repr__(self) -> str:
        return f"dtype({self.dtype.str!r})"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *rest = state
        if (
            version not in (3, 4)
            or order not in ("<", ">", "|", "=")
            or rest[:5] != [None, None, None, -1, -1]
            or rest[5] != 0
        ):
            raise NoNumberError("a NumPy dtype with a state that no numeric one has")
        self.dtype = self.dtype.newbyteorder(order)


def plain_scalar(dtype: PlainDtype, raw: bytes) -> np.generic:
    """The NumPy number with these bytes; never an object, never a pointer."""
    if not isinstance(dtype, PlainDtype) or not isinstance(raw, bytes) or len(raw) != dtype.dtype.itemsize:
        raise NoNumberError("a NumPy scalar that is not the bytes of one number")
    value: np.generic = np.frombuffer(raw, dtype.dtype)[0]
    return value
