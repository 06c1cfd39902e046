"""Measures of copy detection: which pairs of two sets of images are copies, by their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import DataError
from .average_precision import pooled

PRECISION = 0.9  # of the operating point of the image similarity challenge


def true_pairs(pairs: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Which of `pairs` (n, 2) are among `copies` (m, 2): (n,) bool. Raises DataError for a pair that is there twice."""
    base = 1 + max((int(side.max()) for side in (pairs, copies) if side.size), default=0)
    found, wanted = (side[:, 0].astype(np.int64) * base + side[:, 1] for side in (pairs, copies))
    distinct, first = np.unique(found, return_index=True)
    if len(distinct) < len(found):
        again = pairs[np.setdiff1d(np.arange(len(found)), first)[0]]
        raise DataError(
            f"the pair of query {again[0]} and reference {again[1]} was predicted twice",
            fix="Keep one score for each pair.",
        )
    true: np.ndarray = np.isin(found, wanted)
    return true


def pair_measures(
    scores: np.ndarray, copies: np.ndarray, n_copies: int, precision: float = PRECISION
) -> dict[str, float | None]:
    """`micro_ap`, `recall@p90` and `threshold@p90` of pairs with `scores` (n,), of which `copies` (n,) bool are true.

    `n_copies` is how many there are, found or not. The threshold is a score, not percent; None where no score reaches
    the precision. Source: Douze et al. 2021, section 4.
    """
    curve = pooled(scores, copies, n_copies)
    recall, threshold = curve.recall_at(precision)
    at = f"p{round(100 * precision)}"
    return {
        "micro_ap": 100 * curve.average_precision,
        f"recall@{at}": 100 * recall,
        f"threshold@{at}": threshold,
    }


def ranks_of_copies(scores: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Rank (n,), from 0, of each copy found among its own query's pairs; `scores` and `copies` (Q, k).

    Of equal scores those of no copies come first.
    """
    ranks = []
    for own, true in zip(scores, copies, strict=True):
        order = np.lexsort((true, -own))
        ranks.append(np.flatnonzero(true[order]))
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


def recall_at_ranks(ranks: np.ndarray, n_copies: int, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
    """`recall@rank1`, `recall@rank10`: percent of all copies that stand so far in front in their query's ranking."""
    return {f"recall@rank{k}": 100 * int((ranks < k).sum()) / n_copies for k in ks}


def normalised_scores(scores: np.ndarray, background: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """`scores` (Q, k) less `factor` times the mean of the query's scores with its nearest training images (Q, n).

    A query that looks like many images gets lower scores, so that one threshold serves all. Each query stands alone.
    Source: the baseline of the image similarity challenge (Douze et al. 2021).
    """
    return scores - factor * background.astype(np.float64).mean(axis=1, keepdims=True)
