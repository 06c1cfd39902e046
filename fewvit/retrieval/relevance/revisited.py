"""Revisited Oxford and Paris: three settings of what counts as found, and what as junk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...labels import Listed
from ...results import Row
from ..ground_truth import QueryTruth, RevisitedTruth, read_revisited
from ..measures.revisited import query_measures, ranks_without_junk
from ..names import NamedRows
from .ranking import Parts, mean_of, require_some, rows_of

# setting -> which kinds are positives, and which are junk
SETTINGS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@dataclass(frozen=True)
class Revisited:
    """The truth in rows of an index. Images of it that the benchmark does not know are negatives, such as its million
    distractors; its queries, if they stand in the index too, are junk.
    """

    queries: np.ndarray
    truth: Sequence[Mapping[str, np.ndarray]]  # of each query: kind -> rows of the index
    unasked: np.ndarray  # rows of the index that are queries
    depth: int  # the whole index
    boxes: Sequence[tuple[float, float, float, float] | None]  # of each query
    own: None = None

    @classmethod
    def read(cls, file: str | os.PathLike[str], queries: Listed, index: Listed) -> Revisited:
        """The ground truth in a JSON file, by the names of images. Raises DataError for images that are not there."""
        return cls.bound(read_revisited(file), queries, index, file)

    @classmethod
    def bound(
        cls, truth: RevisitedTruth, queries: Listed, index: Listed, file: str | os.PathLike[str] = ""
    ) -> Revisited:
        """The truth for these queries and this index."""
        known = NamedRows(index.ids, "the index")
        images = known.rows(truth.images, file)
        asked = NamedRows(queries.ids, "the queries").rows(truth.queries, file)
        also = known.rows([name for name in truth.queries if name in known], file)
        return cls(
            asked,
            [_in_rows(one, images) for one in truth.truth],
            also,
            len(index.ids),
            [one.box for one in truth.truth],
        )

    def measure(self, parts: Parts) -> list[Row]:
        """mAP and mP@k of each setting, over the queries that have a positive in it."""
        found: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
        for part, near in parts:
            for truth, ranking in zip(self.truth[part], near.rows, strict=True):
                for setting, measures in self._settings(truth, ranking):
                    found[setting].append(measures)
        require_some(sum(map(len, found.values())), "has a positive")
        return [
            row
            for setting, judged in found.items()
            if judged
            for row in rows_of(mean_of(judged), len(judged), len(self.queries) - len(judged), setting=setting)
        ]

    def _settings(self, truth: Mapping[str, np.ndarray], ranking: np.ndarray) -> list[tuple[str, dict[str, float]]]:
        """(setting, measures) of one query, for the settings in which it has a positive."""
        judged = []
        for setting, (right, junk) in SETTINGS.items():
            positives = np.concatenate([truth[kind] for kind in right])
            if len(positives):
                out = np.concatenate([self.unasked, *(truth[kind] for kind in junk)])
                judged.append((setting, query_measures(ranks_without_junk(ranking, positives, out), len(positives))))
        return judged


def _in_rows(truth: QueryTruth, images: np.ndarray) -> dict[str, np.ndarray]:
    return {kind: images[np.array(getattr(truth, kind), np.int64)] for kind in ("easy", "hard", "junk")}
