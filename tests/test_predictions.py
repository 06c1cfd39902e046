"""Files of predictions: what was written is read back by other readers, whole or not at all."""

from __future__ import annotations

import csv
import errno
import os

import numpy as np
import pyarrow.parquet
import pytest

from fewvit import files, predictions
from fewvit.calibration import confusion_matrix
from fewvit.errors import MissingExtra, ResourceError, UsageError
from fewvit.predictions import check_predictions_path, save_confusion, save_per_class, save_predictions

IDS = ["cat/1.jpg", "caf\udce9/2.jpg", 'a,"b"/3.jpg', "owl/4\n.jpg", "5.jpg"]
CLASSES = ["cat", "dög", "o,wl"]
LABELS, PREDICTIONS = np.array([0, 1, 2, 2, -1]), np.array([0, 2, 2, 1, 0])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.2, 0.1, 0.7], [0.1, 1 / 3, 17 / 30], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
WANTED = [
    ("cat/1.jpg", "cat", "cat", 0.7),
    ("caf\\udce9/2.jpg", "dög", "o,wl", 0.7),
    ('a,"b"/3.jpg', "o,wl", "o,wl", 17 / 30),
    ("owl/4\\n.jpg", "o,wl", "dög", 0.5),
    ("5.jpg", None, "cat", 1.0),
]


def save(path) -> None:
    save_predictions(path, IDS, LABELS, PREDICTIONS, PROBABILITIES, CLASSES)


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


def test_a_probability_for_each_prediction_may_be_given_instead_of_one_for_each_class(tmp_path):
    save(tmp_path / "p.csv")
    own = PROBABILITIES[range(5), PREDICTIONS]
    save_predictions(tmp_path / "q.csv", IDS, LABELS, PREDICTIONS, own, CLASSES)
    assert (tmp_path / "q.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_no_image_at_all_gives_a_table_with_columns_and_types(tmp_path):
    nothing = np.zeros(0, int)
    save_predictions(tmp_path / "p.parquet", [], nothing, nothing, np.zeros((0, 3)), CLASSES)
    schema = pyarrow.parquet.read_schema(tmp_path / "p.parquet")
    assert [str(kind) for kind in schema.types] == ["string", "string", "string", "double"]
    save_predictions(tmp_path / "p.csv", [], nothing, nothing, np.zeros((0, 3)), CLASSES)
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
    confusion = confusion_matrix(LABELS[:4], PREDICTIONS[:4], 3)
    save_per_class(tmp_path / "c.csv", confusion, CLASSES)
    assert lines(tmp_path / "c.csv") == [
        ["class", "n_test", "correct", "top1"],
        ["cat", "1", "1", "100.0"],
        ["dög", "1", "0", "0.0"],
        ["o,wl", "2", "1", "50.0"],
    ]
    save_per_class(tmp_path / "c.csv", np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]), CLASSES)
    assert [line[3] for line in lines(tmp_path / "c.csv")] == ["top1", "", "100.0", ""]
    save_confusion(tmp_path / "m.csv", confusion, CLASSES)
    assert lines(tmp_path / "m.csv") == [
        ["true \\ predicted", *CLASSES],
        ["cat", "1", "0", "0"],
        ["dög", "0", "0", "1"],
        ["o,wl", "0", "1", "1"],
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
