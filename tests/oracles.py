"""Slow and obvious second opinions: brute force, and formulas written out by hand.

No function of fewvit is called here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of length one, rounded to float32 once; zero rows stay zero."""
    rows = np.asarray(features, dtype=np.float32).astype(np.float64)
    lengths = [math.sqrt(math.fsum(v * v for v in row)) or 1.0 for row in rows.tolist()]
    return (rows / np.array(lengths)[:, None]).astype(np.float32)


def score(a: Sequence[float], b: Sequence[float], metric: str) -> float:
    """One score in float64, rounded to float32 at the end; higher is nearer."""
    if metric == "euclidean":
        return float(np.float32(-math.fsum((x - y) * (x - y) for x, y in zip(a, b, strict=True))))
    return float(np.float32(math.fsum(x * y for x, y in zip(a, b, strict=True))))


def brute_neighbors(
    bank: np.ndarray, queries: np.ndarray, k: int, metric: str = "cosine", exclude: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (Q, k) by scoring every pair and sorting by (-score, row)."""
    prepare = unit_rows if metric == "cosine" else lambda x: np.asarray(x, dtype=np.float32)
    bank_rows, query_rows = (prepare(side).astype(np.float64).tolist() for side in (bank, queries))
    rows, scores = np.empty((len(query_rows), k), np.int64), np.empty((len(query_rows), k), np.float32)
    for q, query in enumerate(query_rows):
        found = [
            (-score(query, row, metric), i) for i, row in enumerate(bank_rows) if exclude is None or i != exclude[q]
        ]
        nearest = sorted(found)[:k]
        rows[q], scores[q] = [i for _, i in nearest], [-s for s, _ in nearest]
    return rows, scores


def brute_votes(
    rows: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    labels: Sequence[int],
    n_classes: int,
    temperature: float,
) -> np.ndarray:
    """Class scores (Q, C): the sum of exp(score / temperature), neighbour by neighbour."""
    votes = np.zeros((len(rows), n_classes))
    for q, (near, similar) in enumerate(zip(rows, scores, strict=True)):
        for row, similarity in zip(near, similar, strict=True):
            votes[q, labels[row]] += math.exp(float(similarity) / temperature)
    return votes


def place(votes: Sequence[float], target: int) -> int:
    """Place of the target class, 0 = best: higher vote first, then lower number.

    A class without a vote is last of all.
    """
    if votes[target] == 0:
        return 1 << 40
    order = sorted(range(len(votes)), key=lambda c: (-votes[c], c))
    return order.index(target)


def knn_accuracy(
    train: np.ndarray,
    train_labels: Sequence[int],
    test: np.ndarray,
    test_labels: Sequence[int],
    n_classes: int,
    k: int,
    temperature: float,
    *,
    leave_one_out: bool = False,
) -> tuple[float, float]:
    """Percent of test rows whose class is first, and among the first min(5, k)."""
    rows, scores = brute_neighbors(train, test, k, exclude=range(len(test)) if leave_one_out else None)
    votes = brute_votes(rows.tolist(), scores.tolist(), train_labels, n_classes, temperature)
    places = [place(v, t) for v, t in zip(votes.tolist(), test_labels, strict=True)]
    return tuple(100 * sum(p < top for p in places) / len(places) for top in (1, min(5, k)))  # type: ignore[return-value]


def cubic(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def bicubic_weights(n_in: int, n_out: int, factor: float) -> np.ndarray:
    """Weights (n_out, n_in) of torch's bicubic (a = -3/4) on one axis at (i + 1/2) / factor - 1/2, edges repeated."""
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        at = (i + 0.5) / factor - 0.5
        first = math.floor(at) - 1
        for j in range(first, first + 4):
            weights[i, min(max(j, 0), n_in - 1)] += cubic(at - j, -0.75)
    return weights


def antialiased_bicubic_weights(n_in: int, n_out: int) -> np.ndarray:
    """The same with torch's antialias.

    Pillow's filter, a = -1/2, widened when shrinking, normalised, edges left out.
    """
    scale = n_in / n_out
    wide = max(scale, 1.0)
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        center = scale * (i + 0.5)
        first, last = max(int(center - 2 * wide + 0.5), 0), min(int(center + 2 * wide + 0.5), n_in)
        for j in range(first, last):
            weights[i, j] = cubic((j + 0.5 - center) / wide, -0.5)
        weights[i] /= weights[i].sum()
    return weights


def resized_positions(table: np.ndarray, rule: str, rows: int, columns: int) -> np.ndarray:
    """A position table (1, 1+N, D) under a family's rule, sample by sample in float64.

    Always resized, even to its own size.
    """
    grid = math.isqrt(table.shape[1] - 1)
    cells = table[0, 1:].reshape(grid, grid, -1).astype(np.float64)
    axes = []
    for n_out in (rows, columns):
        if rule == "antialias":
            axes.append(antialiased_bicubic_weights(grid, n_out))
        else:
            factor = {"dino": (n_out + 0.1) / grid, "msn": math.sqrt(rows * columns) / grid, "mae": n_out / grid}[rule]
            axes.append(bicubic_weights(grid, n_out, factor))
    resized = np.einsum("yr,xc,rcd->yxd", *axes, cells)
    return np.concatenate([table[:, :1], resized.reshape(1, rows * columns, -1)], axis=1)
