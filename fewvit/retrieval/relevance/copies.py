"""DISC21: which reference each query is a copy of, judged over the scores of all pairs together."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ...labels import Listed
from ...results import Row
from ..match_tables import read_copies
from ..measures.copies import pair_measures, ranks_of_copies, recall_at_ranks, true_pairs
from ..names import NamedRows
from .ranking import Parts, rows_of


@dataclass(frozen=True)
class Copies:
    """The true pairs in rows. Queries that are a copy of nothing are asked too: what is found for them is wrong."""

    queries: np.ndarray
    pairs: np.ndarray  # (M, 2): place among the asked queries, row of the index
    depth: int = 10  # neighbours of each query that become pairs
    own: None = None

    @classmethod
    def read(cls, file: str | os.PathLike[str], queries: Listed, index: Listed) -> Copies:
        """The ground truth in a CSV, by the names of images. Raises DataError for images that are not there."""
        table = read_copies(file)
        asked = NamedRows(queries.ids, "the queries").rows(table.queries, file)
        place = {name: i for i, name in enumerate(table.queries)}
        references = NamedRows(index.ids, "the index").rows([reference for _, reference in table.pairs], file)
        return cls(asked, np.stack([np.array([place[query] for query, _ in table.pairs]), references], axis=1))

    def measure(self, parts: Parts) -> list[Row]:
        """Micro-AP, the operating point at 90 % precision, and recall at the first ranks."""
        scores, copies, ranks = [], [], []
        for part, near in parts:
            asked = np.repeat(np.arange(len(self.queries))[part], near.rows.shape[1])
            true = true_pairs(np.stack([asked, near.rows.ravel()], axis=1), self.pairs)
            scores.append(near.scores.ravel())
            copies.append(true)
            ranks.append(ranks_of_copies(near.scores, true.reshape(near.rows.shape)))
        found = pair_measures(np.concatenate(scores), np.concatenate(copies), len(self.pairs))
        found |= recall_at_ranks(np.concatenate(ranks), len(self.pairs))
        return rows_of(found, len(self.queries))
