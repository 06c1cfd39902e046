"""The nearest rows of an index: by comparing every row, or by a structure's candidates whose exact scores decide.

A score is the cosine from float64 sums, the same for every kind of index. Equal scores are in the order of the ids'
bytes, so that an answer depends on what is in the index alone, and not on how it came to be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..neighbors import Bank
from ..neighbors.approximate import Effort
from .segment import Segment

_GATHERED = 65536  # rows that are copied together to be compared, where most of a segment is left out
_MOSTLY = 4  # a search over all rows is made where no more than one in four of them is left out
_MORE = 4096  # left-out rows that a search looks past; beyond them the others are gathered
_FEW = 8  # a structure is asked where at least one row in eight may be found; it is blind among fewer
_PAIRS = 1 << 20  # scores that are computed together


@dataclass(frozen=True)
class Near:
    """The nearest rows of each query, best first; queries may have different numbers of them."""

    starts: np.ndarray  # (Q + 1,) int64: those of query q are rows[starts[q]:starts[q + 1]]
    rows: np.ndarray  # (M,) int64, counted over all segments
    scores: np.ndarray  # (M,) float32, cosine

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of one query."""
        part = slice(self.starts[query], self.starts[query + 1])
        return self.rows[part], self.scores[part]

    def __len__(self) -> int:
        return len(self.starts) - 1


