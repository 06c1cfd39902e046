"""What `fewvit predict` does: new images through a bundle, to labels with calibrated confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..datasets import Listing
from ..errors import UsageError, counted, printable
from ..evaluate.evaluation import accepted_classes, among_answers, answers_among
from ..evaluate.inputs import FeatureReader
from ..features import FeatureSet
from ..labels import marked_labels
from ..results import WIDTH, Facts, Result, Row, manifest
from .bundle import Bundle
from .fit import check_threshold, features_for

UNKNOWN = "unknown"
_BLOCK = 4096  # images whose probabilities are held at once


class Predictions(Result):
    """One row per image; the table shows every column, also one that never varies."""

    def to_table(self, width: int = WIDTH) -> list[list[str]]:
        """Cells as text, the header first, a line per image; `width` is not looked at, since no column is left out."""
        return (
            [list(self.rows[0]), *([_cell(value) for value in row.values()] for row in self.rows)]
            if self.rows
            else [[]]
        )


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else printable(value)


@dataclass(frozen=True)
class Limits:
    """Where `unknown` begins: below a confidence, and above a strangeness; None: nowhere."""

    threshold: float
    max_strangeness: float | None

    def why_unknown(self, confidence: float, strangeness: float | None) -> str:
        """`confidence`, `strangeness` or both, whichever makes a prediction unknown; empty where neither does."""
        doubtful = confidence < self.threshold
        strange = strangeness is not None and self.max_strangeness is not None and strangeness > self.max_strangeness
        return " and ".join(name for name, so in (("confidence", doubtful), ("strangeness", strange)) if so)


class Judging(Protocol):
    """What a bundle says of its score of strangeness."""

    @property
    def threshold(self) -> float | None:
        """Above it a picture is of none of the classes; None: that is not known."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For a result's manifest."""


