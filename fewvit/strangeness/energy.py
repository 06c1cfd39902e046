"""The free energy of the class means' cosines: low where one class, or several together, fit well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..models.graph import Graph
from . import scaled
from ._moments import Moments

TEMPERATURE = 0.07  # of a cosine, as the vote of neighbours has it


@dataclass(frozen=True)
class Energy:
    """-T log sum over classes of exp(cosine to the class's mean / T).

    Source: Liu et al. 2020, section 3.1, with the cosines for logits: every classifier's bundle has them.
    """

    learns: ClassVar[type[Moments]] = Moments
    learnt: Moments

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D)."""
        logits = rows @ scaled(self.learnt.sums).T / TEMPERATURE  # (Q, C)
        largest = logits.max(axis=1)
        return -TEMPERATURE * (largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)))

    def graph(self) -> Graph:
        """`of` for a file that other programs run."""
        return Graph(
            {"sums": scaled(self.learnt.sums)},
            lambda rows, own: -TEMPERATURE * (rows @ own["sums"].mT / TEMPERATURE).logsumexp(dim=1),
        )
