"""Pairs of rows whose cosine is at least a threshold, found with memory that does not grow with their number.

Few rows are compared with one another, every one. Many are joined by cells: each row is put into the cells of the
centres that it is nearest to, and compared with the rows it shares a cell with. Two rows that are close have the same
nearest centres almost always; how often not is measured, on rows moved just as far away as the threshold allows.

What is found depends on the rows alone, not on their order, the size of a block or the number of threads: products in
float32 only choose what is scored in float64, and centres are drawn by the content of rows.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..cpu import cores
from ..errors import UsageError
from . import Bank, normalise, score_pairs
from .approximate import lists
from .installed import faiss_library

EXACT_ROWS = 50_000  # up to so many rows every pair is compared: half a minute at width 384 on two cores
_BLOCK = 2048  # rows whose products are computed at once: 16 MiB of them
_ROUNDING = 3e-6  # products of unit rows in float32 are this near to the exact ones
_PROBES = 4096  # rows that the number of cells is settled with
_VISITED = (2, 3, 4, 6, 8, 12, 16)  # nearest centres whose cells a row is put into, from fast to thorough
_PER_CELL = 40  # rows of the sample that each centre is the mean of, about; FAISS asks for 39 at least
_ROUNDS = 3  # of k-means: more of them even cells out no further
_SEED = 1234  # of k-means, as FAISS's own
_MISSED = 0.0005  # share of the moved probes that may share no cell with their original

Take = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[float], None]  # told the share that is done, 0..1


class UnitRows:
    """Rows (N, D) that are taken a block at a time, each of unit length: features in memory or in a mapped file."""

    def __init__(self, count: int, take: Take):
        self._count, self._take = count, take

    @staticmethod
    def of(features: np.ndarray) -> UnitRows:
        """Rows of features (N, D) in float32 or float16, of any length."""
        return UnitRows(len(features), lambda rows: features[rows])

    def __len__(self) -> int:
        return self._count

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n, D) float32 of these numbers. Raises NumericalError for NaN or Inf."""
        return normalise(self._take(rows))

    def blocks(self, size: int = 16 * _BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and rows, a block after another."""
        for start in range(0, self._count, size):
            rows = np.arange(start, min(start + size, self._count))
            yield rows, self.take(rows)


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows with their cosines."""

    first: np.ndarray  # (n,) int64
    second: np.ndarray  # (n,) int64, a larger number than `first`
    scores: np.ndarray  # (n,) float32, from float64 sums


@dataclass(frozen=True)
class Missed:
    """How much a join by cells overlooks: of rows moved to the threshold, those that share no cell with their original.

    Real copies are nearer than the threshold, so fewer of them are missed.
    """

    missed: int
    probes: int  # 0: every pair was compared
    visited: int = 0  # cells that each row was put into

    @property
    def at_most(self) -> float:
        """The share missed, at the upper end of its 95 % interval (Wilson)."""
        return wilson(self.missed, self.probes)[1] if self.probes else 0.0


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927."""
    if tries == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / tries
    middle, half = p + z * z / (2 * tries), z * math.sqrt(p * (1 - p) / tries + z * z / (4 * tries * tries))
    return max(0.0, (middle - half) / (1 + z * z / tries)), min(1.0, (middle + half) / (1 + z * z / tries))


def score(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosines (n,) float32 of unit rows (n, D), pair by pair, as `score_places`."""
    every = np.arange(len(one))
    return score_places(one, other, every, every)


def nearest_rows(rows: UnitRows, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and exact cosines (Q, min(k, N)), nearest first, ties by row, of queries (Q, D) of unit length."""
    found = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for numbers, block in rows.blocks(65536):
        near = Bank.of_unit_rows(block).search(queries, min(k, len(block))).rows
        at = np.repeat(np.arange(len(queries)), near.shape[1])
        scores = score_places(queries, block, at, near.reshape(-1)).reshape(near.shape)
        both = np.concatenate([found[0], numbers[near]], 1), np.concatenate([found[1], scores], 1)
        order = np.lexsort((both[0], -both[1]), axis=1)[:, :k]
        found = np.take_along_axis(both[0], order, 1), np.take_along_axis(both[1], order, 1)
    return found


def row_keys(rows: UnitRows) -> np.ndarray:
    """Two numbers (N, 2) uint64 of each row's content: equal where the rows are, bit for bit, and nowhere else."""
    keys = np.empty((len(rows), 2), np.uint64)
    for numbers, block in rows.blocks():
        block += np.float32(0)  # minus zero is zero
        digests = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in block)
        keys[numbers] = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return keys


@dataclass(frozen=True)
class _Task:
    """Two blocks of rows that are compared with one another; a pair counts where its first number is the lower one."""

    rows: np.ndarray  # (a,) int64
    columns: np.ndarray  # (b,) int64
    cell: int  # -1: all rows are compared
    share: float  # of the comparisons that come before


class PairSearch:
    """The pairs of rows that are close, and afterwards in `missed` how much was overlooked.

    `split`: rows below it are one set, the others another, and only pairs across are found; None: all pairs.
    `keys` (N, 2) are the rows' `row_keys`, computed if need be. `exact`: every pair is compared; None: where there are
    few. Raises UsageError unless 0 < threshold <= 1.
    """

    def __init__(
        self,
        rows: UnitRows,
        threshold: float,
        split: int | None = None,
        *,
        keys: np.ndarray | None = None,
        exact: bool | None = None,
        block: int = _BLOCK,
        progress: Progress = lambda share: None,
    ):
        require_threshold(threshold)
        self._rows, self._least, self._split, self._block = rows, np.float32(threshold), split, block
        self._keys, self._progress = keys, progress
        self.is_exact = self._is_small() if exact is None else exact
        self.missed = Missed(0, 0)

    def _is_small(self) -> bool:
        n, split = len(self._rows), self._split
        return (n * n / 2 if split is None else split * (n - split)) <= EXACT_ROWS * EXACT_ROWS / 2

    def __iter__(self) -> Iterator[Pairs]:
        """The pairs, each once, in an order that does not depend on the number of threads."""
        yield from self._compared() if self.is_exact else self._in_cells()
        self._progress(1.0)

    # ---- every pair

    def _compared(self) -> Iterator[Pairs]:
        for task, some in _in_order(self._close, self._tasks(np.arange(len(self._rows)))):
            yield from some
            self._progress(task.share)

    def _tasks(self, members: np.ndarray, cell: int = -1) -> Iterator[_Task]:
        """What has to be compared to find the close pairs among some rows (n,), in rising order."""
        at = len(members) if self._split is None else int(np.searchsorted(members, self._split))
        left, right = members[:at], members if self._split is None else members[at:]
        for start in range(0, len(left), self._block):
            rows = left[start : start + self._block]
            share = _share_done(start, len(left), whole=self._split is not None)
            for other in range(start if self._split is None else 0, len(right), self._block):
                yield _Task(rows, right[other : other + self._block], cell, share)

    def _close(self, task: _Task) -> list[Pairs]:
        """The close pairs of one task."""
        rows, columns = task.rows, task.columns
        own, others = self._rows.take(rows), self._rows.take(columns)
        at, to = np.divmod(np.flatnonzero(own @ others.T >= self._least - _ROUNDING), len(columns))
        behind = rows[at] < columns[to]
        at, to = at[behind], to[behind]
        scores = score_places(own, others, at, to)
        near = scores >= self._least
        return [Pairs(rows[at[near]], columns[to[near]], scores[near])] if near.any() else []

    # ---- by cells

    def _in_cells(self) -> Iterator[Pairs]:
        """The close pairs that share a cell, each from the lowest of the cells they share."""
        drawn = self._in_order_of_content()
        centres = Bank.of_unit_rows(self._centres(drawn))
        self.missed = self._settled(centres, drawn[-_PROBES - 1 :])  # the centres were not made of these
        del drawn
        homes = self._homes(centres, self.missed.visited)  # (N, n) int32
        order = np.argsort(homes, axis=None, kind="stable")  # places in `homes`, cell by cell
        starts = np.searchsorted(homes.reshape(-1)[order], np.arange(len(centres) + 1))
        members = order // homes.shape[1]
        done = np.cumsum(np.diff(starts).astype(np.float64) ** 2)
        tasks = (
            task for cell in range(len(centres)) for task in self._tasks(members[starts[cell] : starts[cell + 1]], cell)
        )
        for task, some in _in_order(self._close, tasks):
            for pairs in some:
                lowest = _lowest_shared(homes, pairs.first, pairs.second) == task.cell
                if lowest.any():
                    yield Pairs(pairs.first[lowest], pairs.second[lowest], pairs.scores[lowest])
            self._progress(float(done[task.cell] / done[-1]))

    def _in_order_of_content(self) -> np.ndarray:
        """All rows as if drawn at random, and the same ones in front however the rows are ordered."""
        keys = row_keys(self._rows) if self._keys is None else self._keys
        return np.lexsort((keys[:, 1], keys[:, 0]))

    def _centres(self, drawn: np.ndarray) -> np.ndarray:
        """Unit rows (C, D): the means that k-means finds in a sample."""
        faiss, count = faiss_library(), lists(len(self._rows))
        sample = self._rows.take(drawn[: count * _PER_CELL])
        means = faiss.Kmeans(
            sample.shape[1], count, niter=_ROUNDS, seed=_SEED, spherical=True, max_points_per_centroid=2 * _PER_CELL
        )
        means.train(sample)
        return normalise(means.centroids)

    def _homes(self, centres: Bank, visited: int) -> np.ndarray:
        homes = np.empty((len(self._rows), visited), np.int32)
        for numbers, block in self._rows.blocks():
            homes[numbers] = centres.search(block, visited).rows
        return homes

    def _settled(self, centres: Bank, drawn: np.ndarray) -> Missed:
        """The fewest cells for each row with which almost no probe is missed, or the most."""
        probes = self._rows.take(drawn)
        moved = toward(probes[:-1], probes[1:], float(self._least))
        most = min(_VISITED[-1], len(centres))
        near, far = (centres.search(rows, most).rows for rows in (probes[:-1], moved))
        for visited in _VISITED:
            share = (near[:, :visited, None] == far[:, None, :visited]).any(axis=(1, 2))
            missed = Missed(int(np.count_nonzero(~share)), len(share), min(visited, most))
            if missed.missed <= _MISSED * len(share):
                break
        return missed


def require_threshold(threshold: float) -> None:
    """Raise UsageError unless it is a cosine above which images may be copies."""
    if not 0 < threshold <= 1:
        raise UsageError(
            f"--threshold {threshold} is no cosine of copies", fix="Give a number above 0, and at most 1; such as 0.95."
        )


def score_places(own: np.ndarray, others: np.ndarray, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Cosines (n,) float32 of own[at] with others[to]: those of `score_pairs`, but at most 1."""
    return np.minimum(score_pairs(own, at, others, to), np.float32(1))


def toward(rows: np.ndarray, others: np.ndarray, cosine: float) -> np.ndarray:
    """Unit rows (n, D) turned in the direction of others until their cosine with themselves has fallen to `cosine`.

    Toward another row, and not anywhere, since features fill few of their dimensions: there centres are near.
    """
    wide, target = rows.astype(np.float64), others.astype(np.float64)
    side = target - (wide * target).sum(axis=1, keepdims=True) * wide
    length = np.linalg.norm(side, axis=1, keepdims=True)
    side /= np.where(length > 0, length, 1)
    return normalise(cosine * wide + math.sqrt(1 - cosine * cosine) * side)


def _in_order(work: Callable[[_Task], list[Pairs]], tasks: Iterator[_Task]) -> Iterator[tuple[_Task, list[Pairs]]]:
    """What `work` makes of each task, in order, on all cores: a few tasks ahead, so that memory stays bounded.

    Each task has one thread, also in its products: small ones gain nothing from several, and lose much where other
    programs run.
    """
    from threadpoolctl import threadpool_limits

    waiting: deque[tuple[_Task, Future[list[Pairs]]]] = deque()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores()) as pool:
        for task in tasks:
            waiting.append((task, pool.submit(work, task)))
            if len(waiting) > 2 * cores():
                before, future = waiting.popleft()
                yield before, future.result()
        while waiting:
            before, future = waiting.popleft()
            yield before, future.result()


def _lowest_shared(homes: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The lowest cell (n,) that both rows of each pair are in."""
    lowest = np.empty(len(first), np.int32)
    for start in range(0, len(first), 65536):
        part = slice(start, start + 65536)
        one, other = homes[first[part]], homes[second[part]]
        shared = (one[:, :, None] == other[:, None, :]).any(axis=2)
        lowest[part] = np.where(shared, one, np.iinfo(np.int32).max).min(axis=1)
    return lowest


def _share_done(done: int, of: int, *, whole: bool) -> float:
    """The share of the comparisons; of one set each row is compared with those behind it only."""
    return done / of if whole else 1 - (1 - done / of) ** 2
