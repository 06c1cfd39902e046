"""What searches exactly: (rows, metric, device) -> a function of queries and k <= N.

It gives scores and rows; equal scores are in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .installed import faiss_library

if TYPE_CHECKING:
    from torch import Tensor

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (queries, k) -> scores and rows (Q, k)

GPU_MAX_K = 2048  # GPU_MAX_SELECTION_K of FAISS
_BLOCK_BYTES = 12 << 20  # scores of one product stay below this
_HALF_ROWS = 32768  # rows in half precision that are widened at once


def _faiss(rows: np.ndarray, metric: str, device: str) -> Search:
    def knn(queries: np.ndarray, part: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = faiss_library()  # only when it is needed: the kernels in C do without, and importing it takes a while
        kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        return faiss.knn(queries, part, k, metric=kind)  # reads rows in place: an index would copy the bank

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, found = knn(queries, rows, k)
        return (-scores if metric == "euclidean" else scores), found

    def in_blocks(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        for start in range(0, len(rows), _HALF_ROWS):
            part = np.asarray(rows[start : start + _HALF_ROWS], np.float32)
            scores, found = knn(queries, part, min(k, len(part)))
            best = _best_of(best, (scores, found + start), k)
        return best

    return search if rows.dtype == np.float32 else in_blocks


def _best_of(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best scores and their rows (Q, k) of two searches, best first."""
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _faiss_gpu(rows: np.ndarray, metric: str, device: str) -> Search:
    faiss = faiss_library()
    number = int(device.partition(":")[2] or 0)
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(512 << 20)  # its default takes a fifth of the card
    config = faiss.GpuIndexFlatConfig()
    config.device = number
    index = (faiss.GpuIndexFlatL2 if metric == "euclidean" else faiss.GpuIndexFlatIP)(resources, rows.shape[1], config)
    for start in range(0, len(rows), _HALF_ROWS):
        index.add(np.asarray(rows[start : start + _HALF_ROWS], np.float32))
    fallback: list[Search] = []

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k > GPU_MAX_K:
            if not fallback:
                fallback.append(_torch(rows, metric, device))
            return fallback[0](queries, k)
        scores, found = index.search(queries, k)
        return (-scores if metric == "euclidean" else scores), found

    return search


def _torch(rows: np.ndarray, metric: str, device: str) -> Search:
    import torch

    whole = rows if rows.flags.writeable and rows.dtype == np.float32 else np.array(rows, np.float32)
    bank = torch.from_numpy(whole).to(device)
    squares = bank.double().square().sum(dim=1).float() if metric == "euclidean" else None
    block = max(1024, _BLOCK_BYTES // (4 * 512))  # bank rows per product of 512 queries

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


ENGINES = {"faiss": _faiss, "faiss_gpu": _faiss_gpu, "torch": _torch}
