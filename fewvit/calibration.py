"""How far a classifier's probabilities can be believed: temperature scaling, calibration error, confusion. NumPy only.

The temperature is chosen inside the support set, on images held out in turn: no test image is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError, UsageError
from .seeds import generator

FLOOR = float(np.finfo(np.float32).eps)  # smaller probabilities are rounding; a class without a vote has 0 and no logarithm
ENOUGH = 10_000  # held-out rows that settle one number; with many images one fold has them, and one fit is enough
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0  # of `best_temperature`


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (Q, C) proportional to p^(1 / temperature): above 1 they even out, below 1 they sharpen; their order stays.

    Source: Guo et al. 2017, section 4.2, with log p for the logits, which differ from them by a constant per row.
    """
    if not 0 < temperature < np.inf:
        raise UsageError(f"temperature {temperature} cannot scale probabilities; it is a number above 0")
    return _softmax(_log(probabilities) / temperature)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), FLOOR))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


# ---- the temperature


@dataclass(frozen=True)
class HeldOut:
    """What estimators say about rows that they were not fitted on."""

    rows: np.ndarray  # (m,) row numbers, fold by fold; empty when no class has two images
    probabilities: np.ndarray  # (m, C), columns in the order of the sorted classes
    labels: np.ndarray  # (m,) column numbers


def cross_validated_temperature(make: Callable[[], Any], X: np.ndarray, y: np.ndarray, *, folds: int = 5, seed: int = 0) -> float:
    """The temperature for `scale` that fits what estimators of `make` say about held-out rows of X (N, D) with labels y (N,).

    1.0 when no class has two images: nothing can be held out then, and the probabilities stay as they are.
    """
    judged = held_out(make, X, y, folds=folds, seed=seed)
    return best_temperature(judged.probabilities, judged.labels) if len(judged.rows) else 1.0


def held_out(make: Callable[[], Any], X: np.ndarray, y: np.ndarray, *, folds: int = 5, seed: int = 0) -> HeldOut:
    """Each row's probabilities from an estimator of `make` that was fitted without the row's fold; no more folds once ENOUGH rows are judged."""
    X, (classes, labels) = np.asarray(X), np.unique(y, return_inverse=True)
    fold = stratified_folds(labels, folds, seed)
    rows, probabilities = np.zeros(0, np.int64), np.zeros((0, len(classes)))
    for f in range(folds):
        out, rest = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
        if len(out) and len(rows) < ENOUGH:
            rows = np.concatenate([rows, out])
            probabilities = np.concatenate([probabilities, make().fit(X[rest], np.asarray(y)[rest]).predict_proba(X[out])])
    return HeldOut(rows, probabilities, labels[rows])


def stratified_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (N,) in which each row is held out, -1 for never; sizes differ by one at most, in all and within each class.

    A class with fewer images than folds is held out in as many folds as it has images, and a single image never is: each
    class keeps at least one image in the rest of every fold.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds hold nothing out; use 2 or more")
    found = np.full(len(labels), -1)
    dealt = 0
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        if len(rows) > 1:
            found[generator("folds", seed, c).permutation(rows)] = (dealt + np.arange(len(rows))) % folds
            dealt += len(rows)
    return found


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the negative log-likelihood of labels (m,) under scaled probabilities (m, C), within 0.01 to 100.

    Each label keeps 1 - e and e is spread over all classes, e = 1 / (m + 2), as Platt (1999) does: where a few held-out images
    are all right, the likelihood alone would ask for certainty. The loss is convex in 1 / T: Newton's steps, or halving
    (of the logarithm) where one leaves the bracket.
    """
    logits = _log(probabilities)
    spread = 1 / (len(labels) + 2)
    target = (1 - spread) * logits[np.arange(len(labels)), labels] + spread * logits.mean(axis=1)  # (m,)
    low, high, b = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0  # b = 1 / T
    for _ in range(100):
        slope, curvature = _derivatives(logits, target, b)
        if abs(slope) < 1e-12:
            break  # the minimum, or a loss that is flat everywhere
        low, high = (low, b) if slope > 0 else (b, high)
        newton = b - slope / curvature if curvature > 0 else low
        step = newton if low < newton < high else float(np.sqrt(low * high))
        b, change = step, abs(step - b)
        if change <= 1e-10 * b:
            break
    return 1 / b


def _derivatives(logits: np.ndarray, target: np.ndarray, b: float) -> tuple[float, float]:
    """First and second derivative by b of the mean of log sum exp(b z) - b z_target: mean minus target, and variance."""
    p = _softmax(b * logits)
    mean = (p * logits).sum(axis=1)
    return float((mean - target).mean()), float(((p * logits**2).sum(axis=1) - mean**2).mean())


# ---- what is reported


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Percent points between confidence and accuracy: sum over bins of (n_b / Q) |accuracy_b - mean confidence_b|.

    Confidence is a row's largest probability (Q, C), its prediction the first class that has it. Bins are equally wide,
    ((i - 1) / bins, i / bins]. Source: Guo et al. 2017, equation 3.
    """
    if len(labels) == 0:
        raise DataError("there are no test images to score")
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence  # (Q,)
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return 100.0 * float(np.abs(np.bincount(number, weights=gap, minlength=bins)).sum()) / len(labels)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (C, C): row = true class, column = predicted class, of labels and predictions (Q,) in 0 … C - 1."""
    cells = np.asarray(labels, np.int64) * n_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class_rows(confusion: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each class its name, `n_test`, `correct` and `top1` in percent; None for a class without test images."""
    counts, correct = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
    return [
        {"class": name, "n_test": n, "correct": right, "top1": 100.0 * right / n if n else None}
        for name, n, right in zip(classes, counts, correct, strict=True)
    ]
