"""Exact nearest neighbours, and the owner of normalisation; `approximate` has the engines that trade recall for time.

Scores are higher = nearer for every metric, rows come best first, and equal scores are ordered by row, exactly, across
the k-th place too. FAISS's own order on ties depends on blocking, so whatever lies within rounding of a tie is scored
again in float64.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cpu import in_threads
from ..errors import DataError, NumericalError, UsageError
from .certified import Certified
from .engines import ENGINES
from .installed import faiss_gpu_works, faiss_is_here
from .reduced import Reduced, pays

METRICS = ("cosine", "dot", "euclidean")
_CHUNK_BYTES = 24 << 20  # results and temporaries of one chunk of queries stay below this
_CACHED_BYTES = 2 << 20  # temporaries of one step of the exact scores stay in the CPU's cache
_BLOCK_ROWS = 2048  # rows that are normalised at once, while they are in the CPU's cache
_SPARE = 8  # neighbours fetched beyond k, so that most ties across the k-th place are seen whole
_ROUNDING = 3e-6  # float32 scores this close, relative to the largest possible one, may be in the wrong order
_ROUNDED_ONCE = 2.5e-7  # the same of sums in float64 that were rounded to float32 once


@dataclass(frozen=True)
class Neighbors:
    """The k nearest bank rows of each query, best first, ties by row.

    Which rows they are, and their order, depends on the query and the bank alone. A score is a float64 sum that was
    rounded once; where FAISS searched, one that is near no other is its own sum in float32, whose last digit or two may
    differ where other queries are searched together with it.
    """

    rows: np.ndarray  # (Q, k) int64, never -1
    scores: np.ndarray  # (Q, k) float32; cosine, dot product, or minus the squared distance


def normalise(features: np.ndarray, first_row: int = 0) -> np.ndarray:
    """A float32 copy of `features` (N, D) with rows of unit length; a zero row stays zero.

    Raises NumericalError for NaN or Inf, counting rows from `first_row`.
    """
    given = np.atleast_2d(np.asarray(features))
    if given.dtype not in (np.float16, np.float32):
        given = _float32(given)
    rows = np.empty(given.shape, np.float32)

    def block(start: int) -> None:
        part = given[start : start + _BLOCK_ROWS].astype(np.float32, copy=False)
        length = np.sqrt(np.einsum("nd,nd->n", part, part, dtype=np.float64))
        if not np.isfinite(length).all():
            raise NumericalError(
                f"row {first_row + start + int(np.flatnonzero(~np.isfinite(length))[0])} of the features is not finite"
            )
        length[length == 0] = 1
        # in float64, rounded once
        np.divide(part, length[:, None], out=rows[start : start + _BLOCK_ROWS], casting="same_kind")

    list(in_threads(block, range(0, len(given), _BLOCK_ROWS)))
    return rows


class Bank:
    """Rows to search among. Copied and normalised once; searched in chunks of queries so that memory stays bounded."""

    def __init__(self, features: np.ndarray, *, metric: str = "cosine", device: str = "auto", engine: str = "auto"):
        if metric not in METRICS:
            raise UsageError(f"unknown metric {metric!r}; choose {', '.join(METRICS)}")
        if np.ndim(features) != 2 or 0 in np.shape(features):
            raise DataError(
                f"a bank needs features of shape (N, D) with at least one row and column, got {np.shape(features)}"
            )
        self.metric, self.engine, self.device = metric, *_choose(engine, device)
        self.rows = normalise(features) if metric == "cosine" else _finite(features)
        self._norms = np.einsum("nd,nd->n", self.rows, self.rows, dtype=np.float64) if metric == "euclidean" else None
        self._prepare()

    @classmethod
    def of_unit_rows(cls, rows: np.ndarray, *, device: str = "auto") -> Bank:
        """A bank of rows (N, D) that have unit length already, float32 or float16, taken as they are: not copied on a
        CPU, so that they may be mapped from a file. Scores are cosines.
        """
        bank = cls.__new__(cls)
        bank.metric, bank.rows, bank._norms = "cosine", rows, None
        bank.engine, bank.device = _choose("auto", device)
        bank._prepare()
        return bank

    def _prepare(self) -> None:
        """Make what searches the rows."""
        self._search = ENGINES[self.engine](self.rows, self.metric, self.device)
        on_cpu = self.metric != "euclidean" and self.device == "cpu"
        self._certified = Certified(self.rows, self._search) if on_cpu and self.engine != "torch" else None
        self._reduced = Reduced(self.rows, self.score, self._search) if on_cpu and self.metric == "cosine" else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engine's own structures, which are built again where the bank is unpickled."""
        return {name: value for name, value in vars(self).items() if name not in ("_search", "_certified", "_reduced")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def search(self, queries: np.ndarray, k: int) -> Neighbors:
        """The k nearest rows of each query (Q, D). Raises UsageError unless 1 <= k <= number of rows."""
        parts = list(self.chunks(queries, k))
        if not parts:
            return Neighbors(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        return Neighbors(np.concatenate([p.rows for _, p in parts]), np.concatenate([p.scores for _, p in parts]))

    def chunks(
        self, queries: np.ndarray, k: int, *, exclude: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Neighbors]]:
        """Neighbours of one slice of queries after another, for callers that reduce them at once.

        `exclude` (Q,) names for each query one row that must not be its neighbour (itself, in leave-one-out).
        """
        self._check(queries, k + (exclude is not None))
        size = max(64, _CHUNK_BYTES // ((k + _SPARE) * 40 + self.rows.shape[1] * 4))
        for start in range(0, len(queries), size):
            part = slice(start, min(start + size, len(queries)))
            wanted = normalise(queries[part], start) if self.metric == "cosine" else _finite(queries[part], start)
            yield part, self._exact(wanted, k, None if exclude is None else exclude[part])

    def _check(self, queries: np.ndarray, k: int) -> None:
        if np.ndim(queries) != 2 or queries.shape[1] != self.rows.shape[1]:
            raise DataError(f"queries of shape {np.shape(queries)} do not fit a bank of {self.rows.shape[1]} columns")
        if not 1 <= k <= len(self.rows):
            raise UsageError(
                f"k = {k} neighbours asked of a bank of {len(self.rows)} rows",
                fix=f"Choose k between 1 and {len(self.rows)}.",
            )

    def _exact(self, queries: np.ndarray, k: int, exclude: np.ndarray | None) -> Neighbors:
        needed = k + (exclude is not None)
        fetched = min(needed + _SPARE, len(self.rows))
        if self._certified is not None and Certified.serves(self.rows, len(queries)):
            near = self._near(queries, _ROUNDED_ONCE if self.metric == "cosine" else _ROUNDING)
            scores, rows = self._certified.search(queries, fetched)
        else:
            near = self._near(queries)
            reduced = self._reduced if self._reduced is not None and pays(self.rows, queries, fetched) else None
            scores, rows = (self._search if reduced is None else reduced.search)(queries, fetched)
        self._settle(queries, scores, rows, near)
        if fetched < len(self.rows):
            self._settle_boundary(queries, scores, rows, needed, near)
        scores, rows = scores[:, :needed], rows[:, :needed]
        if exclude is not None:
            scores, rows = _without(scores, rows, exclude)
        return Neighbors(np.ascontiguousarray(rows), np.ascontiguousarray(scores))

    def _near(self, queries: np.ndarray, rounding: float = _ROUNDING) -> np.ndarray:
        """Distance (Q, 1) between scores below which their order is not to be trusted."""
        if self.metric == "cosine":
            return np.full((len(queries), 1), rounding, np.float32)
        length = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))[:, None]
        longest = (
            np.sqrt(np.einsum("nd,nd->n", self.rows, self.rows, dtype=np.float64).max())
            if self._norms is None
            else np.sqrt(self._norms.max())
        )
        scale = length * longest if self.metric == "dot" else (length + longest) ** 2
        if not (scale < np.finfo(np.float32).max).all():
            raise NumericalError(
                f"the features are too large for {self.metric} scores in float32", fix="Scale them down, or use cosine."
            )
        return (_ROUNDING * np.maximum(scale, 1e-30)).astype(np.float32)

    def _settle(self, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray, near: np.ndarray) -> None:
        """Order runs of near-equal scores by (-exact score, row), in place."""
        close = scores[:, :-1] - scores[:, 1:] <= near  # (Q, k-1)
        touched = np.zeros(scores.shape, bool)
        touched[:, :-1] |= close
        touched[:, 1:] |= close
        at_query, at_place = np.nonzero(touched)
        if len(at_query) == 0:
            return
        scores[at_query, at_place] = self.score(queries, at_query, rows[at_query, at_place])
        falling, level = scores[:, :-1] > scores[:, 1:], scores[:, :-1] == scores[:, 1:]
        in_order = falling | (level & (rows[:, :-1] < rows[:, 1:]))
        for q in np.flatnonzero(~in_order.all(axis=1)):
            order = np.lexsort((rows[q], -scores[q]))
            scores[q], rows[q] = scores[q][order], rows[q][order]

    def _settle_boundary(
        self, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray, k: int, near: np.ndarray
    ) -> None:
        """Search the whole bank again for queries whose tie at the k-th place reaches beyond what was fetched."""
        for q in np.flatnonzero(scores[:, k - 1] - scores[:, -1] <= near[:, 0]):
            exact = self._score_all(queries[q])
            candidates = np.flatnonzero(exact >= np.partition(exact, len(exact) - k)[len(exact) - k])
            order = candidates[np.lexsort((candidates, -exact[candidates]))][:k]
            scores[q, :k], rows[q, :k] = exact[order], order

    def score(self, queries: np.ndarray, at_query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores (n,) of pairs (query, row), from float64 sums: equal rows get equal scores, whatever their place.

        `queries` (Q, D) are those that the pairs count; of unit length where scores are cosines.
        """
        return score_pairs(queries, at_query, self.rows, rows, self.metric)

    def _score_all(self, query: np.ndarray) -> np.ndarray:
        """Scores (N,) of every row for one query, the same numbers as `score`'s."""
        step = max(1, _CACHED_BYTES // (self.rows.shape[1] * 24))
        return np.concatenate(
            [
                _pairwise(query[None], self.rows[start : start + step], self.metric)
                for start in range(0, len(self.rows), step)
            ]
        )


def score_pairs(
    one: np.ndarray, at: np.ndarray, other: np.ndarray, to: np.ndarray, metric: str = "cosine"
) -> np.ndarray:
    """Scores (n,) float32 of one[at] with other[to], from float64 sums.

    Equal rows get equal scores, whatever their place. Rows (·, D) are of unit length where scores are cosines; then
    rounding may leave one a little above 1.
    """
    scores = np.empty(len(at), np.float32)
    step = max(1, _CACHED_BYTES // (24 * max(1, one.shape[1])))
    for start in range(0, len(at), step):
        part = slice(start, start + step)
        scores[part] = _pairwise(one[at[part]], other[to[part]], metric)
    return scores


def _pairwise(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    a, b = np.broadcast_arrays(queries.astype(np.float64), rows.astype(np.float64))
    if metric == "euclidean":
        return -np.square(a - b).sum(axis=1).astype(np.float32)
    return np.multiply(a, b).sum(axis=1).astype(np.float32)


def _float32(features: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, which the callers refuse
        return np.array(features, dtype=np.float32, order="C", ndmin=2)


def _finite(features: np.ndarray, first_row: int = 0) -> np.ndarray:
    rows = _float32(features)
    if not np.isfinite(rows).all():
        raise NumericalError(
            f"row {first_row + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])} of the features is not finite"
        )
    return rows


def _without(scores: np.ndarray, rows: np.ndarray, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays one column narrower: without the excluded row, or without the last one where it is not among them."""
    drop = rows == exclude[:, None]
    drop[~drop.any(axis=1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return scores[~drop].reshape(shape), rows[~drop].reshape(shape)


def _choose(engine: str, device: str) -> tuple[str, str]:
    """(engine, device) for what was asked; torch stands in where there is no FAISS or no FAISS kernel for the GPU."""
    if engine not in ("auto", "faiss", "torch"):
        raise UsageError(f"unknown neighbour engine {engine!r}; choose auto, faiss or torch")
    if engine == "auto":
        engine = "faiss" if faiss_is_here() else "torch"
    if engine == "torch":
        return "torch", _torch_device(device)
    if device == "auto":
        return ("faiss_gpu", "cuda") if os.path.exists("/dev/nvidia0") and faiss_gpu_works() else ("faiss", "cpu")
    if device.startswith("cuda"):
        return ("faiss_gpu", device) if faiss_gpu_works() else ("torch", _torch_device(device))
    return "faiss", "cpu"


def _torch_device(device: str) -> str:
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        if device != "auto":
            raise UsageError(
                f"--device {device}: torch sees no GPU here", fix="Run `fewvit doctor`, or use --device cpu."
            )
        return "cpu"
    return "cuda" if device == "auto" else device
