"""What a fitted classifier is worth on test features: ranks, predictions, calibrated confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..calibration import Estimator, below_the_largest, expected_calibration_error
from ..classifiers import traits_of
from ..features import FeatureSet
from ..metrics import NEVER, rank_of_target, top_k_accuracy

CALIBRATED = "yes"
_CHUNK_BYTES = 8 << 20  # of class scores at once


@dataclass(frozen=True)
class Evaluation:
    """What one classifier gives on one test set; class numbers are those of the feature set."""

    rank: np.ndarray  # (Q,) place of the true class, 0 = first
    predictions: np.ndarray  # (Q,)
    confidence: np.ndarray  # (Q,) calibrated probability of the prediction

    def metrics(self, labels: np.ndarray) -> dict[str, float]:
        """top1, top5 and ece, in percent."""
        right = self.predictions == labels
        # the prediction, and everything else
        both = np.stack([self.confidence, np.zeros_like(self.confidence)], axis=1)
        return {
            "top1": top_k_accuracy(self.rank, 1),
            "top5": top_k_accuracy(self.rank, 5),
            "ece": expected_calibration_error(both, np.where(right, 0, 1)),
        }


def evaluate_estimator(estimator: Estimator, test: FeatureSet, temperature: float) -> Evaluation:
    """How a fitted estimator does on every row of `test`, its probabilities calibrated by `temperature` (see `scale`).

    A chunk of rows at a time, unless the estimator looks at all of them together.
    """
    known = np.asarray(estimator.classes_)
    column = np.searchsorted(known, test.labels).clip(max=len(known) - 1)
    column[known[column] != test.labels] = -1  # a class that had no labelled image
    rank = np.empty(len(test), np.int64)
    best = np.empty(len(test), np.int64)
    confidence = np.empty(len(test))
    for part in _parts(estimator, len(test), len(known)):
        shares = estimator.predict_proba(test.features[part])
        rank[part] = np.where(column[part] >= 0, rank_of_target(shares, column[part].clip(min=0)), NEVER)
        best[part] = shares.argmax(axis=1)
        confidence[part] = largest_share(shares, temperature)
    return Evaluation(rank, known[best], confidence)


def calibration_of(labels: np.ndarray, *, tried: bool) -> str:
    """Whether confidence was calibrated on images held out of those with labels (n,): yes; no; or no: 1-shot.

    The last is where no class has two images, so that none can be held out and the temperature stays 1.
    """
    if not tried:
        return "no"
    return CALIBRATED if np.unique(labels, return_counts=True)[1].max() > 1 else "no: 1-shot"


def _parts(estimator: Estimator, rows: int, classes: int) -> Iterator[slice]:
    size = rows if traits_of(estimator).transductive else max(64, _CHUNK_BYTES // (8 * classes))
    for start in range(0, rows, max(1, size)):
        yield slice(start, start + size)


def largest_share(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The largest (Q,) of each row of `scale(probabilities, temperature)`, without the others."""
    if temperature == 1:
        return probabilities.max(axis=1)
    logs = below_the_largest(probabilities).astype(np.float32)
    return 1 / np.exp(logs / np.float32(temperature)).sum(axis=1, dtype=np.float64)
