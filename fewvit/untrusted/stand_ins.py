"""What stands in for the functions that plain data is pickled with: sets, bytes, and NumPy's arrays and scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .plain_numpy import PlainDtype, plain_scalar

_KEYS = (str, int, float, bytes, type(None))  # of dicts and sets: nested tuples can take for ever to be hashed


class RefusedError(ValueError):
    """What the file asks for that is not plain data."""


class Named:
    """A global that the file names and that we stand in for."""

    def __init__(self, name: str):
        self.name = name


class BegunArray:
    """An array between the instruction that makes it and the one that fills it; where it is remembered meanwhile."""

    def __init__(self) -> None:
        self.slots: list[int] = []


def as_key(value: Any) -> Any:
    """The value, if it may be a key of a dict or an element of a set. Raises RefusedError."""
    if not isinstance(value, _KEYS):
        raise RefusedError(f"it has a dict or set with a {type(value).__name__} as key")
    return value


def _begun_array(kind: Any, shape: Any, code: Any) -> BegunArray:
    if not isinstance(kind, Named) or kind.name != "numpy.ndarray":
        raise RefusedError("it makes an array of a kind of its own")
    return BegunArray()


def filled_array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """The array whose numbers are the bytes `raw`, all of them. Raises RefusedError for objects, other shapes."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # how Python 2 wrote bytes
    if not isinstance(dtype, PlainDtype) or not isinstance(raw, bytes):
        raise RefusedError("it has an array of objects")
    if type(shape) is not tuple or len(shape) > 4 or not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError("it has an array whose shape is none")
    if math.prod(shape) * dtype.dtype.itemsize != len(raw) or (not raw and shape != (0,)):
        raise RefusedError(f"it has an array of shape {shape} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _number(dtype: Any, raw: Any) -> Any:
    return plain_scalar(dtype, raw.encode("latin1") if isinstance(raw, str) else raw).item()


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("it encodes what is no text")
    return text.encode("latin1")


def _set_of(values: Any = ()) -> set[Any]:
    if type(values) not in (list, tuple):
        raise RefusedError("it makes a set of what is no list")
    return set(map(as_key, values))


def _frozenset_of(values: Any = ()) -> frozenset[Any]:
    return frozenset(_set_of(values))


def _empty_bytes() -> bytes:
    return b""


STAND_INS: Mapping[str, Callable[..., Any]] = {
    "numpy.dtype": PlainDtype,
    "_codecs.encode": _encoded,  # how Python 3 writes bytes for protocols below 3
    **{
        f"{numpy}.{name}": made
        for numpy in ("numpy._core", "numpy.core")  # the spellings of NumPy 2 and 1
        for name, made in (
            ("multiarray._reconstruct", _begun_array),
            ("multiarray.scalar", _number),
            ("numeric._frombuffer", filled_array),  # protocol 5
        )
    },
    **{
        f"{builtins}.{name}": made
        for builtins in ("builtins", "__builtin__")  # the spellings of Python 3 and 2
        for name, made in (("set", _set_of), ("frozenset", _frozenset_of), ("bytes", _empty_bytes))
    },
}
