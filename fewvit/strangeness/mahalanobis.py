"""Distance to the nearest class's mean, in units of the spread that all classes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..models.graph import Graph
from ._moments import Moments, traced_distances


@dataclass(frozen=True)
class Mahalanobis:
    """Squared Mahalanobis distance to the nearest class mean, shared covariance with OAS shrinkage.

    Source: Lee et al. 2018, section 2.1; there without shrinkage.
    """

    learns: ClassVar[type[Moments]] = Moments
    learnt: Moments

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D)."""
        return self.learnt.within.squared_distances(rows, self.learnt.means).min(axis=1)

    def graph(self) -> Graph:
        """`of` for a file that other programs run."""
        within = self.learnt.within
        return Graph(
            {"within": within.whitening, "means": self.learnt.means @ within.whitening},
            lambda rows, own: traced_distances(rows @ own["within"], own["means"]).amin(dim=1),
        )
