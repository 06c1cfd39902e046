"""Exact neighbours by cheap products in C: a bound on their error says which rows must be scored again.

Let a row's true score be s and its cheap one a, with |a - s| <= e. The k rows with the largest a have s >= a_k - e, so
the k-th largest true score is at least a_k - e, and every row that has it or more has a >= a_k - 2 e. The rows from
there on are scored in float64, and the k best of them are the k nearest. Cheap are products of bfloat16 on CPUs that
have instructions for them, else of float32; no score is written to memory but those of candidates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..cpu import cores
from ..kernels import library

KINDS = ("none", "avx2", "avx512", "avx512_bf16", "amx")  # of `near_kind`
QUERIES = 32  # at least; fewer are a matter of reading the bank once
_AVX512, _BF16 = 2, 3  # of float32; of bfloat16, and above
_GROUP = 32
_PANEL_BYTES = 12 << 20  # of the bank as it is multiplied, at a time
_STATE_BYTES = 28 << 20  # of all candidates
_PIECE = 256  # queries that one thread takes at a time
_SAMPLE = 16384  # rows whose mean is taken off
_ROUNDING = 2.0**-24  # largest relative error of rounding to float32
_TINY = 2.0**-126  # numbers below may count as 0
_LONGEST = 1e15  # of a row or a query: no sum of their products comes near what float32 cannot hold


@lru_cache(maxsize=1)
def kernels() -> tuple[ctypes.CDLL | None, int]:
    """The library and the best kind of product of this CPU; (None, 0): there is none."""
    found = library("near")
    kind = int(found.near_kind()) if found is not None else 0
    return (found, kind) if kind else (None, 0)


def kind() -> str:
    """What products are made of here: a word of KINDS."""
    return KINDS[kernels()[1]]


@dataclass
class _Bank:
    """What is known of the rows as a whole."""

    mean: np.ndarray  # (D,) float64
    length: float  # largest of a row less the mean
    lost: float  # largest length of what rounding takes from a row
    bias: float  # largest |mean . (row - mean)|

    @property
    def is_tame(self) -> bool:
        """Whether no score of it can leave float32's range; not of NaN."""
        return bool(np.isfinite(self.mean).all()) and self.length < _LONGEST and self.bias < _LONGEST**2


