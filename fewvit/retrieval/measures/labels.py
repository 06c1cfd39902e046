"""Measures of rankings in which an image is relevant if its class is the query's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...metrics import average_precision_at


def label_measures(relevant: np.ndarray, positives: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Measure -> percent of each query (Q,), from `relevant` (Q, d) bool, best first, and `positives` (Q,) >= 1.

    d has to reach every k and, unless the index is smaller, the largest number of positives.

    `recall@k`     whether one of the first k is relevant: the hit rate that metric learning calls recall
    `precision@k`  share of relevant ones among the first k
    `map@r`        mean over the first R of precision at the relevant ones, R = positives (Musgrave et al. 2020)
    `r_precision`  share of relevant ones among the first R
    `mrr`          1 / rank of the first relevant one; 0 where there is none among the d, at most 1/(d+1) too little
    """
    measures: dict[str, np.ndarray] = {}
    hits = np.cumsum(relevant, axis=1)  # (Q, d): relevant ones so far
    so_far = {k: hits[:, min(k, hits.shape[1]) - 1] for k in ks}
    measures |= {f"recall@{k}": (hits > 0).astype(np.float64) for k, hits in so_far.items()}
    measures |= {f"precision@{k}": np.divide(hits, k) for k, hits in so_far.items()}
    first_r = relevant & (np.arange(relevant.shape[1]) < positives[:, None])  # (Q, d)
    measures["map@r"] = average_precision_at(first_r, positives)
    measures["r_precision"] = first_r.sum(axis=1) / positives
    measures["mrr"] = np.where(relevant.any(axis=1), 1 / (1 + relevant.argmax(axis=1)), 0.0)
    return {name: 100 * values for name, values in measures.items()}
