"""What `fewvit predict` does: new images through a bundle, to labels with calibrated confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..datasets import Listing
from ..errors import printable
from ..features import FeatureSet
from ..results import WIDTH, Result, manifest
from .fit import check_threshold, features_for
from .inputs import FeatureReader

UNKNOWN = "unknown"
_BLOCK = 4096  # images whose probabilities are held at once


class Predictions(Result):
    """One row per image; the table shows every column, also one that never varies."""

    def to_table(self, width: int = WIDTH) -> list[list[str]]:
        return [list(self.rows[0]), *([_cell(value) for value in row.values()] for row in self.rows)] if self.rows else [[]]


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else printable(value)


def predict_rows(bundle: Bundle, features: FeatureSet, threshold: float | None = None) -> Iterator[dict[str, Any]]:
    """For each image `id`, `label` (`unknown` where the confidence is below the threshold), `confidence`, and the `best` and `second` class."""
    threshold = bundle.threshold if threshold is None else threshold
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        probabilities = bundle.probabilities(features.features[part])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]  # (q, 2): ties go to the first class
        confidences = bundle.confidences(probabilities)
        for image, p, (best, second) in zip(features.ids[part], confidences, order.tolist(), strict=True):
            yield {
                "id": image,
                "label": bundle.classes[best] if p[best] >= threshold else UNKNOWN,
                "confidence": float(p[best]),
                "best": bundle.classes[best],
                "second": bundle.classes[second],
            }


def run_predict(
    reader: FeatureReader,
    bundle: Bundle,
    source: str,
    listing: Listing,
    threshold: float | None,
    say: Callable[[str], None],
    skips: Callable[[list[dict[str, str]]], None],
) -> Predictions:
    """Predictions for every image of a source, of images or of features."""
    threshold = bundle.threshold if threshold is None else threshold
    check_threshold(threshold)
    inputs = features_for(bundle, reader, source, listing, say, unlabelled=True)
    skips(inputs.skipped)
    rows = list(predict_rows(bundle, inputs.train, threshold))
    unknown = sum(row["confidence"] < threshold for row in rows)
    facts = {"classifier": bundle.classifier, "threshold": threshold, "unknown": unknown, "temperature": bundle.temperature}
    return Predictions("predict", rows, manifest(**inputs.facts, **facts))
