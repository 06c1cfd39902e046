"""Predictions, accuracy by class and confusion, as files for other programs: one long table for all classifiers."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..calibration import confusion_matrix, per_class_rows
from ..errors import MissingExtra, UsageError, printable
from ..files import replacing
from ..labels import Listed, marked_labels

_Path = str | os.PathLike[str]
_Line = Iterable[object]  # the cells of one line of a CSV


_COLUMNS = ("id", "label", "prediction", "probability")


@dataclass(frozen=True)
class Predicted:
    """What one classifier predicted for the test images; class numbers are places in `classes`."""

    # method, shots, trial, …: the columns that stand first; the same ones in everything that shares a file
    which: Mapping[str, Any]
    ids: Sequence[str]  # Q
    labels: np.ndarray  # (Q,) -1 = unlabelled
    predictions: np.ndarray  # (Q,)
    probabilities: np.ndarray  # (Q,) of the prediction
    classes: Sequence[str]
    # several classes of an image may be right: its label is the prediction where that is one of them
    several_right: bool = False

    @staticmethod
    def of(which: Mapping[str, Any], images: Listed, predictions: np.ndarray, probabilities: np.ndarray) -> Predicted:
        """Predictions for all of some images, beside the labels that they are compared with."""
        several = images.marking is not None and images.marking.accepted is not None
        labels = marked_labels(images, predictions)
        return Predicted(which, images.ids, labels, predictions, probabilities, images.classes, several)

    @property
    def confusion(self) -> np.ndarray:
        """Counts (C, C) of the labelled images: a row per true class."""
        known = self.labels >= 0
        return confusion_matrix(self.labels[known], self.predictions[known], len(self.classes))


def check_predictions_path(path: _Path) -> None:
    """Raise UsageError unless `save_predictions` knows the ending, MissingExtra for Parquet without pyarrow.

    To be called before the work.
    """
    if not str(path).lower().endswith((".csv", ".parquet")):
        raise UsageError("predictions are written as .parquet or .csv", file=path)
    if not str(path).lower().endswith(".csv") and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra(
            "writing Parquet needs pyarrow",
            file=path,
            fix="pip install 'fewvit[table]', or give a name that ends in .csv.",
        )


def save_predictions(path: _Path, predicted: Sequence[Predicted]) -> None:
    """Replace `path` by a table, one row per image of each: what `which` names, then
    `id, label, prediction, probability`.

    Parquet, or (.csv) CSV. Labels and predictions are written as names; an unlabelled image has none. Bytes that are no
    UTF-8 are shown as escapes.
    """
    check_predictions_path(path)
    if str(path).lower().endswith(".csv"):
        lines = (line for one in predicted for line in zip(*_columns(one).values(), strict=True))
        _write_csv(path, (*predicted[0].which, *_COLUMNS), lines)
        return
    import pyarrow
    import pyarrow.parquet

    kinds = {name: _kind([one.which[name] for one in predicted]) for name in predicted[0].which} | dict.fromkeys(
        _COLUMNS, "string"
    )
    schema = pyarrow.schema({**kinds, "probability": pyarrow.float64()})
    with replacing(path) as handle, pyarrow.parquet.ParquetWriter(handle, schema) as writer:
        for one in predicted:
            which = {name: str(value) if kinds[name] == "string" else value for name, value in one.which.items()}
            writer.write_table(pyarrow.table(_columns(replace(one, which=which)), schema=schema))


def _kind(values: Sequence[object]) -> str:
    """The type of a column: numbers, unless one of the values is a name such as `1%`."""
    return "int64" if all(isinstance(value, int) for value in values) else "string"


def _columns(one: Predicted) -> dict[str, list[Any]]:
    names = [printable(name) for name in one.classes]
    return {
        **{name: [value] * len(one.ids) for name, value in one.which.items()},
        "id": [printable(name) for name in one.ids],
        "label": [names[c] if c >= 0 else None for c in one.labels.tolist()],
        "prediction": [names[c] for c in one.predictions.tolist()],
        "probability": one.probabilities.astype(np.float64).tolist(),
    }


def save_per_class(path: _Path, predicted: Sequence[Predicted]) -> None:
    """Replace `path` by a CSV of what `which` names, then `class, n_test, correct, top1`; a class without test images
    has no accuracy.
    """

    def lines() -> Iterator[_Line]:
        for one in predicted:
            for row in per_class_rows(one.confusion, [printable(name) for name in one.classes]):
                yield [*one.which.values(), *row.values()]

    _write_csv(path, (*predicted[0].which, "class", "n_test", "correct", "top1"), lines())


def save_confusion(path: _Path, predicted: Sequence[Predicted]) -> None:
    """Replace `path` by a CSV of confusion matrices: what `which` names, the true class, a column per predicted one."""
    names = [printable(name) for name in predicted[0].classes]
    lines = (
        [*one.which.values(), name, *counts]
        for one in predicted
        for name, counts in zip(names, one.confusion.tolist(), strict=True)
    )
    _write_csv(path, (*predicted[0].which, "true \\ predicted", *names), lines)


def _write_csv(path: _Path, header: Iterable[str], lines: Iterable[_Line]) -> None:
    with replacing(path, "w") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
