"""Exact neighbours by products in bfloat16: a bound on their error says which rows must be scored again.

Let a row's true score be s and its score in bfloat16 a, with |a - s| <= e. The k rows with the largest a have
s >= a_k - e, so the k-th largest true score is at least a_k - e, and every row that has it or more has a >= a_k - 2 e.
The rows from there on are scored in float64, and the k best of them are the k nearest. CPUs with instructions for
bfloat16 make such products two to eight times faster than those of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..cpu import computes_bf16
from .engines import Search

if TYPE_CHECKING:
    from torch import Tensor

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (queries, at_query, rows) -> exact scores (n,)

WORTH = 25e9  # products of two numbers from which on it pays, torch's import included
QUERIES = 32  # at least; fewer are a matter of reading the bank once, which FAISS does in float32
NEIGHBORS = 64  # at most: keeping the best of each block costs more with each
_ROWS = 8192  # of the bank at a time
_GROUP = 32  # rows of which only the best is looked at first
_CHUNK = 1024  # queries at a time
_MOST = 64  # candidates per neighbour wanted; beyond, the scores lie too close for bfloat16
_CROWDED = 0.5  # share of a block's groups that hold candidates; beyond, the same
_FLOAT32, _BFLOAT16 = 2.0**-24, 2.0**-8  # largest relative error of rounding once


def pays(rows: np.ndarray, queries: np.ndarray, k: int) -> bool:
    """Whether to search so: a CPU with bfloat16, many queries of a large bank, few neighbours."""
    products = len(rows) * len(queries) * rows.shape[1]
    return len(queries) >= QUERIES and k <= NEIGHBORS and products >= WORTH and computes_bf16()


class Reduced:
    """Search of unit rows (N, D) by unit queries."""

    def __init__(self, rows: np.ndarray, score: Score, otherwise: Search):
        self._rows, self._score, self._otherwise = rows, score, otherwise
        self._residual: float | None = None
        self._is_crowded = False  # a chunk of queries was given up: the rows are too much alike

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact scores and rows (Q, k), best first, equal scores by row.

        Queries whose k-th neighbour has too many others within the error are searched otherwise: their scores come from
        there.
        """
        if self._is_crowded:
            return self._otherwise(queries, k)
        scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), _CHUNK):
            part = slice(start, min(start + _CHUNK, len(queries)))
            left = self._search_chunk(queries[part], k, scores[part], found[part])
            if len(left):
                scores[start + left], found[start + left] = self._otherwise(queries[start + left], k)
        return scores, found

    def _search_chunk(self, queries: np.ndarray, k: int, scores: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Fill `scores` and `found` (Q, k) in place; the queries (n,) that were left out, as too crowded."""
        if self._residual is None:
            self._residual = _largest_residual(self._rows)
        candidates = _Candidates(queries, k, self._residual)
        for start in range(0, len(self._rows), _ROWS):
            candidates.look_at(start, self._rows[start : start + _ROWS])
            if candidates.is_crowded:
                self._is_crowded = True
                return np.arange(len(queries))
        at_query, rows, approximate = candidates.kept()
        counts = np.bincount(at_query, minlength=len(queries))
        few = counts <= _MOST * k
        wanted = few[at_query]
        exact = np.full(len(rows), np.nan, np.float32)
        exact[wanted] = self._score(queries, at_query[wanted], rows[wanted])
        wrong = np.abs(exact - approximate) > candidates.error[at_query]  # the bound was proved: a CPU that breaks it
        left = ~few
        left[at_query[wrong]] = True
        ends = np.cumsum(counts)
        for q in np.flatnonzero(~left).tolist():
            own = slice(ends[q] - counts[q], ends[q])
            best = np.lexsort((rows[own], -exact[own]))[:k]
            scores[q], found[q] = exact[own][best], rows[own][best]
        return np.flatnonzero(left)


def _blocks(rows: np.ndarray) -> Iterator[Tensor]:
    """The rows in float32, some at a time."""
    import torch

    for start in range(0, len(rows), _ROWS):
        yield torch.from_numpy(np.array(rows[start : start + _ROWS], np.float32))


def _largest_residual(rows: np.ndarray) -> float:
    """The largest length of what rounding to bfloat16 takes from a row."""
    largest = 0.0
    for block in _blocks(rows):
        apart = block - block.bfloat16().float()
        largest = max(largest, float(apart.square_().sum(dim=1).max()) ** 0.5)
    return largest


class _Candidates:
    """Rows that may be among the k nearest, by their scores in bfloat16."""

    def __init__(self, queries: np.ndarray, k: int, residual: float):
        import torch

        given = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
        small = given.bfloat16()
        # of the query's rounding, the row's, the result's, and of summing up in float32
        own = (given - small.float()).norm(dim=1) + residual + _BFLOAT16 + 4 * queries.shape[1] * _FLOAT32
        self._queries, self._error, self._k = small.T.contiguous(), own, k
        self._best = torch.full((k, len(queries)), -torch.inf)  # scores of k rows so far, whichever
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []  # query, row, score
        self.is_crowded = False  # a block had too many candidates to look at them all

    @property
    def error(self) -> np.ndarray:
        """The largest error (Q,) of a score."""
        return np.asarray(self._error.numpy())

    @property
    def _least(self) -> Tensor:
        """What the score (Q,) of a row that is among the k nearest is at least."""
        return self._best[-1] - 2 * self._error

    def look_at(self, start: int, block: np.ndarray) -> None:
        """Take the candidates of rows from `start` on."""
        import torch

        scores = torch.from_numpy(np.array(block, np.float32)).bfloat16() @ self._queries  # (n, Q) bfloat16
        if spare := -len(block) % _GROUP:
            scores = torch.nn.functional.pad(scores, (0, 0, 0, spare), value=-torch.inf)
        groups = scores.view(-1, _GROUP, scores.shape[1])
        highest = groups.amax(dim=1).float()  # (G, Q): each the score of another row
        if (highest > self._best[-1]).any():
            self._best = torch.cat([self._best, highest]).topk(self._k, dim=0)[0]
        least = self._least
        hopeful = highest >= least
        self.is_crowded = int(hopeful.sum()) > _CROWDED * hopeful.numel()
        if self.is_crowded:  # the caller gives up
            return
        group, query = hopeful.nonzero(as_tuple=True)
        near = groups[group, :, query].float()  # (m, 32)
        which, place = (near >= least[query, None]).nonzero(as_tuple=True)
        self._found.append((query[which], start + group[which] * _GROUP + place, near[which, place]))

    def kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries (n,), in order, the rows that may be among their k nearest, and the scores in bfloat16."""
        import torch

        query, row, score = (torch.cat(list(parts)) for parts in zip(*self._found, strict=True))
        kept = score >= self._least[query]
        query, row, score = query[kept], row[kept], score[kept]
        order = query.argsort(stable=True)
        return query[order].numpy(), row[order].numpy(), score[order].numpy()
