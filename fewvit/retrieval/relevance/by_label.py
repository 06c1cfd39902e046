"""Relevant are the images of the query's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...labels import Listed
from ...results import Row
from ..measures.labels import label_measures
from ..names import rows_of_ids
from .ranking import Parts, require_some, rows_of

KS = (1, 5, 10)


@dataclass(frozen=True)
class ByLabel:
    """Queries with at least one image of their class in the index; others are left out and counted."""

    queries: np.ndarray  # (Q,)
    labels: np.ndarray  # (Q,) of the asked queries, in the numbers of `index_labels`
    index_labels: np.ndarray  # (N,), -1 = unlabelled: relevant to none
    positives: np.ndarray  # (Q,) images of the query's class, without itself
    own: np.ndarray | None
    left_out: int = 0  # queries without a positive
    ks: Sequence[int] = field(default=KS)

    @classmethod
    def bound(cls, queries: Listed, index: Listed, *, leave_one_out: bool = False) -> ByLabel:
        """The relevance of the images of `index` to those of `queries`; classes agree by their names.

        `leave_one_out`: an image of the index with the query's id is the query itself, and no answer to it. Raises
        DataError where no query has a positive.
        """
        number = {name: c for c, name in enumerate(index.classes)}
        # the last entry serves label -1
        table = np.array([*(number.get(name, -1) for name in queries.classes), -1], np.int64)
        labels = table[queries.labels]
        counts = np.bincount(index.labels[index.labels >= 0], minlength=len(index.classes) + 1)
        own = rows_of_ids(queries.ids, index.ids) if leave_one_out else None
        positives = np.where(labels >= 0, counts[labels], 0)
        if own is not None:
            positives = positives - ((own >= 0) & (index.labels[own] == labels))
        asked = np.flatnonzero(positives > 0)
        require_some(len(asked), "has an image of its class")
        return cls(
            asked,
            labels[asked],
            index.labels,
            positives[asked],
            None if own is None else own[asked],
            len(labels) - len(asked),
        )

    @property
    def depth(self) -> int:
        """Every k, and for each query as many as it has positives."""
        return int(max(*self.ks, self.positives.max()))

    def measure(self, parts: Parts) -> list[Row]:
        """The mean of each label measure over the asked queries."""
        found = [
            label_measures(self.index_labels[near.rows] == self.labels[part, None], self.positives[part], self.ks)
            for part, near in parts
        ]
        means = {name: float(np.concatenate([one[name] for one in found]).mean()) for name in found[0]}
        return rows_of(means, len(self.queries), self.left_out)