class Decider(Protocol):
    """What labels are decided with: a bundle, or a file that was made of one."""

    @property
    def classifier(self) -> str:
        """The plug-in's name."""

    @property
    def classes(self) -> Sequence[str]:
        """C names, one for each column of probabilities."""

    @property
    def threshold(self) -> float:
        """Of confidence."""

    @property
    def temperature(self) -> float:
        """Of the calibration."""

    @property
    def strangeness(self) -> Judging | None:
        """None: it has no score."""

    def confidences(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (Q, C)."""


def limits_of(bundle: Decider, threshold: float | None = None, max_strangeness: float | None = None) -> Limits:
    """The limits given, or the bundle's own; infinite strangeness is no limit.

    Raises UsageError for limits that are none, and for a strangeness that the bundle cannot tell.
    """
    threshold = bundle.threshold if threshold is None else threshold
    check_threshold(threshold)
    if max_strangeness is None:
        return Limits(threshold, bundle.strangeness.threshold if bundle.strangeness is not None else None)
    check_max_strangeness(max_strangeness)
    if bundle.strangeness is None:
        raise UsageError(
            "--max-strangeness: this bundle has no strangeness score",
            fix="Fit it again with this fewvit, or leave the option out.",
        )
    return Limits(threshold, max_strangeness if math.isfinite(max_strangeness) else None)


def check_max_strangeness(value: float) -> None:
    """Raise UsageError unless it is a number or inf."""
    if math.isnan(value) or value == -math.inf:
        raise UsageError(f"--max-strangeness {value} is no number", fix="Give a number, or inf for no limit.")


def predict_rows(
    bundle: Bundle, features: FeatureSet, threshold: float | None = None, max_strangeness: float | None = None
) -> Iterator[Row]:
    """For each image `id`, `label` (`unknown` where it is below the threshold of confidence or too strange),
    `confidence`, and the `best` and `second` class.

    Of a bundle with a strangeness score also `strangeness`, and `unknown_by`: `confidence`, `strangeness` or
    `confidence and strangeness`; None where the image has a label. Where images are labelled with classes of the
    bundle, every row has a `target`, which is None without a label; of several right classes it is the best one if
    that is among them, else the first. Of a set whose answers are some classes alone the predictions are of these.
    Raises as `limits_of`, and DataError where the bundle knows none of the answers.
    """
    limits = limits_of(bundle, threshold, max_strangeness)
    yield from decided(bundle, limits, features, _said(bundle, features))


@dataclass(frozen=True)
class Said:
    """What was computed of q images that follow one another."""

    probabilities: np.ndarray  # (q, C), before calibration
    strangeness: np.ndarray | None  # (q,)


def _said(bundle: Bundle, features: FeatureSet) -> Iterator[Said]:
    for start in range(0, len(features), _BLOCK):
        block = features.features[start : start + _BLOCK]
        strange = bundle.strangeness.of(block) if bundle.strangeness is not None else None
        yield Said(bundle.probabilities(block), strange)


def decided(decider: Decider, limits: Limits, features: FeatureSet, said: Iterable[Said]) -> Iterator[Row]:
    """The rows of `predict_rows`, of what was computed of all images in their order."""
    numbers = _numbers(decider, features)
    answers = answers_among(numbers, features)
    targeted = bool(_judged(numbers, features).any())
    start = 0
    for one in said:
        block = features.select(np.arange(start, start + len(one.probabilities)))
        start += len(block)
        probabilities = among_answers(one.probabilities, answers)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]  # (q, 2): ties go to the first class
        confidences = decider.confidences(probabilities)
        strange = one.strangeness.tolist() if one.strangeness is not None else None
        targets = marked_labels(block, numbers[order[:, 0]]).tolist()
        for i, (p, (best, second)) in enumerate(zip(confidences, order.tolist(), strict=True)):
            strangeness = strange[i] if strange is not None else None
            why = limits.why_unknown(float(p[best]), strangeness)
            yield {
                "id": block.ids[i],
                "label": UNKNOWN if why else decider.classes[best],
                **({"target": str(block.classes[targets[i]]) if targets[i] >= 0 else None} if targeted else {}),
                "confidence": float(p[best]),
                **({"strangeness": strangeness, "unknown_by": why or None} if strange is not None else {}),
                "best": decider.classes[best],
                "second": decider.classes[second],
            }


def _numbers(bundle: Decider, features: FeatureSet) -> np.ndarray:
    """What the images call each class of the bundle (C,); -2 is one that they do not know."""
    number_of = {str(name): number for number, name in enumerate(features.classes)}
    return np.array([number_of.get(name, -2) for name in bundle.classes], np.int64)


def _judged(numbers: np.ndarray, features: FeatureSet) -> np.ndarray:
    """Whether each image (N,) is of a class of the bundle: then its best class is right or wrong."""
    known = np.isin(accepted_classes(features), numbers[numbers >= 0])
    return np.asarray(known.any(axis=1))


def _summary(rows: Sequence[Mapping[str, Any]], bundle: Decider, limits: Limits, judged: int) -> Facts:
    """`unknown`, the number of predictions that are, and how many of them are by what; for images `labelled` with a
    class of the bundle also `top1`, the percentage whose best class is right.
    """
    found: Facts = {"unknown": sum(row["label"] == UNKNOWN != row["best"] for row in rows)}
    if bundle.strangeness is not None:
        why = [row["unknown_by"] or "" for row in rows]
        found = {"unknown": sum(map(bool, why)), "max_strangeness": limits.max_strangeness}
        found |= {f"unknown_by_{by}": sum(by in one for one in why) for by in ("confidence", "strangeness")}
        found["strangeness"] = dict(bundle.strangeness.facts)
    if judged:
        found |= {"labelled": judged, "top1": 100 * sum(row["best"] == row["target"] for row in rows) / judged}
    return found


def _notes(found: Mapping[str, Any], images: int, limits: Limits) -> Iterator[str]:
    """What `_summary` found, in words."""
    doubtful = found.get("unknown_by_confidence", found["unknown"])
    yield f"{doubtful} of {counted(images, 'image')} below the threshold of {limits.threshold:g}, so `unknown`"
    if limits.max_strangeness is not None:
        both = found["unknown_by_confidence"] + found["unknown_by_strangeness"] - found["unknown"]
        yield (
            f"{found['unknown_by_strangeness']} of {counted(images, 'image')} stranger than "
            f"{limits.max_strangeness:.4g}, so `unknown`; {both} of them for both reasons"
        )
    if "top1" in found:
        yield (
            f"{found['top1']:.2f} % of the {counted(found['labelled'], 'image')} labelled with the bundle's classes "
            "have their class as best, whatever the confidence"
        )


def run_predict(
    reader: FeatureReader,
    bundle: Bundle,
    source: str,
    listing: Listing,
    threshold: float | None,
    max_strangeness: float | None,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Predictions:
    """Predictions for every image of a source, of images or of features."""
    limits = limits_of(bundle, threshold, max_strangeness)
    inputs = features_for(bundle, reader, source, listing, notify, unlabelled=True)
    report_skipped(inputs.skipped)
    rows = list(predict_rows(bundle, inputs.train, threshold, max_strangeness))
    return predictions(bundle, limits, inputs.train, rows, inputs.facts, notify)


def predictions(
    decider: Decider,
    limits: Limits,
    features: FeatureSet,
    rows: Sequence[Row],
    facts: Facts,
    notify: Callable[[str], None],
) -> Predictions:
    """The result of rows that `decided` gave; `facts` are of the features."""
    judged = int(_judged(_numbers(decider, features), features).sum())
    found = _summary(rows, decider, limits, judged)
    for line in _notes(found, len(rows), limits):
        notify(line)
    how = {"classifier": decider.classifier, "threshold": limits.threshold, **found, "temperature": decider.temperature}
    return Predictions("predict", list(rows), manifest(**facts, **how))
