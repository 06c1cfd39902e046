"""What a fitted classifier is worth on test features: ranks, predictions, calibrated confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..calibration import Estimator, below_the_largest, expected_calibration_error
from ..classifiers import traits_of
from ..errors import DataError, counted
from ..features import FeatureSet
from ..labels import Listed, marked_labels
from ..metrics import rank_of_accepted, top_k_accuracy

CALIBRATED = "yes"
_CHUNK_BYTES = 8 << 20  # of class scores at once


@dataclass(frozen=True)
class Evaluation:
    """What one classifier gives on one test set; class numbers are those of the feature set."""

    rank: np.ndarray  # (Q,) place of the true class, 0 = first
    predictions: np.ndarray  # (Q,)
    confidence: np.ndarray  # (Q,) calibrated probability of the prediction

    def metrics(self, test: FeatureSet) -> dict[str, float]:
        """top1, top5 and ece, in percent, of the images (Q) that it is of."""
        right = self.predictions == marked_labels(test, self.predictions)
        # the prediction, and everything else
        both = np.stack([self.confidence, np.zeros_like(self.confidence)], axis=1)
        return {
            "top1": top_k_accuracy(self.rank, 1),
            "top5": top_k_accuracy(self.rank, 5),
            "ece": expected_calibration_error(both, np.where(right, 0, 1)),
        }


def evaluate_estimator(estimator: Estimator, test: FeatureSet, temperature: float) -> Evaluation:
    """How a fitted estimator does on every row of `test`, its probabilities calibrated by `temperature` (see `scale`).

    A chunk of rows at a time, unless the estimator looks at all of them together. Of a set that is marked otherwise the
    most probable of its answers is the prediction, and any accepted class is right. Raises DataError where no answer
    was learnt.
    """
    known = np.asarray(estimator.classes_)
    answers = answers_among(known, test)
    column = _columns(known[answers], test)
    rank = np.empty(len(test), np.int64)
    best = np.empty(len(test), np.int64)
    confidence = np.empty(len(test))
    for part in _parts(estimator, len(test), len(known)):
        shares = _of_answers(estimator.predict_proba(test.features[part]), answers)
        rank[part] = rank_of_accepted(shares, column[part])
        best[part] = shares.argmax(axis=1)
        confidence[part] = largest_share(shares, temperature)
    return Evaluation(rank, known[answers][best], confidence)


def answers_among(known: np.ndarray, images: Listed) -> np.ndarray | slice:
    """The places in `known` (C,) of the classes that a prediction for some images may be.

    Raises DataError where there is none.
    """
    if images.marking is None or images.marking.answers is None:
        return slice(None)
    places = np.flatnonzero(np.isin(known, images.marking.answers))
    if not len(places):
        raise DataError(f"none of the {counted(len(images.marking.answers), 'class', 'classes')} was learnt")
    return places


def accepted_classes(images: Listed) -> np.ndarray:
    """The classes (N, A) that are right for each image, -1 fills: of most sets the label alone (N, 1)."""
    if images.marking is not None and images.marking.accepted is not None:
        return images.marking.accepted
    return images.labels[:, None]


def of_answers(scores: np.ndarray, answers: np.ndarray | slice, rest: float) -> np.ndarray:
    """Class scores (Q, C) with `rest` for the classes that a prediction may not be, less than any score that counts."""
    if isinstance(answers, slice):
        return scores
    chosen = np.full_like(scores, rest)
    chosen[:, answers] = scores[:, answers]
    return chosen


def _columns(known: np.ndarray, test: FeatureSet) -> np.ndarray:
    """The places (Q, A) in `known` of the classes that are right; -1 for one that had no labelled image."""
    accepted = accepted_classes(test)
    column = np.searchsorted(known, accepted).clip(max=len(known) - 1)
    column[known[column] != accepted] = -1
    return column


def _of_answers(shares: np.ndarray, answers: np.ndarray | slice) -> np.ndarray:
    """Probabilities (Q, K) of some of the classes: their softmax alone; where none has any, they are all alike."""
    if isinstance(answers, slice):
        return shares
    chosen = shares[:, answers]
    total = chosen.sum(axis=1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1), 1 / chosen.shape[1])


def among_answers(shares: np.ndarray, answers: np.ndarray | slice) -> np.ndarray:
    """The same probabilities (Q, C) with none for the classes that are no answers."""
    if isinstance(answers, slice):
        return shares
    found = np.zeros_like(shares)
    found[:, answers] = _of_answers(shares, answers)
    return found


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