def nearest(
    segments: Sequence[Segment],
    queries: np.ndarray,
    k: int,
    allowed: Sequence[np.ndarray | None],
    effort: Effort | None,
) -> Near:
    """The k nearest allowed rows of each query (Q, D) of unit length; fewer where fewer are allowed.

    `allowed` has for each segment which rows (N,) bool may be named, or None for all. `effort` None: every row is
    compared.
    """
    found = [_of_segment(segment, queries, k, mask, effort) for segment, mask in zip(segments, allowed, strict=True)]
    starts = np.cumsum([0, *(segment.rows for segment in segments)])
    if len(found) == 1:
        scores, rows = found[0]
        return _ragged(scores, rows)
    scores = np.concatenate([s for s, _ in found], axis=1)
    rows = np.concatenate([np.where(r < 0, r, r + start) for (_, r), start in zip(found, starts[:-1], strict=True)], 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    _order_ties(scores, rows, segments, starts)
    return _ragged(scores[:, :k], rows[:, :k])


def _ragged(scores: np.ndarray, rows: np.ndarray) -> Near:
    """Without the places (Q, k) where nothing was found: row -1, at the end of each line."""
    there = rows >= 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    return Near(starts, rows[there], scores[there])


def _order_ties(scores: np.ndarray, rows: np.ndarray, segments: Sequence[Segment], starts: np.ndarray) -> None:
    """Order equal scores of rows of several segments by the bytes of their ids, in place."""
    tied = (scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= 0)
    for q in np.flatnonzero(tied.any(axis=1)):
        home = np.searchsorted(starts, rows[q], side="right") - 1
        keys = [
            (-score, segments[s].ids.raw(row - starts[s]) if row >= 0 else b"", row < 0)
            for score, row, s in zip(scores[q].tolist(), rows[q].tolist(), home.tolist(), strict=True)
        ]
        order = sorted(range(len(keys)), key=lambda at: (keys[at][2], keys[at][0], keys[at][1]))
        scores[q], rows[q] = scores[q][order], rows[q][order]


def _of_segment(
    segment: Segment, queries: np.ndarray, k: int, allowed: np.ndarray | None, effort: Effort | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (Q, k) of one segment, -inf and -1 where there are fewer."""
    count = segment.rows if allowed is None else int(np.count_nonzero(allowed))
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    width = min(k, count)
    if width == 0 or len(queries) == 0:
        return scores, rows
    missing = np.arange(len(queries))
    structure = segment.candidates if effort is not None and count * _FEW >= segment.rows else None
    if structure is not None and effort is not None:
        found = structure.search(queries, min(segment.rows, width * effort.rerank), effort, allowed)
        scores[:, :width], rows[:, :width] = _ranked(segment, queries, width, found)
        too_few = rows[:, width - 1] < 0
        if found.shape[1] < count:
            too_few |= _cuts_a_tie(segment, queries, found[:, -1], scores[:, width - 1])
        missing = np.flatnonzero(too_few)  # the structure found too few: then every row is compared
    if len(missing):
        scores[missing, :width], rows[missing, :width] = _compared(segment, queries[missing], width, allowed)
    return scores, rows


def _ranked(segment: Segment, queries: np.ndarray, k: int, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best k of a structure's candidates (Q, n) by their exact scores; -inf and -1 where it found fewer."""
    found = np.sort(found, axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = -1  # no writer lists a row twice, but a file may
    at_query, at_place = np.nonzero(found >= 0)
    scores = np.full(found.shape, -np.inf, np.float32)
    for start in range(0, len(at_query), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[at_query[part], at_place[part]] = segment.bank.score(
            queries, at_query[part], found[at_query[part], at_place[part]]
        )
    return _best(scores, found, k)


def _cuts_a_tie(segment: Segment, queries: np.ndarray, last: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Whether each query's (Q,) last candidate is as near as its k-th: others as near may then be no candidates."""
    cut = np.zeros(len(queries), bool)
    there = np.flatnonzero(last >= 0)
    cut[there] = segment.bank.score(queries, there, last[there]) == worst[there]
    return cut


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line, equal scores by row; what was not found, row -1, comes last."""
    by_row = np.argsort(np.where(rows < 0, np.iinfo(np.int64).max, rows), axis=1, kind="stable")
    scores, rows = np.take_along_axis(scores, by_row, 1), np.take_along_axis(rows, by_row, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _compared(
    segment: Segment, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest allowed rows, by comparing every one; at least k are allowed."""
    left_out = 0 if allowed is None else segment.rows - int(np.count_nonzero(allowed))
    if allowed is None or left_out == 0:
        return _exact(segment.bank, queries, k)
    if left_out * _MOSTLY <= segment.rows:
        return _past(segment, queries, k, allowed, left_out)
    return _gathered(segment, queries, k, np.flatnonzero(allowed))


def _exact(bank: Bank, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores from float64 sums and rows (Q, k), whichever queries are searched together."""
    rows = bank.search(queries, k).rows
    scores = np.empty(rows.shape, np.float32)
    step = max(1, _PAIRS // k)
    for start in range(0, len(queries), step):
        part = rows[start : start + step]
        at_query = np.repeat(np.arange(start, start + len(part)), k)
        scores[start : start + step] = bank.score(queries, at_query, part.reshape(-1)).reshape(part.shape)
    return _best(scores, rows, k)


def _past(
    segment: Segment, queries: np.ndarray, k: int, allowed: np.ndarray, left_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Search all rows for more than k and look past those left out; for twice as many where that was not enough."""
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    missing, more = np.arange(len(queries)), min(left_out, max(16, k))
    while len(missing) and more <= _MORE:
        fetched = min(segment.rows, k + more)
        some_scores, some_rows = _exact(segment.bank, queries[missing], fetched)
        there = allowed[some_rows]
        enough = there.sum(axis=1) >= k
        first = np.argsort(~there[enough], axis=1, kind="stable")[:, :k]
        scores[missing[enough]] = np.take_along_axis(some_scores[enough], first, 1)
        rows[missing[enough]] = np.take_along_axis(some_rows[enough], first, 1)
        missing, more = missing[~enough], 2 * more
    if len(missing):
        scores[missing], rows[missing] = _gathered(segment, queries[missing], k, np.flatnonzero(allowed))
    return scores, rows


def _gathered(segment: Segment, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search copies of these rows, a block after another."""
    best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(rows), _GATHERED):
        part = rows[start : start + _GATHERED]
        scores, found = _exact(Bank.of_unit_rows(segment.features[part]), queries, min(k, len(part)))
        best = _best(np.concatenate([best[0], scores], 1), np.concatenate([best[1], part[found]], 1), k)
    return best
