"""Groups of copies: images with the same bytes, then those whose features are close, joined to groups.

The same bytes are known by their sha256 and cost nothing. Rows that are equal bit for bit are compared as one, so that
a thousand copies of a file are no million comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..neighbors.pairs import Missed, Pairs, PairSearch, Progress, UnitRows, require_threshold, row_keys, score
from ..results import Row
from .compared import Comparison

FIRST, EXACT, NEAR = "first", "exact", "near"  # what an image is to the first one of its group
_TOGETHER = 8192  # rows whose features are taken together
_EXPANDED = 1 << 16  # pairs that are handed on together

Taker = Callable[[Pairs], None]  # told the pairs, rows counted over all sets


@dataclass(frozen=True)
class Group:
    """Images that are copies of one another, over one or more steps."""

    rows: np.ndarray  # (n,) int64, the first id first
    names: list[str]
    scores: np.ndarray  # (n,) float32: cosine with the first one
    kinds: list[str]  # `first`, `exact` or `near`


@dataclass
class Duplicates:
    """What was found."""

    groups: list[Group] = field(default_factory=list)  # in the order of their first ids
    pairs: int = 0  # of distinct features, at or above the threshold
    missed: Missed = field(default_factory=lambda: Missed(0, 0))

    def count(self, kind: str) -> int:
        """How many images are of a kind."""
        return sum(group.kinds.count(kind) for group in self.groups)


def find_duplicates(
    comparison: Comparison,
    threshold: float,
    *,
    exact: bool | None = None,
    take_pairs: Taker | None = None,
    progress: Progress = lambda share: None,
) -> Duplicates:
    """The groups of copies in a set, or across two: then each group has images of both.

    `take_pairs` is told every pair while the search runs, `exact` as in `PairSearch`. Memory: some numbers a row, never
    the pairs. Raises UsageError for a threshold that is none, NumericalError for NaN or Inf.
    """
    require_threshold(threshold)
    rows, split = comparison.rows, comparison.split
    groups = _Joined(len(rows))
    groups.join_equal(_words(comparison.digests))
    keys = row_keys(rows)
    twins = _Twins(keys, split)
    groups.join_heads(twins)
    if take_pairs is not None and split is None:
        for pairs in twins.pairs():
            take_pairs(pairs)
    search = PairSearch(
        UnitRows(len(twins.heads), lambda at: rows.take(twins.heads[at])),
        threshold,
        None if split is None else int(np.searchsorted(twins.heads, split)),
        keys=keys[twins.heads],
        exact=exact,
        progress=progress,
    )
    found = Duplicates()
    for near in search:
        found.pairs += len(near.scores)
        groups.join(twins.heads[near.first], twins.heads[near.second])
        if take_pairs is not None:
            for pairs in twins.expanded(near):
                take_pairs(pairs)
    found.missed = search.missed
    found.groups = _described(comparison, groups.members(split), keys)
    return found


class _Joined:
    """Rows in groups that grow together (union-find)."""

    def __init__(self, count: int):
        self._parent = list(range(count))

    def _root(self, row: int) -> int:
        parent = self._parent
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Put each pair of rows into one group."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._root(one), self._root(other)
            if a != b:
                self._parent[max(a, b)] = min(a, b)

    def join_equal(self, words: np.ndarray) -> None:
        """Put rows with equal numbers (N, w) into one group; all zeros are nothing known."""
        known = np.flatnonzero(words.any(axis=1))
        order = known[np.lexsort(words[known].T)]
        same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
        self.join(order[:-1][same], order[1:][same])

    def join_heads(self, twins: _Twins) -> None:
        """Put equal rows into one group."""
        more = np.flatnonzero(twins.heads[twins.home] != np.arange(len(twins.home)))
        self.join(more, twins.heads[twins.home[more]])

    def members(self, split: int | None) -> list[np.ndarray]:
        """The rows of each group of at least two; across two sets those that have rows of both."""
        roots = np.array([self._root(row) for row in range(len(self._parent))], np.int64)
        order = np.argsort(roots, kind="stable")
        places = np.flatnonzero(np.diff(roots[order])) + 1
        groups = [rows for rows in np.split(order, places) if len(rows) > 1]
        return groups if split is None else [rows for rows in groups if rows[0] < split <= rows[-1]]


class _Twins:
    """Rows of one set that are equal bit for bit, and the first of each: only these are compared."""

    def __init__(self, keys: np.ndarray, split: int | None):
        side = np.arange(len(keys)) >= (len(keys) if split is None else split)
        order = np.lexsort((side, keys[:, 1], keys[:, 0]))
        sorted_keys, sorted_side = keys[order], side[order]
        is_new = np.ones(len(keys), bool)
        is_new[1:] = (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1) | (sorted_side[1:] != sorted_side[:-1])
        number = np.cumsum(is_new) - 1
        by_head = np.argsort(order[is_new])
        place = np.empty_like(by_head)
        place[by_head] = np.arange(len(by_head))
        self.heads = order[is_new][by_head]  # (M,) rows, rising
        self.home = np.empty(len(keys), np.int64)  # (N,) place in `heads` of each row's twin
        self.home[order] = place[number]
        self._rows = np.argsort(self.home, kind="stable")
        self._starts = np.searchsorted(self.home[self._rows], np.arange(len(self.heads) + 1))
        self._sizes = np.diff(self._starts)

    def of(self, head: int) -> np.ndarray:
        """The rows (n,) that are equal to a head, it too."""
        return self._rows[self._starts[head] : self._starts[head + 1]]

    def pairs(self) -> Iterator[Pairs]:
        """All pairs of equal rows; their cosine is 1."""
        for head in np.flatnonzero(self._sizes > 1).tolist():
            rows = self.of(head)
            for at in range(len(rows) - 1):
                others = rows[at + 1 :]
                yield Pairs(np.full(len(others), rows[at]), others, np.ones(len(others), np.float32))

    def expanded(self, near: Pairs) -> Iterator[Pairs]:
        """Pairs of heads as pairs of all rows that are equal to them."""
        many = (self._sizes[near.first] > 1) | (self._sizes[near.second] > 1)
        few = ~many
        yield Pairs(self.heads[near.first[few]], self.heads[near.second[few]], near.scores[few])
        for at in np.flatnonzero(many).tolist():
            left, right = self.of(int(near.first[at])), self.of(int(near.second[at]))
            step = max(1, _EXPANDED // len(right))
            for start in range(0, len(left), step):
                part = left[start : start + step]
                one, other = np.repeat(part, len(right)), np.tile(right, len(part))
                scores = np.full(len(one), near.scores[at])
                yield Pairs(np.minimum(one, other), np.maximum(one, other), scores)


def _words(digests: np.ndarray) -> np.ndarray:
    """The digests (N,) V32 as numbers (N, 4) uint64."""
    return np.frombuffer(digests.tobytes(), "<u8").reshape(-1, 4)


# ---- what a group is


def _described(comparison: Comparison, members: list[np.ndarray], keys: np.ndarray) -> list[Group]:
    """The groups, each from its first id on; images of `data` come before the others."""
    if not members:
        return []
    rows = np.concatenate(members)
    names = comparison.names(rows)
    split = len(comparison) if comparison.split is None else comparison.split
    order_of = {row: (row >= split, name) for row, name in zip(rows.tolist(), names, strict=True)}
    name_of = dict(zip(rows.tolist(), names, strict=True))
    ordered = [np.array(sorted(group.tolist(), key=lambda row: (order_of[row], row))) for group in members]
    ordered.sort(key=lambda group: order_of[int(group[0])])
    firsts = np.concatenate([np.full(len(group), group[0]) for group in ordered])
    rows = np.concatenate(ordered)
    scores = _scores(comparison.rows, rows, firsts, keys)
    words = _words(comparison.digests)
    same_bytes = (words[rows] == words[firsts]).all(axis=1) & words[rows].any(axis=1)
    kinds = np.where(rows == firsts, FIRST, np.where(same_bytes, EXACT, NEAR)).tolist()
    groups, start = [], 0
    for group in ordered:
        part = slice(start, start + len(group))
        groups.append(Group(group, [name_of[row] for row in group.tolist()], scores[part], kinds[part]))
        start += len(group)
    return groups


def _scores(rows: UnitRows, some: np.ndarray, others: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Cosines (n,) float32, row by row; 1 where the two rows are equal."""
    scores = np.empty(len(some), np.float32)
    for start in range(0, len(some), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        scores[part] = score(rows.take(some[part]), rows.take(others[part]))
    scores[(keys[some] == keys[others]).all(axis=1)] = 1
    return scores


def group_rows(comparison: Comparison, groups: list[Group]) -> list[Row]:
    """One result row per image: `group` from 1, `id`, `set`, `score` with the group's first image, `kind`."""
    return [
        {"group": number, "id": name, "set": side, "score": round(float(value), 7), "kind": kind}
        for number, group in enumerate(groups, 1)
        for name, side, value, kind in zip(
            group.names, comparison.set_names(group.rows), group.scores.tolist(), group.kinds, strict=True
        )
    ]
