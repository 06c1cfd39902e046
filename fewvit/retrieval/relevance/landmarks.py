"""Google Landmarks v2, retrieval: the index's images of the landmark that a query shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...labels import Listed
from ...metrics import average_precision_at
from ...results import Row
from ..match_tables import read_landmarks
from ..names import NamedRows
from .ranking import Parts, rows_of


@dataclass(frozen=True)
class Landmarks:
    """The relevant rows of each query, and whether it is one of the public or the private ones."""

    queries: np.ndarray
    images: Sequence[np.ndarray]  # of each query: rows of the index
    usage: Sequence[str]  # of each query
    depth: int = 100
    own: None = None

    @classmethod
    def read(cls, file: str | os.PathLike[str], queries: Listed, index: Listed) -> Landmarks:
        """The solution in a CSV, by the names of images. Raises DataError for images that are not there."""
        table, known = read_landmarks(file), NamedRows(index.ids, "the index")
        asked = NamedRows(queries.ids, "the queries").rows(table.images, file)
        return cls(asked, [known.rows(names, file) for names in table.images.values()], list(table.usage.values()))

    def measure(self, parts: Parts) -> list[Row]:
        """mAP@100 of the public and of the private queries, the two numbers of the challenge."""
        values = np.zeros(len(self.queries))
        for part, near in parts:
            relevant = np.stack(
                [np.isin(ranking, images) for ranking, images in zip(near.rows, self.images[part], strict=True)]
            )[:, : self.depth]
            most = np.array([min(len(images), self.depth) for images in self.images[part]])
            values[part] = 100 * average_precision_at(relevant, most)
        usage = np.array(self.usage)
        return [
            row
            for used in sorted(set(self.usage))
            for row in rows_of(
                {f"map@{self.depth}": float(values[usage == used].mean())}, int((usage == used).sum()), setting=used
            )
        ]
