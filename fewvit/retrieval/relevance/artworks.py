"""The Met: naming an artwork by the classes of its neighbours, and doubting what is none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import DataError, counted
from ...labels import Listed
from ...results import Row
from ..measures.recognition import DISTRACTOR, name_by_neighbours, recognition_measures, tuned
from .ranking import Parts, require_some, rows_of

# what its authors tune on the validation queries
KS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)


@dataclass(frozen=True)
class Artworks:
    """The class of each query; unlabelled queries are distractors, which show nothing of the index."""

    queries: np.ndarray
    targets: np.ndarray  # (Q,) in the numbers of `index_labels`, or DISTRACTOR
    index_labels: np.ndarray  # (N,)
    k: int = 10
    temperature: float = 15.0
    own: None = None

    @classmethod
    def bound(cls, queries: Listed, index: Listed) -> Artworks:
        """By the names of classes. Raises DataError for an index with unlabelled images and for queries of other
        classes.
        """
        unlabelled = int((index.labels < 0).sum())
        if unlabelled:
            raise DataError(
                f"{counted(unlabelled, 'image of the index has', 'images of the index have')} no label",
                fix="Give class folders, or a table with a label for each image.",
            )
        number = {index.classes[c]: int(c) for c in np.unique(index.labels)}
        table = np.array([*(number.get(name, DISTRACTOR) for name in queries.classes), DISTRACTOR], np.int64)
        targets = table[queries.labels]
        foreign = int(((targets == DISTRACTOR) & (queries.labels >= 0)).sum())
        if foreign:
            raise DataError(
                f"{counted(foreign, 'query is', 'queries are')} of a class that the index has not",
                fix="A distractor has no label.",
            )
        require_some(int((targets != DISTRACTOR).sum()), "has its class")
        return cls(np.arange(len(targets)), targets, index.labels)

    @property
    def depth(self) -> int:
        """The neighbours that are asked for a name."""
        return self.k

    def tuned_on(self, validation: Artworks, parts: Parts) -> Artworks:
        """With the number of neighbours and the temperature of the highest GAP on the neighbours of other queries.

        These are as many as the largest of `KS`, or the whole index.
        """
        labels, scores = self._found(parts)
        k, temperature = tuned(labels, scores, validation.targets, self._n_classes, KS, TEMPERATURES)
        return replace(self, k=min(k, labels.shape[1]), temperature=temperature)

    def measure(self, parts: Parts) -> list[Row]:
        """GAP over all queries, over those that are no distractors, and how many of these are named rightly."""
        labels, scores = self._found(parts)
        named, confidence = name_by_neighbours(
            labels[:, : self.k], scores[:, : self.k], self._n_classes, self.temperature
        )
        found = recognition_measures(named, confidence, self.targets)
        return rows_of(found, len(self.targets), k=self.k, temperature=self.temperature)

    @property
    def _n_classes(self) -> int:
        return len(np.unique(self.index_labels))

    def _found(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """Labels and scores (Q, K) of the neighbours."""
        near: Sequence[tuple[np.ndarray, np.ndarray]] = [(self.index_labels[one.rows], one.scores) for _, one in parts]
        return np.concatenate([labels for labels, _ in near]), np.concatenate([scores for _, scores in near])
