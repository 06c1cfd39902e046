"""Files of predictions: what was written is read back by other readers, whole or not at all."""

from __future__ import annotations

import csv
import errno
import os

import numpy as np
import pyarrow.parquet
import pytest

from fewvit import files
from fewvit.errors import MissingExtra, ResourceError, UsageError
from fewvit.evaluate import predictions
from fewvit.evaluate.predictions import (
    Predicted,
    check_predictions_path,
    save_confusion,
    save_per_class,
    save_predictions,
)

ESCAPED = ["cat/1.jpg", "caf\\udce9/2.jpg", 'a,"b"/3.jpg', "owl/4\\n.jpg", "5.jpg"]
IDS = ["cat/1.jpg", "caf\udce9/2.jpg", 'a,"b"/3.jpg', "owl/4\n.jpg", "5.jpg"]
CLASSES = ["cat", "dög", "o,wl"]
LABELS, PREDICTIONS = np.array([0, 1, 2, 2, -1]), np.array([0, 2, 2, 1, 0])
PROBABILITIES = np.array([0.7, 0.7, 17 / 30, 0.5, 1.0])
WANTED = [
    ("cat/1.jpg", "cat", "cat", 0.7),
    ("caf\\udce9/2.jpg", "dög", "o,wl", 0.7),
    ('a,"b"/3.jpg', "o,wl", "o,wl", 17 / 30),
    ("owl/4\\n.jpg", "o,wl", "dög", 0.5),
    ("5.jpg", None, "cat", 1.0),
]


def predicted(which, rows=slice(None)) -> Predicted:
    return Predicted(which, IDS[rows], LABELS[rows], PREDICTIONS[rows], PROBABILITIES[rows], CLASSES)


def save(path) -> None:
    save_predictions(path, [predicted({})])


def lines(path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle))


def test_parquet_holds_one_row_per_image_with_names_and_the_predictions_probability(tmp_path):
    save(tmp_path / "p.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["id", "label", "prediction", "probability"]
    assert [tuple(row.values()) for row in table.to_pylist()] == WANTED


def test_csv_holds_the_same_to_the_last_digit(tmp_path):
    save(tmp_path / "p.csv")
    header, *rows = lines(tmp_path / "p.csv")
    assert header == ["id", "label", "prediction", "probability"]
    assert [(i, label or None, prediction, float(p)) for i, label, prediction, p in rows] == WANTED


def test_several_classifiers_and_trials_make_one_long_table(tmp_path):
    several = [
        predicted({"method": "knn", "shots": 2, "trial": 0}),
        predicted({"method": "ridge", "shots": "1%", "trial": 1}, slice(1, 3)),
    ]
    save_predictions(tmp_path / "p.csv", several)
    save_predictions(tmp_path / "p.parquet", several)
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    header, *rows = lines(tmp_path / "p.csv")
    assert header == table.column_names == ["method", "shots", "trial", "id", "label", "prediction", "probability"]
    assert [(row[:3], row[3]) for row in rows] == [(["knn", "2", "0"], i) for i in ESCAPED] + [
        (["ridge", "1%", "1"], i) for i in ESCAPED[1:3]
    ]
    assert [[str("" if value is None else value) for value in row.values()] for row in table.to_pylist()] == rows
    save_predictions(tmp_path / "p.parquet", several[:1])
    assert [str(kind) for kind in pyarrow.parquet.read_schema(tmp_path / "p.parquet").types[:3]] == [
        "string",
        "int64",
        "int64",
    ]


def test_no_image_at_all_gives_a_table_with_columns_and_types(tmp_path):
    nothing = predicted({}, slice(0))
    save_predictions(tmp_path / "p.parquet", [nothing])
    schema = pyarrow.parquet.read_schema(tmp_path / "p.parquet")
    assert [str(kind) for kind in schema.types] == ["string", "string", "string", "double"]
    save_predictions(tmp_path / "p.csv", [nothing])
    assert len(lines(tmp_path / "p.csv")) == 1


def test_another_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"p\.npz: .*\.parquet or \.csv"):
        save(tmp_path / "p.npz")
    assert list(tmp_path.iterdir()) == []
    check_predictions_path(tmp_path / "P.CSV")


def test_without_pyarrow_parquet_is_refused_and_csv_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"fewvit\[table\]"):
        save(tmp_path / "p.parquet")
    save(tmp_path / "p.csv")


def test_accuracy_by_class_and_confusion_are_tables(tmp_path):
    several = [predicted({"trial": 3}), predicted({"trial": 7}, slice(1, 2))]
    save_per_class(tmp_path / "c.csv", several)
    assert lines(tmp_path / "c.csv") == [
        ["trial", "class", "n_test", "correct", "top1"],
        ["3", "cat", "1", "1", "100.0"],
        ["3", "dög", "1", "0", "0.0"],
        ["3", "o,wl", "2", "1", "50.0"],
        ["7", "cat", "0", "0", ""],
        ["7", "dög", "1", "0", "0.0"],
        ["7", "o,wl", "0", "0", ""],
    ]
    save_confusion(tmp_path / "m.csv", several)
    assert lines(tmp_path / "m.csv") == [
        ["trial", "true \\ predicted", *CLASSES],
        ["3", "cat", "1", "0", "0"],
        ["3", "dög", "0", "0", "1"],
        ["3", "o,wl", "0", "1", "1"],
        ["7", "cat", "0", "0", "0"],
        ["7", "dög", "0", "0", "1"],
        ["7", "o,wl", "0", "0", "0"],
    ]


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"
