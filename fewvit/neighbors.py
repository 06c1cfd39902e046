"""Exact nearest neighbours: the only module that imports FAISS, and the owner of normalisation.

Scores are higher = nearer for every metric, rows come best first, and equal scores are ordered by row, exactly, across
the k-th place too. FAISS's own order on ties depends on blocking, so whatever lies within rounding of a tie is scored
again in float64. One file because the search and the correction of its ties rest on the same normalised rows, and FAISS
is imported nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .cpu import in_threads, wide_openblas
from .errors import DataError, NumericalError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (queries, k) -> scores and rows (Q, k)

METRICS = ("cosine", "dot", "euclidean")
GPU_MAX_K = 2048  # GPU_MAX_SELECTION_K of FAISS
_CHUNK_BYTES = 12 << 20  # results and temporaries of one chunk of queries stay below this
_CACHED_BYTES = 2 << 20  # temporaries of one step of the exact scores stay in the CPU's cache
_BLOCK_ROWS = 2048  # rows that are normalised at once, while they are in the CPU's cache
_SPARE = 8  # neighbours fetched beyond k, so that most ties across the k-th place are seen whole
_ROUNDING = 3e-6  # float32 scores this close, relative to the largest possible one, may be in the wrong order


@dataclass(frozen=True)
class Neighbors:
    """The k nearest bank rows of each query, best first, ties by row.

    Which rows they are, and their order, depends on the query and the bank alone. A score that is near no other is
    FAISS's own sum in float32: its last digit or two may differ where other queries are searched together with it.
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
        if np.ndim(features) != 2 or len(features) == 0:
            raise DataError(f"a bank needs features of shape (N, D) with at least one row, got {np.shape(features)}")
        self.metric, self.engine, self.device = metric, *_choose(engine, device)
        self.rows = normalise(features) if metric == "cosine" else _finite(features)
        self._norms = np.einsum("nd,nd->n", self.rows, self.rows, dtype=np.float64) if metric == "euclidean" else None
        self._search = _ENGINES[self.engine](self.rows, metric, self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engine's own structures, which are built again where the bank is unpickled."""
        return {name: value for name, value in vars(self).items() if name != "_search"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._search = _ENGINES[self.engine](self.rows, self.metric, self.device)

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
        near = self._near(queries)
        scores, rows = self._search(queries, fetched)
        self._settle(queries, scores, rows, near)
        if fetched < len(self.rows):
            self._settle_boundary(queries, scores, rows, needed, near)
        scores, rows = scores[:, :needed], rows[:, :needed]
        if exclude is not None:
            scores, rows = _without(scores, rows, exclude)
        return Neighbors(np.ascontiguousarray(rows), np.ascontiguousarray(scores))

    def _near(self, queries: np.ndarray) -> np.ndarray:
        """Distance (Q, 1) between scores below which their order is not to be trusted."""
        if self.metric == "cosine":
            return np.full((len(queries), 1), _ROUNDING, np.float32)
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
        scores[at_query, at_place] = self._rescore(queries, at_query, rows[at_query, at_place])
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

    def _rescore(self, queries: np.ndarray, at_query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores (n,) of pairs (query, row), from float64 sums: equal rows get equal scores, whatever their place."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, _CACHED_BYTES // (self.rows.shape[1] * 24))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = self._pairwise(queries[at_query[part]], self.rows[rows[part]])
        return scores

    def _score_all(self, query: np.ndarray) -> np.ndarray:
        """Scores (N,) of every row for one query, the same numbers as `_rescore`'s."""
        step = max(1, _CACHED_BYTES // (self.rows.shape[1] * 24))
        return np.concatenate(
            [self._pairwise(query[None], self.rows[start : start + step]) for start in range(0, len(self.rows), step)]
        )

    def _pairwise(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        a, b = np.broadcast_arrays(queries.astype(np.float64), rows.astype(np.float64))
        if self.metric == "euclidean":
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


# ---- engines: (rows, metric, device) -> function (queries, k) -> (scores, rows), k <= N, order on ties arbitrary


def faiss_is_here() -> bool:
    """Whether FAISS is installed; does not import it."""
    return importlib.util.find_spec("faiss") is not None


def _library() -> ModuleType:
    """FAISS, with the widest kernels of the CPU. Raises ImportError."""
    with wide_openblas():
        import faiss
    return faiss


@lru_cache(maxsize=1)
def faiss_gpu_works() -> bool:
    """Whether FAISS has kernels for the GPU here, by a search of 64 vectors: an unfit wheel installs without error."""
    faiss = _library()
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return False
    rows = np.eye(64, dtype=np.float32)
    try:
        _, found = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 1, metric=faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        return False
    return bool((found[:, 0] == np.arange(64)).all())


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


def _faiss(rows: np.ndarray, metric: str, device: str) -> _Search:
    faiss = _library()
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, found = faiss.knn(queries, rows, k, metric=kind)  # reads `rows` in place: an index would copy the bank
        return (-scores if metric == "euclidean" else scores), found

    return search


def _faiss_gpu(rows: np.ndarray, metric: str, device: str) -> _Search:
    faiss = _library()
    number = int(device.partition(":")[2] or 0)
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(512 << 20)  # its default takes a fifth of the card
    config = faiss.GpuIndexFlatConfig()
    config.device = number
    index = (faiss.GpuIndexFlatL2 if metric == "euclidean" else faiss.GpuIndexFlatIP)(resources, rows.shape[1], config)
    index.add(rows)
    fallback: list[_Search] = []

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k > GPU_MAX_K:
            if not fallback:
                fallback.append(_torch(rows, metric, device))
            return fallback[0](queries, k)
        scores, found = index.search(queries, k)
        return (-scores if metric == "euclidean" else scores), found

    return search


def _torch(rows: np.ndarray, metric: str, device: str) -> _Search:
    import torch

    bank = torch.from_numpy(rows).to(device)
    squares = bank.double().square().sum(dim=1).float() if metric == "euclidean" else None
    block = max(1024, _CHUNK_BYTES // (4 * 512))  # bank rows per product of 512 queries

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            _torch_topk(torch.from_numpy(queries[i : i + 512]).to(device), bank, squares, k, block)
            for i in range(0, len(queries), 512)
        ]
        scores, found = (torch.cat(side).cpu().numpy() for side in zip(*parts, strict=True))
        return scores, found

    return search


def _torch_topk(queries: Tensor, bank: Tensor, squares: Tensor | None, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Best k of the blocks' best k, so that the whole score matrix never exists."""
    import torch

    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(bank), block):
        part = bank[start : start + block]
        scores = queries @ part.T
        if squares is not None:
            scores = 2 * scores - squares[start : start + block] - queries.square().sum(dim=1, keepdim=True)
        top, at = scores.topk(min(k, len(part)), dim=1)
        if best is not None:
            top, at = torch.cat([best[0], top], dim=1), torch.cat([best[1], at + start], dim=1)
            top, order = top.topk(min(k, top.shape[1]), dim=1)
            at = at.gather(1, order)
        best = (top, at)
    if best is None:
        raise DataError("the bank is empty")
    return best


_ENGINES = {"faiss": _faiss, "faiss_gpu": _faiss_gpu, "torch": _torch}


def faiss_facts() -> tuple[str, str, int]:
    """(version, compile options, number of GPUs) of the installed FAISS. Raises ImportError."""
    faiss = _library()
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return str(faiss.__version__), str(faiss.get_compile_options()).strip(), int(gpus)
