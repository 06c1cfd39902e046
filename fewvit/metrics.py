"""Accuracy in percent, confidence intervals, and what shows a collapse of features. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import DataError

NEVER = 1 << 40  # the place of a class that has no vote: behind every k, however few classes there are


def rank_of_target(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Place (Q,) of each row's target class, 0 = best, among `scores` (Q, C): ties go to the lower class number.

    A class with score 0 has no vote and is never a hit: its place is `NEVER`. Without this, the classes behind the last
    voted one stand in arbitrary order, and DINO's and DINOv2's top-5 count some of them.
    """
    n_classes = scores.shape[1]
    own = np.take_along_axis(scores, targets[:, None], axis=1)  # (Q, 1)
    rank = np.count_nonzero(scores > own, axis=1)
    # few rows: not worth another pass over all
    tied = np.flatnonzero(np.count_nonzero(scores >= own, axis=1) - rank > 1)
    rank[tied] += ((scores[tied] == own[tied]) & (np.arange(n_classes) < targets[tied, None])).sum(axis=1)
    return np.where(own[:, 0] > 0, rank, NEVER)


def rank_of_accepted(scores: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """The best place (Q,) of a row's accepted classes (Q, A) among `scores` (Q, C), as `rank_of_target`; -1 is none.

    With `top_k_accuracy` at k = 1 it is ReaL's accuracy: the prediction is one of the list. Source: Beyer et al. 2020.
    """
    best = np.full(len(scores), NEVER)
    for targets in accepted.T:
        best = np.minimum(best, np.where(targets >= 0, rank_of_target(scores, targets.clip(min=0)), NEVER))
    return best


def top_k_accuracy(rank: np.ndarray, k: int) -> float:
    """Percent of rows whose target stands among the first k places, from `rank_of_target`."""
    if len(rank) == 0:
        raise DataError("there are no test images to score")
    return 100.0 * float(np.count_nonzero(rank < k)) / len(rank)


def average_precision_at(relevant: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Sum over a row's relevant ranks of the precision there, by the row's denominator: (Q,) of `relevant` (Q, k) bool.

    With min(positives, k) as denominators (Q,) it is AP@k. A denominator of 0 gives 0.
    """
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)  # (Q, k)
    return np.where(relevant, precision, 0.0).sum(axis=1) / np.maximum(denominators, 1)


def mean_and_interval(values: Sequence[float]) -> dict[str, float | list[float]]:
    """`mean` over trials, in percent; with two or more also `std` (ddof 1) and `ci95`, Student's t interval of the mean
    within 0 and 100.

    Raises DataError for no trials.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise DataError("there are no trials to average")
    if sample.size == 1:
        return {"mean": float(sample[0])}
    from scipy.special import stdtrit  # the t quantile, without the whole of scipy.stats

    std = float(sample.std(ddof=1))
    half = float(stdtrit(sample.size - 1, 0.975)) * std / float(np.sqrt(sample.size))
    mean = float(sample.mean())
    return {"mean": mean, "std": std, "ci95": [max(0.0, mean - half), min(100.0, mean + half)]}


def paired_gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """By how many percent points more of the same images (N,) are right `after` than `before`, and the ends of its 95 %
    interval, for the images as a sample: Wald's, with half an image in each cell of the table of right and wrong.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    n, won, lost = len(before), np.count_nonzero(after & ~before), np.count_nonzero(before & ~after)
    middle = (won - lost) / (n + 2)
    half = 1.959964 * float(np.sqrt(won + lost + 1 - (won - lost) ** 2 / (n + 2))) / (n + 2)
    return 100 * (won - lost) / n, 100 * max(-1.0, middle - half), 100 * min(1.0, middle + half)


def rankme(features: np.ndarray, rows: int = 25_600) -> float:
    """Effective rank of features (N, D): exp of the entropy of the singular values' shares.

    Of more than `rows` rows it takes so many, in even steps: more change little. Source: Garrido et al. 2023, equation
    1 and its study of the number of rows.
    """
    if len(features) > rows:
        features = features[np.linspace(0, len(features) - 1, rows).astype(np.int64)]
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(float(values.sum()), 1e-300) + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_cosine(features: np.ndarray) -> float:
    """Mean cosine of all pairs of different rows of features (N, D), N at least 2; a zero row has cosine 0 to all."""
    total, squares = np.zeros(features.shape[1]), 0.0
    for start in range(0, len(features), 65536):
        part = features[start : start + 65536].astype(np.float64)
        length = np.linalg.norm(part, axis=1, keepdims=True)
        part /= np.where(length > 0, length, 1)
        total += part.sum(axis=0)
        squares += float((part * part).sum())
    # |sum of rows|^2 has every pair twice, and each row's own square
    return (float(total @ total) - squares) / (len(features) * (len(features) - 1))


def effective_number(labels: np.ndarray) -> float:
    """How many classes labels (N,) are spread over: exp of the entropy of their shares; C for C equal ones, 1 for one.

    Raises DataError for no labels.
    """
    if len(labels) == 0:
        raise DataError("there are no labels to count")
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def auroc(known: np.ndarray, strange: np.ndarray) -> float:
    """The share of pairs in which the strange one's score is above the known one's, a tie counting half: 0.5 is chance.

    Of scores (N,) and (M,), higher meaning stranger. Raises DataError where a side is empty.
    """
    if not len(known) or not len(strange):
        raise DataError("there are no known or no strange images to compare")
    ordered = np.sort(known)
    below = np.searchsorted(ordered, strange, "left") + np.searchsorted(ordered, strange, "right")
    return float(below.sum()) / (2 * len(known) * len(strange))


def threshold_at(known: np.ndarray, share: float) -> float:
    """The least of the scores (N,) that a `share` of them, above 0 and up to 1, does not exceed."""
    if not len(known):
        raise DataError("there are no known images to take a threshold from")
    place = int(np.ceil(share * len(known) - 1e-9))  # 0.95 * 20 is a little above 19
    return float(np.sort(known)[max(place, 1) - 1])


def passing_at(known: np.ndarray, strange: np.ndarray, share: float = 0.95) -> float:
    """Percent of the strange scores (M,) that pass for known where a `share` of the known ones (N,) does: FPR@95."""
    if not len(strange):
        raise DataError("there are no strange images to score")
    return 100.0 * float((strange <= threshold_at(known, share)).mean())
