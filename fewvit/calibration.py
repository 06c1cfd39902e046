"""How far a classifier's probabilities can be believed: temperature scaling, calibration error, confusion. NumPy only.

The temperature is chosen inside the support set, on images held out in turn: no test image is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .errors import DataError, UsageError, counted
from .results import Row
from .seeds import generator

ENOUGH = 2000  # held-out rows that settle one number; with many images one fold has them, and one fit is enough
# Of `best_temperature`. So low, because the cosines of some backbones differ in the third decimal only: a softmax over
# them is all but even.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 100.0
SCEPTICAL = 20  # held-out rows that take half of a sharpening away


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (Q, C) proportional to p^(1 / temperature): above 1 they even out, below 1 they sharpen.

    Their order stays, and what is 0, such as a class without a vote, stays 0. Raises UsageError for a temperature that
    is not above 0. Source: Guo et al. 2017, section 4.2, with log p for the logits, which differ from them by a
    constant per row.
    """
    if not 0 < temperature < np.inf:
        raise UsageError(f"temperature {temperature} cannot scale probabilities; it is a number above 0")
    powers = np.exp(below_the_largest(probabilities) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def below_the_largest(probabilities: np.ndarray) -> np.ndarray:
    """log(p / largest p of the row) (Q, C), float64: 0 for the largest, minus infinity where p is 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, np.float64) / np.max(probabilities, axis=1, keepdims=True))


# ---- the temperature


class Estimator(Protocol):
    """A classifier in scikit-learn's style, as far as an evaluation uses one; what else it does, its `Traits` say."""

    classes_: np.ndarray  # (C,) ascending; columns of `predict_proba`, after `fit`

    def fit(self, X: np.ndarray, y: np.ndarray) -> Estimator:
        """Itself, fitted on rows X (N, D) with labels y (N,). Raises ValueError for what cannot be fitted."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The label (Q,) of each row of X (Q, D)."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Class probabilities (Q, C) of rows X (Q, D)."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Option -> value, as they were given to the constructor."""


@dataclass(frozen=True)
class HeldOut:
    """Probabilities of rows from estimators that were not fitted on them."""

    rows: np.ndarray  # (m,) row numbers, fold by fold; empty when no class has two images
    probabilities: np.ndarray  # (m, C), columns in the order of the sorted classes
    labels: np.ndarray  # (m,) column numbers


def cross_validated_temperature(
    make: Callable[[], Estimator], X: np.ndarray, y: np.ndarray, *, folds: int = 5, seed: int = 0
) -> float:
    """The temperature for `scale` that fits the probabilities of held-out rows of X (N, D), with labels y (N,).

    They come from estimators of `make`, each fitted on the other rows. 1.0 when no class has two images: nothing can be
    held out then, and the probabilities stay as they are.
    """
    held = held_out(make, X, y, folds=folds, seed=seed)
    return best_temperature(held.probabilities, held.labels) if len(held.rows) else 1.0


def held_out(make: Callable[[], Estimator], X: np.ndarray, y: np.ndarray, *, folds: int = 5, seed: int = 0) -> HeldOut:
    """Each row's probabilities from an estimator of `make` that was fitted without the row's fold.

    X is (N, D), y (N,). No more folds are held out once there are ENOUGH rows.
    """
    X, (classes, labels) = np.asarray(X), np.unique(y, return_inverse=True)
    rows, probabilities = [np.zeros(0, np.int64)], [np.zeros((0, len(classes)))]
    for out, rest in held_folds(labels, folds, seed):
        rows.append(out)
        probabilities.append(make().fit(X[rest], np.asarray(y)[rest]).predict_proba(X[out]))
    return HeldOut(np.concatenate(rows), np.concatenate(probabilities), labels[np.concatenate(rows)])


def held_folds(
    labels: np.ndarray, folds: int, seed: int, enough: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that are held out and the rows to fit on, fold by fold, of labels (N,), until `enough` have been held out.

    ENOUGH, if no number is given. Nothing where no class has two rows.
    """
    fold, held = stratified_folds(labels, folds, seed), 0
    for f in range(folds):
        out = np.flatnonzero(fold == f)
        if len(out) and held < (ENOUGH if enough is None else enough):
            held += len(out)
            yield out, np.flatnonzero(fold != f)


def stratified_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (N,) that each row is held out in, -1 for never; sizes differ by at most one, in all and in each class.

    A class with fewer images than folds is held out in as many folds as it has images, and a single image never is:
    each class keeps at least one image in the rest of every fold.
    """
    if folds < 2:
        raise UsageError(f"{counted(folds, 'fold holds', 'folds hold')} nothing out; use 2 or more")
    found = np.full(len(labels), -1)
    dealt = 0
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        if len(rows) > 1:
            found[generator("folds", seed, c).permutation(rows)] = (dealt + np.arange(len(rows))) % folds
            dealt += len(rows)
    return found


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from 0.0001 to 100, whose confidences say best which predictions for labels (m,) are right.

    Minimises -mean[t log c + (1 - t) log(1 - c)], c being a row's largest scaled probability of (m, C), and t its
    prediction's being right. It is the confidence that is shown and rejected by; a likelihood over all classes has no
    number for a true class without a vote. t is 1 - e and e instead of 1 and 0, e = 1 / (m + 2), as Platt (1999) does:
    where a few held-out images are all right, the bare loss would ask for certainty.
    """
    right = probabilities.argmax(axis=1) == labels
    spread = 1 / (len(labels) + 2)
    wrong = np.where(right, spread, 1 - spread)  # 1 - t
    logs = below_the_largest(probabilities)
    logs[np.arange(len(logs)), probabilities.argmax(axis=1)] = -np.inf  # the others alone
    logs = logs.astype(np.float32)

    def loss(log_b: float) -> float:  # b = 1 / T
        others = np.exp(logs * np.float32(np.exp(log_b))).sum(axis=1, dtype=np.float64)
        return float((np.log1p(others) - wrong * np.log(np.maximum(others, 1e-12))).mean())  # c = 1 / (1 + others)

    grid = np.linspace(-np.log(MAX_TEMPERATURE), -np.log(MIN_TEMPERATURE), 49)
    losses = [loss(at) for at in grid]
    if max(losses) - min(losses) < 1e-12:
        return 1.0  # no temperature is better than another
    at = int(np.argmin(losses))
    return float(np.exp(-_golden(loss, grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)])))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (Q, C) float64 of finite logits (Q, C)."""
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def cautious(temperature: float, rows: int) -> float:
    """The temperature with less of its sharpening, the fewer held-out rows speak for it; what evens out stays whole.

    Its logarithm, if below 0, times rows / (rows + SCEPTICAL).
    """
    return temperature if temperature >= 1 else float(temperature ** (rows / (rows + SCEPTICAL)))


def temperature_as_sure(probabilities: np.ndarray, confidence: float) -> float:
    """The temperature from 1 to 100 at which the mean of the rows' largest probabilities (m, C) is `confidence`.

    1 where it is no more than that already. It is less, the higher the temperature: halving finds it.
    """
    low, high = 0.0, float(np.log(MAX_TEMPERATURE))
    if scale(probabilities, 1.0).max(axis=1).mean() <= confidence:
        return 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        surer = scale(probabilities, float(np.exp(middle))).max(axis=1).mean() > confidence
        low, high = (middle, high) if surer else (low, middle)
    return float(np.exp((low + high) / 2))


def _golden(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley in the bracket is least, by golden sections (Kiefer 1953)."""
    ratio = (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-4:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return (low + high) / 2


# ---- what is reported


@dataclass(frozen=True)
class Reliability:
    """What stands behind a calibration curve: how far confidence and accuracy differ in each of B bins of confidence.

    The bins are equally wide, ((b - 1) / B, b / B].
    """

    counts: np.ndarray  # (B,) rows in the bin
    right: np.ndarray  # (B,) rows among them whose prediction is right
    gaps: np.ndarray  # (B,) sum over the bin's rows of (1 if right else 0) - confidence

    @property
    def accuracy(self) -> np.ndarray:
        """Percent (B,) right in each bin; NaN where it is empty."""
        return self._mean(self.right)

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence (B,) of each bin in percent; NaN where it is empty."""
        return self._mean(self.right - self.gaps)

    def _mean(self, sums: np.ndarray) -> np.ndarray:
        return np.divide(100.0 * sums, self.counts, out=np.full(len(sums), np.nan), where=self.counts > 0)

    @property
    def ece(self) -> float:
        """Expected calibration error, percent points: the bins' |accuracy - confidence|, weighted by their rows.

        Source: Guo et al. 2017, equation 3.
        """
        return 100.0 * float(np.abs(self.gaps).sum()) / int(self.counts.sum())

    @property
    def rms(self) -> float:
        """Root of the bins' squared |accuracy - confidence|, weighted by their rows, percent points: never below ECE.

        Source: Hendrycks et al. 2019, section 4.1, here over equally wide bins; theirs hold equally many rows.
        """
        seen = self.counts > 0
        return 100.0 * float(np.sqrt((self.gaps[seen] ** 2 / self.counts[seen]).sum() / self.counts.sum()))

    @property
    def mce(self) -> float:
        """Maximum calibration error, percent points: the largest |accuracy - confidence| of a bin that has rows.

        A bin of one row counts as any other. Source: Guo et al. 2017, section 2.
        """
        seen = self.counts > 0
        return 100.0 * float(np.abs(self.gaps[seen] / self.counts[seen]).max())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """The bins of predictions with `confidence` (Q,) in 0 … 1, of which `right` (Q,) says whether they are right.

    Raises DataError for no rows.
    """
    if len(confidence) == 0:
        raise DataError("there are no test images to score")
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)

    def total(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(number, weights=weights, minlength=bins)

    return Reliability(total(None), total(right), total(right - confidence))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Percent points between confidence and accuracy, `Reliability.ece` of probabilities (Q, C) and labels (Q,).

    Confidence is a row's largest probability, its prediction the first class that has it.
    """
    if len(labels) == 0:
        raise DataError("there are no test images to score")
    return reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins).ece


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (C, C): row = true class, column = predicted class, of labels and predictions (Q,) in 0 … C - 1."""
    cells = np.asarray(labels, np.int64) * n_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class_rows(confusion: np.ndarray, classes: Sequence[str]) -> list[Row]:
    """For each class its name, `n_test`, `correct` and `top1` in percent; None for a class without test images."""
    counts, correct = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
    return [
        {"class": name, "n_test": n, "correct": right, "top1": 100.0 * right / n if n else None}
        for name, n, right in zip(classes, counts, correct, strict=True)
    ]
