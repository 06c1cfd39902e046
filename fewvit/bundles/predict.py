"""What `fewvit predict` does: new images through a bundle, to labels with calibrated confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..datasets import Listing
from ..errors import counted, printable
from ..evaluate.inputs import FeatureReader
from ..features import FeatureSet
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


def predict_rows(bundle: Bundle, features: FeatureSet, threshold: float | None = None) -> Iterator[Row]:
    """For each image `id`, `label` (`unknown` where the confidence is below the threshold), `confidence`, and the
    `best` and `second` class.

    Where images are labelled with classes of the bundle, every row has a `target`, which is None without a label.
    """
    threshold = bundle.threshold if threshold is None else threshold
    targets = _targets(bundle, features)
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        probabilities = bundle.probabilities(features.features[part])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]  # (q, 2): ties go to the first class
        confidences = bundle.confidences(probabilities)
        for i, p, (best, second) in zip(range(len(features))[part], confidences, order.tolist(), strict=True):
            yield {
                "id": features.ids[i],
                "label": bundle.classes[best] if p[best] >= threshold else UNKNOWN,
                **({"target": targets[i]} if targets else {}),
                "confidence": float(p[best]),
                "best": bundle.classes[best],
                "second": bundle.classes[second],
            }


def _targets(bundle: Bundle, features: FeatureSet) -> list[str | None]:
    """The name of each image's class; empty if no image is labelled with a class of the bundle."""
    names = [str(features.classes[c]) if c >= 0 else None for c in features.labels.tolist()]
    return names if set(names) & set(bundle.classes) else []


def _summary(rows: Sequence[Mapping[str, Any]], bundle: Bundle, threshold: float) -> Facts:
    """`unknown`, the number of predictions below the threshold; for images `labelled` with a class of the bundle also
    `top1`, the percentage whose best class is right.
    """
    classes = set(bundle.classes)
    known = [row for row in rows if row.get("target") in classes]
    found: Facts = {"unknown": sum(row["confidence"] < threshold for row in rows)}
    if known:
        found |= {"labelled": len(known), "top1": 100 * sum(row["best"] == row["target"] for row in known) / len(known)}
    return found


def _notes(found: Mapping[str, Any], images: int, threshold: float) -> Iterator[str]:
    """What `_summary` found, in words."""
    yield f"{found['unknown']} of {counted(images, 'image')} below the threshold of {threshold:g}, so `unknown`"
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
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Predictions:
    """Predictions for every image of a source, of images or of features."""
    threshold = bundle.threshold if threshold is None else threshold
    check_threshold(threshold)
    inputs = features_for(bundle, reader, source, listing, notify, unlabelled=True)
    report_skipped(inputs.skipped)
    rows = list(predict_rows(bundle, inputs.train, threshold))
    found = _summary(rows, bundle, threshold)
    for line in _notes(found, len(rows), threshold):
        notify(line)
    facts = {"classifier": bundle.classifier, "threshold": threshold, **found, "temperature": bundle.temperature}
    return Predictions("predict", rows, manifest(**inputs.facts, **facts))
