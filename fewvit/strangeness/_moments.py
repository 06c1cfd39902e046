"""Sums over labelled rows from which Gaussians with one shared covariance follow; more rows are added to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._arrays import require_arrays

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-6  # variance that every direction has at least, as a share of the rows' mean square per column


@dataclass(frozen=True)
class Moments:
    """What is summed over rows (N, D) of C classes, all float64."""

    sums: np.ndarray  # (C, D) of each class's rows
    counts: np.ndarray  # (C,) rows of each class, none of them 0
    products: np.ndarray  # (D, D) sum of x x^T over all rows

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Moments:
        """The sums of rows (N, D), whose labels (N,) are numbers below `n_classes`."""
        sums = np.zeros((n_classes, rows.shape[1]))
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        sums[present] = np.add.reduceat(rows[order], starts, axis=0)
        return cls(sums, np.bincount(labels, minlength=n_classes).astype(np.float64), rows.T @ rows)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], width: int, n_classes: int) -> Moments:
        """What `arrays` gave. Raises ValueError unless it is of `width` columns and `n_classes` classes."""
        shapes = {"sums": (n_classes, width), "counts": (n_classes,), "products": (width, width)}
        require_arrays(arrays, shapes, np.float64)
        found = cls(**{name: arrays[name] for name in shapes})
        if not (found.counts >= 1).all():
            raise ValueError("a class without a row in the strangeness score")
        return found

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The sums by name."""
        return {"sums": self.sums, "counts": self.counts, "products": self.products}

    def with_more(self, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Moments:
        """The sums of old and new rows; `n_classes` counts the new classes too."""
        more = Moments.of(rows, labels, n_classes)
        old = n_classes - len(self.counts)
        sums = more.sums + np.pad(self.sums, ((0, old), (0, 0)))
        return Moments(sums, more.counts + np.pad(self.counts, (0, old)), self.products + more.products)

    @property
    def means(self) -> np.ndarray:
        """(C, D) mean row of each class."""
        return self.sums / self.counts[:, None]

    @property
    def mean(self) -> np.ndarray:
        """(D,) mean of all rows."""
        return self.sums.sum(axis=0) / self.counts.sum()

    @functools.cached_property
    def within(self) -> Gaussian:
        """Around the mean of each row's own class."""
        return self._gaussian(self.products - self.sums.T @ self.means)

    @functools.cached_property
    def around_all(self) -> Gaussian:
        """Around the mean of all rows, whatever their class."""
        return self._gaussian(self.products - self.counts.sum() * np.outer(self.mean, self.mean))

    def _gaussian(self, scatter: np.ndarray) -> Gaussian:
        n, width = self.counts.sum(), len(scatter)
        least = _LEAST * np.trace(self.products) / (n * width)
        return Gaussian(shrunken(scatter / n, n) + max(least, 1e-300) * np.eye(width))


class Gaussian:
    """A covariance (D, D) that distances are measured by."""

    def __init__(self, covariance: np.ndarray):
        self.covariance = covariance
        self.whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T  # (D, D): covariance of x W is the identity

    def squared_distances(self, rows: np.ndarray, means: np.ndarray) -> np.ndarray:
        """(Q, C) squared Mahalanobis distances of rows (Q, D) to means (C, D)."""
        return squared_distances(rows @ self.whitening, means @ self.whitening)


def squared_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(Q, C) squared Euclidean distances of rows (Q, D) to others (C, D), float64."""
    own = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)
    return np.maximum(own - 2 * rows @ others.T, 0)


def traced_distances(rows: Tensor, others: Tensor) -> Tensor:
    """As `squared_distances`, of tensors: for a `Graph`."""
    own = rows.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return (own - 2 * rows @ others.mT).clamp_min(0)


def shrunken(covariance: np.ndarray, n: float) -> np.ndarray:
    """A covariance (D, D) of `n` rows, moved towards its mean variance times the identity.

    As far as the oracle approximating shrinkage says: Chen et al. 2010, equation 23, which needs no rows, so that
    rows can be added later.
    """
    width = len(covariance)
    mean = np.trace(covariance) / width
    square = (covariance**2).mean()
    spread = (n + 1) * (square - mean**2 / width)
    share = min((square + mean**2) / spread, 1.0) if spread > 0 else 1.0
    return (1 - share) * covariance + share * mean * np.eye(width)
