"""How much farther a row is from the nearest class than from the middle of all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._moments import Moments


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
