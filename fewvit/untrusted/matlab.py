"""Variables out of MATLAB's v5 files (`.mat`) that anyone may have written, or a ValueError whatever is wrong.

What the published lists hold is read: numbers, text, and structs of these. Everything else is refused by name: cells,
objects, sparse and complex arrays, v4 and v7.3 files. Lengths are compared with what is there before anything is made,
so a file of a few bytes takes a few bytes; what is compressed is unpacked up to a limit.

Source: MAT-File Format, The MathWorks, R2019b, chapter 1, Level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

_MOST_UNPACKED = 64 << 20  # bytes of all compressed variables together; ImageNet's meta.mat has less than one MiB
_MOST_ELEMENTS = 1_000_000  # data elements of a file; meta.mat has some 30,000
_DEEPEST = 8  # structs in one another; meta.mat has one
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_STRUCT, _CHAR = 2, 4
# class of an array -> what its numbers are given as, whatever they are stored as
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {1: "a cell array", 3: "an object", 5: "a sparse array", 16: "a function", 17: "an object"}
_COMPLEX = 0x0800

# numbers and text are arrays of their shape; a struct array is a list of its structs, column by column
Value = np.ndarray | str | list[dict[str, "Value"]]


def variables_of(data: bytes, wanted: str) -> dict[str, Value]:
    """The variables of a file that are called `wanted`: {} or {wanted: value}; others are passed over unread.

    Numbers are an array of the shape that the file gives; text is its rows one after another; a struct array is a list.
    Raises ValueError for what is no such file, for damage, and for a value of another kind.
    """
    return _File(data).variables(wanted)


class _File:
    """A file's bytes, its byte order, and how much may still be made of it."""

    def __init__(self, data: bytes):
        if data[:10] != b"MATLAB 5.0" or len(data) < _HEADER:
            raise ValueError("not a MATLAB v5 file")
        if data[126:128] not in (b"IM", b"MI"):
            raise ValueError("its header has no byte order")
        self._data = data
        self._order: Literal["<", ">"] = "<" if data[126:128] == b"IM" else ">"
        if self._unpack("H", data[124:126])[0] != 0x0100:
            raise ValueError("not of version 5")
        self._unpacked, self._elements = _MOST_UNPACKED, _MOST_ELEMENTS

    def variables(self, wanted: str) -> dict[str, Value]:
        """As `variables_of`."""
        found: dict[str, Value] = {}
        for kind, body in self._each(self._data[_HEADER:], padded=False):
            if kind == _COMPRESSED:
                inner = list(self._each(self._inflated(body)))
                if len(inner) != 1:
                    raise ValueError("a compressed variable that is not one")
                kind, body = inner[0]
            if kind != _MATRIX:
                raise ValueError(f"element of type {kind} where a variable should be")
            self._variable(body, wanted, found)
        return found

    def _variable(self, body: bytes, wanted: str, found: dict[str, Value]) -> None:
        """Add a variable if it is the one that is wanted."""
        parts = self._each(body)
        flags, shape, name = self._heading(parts)
        if name != wanted:
            return
        if name in found:
            raise ValueError(f"two variables are called {name}")
        found[name] = self._value(flags, shape, parts, 0)

    def _unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack(self._order + code, data)
        except struct.error as error:
            raise ValueError("it ends too early") from error

    def _each(self, data: bytes, padded: bool = True) -> Iterator[tuple[int, bytes]]:
        """(type, bytes) of the elements one after another. Raises ValueError for one that is cut off."""
        at = 0
        while at < len(data):
            self._elements -= 1
            if self._elements < 0:
                raise ValueError(f"more than {_MOST_ELEMENTS:,} elements")
            kind, length = self._unpack("II", data[at : at + 8])
            small = kind >> 16  # an element of four bytes or fewer lies within its own tag
            if small:
                kind, length, start, after = kind & 0xFFFF, small, at + 4, at + 8
                if length > 4:
                    raise ValueError("a short element that is long")
            else:
                start = at + 8
                after = start + (-(-length // 8) * 8 if padded or kind != _COMPRESSED else length)
            if length > len(data) - start:
                raise ValueError("an element is longer than the file")
            yield kind, data[start : start + length]
            at = after

    def _inflated(self, body: bytes) -> bytes:
        machine = zlib.decompressobj()
        try:
            data = machine.decompress(body, self._unpacked + 1)
        except zlib.error as error:
            raise ValueError(f"damaged compression ({error})") from error
        if len(data) > self._unpacked:
            raise ValueError(f"unpacks to more than {_MOST_UNPACKED >> 20} MiB")
        if not machine.eof:
            raise ValueError("a compressed variable ends too early")
        self._unpacked -= len(data)
        return data

    def _heading(self, parts: Iterator[tuple[int, bytes]]) -> tuple[int, tuple[int, ...], str]:
        """Flags, shape and name, which every array begins with."""
        flags = self._numbers(self._next(parts))
        shape = tuple(self._numbers(self._next(parts)).tolist())
        _, name = self._next(parts)
        if flags.dtype.kind != "u" or len(flags) != 2:
            raise ValueError("flags that are none")
        if not 2 <= len(shape) <= 8 or not all(isinstance(one, int) and one >= 0 for one in shape):
            raise ValueError("a shape that is none")
        return int(flags[0]), shape, name.decode("latin1")

    def _next(self, parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
        part = next(parts, None)
        if part is None:
            raise ValueError("an array ends too early")
        return part

    def _numbers(self, part: tuple[int, bytes]) -> np.ndarray:
        """The numbers (n,) of an element."""
        kind, body = part
        if kind not in _NUMBERS:
            raise ValueError(f"numbers of type {kind}, which is none")
        return np.frombuffer(body, np.dtype(_NUMBERS[kind]).newbyteorder(self._order))  # ValueError for half a number

    def _value(self, flags: int, shape: tuple[int, ...], parts: Iterator[tuple[int, bytes]], depth: int) -> Value:
        """What follows an array's heading."""
        kind = flags & 0xFF
        if flags & _COMPLEX:
            raise ValueError("complex numbers")
        if kind == _STRUCT:
            return self._structs(shape, parts, depth)
        if kind == _CHAR:
            return self._text(shape, self._next(parts))
        if kind not in _CLASSES:
            raise ValueError(_OTHERS.get(kind, f"an array of class {kind}, which is none"))
        numbers = self._numbers(self._next(parts))
        if len(numbers) != math.prod(shape):
            raise ValueError(f"{len(numbers)} numbers for a shape of {' x '.join(map(str, shape))}")
        return _as_declared(numbers, _CLASSES[kind]).reshape(shape, order="F")

    def _text(self, shape: tuple[int, ...], part: tuple[int, bytes]) -> str:
        """Text, its rows one after another. MATLAB stores it column by column."""
        kind, body = part
        order = "le" if self._order == "<" else "be"
        if kind in _TEXTS:
            text = body.decode(_TEXTS[kind] + ("" if kind == 16 else f"-{order}"))
        else:
            text = "".join(map(chr, self._characters(part)))
        if len(text) != math.prod(shape):
            raise ValueError(f"{len(text)} characters for a shape of {' x '.join(map(str, shape))}")
        rows = shape[0]
        return text if rows == 1 else "".join(text[row::rows] for row in range(rows))

    def _characters(self, part: tuple[int, bytes]) -> list[int]:
        """The code points of text that is stored as numbers."""
        numbers = self._numbers(part)
        if numbers.dtype.kind not in "iu" or (
            len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < 0xD800
        ):
            raise ValueError("text that is none")
        found: list[int] = numbers.tolist()
        return found

    def _structs(self, shape: tuple[int, ...], parts: Iterator[tuple[int, bytes]], depth: int) -> Value:
        """A list of structs, each of the same fields."""
        if depth == _DEEPEST:
            raise ValueError("structs nested too deep")
        [length, *others] = self._numbers(self._next(parts)).tolist() or [0]
        _, names = self._next(parts)
        if others or not isinstance(length, int) or length < 1 or len(names) % length:
            raise ValueError("names of fields that are none")
        fields = [names[at : at + length].partition(b"\0")[0].decode("latin1") for at in range(0, len(names), length)]
        if len(set(fields)) < len(fields):
            raise ValueError("two fields of one name")
        count = math.prod(shape)
        if count * max(len(fields), 1) > self._elements:
            raise ValueError("more structs than the file has elements")
        return [{field: self._field(self._next(parts), depth + 1) for field in fields} for _ in range(count)]

    def _field(self, part: tuple[int, bytes], depth: int) -> Value:
        kind, body = part
        if kind != _MATRIX:
            raise ValueError(f"element of type {kind} where a field should be")
        if not body:
            return np.empty((0, 0))
        parts = self._each(body)
        flags, shape, _ = self._heading(parts)
        return self._value(flags, shape, parts, depth)


def _as_declared(numbers: np.ndarray, code: str) -> np.ndarray:
    """Numbers as their array's class has them; they are stored as the smallest type that holds them.

    Raises ValueError for one that the class has no room for.
    """
    if code[0] == "f":
        with np.errstate(over="ignore"):
            return numbers.astype(code)
    limits = np.iinfo(code)
    whole = numbers.dtype.kind in "iu"
    if not whole or (len(numbers) and not limits.min <= int(numbers.min()) <= int(numbers.max()) <= limits.max):
        raise ValueError("numbers that their class has no room for")
    return numbers.astype(code)


def text_of(row: Mapping[str, Value], name: str) -> str:
    """A struct's field that is text. Raises ValueError for another."""
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"no text `{name}`")
    return value


def number_of(row: Mapping[str, Value], name: str) -> int:
    """A struct's field that is one whole number. Raises ValueError for another."""
    value = row.get(name)
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise ValueError(f"no number `{name}`")
    number = float(value.reshape(-1)[0])
    if not number.is_integer():
        raise ValueError(f"`{name}` is no whole number")
    return int(number)
