"""Naming what is shown by the classes of the nearest images, with a confidence that distractors should lack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .average_precision import pooled

DISTRACTOR = -1  # label of a query that shows nothing of the database


def name_by_neighbours(
    labels: np.ndarray, scores: np.ndarray, n_classes: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class (Q,) and confidence (Q,) from the labels and scores (Q, K) of the nearest images, nearest first.

    A class has the score of its nearest image, at least 0; the confidence is its softmax over all `n_classes`, of which
    those without an image among the K have score 0. Equal classes: the lower label. The temperature multiplies.
    Source: Ypsilantis et al. 2021 (the Met dataset), section 5, and its code.
    """
    score = np.maximum(scores.astype(np.float64), 0)  # (Q, K)
    best = score[:, :1]
    named = np.where(score == best, labels, np.iinfo(np.int64).max).min(axis=1)
    repeated = np.tril(labels[:, :, None] == labels[:, None, :], -1).any(axis=2)  # (Q, K): its class came before
    seen = np.where(repeated, 0.0, np.exp(temperature * (score - best)))  # over exp(T best), which may be too large
    unseen = (n_classes - (~repeated).sum(axis=1)) * np.exp(-temperature * best[:, 0])
    return named, 1 / (seen.sum(axis=1) + unseen)


def recognition_measures(named: np.ndarray, confidence: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """`gap`, `gap_minus` and `accuracy` of named queries (Q,), whose `targets` (Q,) are classes or DISTRACTOR.

    `gap`: AP of all queries sorted by confidence, out of those that are no distractors; `gap_minus`: without the
    distractors; `accuracy`: share of these that are named rightly. There must be one.
    """
    known = targets != DISTRACTOR
    right, total = named == targets, int(known.sum())
    return {
        "gap": 100 * pooled(confidence, right, total).average_precision,
        "gap_minus": 100 * pooled(confidence[known], right[known], total).average_precision,
        "accuracy": 100 * int(right[known].sum()) / total,
    }


def tuned(
    labels: np.ndarray,
    scores: np.ndarray,
    targets: np.ndarray,
    n_classes: int,
    ks: Sequence[int],
    temperatures: Sequence[float],
) -> tuple[int, float]:
    """(K, temperature) with the highest `gap` on validation queries, whose neighbours are `labels`, `scores` (Q, K).

    Of equal ones the first of the lists.
    """
    found = [(k, t) for k in ks for t in temperatures]
    gaps = [
        recognition_measures(*name_by_neighbours(labels[:, :k], scores[:, :k], n_classes, t), targets)["gap"]
        for k, t in found
    ]
    return found[int(np.argmax(gaps))]
