"""Distance to the nearest labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..models.graph import Graph
from ._rows import Rows

K = 3  # one is chance, and ten reach into other classes where a class has few rows
_BLOCK = 1024  # rows whose cosines to all others are held at once


@dataclass(frozen=True)
class Nearest:
    """One minus the cosine to the third nearest labelled row, whatever its class; of fewer rows, to the last one.

    Source: Sun et al. 2022, section 3.
    """

    learns: ClassVar[type[Rows]] = Rows
    learnt: Rows

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D), from 0 to 2."""
        known = self.learnt.rows.astype(np.float64).T
        place = -min(K, known.shape[1])
        found = np.zeros(len(rows))
        for start in range(0, len(rows), _BLOCK):
            cosines = rows[start : start + _BLOCK] @ known
            found[start : start + _BLOCK] = 1 - np.partition(cosines, place, axis=1)[:, place]
        return found

    def graph(self) -> Graph:
        """`of` for a file that other programs run; it holds the labelled rows."""
        place = min(K, len(self.learnt.rows))
        return Graph(
            {"rows": self.learnt.rows},
            lambda rows, own: 1 - (rows @ own["rows"].double().mT).topk(place, dim=1).values[:, -1],
        )
