"""A column of strings in one file, mapped rather than read: a million ids cost nothing to open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import IntegrityError


class Strings:
    """N strings as bytes, with where each begins: `count` and the N + 1 places as int64, then the text.

    Ids are kept as the file system has them, so that odd bytes come back whole.
    """

    def __init__(self, data: memoryview):
        try:
            self.count = int(np.frombuffer(data, "<i8", 1)[0])
            if not 0 <= self.count <= len(data) // 8 - 2:
                raise ValueError(f"{self.count} strings in {len(data)} bytes")
            self._starts = np.frombuffer(data, "<i8", self.count + 1, 8)
            self._text = data[8 * (self.count + 2) :]
            if self._starts[0] != 0 or self._starts[-1] != len(self._text) or (np.diff(self._starts) < 0).any():
                raise ValueError("its places do not fit its text")
        except (ValueError, IndexError) as error:
            raise IntegrityError(f"not a column of strings ({error})") from error

    @staticmethod
    def of(strings: Sequence[str]) -> bytes:
        """The file of these strings."""
        encoded = [os.fsencode(text) for text in strings]
        starts = np.zeros(len(encoded) + 1, "<i8")
        np.cumsum([len(text) for text in encoded], out=starts[1:])
        return b"".join([np.array([len(encoded)], "<i8").tobytes(), starts.tobytes(), *encoded])

    def __len__(self) -> int:
        return self.count

    def raw(self, row: int) -> bytes:
        """The bytes of one string."""
        return bytes(self._text[self._starts[row] : self._starts[row + 1]])

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.raw(row))

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(self.count))

    def take(self, rows: np.ndarray) -> list[str]:
        """The strings of these rows (n,)."""
        starts, stops = self._starts[rows].tolist(), self._starts[np.asarray(rows) + 1].tolist()
        return [os.fsdecode(bytes(self._text[a:b])) for a, b in zip(starts, stops, strict=True)]

    def place(self, wanted: bytes) -> int:
        """The first row whose bytes are not below `wanted`, in a column that is sorted by its bytes."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            if self.raw(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, wanted: str) -> int | None:
        """The row of a string in a sorted column; None where it is in none."""
        try:
            key = os.fsencode(wanted)
        except UnicodeEncodeError:  # half a surrogate pair, which no name of a file has
            return None
        row = self.place(key)
        return row if row < self.count and self.raw(row) == key else None

    def beginning(self, prefix: str) -> slice:
        """The rows of a sorted column that begin with `prefix`."""
        key = os.fsencode(prefix)
        stop = key.rstrip(b"\xff")
        after = self.place(stop[:-1] + bytes([stop[-1] + 1])) if stop else self.count
        return slice(self.place(key), after)

    def require_sorted(self) -> None:
        """Raise IntegrityError unless each string comes after the one before: sorted, and none twice."""
        before = None
        for row in range(self.count):
            now = self.raw(row)
            if before is not None and now <= before:
                raise IntegrityError(f"its strings are not in order at row {row}")
            before = now
