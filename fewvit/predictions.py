"""Predictions image by image, accuracy by class and confusion, as files for other programs."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .calibration import per_class_rows
from .errors import MissingExtra, UsageError, printable
from .files import replacing

_Path = str | os.PathLike[str]


def check_predictions_path(path: _Path) -> None:
    """Raise UsageError unless `save_predictions` knows the ending, MissingExtra for Parquet without pyarrow: to be told before the work."""
    if not str(path).lower().endswith((".csv", ".parquet")):
        raise UsageError("predictions are written as .parquet or .csv", file=path)
    if not str(path).lower().endswith(".csv") and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("writing Parquet needs pyarrow", file=path, fix="pip install 'fewvit[table]', or give a name that ends in .csv.")


def save_predictions(
    path: _Path, ids: Sequence[str], labels: np.ndarray, predictions: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Replace `path` by a table `id, label, prediction, probability`, one row per image, as Parquet or (.csv) CSV.

    Labels (Q,), -1 = unlabelled, and predictions (Q,) are numbers in `classes` and are written as names; an unlabelled image has
    none. The probability is the prediction's, from probabilities (Q, C) or given (Q,). Bytes that are no UTF-8 are shown as escapes.
    """
    check_predictions_path(path)
    names = [printable(name) for name in classes]
    own = probabilities if probabilities.ndim == 1 else np.take_along_axis(probabilities, np.asarray(predictions)[:, None], axis=1)[:, 0]
    columns: dict[str, list[Any]] = {
        "id": [printable(name) for name in ids],
        "label": [names[c] if c >= 0 else None for c in np.asarray(labels).tolist()],
        "prediction": [names[c] for c in np.asarray(predictions).tolist()],
        "probability": own.astype(np.float64).tolist(),
    }
    if str(path).lower().endswith(".csv"):
        _write_csv(path, columns, zip(*columns.values(), strict=True))
        return
    import pyarrow
    import pyarrow.parquet

    kinds = {"probability": pyarrow.float64()}
    table = pyarrow.table({name: pyarrow.array(values, kinds.get(name, pyarrow.string())) for name, values in columns.items()})
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, content)
    with replacing(path) as handle:
        handle.write(content.getvalue())


def save_per_class(path: _Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Replace `path` by a CSV `class, n_test, correct, top1` of a confusion matrix (C, C); a class without test images has no accuracy."""
    rows = per_class_rows(confusion, [printable(name) for name in classes])
    _write_csv(path, ("class", "n_test", "correct", "top1"), (row.values() for row in rows))


def save_confusion(path: _Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Replace `path` by a CSV of a confusion matrix (C, C): a line per true class, a column per predicted class."""
    names = [printable(name) for name in classes]
    _write_csv(path, ["true \\ predicted", *names], ([name, *counts] for name, counts in zip(names, confusion.tolist(), strict=True)))


def _write_csv(path: _Path, header: Iterable[str], lines: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    with replacing(path, "w") as handle:
        handle.write(text.getvalue())
