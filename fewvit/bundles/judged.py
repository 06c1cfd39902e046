"""What `fewvit fit` finds out about a bundle: accuracy, risk at each threshold, and how well strangers are told apart.

By images that were held out in turn, from estimators and scores that were not fitted on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration import HeldOut, expected_calibration_error
from ..errors import DataError, counted
from ..evaluate.predictions import Predicted
from ..features import FeatureSet, shared_rows
from ..labels import Listed
from ..metrics import auroc, passing_at, rank_of_target, top_k_accuracy
from ..results import Row
from .bundle import Bundle

THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.95)  # of confidence, at which risk and coverage are told
_TELLING, _SHARES = 3, (0.25, 0.5, 0.75)  # where fewer of them divide the images, those that leave out such shares
_HELD_OUT = "held-out images"


@dataclass(frozen=True)
class Judged:
    """Images that were held out in turn, and what was said of them."""

    held: HeldOut
    strangeness: np.ndarray  # (m,) in the order of `held`

    def confidences(self, bundle: Bundle) -> np.ndarray:
        """Calibrated confidence (m,) of the best class."""
        return bundle.confidences(self.held.probabilities).max(axis=1)


def judged_rows(bundle: Bundle, judged: Judged) -> list[Row]:
    """Rows of accuracy, calibration error and risk; none where no image could be held out."""
    held = judged.held
    if not len(held.rows):
        return []
    values = {
        "top1": top_k_accuracy(rank_of_target(held.probabilities, held.labels), 1),
        "ece": expected_calibration_error(bundle.confidences(held.probabilities), held.labels),
    }
    rows = [{"metric": m, "value": v, "n_test": len(held.rows), "judged_on": _HELD_OUT} for m, v in values.items()]
    right = held.probabilities.argmax(axis=1) == held.labels
    confidence = judged.confidences(bundle)
    return rows + coverage_rows(confidence, right, {*telling_thresholds(confidence), bundle.threshold})


def telling_thresholds(confidence: np.ndarray) -> set[float]:
    """THRESHOLDS, and where few of them divide confidences (m,) the quartiles: of many classes all may lie below 0.3.

    Rounded down to a thousandth, so that what is as sure passes.
    """
    low, high = confidence.min(), confidence.max()
    if sum(bool(low < threshold <= high) for threshold in THRESHOLDS) >= _TELLING:
        return {*THRESHOLDS}
    return {*THRESHOLDS, *(float(np.floor(1000 * at) / 1000) for at in np.quantile(confidence, _SHARES))}


def predictions_of(bundle: Bundle, judged: Judged) -> Predicted:
    """What was predicted for the images that were held out, with calibrated confidence; they go by their numbers."""
    held = judged.held
    best = held.probabilities.argmax(axis=1)
    ids = [str(row) for row in held.rows.tolist()]
    which = {"method": bundle.classifier}
    return Predicted(which, ids, held.labels, best, judged.confidences(bundle), bundle.classes)


def coverage_rows(confidence: np.ndarray, right: np.ndarray, thresholds: Sequence[float] | set[float]) -> list[Row]:
    """For each threshold the `risk`, percent wrong of the predictions that reach it, and `coverage`, percent that do.

    Of confidences (m,) and whether the prediction is right (m,). Risk is None where no prediction reaches a threshold.
    Source: El-Yaniv and Wiener 2010, section 2.
    """
    rows = []
    for threshold in sorted(thresholds):
        named = confidence >= threshold
        risk = 100.0 * float((~right[named]).mean()) if named.any() else None
        coverage = 100.0 * float(named.mean())
        row: Row = {"metric": "risk", "value": risk, "threshold": threshold, "coverage": round(coverage, 2)}
        rows.append({**row, "n_test": int(named.sum()), "judged_on": _HELD_OUT})
    return rows


def coverage_lines(rows: Sequence[Row], threshold: float) -> Iterator[str]:
    """What the rows of `coverage_rows` say of the bundle's own threshold."""
    for row in rows:
        if row["metric"] == "risk" and row["threshold"] == threshold:
            wrong = "" if row["value"] is None else f", and {row['value']:.2f} % of these wrongly"
            yield f"a threshold of {threshold:g} names {row['coverage']:.2f} % of the held-out images{wrong}"


def require_strangers(
    source: str, known: FeatureSet, strangers: FeatureSet, notify: Callable[[str], None] = lambda line: None
) -> None:
    """Raise DataError for no picture at all, or where all are labelled ones; say how many are, where some are."""
    if not len(strangers):
        raise DataError("no picture in it to be judged as strange", file=source)
    same = shared_rows(known, strangers)
    if same == len(strangers):
        raise DataError("its pictures are the labelled ones: they are no strangers", file=source)
    if same:
        notify(f"{same} of {counted(len(strangers), 'picture')} of --strangers have the features of labelled images")


def require_other_classes(classes: Collection[str], strangers: Listed) -> None:
    """Raise DataError for strangers that are labelled with one of the classes."""
    names = {str(strangers.classes[c]) for c in strangers.labels.tolist() if c >= 0}
    if same := sorted(names & set(classes)):
        raise DataError(
            f"{counted(len(same), 'class', 'classes')} of --strangers, such as {same[0]}, "
            f"{'is' if len(same) == 1 else 'are'} the bundle's: those pictures are no strangers",
            fix="Give pictures of other classes.",
        )


def stranger_rows(bundle: Bundle, judged: Judged, strangers: FeatureSet) -> list[Row]:
    """AUROC, and the percent of strangers that pass where 95 % of the known images do, by confidence and strangeness.

    The known images are the held-out ones. Raises DataError for strangers that are labelled with the bundle's classes,
    and where no image could be held out.
    """
    if not len(judged.held.rows):
        raise DataError(
            "strangers cannot be judged beside known images: no class has two images, so none can be held out",
            fix="Leave --strangers out, or give two or more images per class.",
        )
    require_other_classes(bundle.classes, strangers)
    known = {"confidence": -judged.confidences(bundle)}
    strange = {"confidence": -bundle.confidences(bundle.probabilities(strangers.features)).max(axis=1)}
    if bundle.strangeness is not None:
        known[bundle.strangeness.name] = judged.strangeness
        strange[bundle.strangeness.name] = bundle.strangeness.of(strangers.features)
    rows = []
    for by, scores in known.items():
        values = {"auroc": auroc(scores, strange[by]), "fpr@95": passing_at(scores, strange[by])}
        own: Row = {"by": by, "n_test": len(scores) + len(strangers), "judged_on": f"{_HELD_OUT} and strangers"}
        rows += [{"metric": metric, "value": value, **own} for metric, value in values.items()]
    return rows
