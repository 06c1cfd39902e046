"""Row numbers by digest, for stores of millions of rows: arrays that are sorted when they are first asked, not a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

_WORDS = np.dtype("<u8")


class RowIndex:
    """32-byte digests numbered in the order in which they were added; of equal ones the first counts. Safe in threads."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []  # (n, 4) uint64 each
        self._starts: list[int] = []  # number of each part's first row
        self._firsts: dict[bytes, int] = {}  # first digest of a part -> its place
        self._lock = threading.Lock()
        self._sorted = _sort([])  # the parts that stood when it was last done
        self._late: dict[bytes, int] = {}  # rows of parts that came after
        self._seen = 0  # parts that are in either

    def __len__(self) -> int:
        """How many different digests there are."""
        self._settle(all_parts=True)
        rows, keys, order = self._sorted
        shared = np.isin(keys, keys[1:][keys[1:] == keys[:-1]])  # first words of several rows: repeated digests, hardly ever others
        return len(keys) - int(shared.sum()) + len(np.unique(rows[order[shared]], axis=0))

    def __contains__(self, digest: bytes) -> bool:
        self._settle()
        return digest in self._late or bool(self._look_up(np.frombuffer(digest, _WORDS)[None])[0] >= 0)

    def add(self, digests: np.ndarray) -> None:
        """Number more digests: (n,) of 32 bytes each."""
        part = np.ascontiguousarray(digests).view(_WORDS).reshape(-1, 4)
        if len(part):
            self._firsts.setdefault(part[0].tobytes(), len(self._parts))
        self._starts.append(self._starts[-1] + len(self._parts[-1]) if self._parts else 0)
        self._parts.append(part)

    def find(self, digests: Sequence[bytes]) -> np.ndarray:
        """Row (n,) int64 of each digest, -1 for one that is not there. Whole parts in any order are the fast case."""
        wanted = np.frombuffer(b"".join(digests), _WORDS).reshape(-1, 4)
        rows = self._as_parts(digests, wanted)
        if rows is not None:
            return rows
        self._settle(all_parts=True)
        return self._look_up(wanted)

    def _as_parts(self, digests: Sequence[bytes], wanted: np.ndarray) -> np.ndarray | None:
        """The rows, if what is wanted is one whole part after another."""
        rows, done = [np.zeros(0, np.int64)], 0
        while done < len(wanted):
            place = self._firsts.get(digests[done])
            if place is None:
                return None
            part = self._parts[place]
            if not np.array_equal(part, wanted[done : done + len(part)]):
                return None
            rows.append(np.arange(self._starts[place], self._starts[place] + len(part)))
            done += len(part)
        return np.concatenate(rows)

    def _settle(self, *, all_parts: bool = False) -> None:
        """Take in the parts that came since: sorted if there are none sorted yet or all are wanted so, else one by one."""
        if self._seen == len(self._parts) and not (all_parts and self._late):
            return
        with self._lock:
            parts = list(self._parts)
            if all_parts or not self._seen:
                self._sorted, self._late = _sort(parts), {}
            else:
                for start, part in zip(self._starts[self._seen :], parts[self._seen :], strict=False):
                    data = part.tobytes()
                    for row in range(len(part)):
                        self._late.setdefault(data[32 * row : 32 * row + 32], start + row)
            self._seen = len(parts)

    def _look_up(self, wanted: np.ndarray) -> np.ndarray:
        """Rows among the sorted ones, -1 where absent: the first word finds the place, all four decide."""
        everything, keys, order = self._sorted
        rows = np.full(len(wanted), -1, np.int64)
        at = np.searchsorted(keys, wanted[:, 0])
        open_ = np.arange(len(wanted))
        while len(open_):
            inside = at[open_] < len(keys)
            open_ = open_[inside]
            open_ = open_[keys[at[open_]] == wanted[open_, 0]]
            candidate = order[at[open_]]
            same = (everything[candidate] == wanted[open_]).all(axis=1)
            rows[open_[same]] = candidate[same]
            open_ = open_[~same]  # other digests that share the first word
            at[open_] += 1
        return rows


def _sort(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows (N, 4), their first words in ascending order, and the row of each of these."""
    rows = np.concatenate([np.zeros((0, 4), _WORDS), *parts])
    order = np.argsort(rows[:, 0], kind="stable")
    return rows, rows[order, 0], order
