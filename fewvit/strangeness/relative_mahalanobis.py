"""How much farther a row is from the nearest class than from the middle of all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..models.graph import Graph
from ._moments import Moments, traced_distances
from .mahalanobis import Mahalanobis


@dataclass(frozen=True)
class RelativeMahalanobis:
    """The Mahalanobis distance to the nearest class, less that to the mean of all rows by their covariance.

    What is odd about every picture, known or not, cancels. Source: Ren et al. 2021, section 3; both covariances with
    OAS shrinkage here.
    """

    learns: ClassVar[type[Moments]] = Moments
    learnt: Moments

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D); below zero for many known ones."""
        own = self.learnt.within.squared_distances(rows, self.learnt.means).min(axis=1)
        return own - self.learnt.around_all.squared_distances(rows, self.learnt.mean[None])[:, 0]

    def graph(self) -> Graph:
        """`of` for a file that other programs run."""
        nearest, around = Mahalanobis(self.learnt).graph(), self.learnt.around_all
        return Graph(
            {**nearest.constants, "around": around.whitening, "mean": self.learnt.mean[None] @ around.whitening},
            lambda rows, own: nearest.of(rows, own) - traced_distances(rows @ own["around"], own["mean"])[:, 0],
        )
