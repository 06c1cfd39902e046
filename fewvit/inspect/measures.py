"""How spread out and how stable features are, without labels: arrays in, one number out. NumPy and SciPy only.

None of these knows what the features are for. Each docstring says where its formula comes from.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError, NumericalError
from ..neighbors import Bank, normalise

RANKME_EPSILON = 1e-7  # Garrido et al.'s, for float32
LIDAR_DELTA = 1e-4  # Thilak et al.'s
_FIRST_RANK, _LAST_RANK = 5, 100  # of the eigenvalues that a power law is fitted to
_BLOCK = 1024  # rows whose distances are taken at once


def singular_values(features: np.ndarray) -> np.ndarray:
    """Singular values (min(N, D),) float64 of features (N, D), largest first; as accurate as an SVD, and faster.

    Raises NumericalError for NaN or Inf.
    """
    rows = _finite(features)
    if len(rows) > rows.shape[1]:
        rows = np.asarray(np.linalg.qr(rows, mode="r"))
    return np.linalg.svd(rows, compute_uv=False)


def effective_rank(weights: np.ndarray, epsilon: float = RANKME_EPSILON) -> float:
    """exp of the entropy of weights (n,) that are at least 0: n where all are equal, 1 where one has everything.

    p = w / sum(w) + epsilon. Source: Roy & Vetterli 2007, in the form of Garrido et al. 2023, equation 1. Raises
    NumericalError where all are 0.
    """
    total = weights.sum()
    if not total > 0:
        raise NumericalError("all features are equal, so they have no rank", fix="Give images that differ.")
    shares = weights / total + epsilon
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rank_me(features: np.ndarray) -> float:
    """The effective rank of features (N, D), between 1 and min(N, D): RankMe.

    Source: Garrido et al. 2023, "RankMe", section 3: the singular values of the features as they are, not centred.
    """
    return effective_rank(singular_values(features))


def lidar(views: np.ndarray, delta: float = LIDAR_DELTA) -> float:
    """The effective rank of the LDA matrix of features (n, q, D) of q views of each of n images: LiDAR, 1 to n - 1.

    W^(-1/2) B W^(-1/2), B the covariance of the images' means and W that of views around them plus `delta` on its
    diagonal, both unbiased. Source: Thilak et al. 2024, "LiDAR", section 3.2. Raises DataError for less than 2 images
    or 2 views.
    """
    images, each, width = views.shape
    if images < 2 or each < 2:
        raise DataError(f"LiDAR needs 2 images and 2 views of each, got {images} and {each}")
    rows = _finite(views.reshape(-1, width)).reshape(views.shape)
    means = rows.mean(axis=1)  # (n, D)
    inner = (rows - means[:, None]).reshape(-1, width) / np.sqrt(images * (each - 1))
    within = inner.T @ inner + delta * np.eye(width)  # (D, D)
    outer = (means - means.mean(axis=0)) / np.sqrt(images - 1)
    # the eigenvalues of W^(-1/2) B W^(-1/2) are the squared singular values of L^(-1) outer^T, with W = L L^T
    from scipy.linalg import solve_triangular

    whitened = solve_triangular(np.linalg.cholesky(within), outer.T, lower=True)  # (D, n)
    return effective_rank(np.linalg.svd(whitened, compute_uv=False) ** 2)


def alpha_req(features: np.ndarray) -> float:
    """The exponent alpha of a power law, eigenvalue i of the covariance of features (N, D) ~ i^(-alpha): alpha-ReQ.

    A straight line through log eigenvalue over log i, for i from 5 to 100 or as far as there are any, weighted by 1 / i
    so that the many small ones do not outvote the large. Source: Agrawal et al. 2022, "alpha-ReQ", section 3; the
    weighted line is Stringer et al. 2019's. Raises DataError for less than 3 eigenvalues above rounding.
    """
    rows = _finite(features)
    return power_law(singular_values(rows - rows.mean(axis=0)) ** 2)


def power_law(eigenvalues: np.ndarray) -> float:
    """The exponent of eigenvalues (n,), largest first, as `alpha_req` fits it. Raises DataError for less than 3."""
    kept = eigenvalues[eigenvalues > eigenvalues.max(initial=0) * 1e-12][:_LAST_RANK]
    if len(kept) < 3:
        raise DataError(f"{len(kept)} eigenvalues above zero are too few for a power law", fix="Give more images.")
    first = _FIRST_RANK if len(kept) >= 2 * _FIRST_RANK else 1
    rank = np.arange(first, len(kept) + 1, dtype=np.float64)
    x, y, weight = np.log(rank), np.log(kept[first - 1 :]), 1 / rank
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x * x).sum())


def uniformity(features: np.ndarray, t: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|^2) over all pairs of features (N, D) on the unit sphere: 0 down to about -4.

    Lower is more evenly spread; 0 means that all are one point. Source: Wang & Isola 2020, section 4.1.2. Raises
    DataError for less than two rows.
    """
    if len(features) < 2:
        raise DataError("uniformity needs two images or more")
    unit = normalise(features).astype(np.float64)
    total = 0.0
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit[start:].T  # |x - y|^2 = 2 - 2 cosine
        weights = np.exp(2 * t * (cosines - 1))
        total += weights[np.triu_indices(len(weights), 1, weights.shape[1])].sum()
    return float(np.log(total / (len(unit) * (len(unit) - 1) / 2)))


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """The mean of |x - x'|^2 over features (N, D) of two views of each image, on the unit sphere: 0 to 4, lower is
    closer. Source: Wang & Isola 2020, section 4.1.1, with alpha = 2.
    """
    difference = normalise(one).astype(np.float64) - normalise(other)
    return float(np.square(difference).sum(axis=1).mean())


def neighbor_overlap(bank: np.ndarray, rows: np.ndarray, changed: np.ndarray, k: int) -> float:
    """The share, 0 to 1, of the k nearest images that stay when an image is changed: averaged over the images.

    `bank` (N, D) are the features of all, `rows` (n,) those of them that were changed, `changed` (n, D) their features
    afterwards. An image is not its own neighbour, before and after.
    """
    index = Bank(bank)
    before, after = (
        np.concatenate([found.rows for _, found in index.chunks(queries, k, exclude=rows)])
        for queries in (bank[rows], changed)
    )
    return float((before[:, :, None] == after[:, None, :]).any(axis=2).mean())


def _finite(features: np.ndarray) -> np.ndarray:
    rows = np.asarray(features, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise NumericalError("the features hold NaN or Inf")
    return rows
