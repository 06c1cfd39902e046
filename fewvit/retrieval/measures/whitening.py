"""Whitening descriptors with what other images say of their directions, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError

_FLOOR = 1e-5  # of an eigenvalue, as a share of the largest


@dataclass(frozen=True)
class Whitening:
    """A mean to take off and a matrix to go through: x -> (x - mean) P^T."""

    mean: np.ndarray  # (D,)
    projection: np.ndarray  # (D', D)

    def __call__(self, descriptors: np.ndarray) -> np.ndarray:
        """Whitened descriptors (N, D') float64, not yet of unit length."""
        whitened: np.ndarray = (descriptors.astype(np.float64) - self.mean) @ self.projection.T
        return whitened


def projection_of(covariance: np.ndarray, dim: int | None = None, power: float = 0.5) -> np.ndarray:
    """(dim, D) eigenvectors of `covariance` (D, D), largest eigenvalue first, each divided by its eigenvalue^power.

    Eigenvalues below 1e-5 of the largest count as that. Which of its two signs an eigenvector has is not defined.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, _FLOOR * values[-1])
    kept = slice(None, None if dim is None else -dim - 1, -1)
    projection: np.ndarray = (vectors[:, kept] / values[kept] ** power).T
    return projection


def copydays_whitening(descriptors: np.ndarray) -> Whitening:
    """The whitening that DINO learns from `descriptors` (N, D) of other images, for Copydays.

    Their mean is taken off the images that are searched, while the covariance is that of the descriptors as they are:
    not centred.
    """
    rows = descriptors.astype(np.float64)
    if len(rows) == 0:
        raise DataError("there are no images to learn the whitening from")
    return Whitening(rows.mean(axis=0), projection_of(rows.T @ rows / len(rows)))
