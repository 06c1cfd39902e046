"""Small indexes of features, and what they must answer: brute force over a plain dictionary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fewvit.features import FeatureSet
from fewvit.neighbors.approximate import Effort
from fewvit.retrieval import growth
from fewvit.retrieval.folder import IndexFolder
from fewvit.retrieval.growth import Changes, Made, Wish
from fewvit.retrieval.opened import OnlyThese, OpenIndex
from fewvit.retrieval.search import Near
from fewvit.sources import FeatureSource

D = 13
PART = 7  # rows of a part
UNKNOWN = Made("", "", {}, {})
EVERYTHING = Effort(1 << 14, 1 << 20)  # every list, every row as a candidate: nothing is left to luck


@dataclass
class Model:
    """What an index is: features and a class name for each id."""

    half: bool = False  # whether features are kept in float16
    rows: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)

    def unit(self) -> np.ndarray:
        """The rows (N, D) as they are kept, in the order of their ids' bytes."""
        features = np.array([self.rows[name][0] for name in self.ids]).reshape(-1, D)
        return unit(features).astype(np.float16 if self.half else np.float32)

    @property
    def ids(self) -> list[str]:
        return sorted(self.rows, key=os.fsencode)

    def nearest(
        self, query: np.ndarray, k: int, classes: Sequence[str] = (), folder: str = "", threshold: float | None = None
    ) -> list[tuple[str, float]]:
        """Ids and scores, best first, equal scores by the bytes of the ids."""
        if not self.rows:
            return []
        sums = (self.unit().astype(np.longdouble) * unit(query[None]).astype(np.longdouble)).sum(axis=1)
        found = [
            (-np.float32(score), os.fsencode(name), name)
            for name, score in zip(self.ids, sums.tolist(), strict=True)
            if (not classes or self.rows[name][1] in classes) and os.fsencode(name).startswith(os.fsencode(folder))
        ]
        nearest = [(name, float(-score)) for score, _, name in sorted(found)[:k]]
        return [pair for pair in nearest if threshold is None or pair[1] >= np.float32(threshold)]


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length one, rounded to float32 once; zero rows stay zero."""
    rows = features.astype(np.float64)
    length = np.sqrt(np.square(rows).sum(axis=1))
    return (rows / np.where(length == 0, 1, length)[:, None]).astype(np.float32)


def source_of(rows: Mapping[str, tuple[np.ndarray, str]], order: Sequence[str] | None = None) -> FeatureSource:
    """The rows as a source, `""` being no class."""
    names = list(order if order is not None else rows)
    classes = sorted({rows[name][1] for name in names} - {""}, reverse=True)
    labels = [classes.index(rows[name][1]) if rows[name][1] else -1 for name in names]
    features = np.array([rows[name][0] for name in names], np.float32).reshape(-1, D)
    return FeatureSource("made", FeatureSet(features, np.array(labels, np.int64), names, classes))


def random_rows(seed: int, count: int, prefix: str = "") -> dict[str, tuple[np.ndarray, str]]:
    """So many rows under names that count, without a class."""
    features = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return {f"{prefix}{row:03d}": (features[row], "") for row in range(count)}


def built(path: Path, rows: Mapping[str, tuple[np.ndarray, str]], kind: str = "flat", recall: float = 0.95) -> Changes:
    """Builds an index of these rows."""
    return growth.build(IndexFolder(path), source_of(rows), None, UNKNOWN, Wish(kind, recall=recall), size=PART)


def opened(path: Path, *, everything: bool = True) -> OpenIndex:
    """The index; `everything`: with an effort that leaves no row out."""
    index = OpenIndex.open(path)
    if everything and index.manifest.effort is not None:
        index.manifest = replace(index.manifest, effort=EVERYTHING)
    return index


def answers(index: OpenIndex, near: Near) -> list[list[tuple[str, float]]]:
    """Ids and scores of each query."""
    found = [near.of(query) for query in range(len(near))]
    return [list(zip(index.ids(rows), scores.tolist(), strict=True)) for rows, scores in found]


def asked(index: OpenIndex, queries: np.ndarray, k: int, threshold: float | None = None, **only) -> list:
    """What the index answers."""
    return answers(index, index.search(queries, k, only=OnlyThese(**only), threshold=threshold))
