"""Principal axes of rows, exact and in float64, and the coordinates of other rows along them. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError, counted
from ..features import FeatureSet, require_one_backbone
from ..results import Facts

EPSILON = 1e-6  # of the largest variance, added to each before whitening divides by its root: noise stays small


def principal_axes(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first axes (count, D) of rows (M, D) about their mean, and the shares of the variance that lie along them.

    Of an axis and its opposite that one whose largest coordinate is positive.
    """
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1].T[:count]
    largest = axes[np.arange(count), np.abs(axes).argmax(axis=1)]
    return axes * np.sign(largest)[:, None], values[::-1][:count] / max(float(values.sum()), 1e-300)


@dataclass(frozen=True)
class Coordinates:
    """What principal axes make of features."""

    mean: np.ndarray  # (D,) float64, of the rows that they were found in
    axes: np.ndarray  # (n, D) float64
    divisors: np.ndarray  # (n,) float64: ones, or for whitening the standard deviations

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Coordinates (N, n) float32 of rows (N, D)."""
        found: np.ndarray = ((rows.astype(np.float64) - self.mean) @ self.axes.T / self.divisors).astype(np.float32)
        return found


@dataclass(frozen=True)
class Reduction:
    """What is made of features before anything is fitted on them: nothing, where neither is asked for."""

    pca: int | None = None  # how many axes; None: as many as there are
    whiten: bool = False  # each coordinate divided by sqrt(variance + EPSILON x the largest variance)

    def __bool__(self) -> bool:
        return self.pca is not None or self.whiten

    def fit(self, rows: np.ndarray) -> tuple[Coordinates, float]:
        """The coordinates that these rows (M, D) have, and the share (0 to 1) of their variance that is kept.

        The variance of whitening is that of M - 1. Raises UsageError for more axes than the rows have.
        """
        most = min(len(rows) - 1, rows.shape[1])
        if self.pca is not None and not 1 <= self.pca <= most:
            raise UsageError(
                f"--pca {self.pca}: {counted(len(rows), 'train image')} of {counted(rows.shape[1], 'column')} have "
                f"{counted(most, 'principal axis', 'principal axes')}",
                fix=f"Give 1 to {most}." if most > 0 else "Give more train images.",
            )
        count = most if self.pca is None else self.pca
        plain = rows.astype(np.float64)
        axes, shares = principal_axes(plain, count)
        divisors = np.ones(count)
        if self.whiten:
            variances = shares.clip(0) * float(plain.var(axis=0, ddof=1).sum())
            divisors = np.sqrt(variances + EPSILON * max(float(variances.max(initial=0)), 1e-300))
        return Coordinates(plain.mean(axis=0), axes, divisors), float(shares.sum())

    def of(
        self, train: FeatureSet, test: FeatureSet | None, notify: Callable[[str], None]
    ) -> tuple[FeatureSet, FeatureSet | None, Facts]:
        """Both sets in the coordinates that the train features alone have, and facts for a manifest; a line says so.

        Raises as `fit`, FingerprintMismatch for sets of two backbones, NumericalError for NaN or Inf.
        """
        if not self:
            return train, test, {}
        train.require_finite()
        if test is not None:
            test.require_finite()
            require_one_backbone(train, test)
        found, share = self.fit(train.features)
        count = len(found.axes)
        notify(
            f"{counted(count, 'principal axis', 'principal axes')}{', whitened,' if self.whiten else ''} of the "
            f"{counted(len(train), 'train image')} with {100 * share:.1f} % of their variance; no label and no test "
            "image had a part in them"
        )
        facts: Facts = {
            "reduction": {
                "pca": count,
                "whiten": self.whiten,
                **({"epsilon": EPSILON} if self.whiten else {}),
                "variance_kept": share,
                "fitted_on": len(train),
            }
        }
        moved = [None if one is None else replace(one, features=found.of(one.features)) for one in (train, test)]
        return moved[0] or train, moved[1], facts


AS_THEY_ARE = Reduction()
