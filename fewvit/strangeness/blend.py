"""Two scores that are wrong about different pictures, added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..calibration import held_folds
from ..models.graph import Graph
from ._arrays import require_arrays
from ._moments import Moments
from ._rows import Rows
from .nearest import Nearest
from .relative_mahalanobis import RelativeMahalanobis

_ENOUGH = 500  # rows that settle a mean and a spread


@dataclass(frozen=True)
class _Blended:
    moments: Moments
    rows: Rows
    centres: np.ndarray  # (2,) float64, mean of each score over rows that it was not fitted on
    spreads: np.ndarray  # (2,) their standard deviation

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> _Blended:
        found = [np.zeros((0, 2))]
        for out, rest in held_folds(labels, 5, 0, _ENOUGH):
            moments, near = Moments.of(rows[rest], labels[rest], n_classes), Rows.of(rows[rest], labels, n_classes)
            found.append(_scores(moments, near, rows[out]))
        held = np.concatenate(found)
        centres, spreads = (held.mean(axis=0), held.std(axis=0)) if len(held) else (np.zeros(2), np.ones(2))
        learnt = Moments.of(rows, labels, n_classes), Rows.of(rows, labels, n_classes)
        return cls(*learnt, centres, np.where(spreads > 0, spreads, 1))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], width: int, n_classes: int) -> _Blended:
        require_arrays(arrays, {"centres": (2,), "spreads": (2,)}, np.float64)
        if not (arrays["spreads"] > 0).all():
            raise ValueError("a spread of the strangeness score is not above 0")
        moments, rows = Moments.of_arrays(arrays, width, n_classes), Rows.of_arrays(arrays, width, n_classes)
        return cls(moments, rows, arrays["centres"], arrays["spreads"])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {**self.moments.arrays, **self.rows.arrays, "centres": self.centres, "spreads": self.spreads}

    def with_more(self, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> _Blended:
        more = rows, labels, n_classes
        return replace(self, moments=self.moments.with_more(*more), rows=self.rows.with_more(*more))


def _scores(moments: Moments, near: Rows, rows: np.ndarray) -> np.ndarray:
    """(Q, 2) of rows (Q, D)."""
    scores = RelativeMahalanobis(moments), Nearest(near)
    return np.stack([score.of(rows) for score in scores], axis=1)


@dataclass(frozen=True)
class Blend:
    """The sum of `relative_mahalanobis` and `nearest`, each less its mean and by its spread.

    Both of rows that were held out in turn. Measured beside each of the two, and sums of others, on the pairings of
    benchmarks/strangers.py.
    """

    learns: ClassVar[type[_Blended]] = _Blended
    learnt: _Blended

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D): about 0 for known ones."""
        one = self.learnt
        return ((_scores(one.moments, one.rows, rows) - one.centres) / one.spreads).sum(axis=1)

    def graph(self) -> Graph:
        """`of` for a file that other programs run; it holds the labelled rows."""
        one = self.learnt
        far, near = RelativeMahalanobis(one.moments).graph(), Nearest(one.rows).graph()
        (c, d), (s, t) = one.centres.tolist(), one.spreads.tolist()
        return Graph(
            {**far.constants, **near.constants},
            lambda rows, own: (far.of(rows, own) - c) / s + (near.of(rows, own) - d) / t,
        )