class Certified:
    """Search of rows (N, D), float32 or float16 and contiguous, by their products with queries."""

    def __init__(self, rows: np.ndarray, otherwise: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]):
        self._rows, self._otherwise = rows, otherwise
        self._known: dict[bool, _Bank] = {}  # for products of bfloat16, and of float32
        self.left = 0  # queries so far that had to be searched otherwise

    @staticmethod
    def serves(rows: np.ndarray, queries: int) -> bool:
        """Whether there is a kernel for these rows, and enough queries that it pays."""
        fits = rows.dtype in (np.float32, np.float16) and rows.flags.c_contiguous and len(rows) < 2**31 - _GROUP
        return fits and queries >= QUERIES and kernels()[0] is not None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores, float64 sums rounded once, and rows (Q, k), best first, equal scores by row.

        Queries whose k-th neighbour has too many others within the error of bfloat16 are searched in float32, and those
        that are still too crowded otherwise: their scores come from there.
        """
        scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        room = _room(k, len(self._rows))
        step = max(_PIECE, _STATE_BYTES // (8 * room + 4 * self._rows.shape[1]) // _PIECE * _PIECE)
        with _threads() as pool:
            for start in range(0, len(queries), step):
                part = slice(start, min(start + step, len(queries)))
                given = np.ascontiguousarray(queries[part], np.float32)
                self._answer(given, scores[part], found[part], room, pool)
        return scores, found

    def _answer(self, queries: np.ndarray, scores: np.ndarray, found: np.ndarray, room: int, pool: _Pool) -> None:
        """Fill scores and rows (Q, k) of some queries, by the cheapest kind of product that tells them apart."""
        best = kernels()[1]
        left = np.arange(len(queries))
        if not self._bank(best, pool).is_tame:
            scores[:], found[:] = self._otherwise(queries, scores.shape[1])
            self.left += len(left)
            return
        for kind_ in (best, _AVX512) if best >= _BF16 else (best,):
            own = left
            given = queries[own]
            near = _Pass(kind_, self._rows, self._bank(kind_, pool), given, scores.shape[1], room, pool)
            answered = near.answer()
            scores[own[answered]], found[own[answered]] = near.scores[answered], near.rows[answered]
            left = own[~answered]
            if not len(left):
                return
        self.left += len(left)
        scores[left], found[left] = self._otherwise(queries[left], scores.shape[1])

    def _bank(self, kind_: int, pool: _Pool) -> _Bank:
        bf16 = kind_ >= _BF16
        if bf16 not in self._known:
            step = max(1, len(self._rows) // _SAMPLE)
            with np.errstate(over="ignore", invalid="ignore"):  # such a bank is searched otherwise
                mean = np.asarray(self._rows[::step], np.float32).mean(axis=0, dtype=np.float64)
            parts = list(pool(lambda part: _measured(kind_, self._rows, part, mean), _parts(len(self._rows), 8192)))
            self._known[bf16] = _Bank(mean, *(max(part[i] for part in parts) * (1 + 1e-9) for i in range(3)))
        return self._known[bf16]


_Pool = Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]]


@contextmanager
def _threads() -> Iterator[_Pool]:
    """A map over as many threads as there are cores."""
    if cores() == 1:
        yield map
        return
    with ThreadPoolExecutor(cores()) as pool:
        yield pool.map


def _parts(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _room(k: int, n: int) -> int:
    """How many candidates of a query are kept at most."""
    return min(2 * k + 512, -(-n // _GROUP) * _GROUP + 2 * _GROUP)


def _pointer(array: np.ndarray, row: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + row * array.strides[0])


def _call(name: str, kind_: int, *arguments: Any) -> None:
    """One of the kernels. Raises MemoryError."""
    given = [one if isinstance(one, ctypes.c_void_p) or one is None else ctypes.c_int64(one) for one in arguments]
    if getattr(kernels()[0], name)(ctypes.c_int(kind_), *given):
        raise MemoryError("no memory for a search of neighbours")


def _measured(kind_: int, rows: np.ndarray, part: slice, mean: np.ndarray) -> np.ndarray:
    """The three largest lengths of `_Bank` among these rows."""
    lengths = np.zeros(3)
    _fill(kind_, rows, part.start, part.stop, mean, None, None, lengths)
    return lengths


def _fill(
    kind_: int,
    rows: np.ndarray,
    start: int,
    end: int,
    mean: np.ndarray,
    panels: np.ndarray | None,
    bias: np.ndarray | None,
    lengths: np.ndarray,
) -> None:
    own = rows[start:end]
    width = _width(rows.shape[1])
    _call(
        "near_rows",
        kind_,
        _pointer(own),
        int(rows.dtype == np.float16),
        len(own),
        rows.shape[1],
        width,
        _pointer(mean),
        None if panels is None else _pointer(panels),
        None if bias is None else _pointer(bias),
        _pointer(lengths),
    )


def _width(columns: int) -> int:
    """Columns as they are multiplied: whole steps of the widest product."""
    return -(-columns // _GROUP) * _GROUP


class _Pass:
    """Some queries over the whole bank."""

    def __init__(self, kind_: int, rows: np.ndarray, bank: _Bank, queries: np.ndarray, k: int, room: int, pool: _Pool):
        self._kind, self._rows, self._bank, self._given, self._k, self._room = kind_, rows, bank, queries, k, room
        self._pool = pool
        self.scores, self.rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        n, self._width = -(-len(queries) // _GROUP) * _GROUP, _width(rows.shape[1])
        self._queries = np.zeros((n, self._width), np.uint16 if kind_ >= _BF16 else np.float32)
        self._slack = np.zeros(n, np.float32)
        self._least = np.full(n, np.inf, np.float32)
        self._least[: len(queries)] = -np.finfo(np.float32).max
        self._count = np.zeros(n, np.int32)
        self._numbers, self._found = np.empty((n, room), np.int32), np.empty((n, room), np.float32)

    def answer(self) -> np.ndarray:
        """Fill `scores` and `rows` (Q, k); which queries (Q,) have an answer: the others were too crowded."""
        pieces = _parts(len(self._queries), _PIECE)
        list(self._pool(self._prepare, pieces))
        size = max(1, _PANEL_BYTES // (self._width * self._queries.itemsize) // 1024) * 1024
        panels = np.empty((min(size, -(-len(self._rows) // _GROUP) * _GROUP), self._width), self._queries.dtype)
        bias = np.empty(len(panels), np.float32)
        for start in range(0, len(self._rows), size):
            n = min(size, len(self._rows) - start)
            list(self._pool(partial(self._lay_out, start, panels, bias), _parts(n, 1024)))
            list(self._pool(partial(self._scan, start, n, panels, bias), pieces))
        list(self._pool(self._finish, _parts(len(self._given), 64)))
        return np.asarray(self._count[: len(self._given)] >= 0)

    def _prepare(self, part: slice) -> None:
        """The queries as they are multiplied, and for each twice the largest error of a score."""
        part = slice(part.start, min(part.stop, len(self._given)))
        n, d = part.stop - part.start, self._rows.shape[1]
        length, lost = np.empty(n), np.empty(n)
        _call(
            "near_queries",
            self._kind,
            _pointer(self._given, part.start),
            n,
            d,
            self._width,
            _pointer(self._bank.mean),
            _pointer(self._queries, part.start),
            _pointer(length),
            _pointer(lost),
        )
        bank = self._bank
        error = lost * bank.length + (length + lost) * bank.lost  # of rounding queries and rows
        largest = (length + lost) * (bank.length + bank.lost)
        error += 4 * _ROUNDING * (self._width * largest + bank.bias)  # of summing up in float32, and the bias
        error += _TINY * self._width * (2 + length + bank.length)  # of numbers too small for float32
        tame = length < _LONGEST
        self._slack[part] = np.nextafter(np.where(tame, 2 * error, 0).astype(np.float32), np.float32(np.inf))
        self._count[part], self._least[part] = np.where(tame, 0, -1), np.where(tame, self._least[part], np.inf)

    def _lay_out(self, start: int, panels: np.ndarray, bias: np.ndarray, part: slice) -> None:
        own = panels[part.start :], bias[part.start :]
        _fill(self._kind, self._rows, start + part.start, start + part.stop, self._bank.mean, *own, np.zeros(3))

    def _scan(self, start: int, n: int, panels: np.ndarray, bias: np.ndarray, part: slice) -> None:
        at = part.start
        _call(
            "near_scan",
            self._kind,
            _pointer(self._queries, at),
            part.stop - at,
            self._width,
            _pointer(panels),
            _pointer(bias),
            -(-n // _GROUP) * _GROUP,
            start,
            *(_pointer(one, at) for one in (self._least, self._count, self._slack, self._numbers, self._found)),
            self._k,
            self._room,
        )

    def _finish(self, part: slice) -> None:
        at = part.start
        _call(
            "near_finish",
            self._kind,
            _pointer(self._given, at),
            part.stop - at,
            self._rows.shape[1],
            _pointer(self._rows),
            int(self._rows.dtype == np.float16),
            _pointer(self._bank.mean),
            *(_pointer(one, at) for one in (self._least, self._count, self._slack, self._numbers, self._found)),
            self._k,
            self._room,
            _pointer(self.scores, at),
            _pointer(self.rows, at),
        )
