"""Results of one setting with different numbers of draws: which one stands in the table, the page and a comparison."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from fewvit.evaluate.details import Details
from fewvit.report.report import Report, writer_of

from made_results import cell_of, guesses, rows_of, write

BASE = {"centroid": 0.5, "logistic": 0.6}


def measured(folder: Path, method: str, trials: int, *, seed: int = 0, options=None, contents=None, shots=1) -> Path:
    """A cell of so many draws; draw i is the same whatever the number of draws is."""
    cell = cell_of(
        "lowshot", "own", "digits", method=method, shots=shots, trials=trials, seed=seed, options=options or {}
    )
    draws = [
        guesses({"method": method, "shots": shots, "trial": trial}, BASE[method], 100 * seed + trial)
        for trial in range(trials)
    ]
    rows = rows_of(draws, method=method, shots=shots, n_train=10 * shots)
    return write(folder, cell, rows, details=Details(draws), contents=contents).path


def table_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.result.to_csv())))


def test_of_three_and_five_draws_the_five_stand_everywhere_and_one_line_counts_the_others(tmp_path):
    for trials in (3, 5):
        for method in BASE:
            measured(tmp_path / "s", method, trials)
    report = Report.of([tmp_path / "s"], names=["logistic", "centroid"])
    assert [note for note in report.found.notes if "set aside" in note] == [
        "2 results set aside, since another one has the same draws or more, these first: "
        "lowshot · digits · own · centroid · shots 1 (3 of 5 draws); and so on"
    ]
    alone = Report.of([tmp_path / "s"])
    rows = [row for row in table_of(alone) if row["metric"] == "top1"]
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4", "mean"] * 2
    assert [row["trials"] for row in rows if row["trial"] == "mean"] == ["5", "5"]
    assert {row["trials"] for row in rows if row["trial"] != "mean"} == {""}
    assert len(alone.summary.rows) == 4
    assert [row["draws"] for row in report.comparison.pairs] == [5]
    assert not [note for note in report.comparison.notes if "other numbers" in note]
    assert "5 draws" in writer_of(Path("x.html"))(alone)
    assert alone.incomplete is None


def test_the_report_is_the_same_whichever_was_measured_first(tmp_path):
    for name, order in (("a", (3, 5)), ("b", (5, 3))):
        for trials in order:
            measured(tmp_path / name / "s", "centroid", trials)
    here, there = (Report.of([tmp_path / name / "s"]).result.to_csv() for name in ("a", "b"))
    assert here == there


@pytest.mark.parametrize(
    "other",
    [{"seed": 7}, {"options": {"metric": "cosine"}}, {"contents": "ab" * 32}, {"shots": 2}],
    ids=["seed", "options", "contents", "shots"],
)
def test_what_differs_in_more_than_its_draws_stays(tmp_path, other):
    measured(tmp_path / "s", "centroid", 3)
    measured(tmp_path / "s", "centroid", 5, **other)
    report = Report.of([tmp_path / "s"])
    assert len(report.found.records) == 2
    assert not [note for note in report.found.notes if "set aside" in note]


def test_draws_of_one_number_with_other_values_are_a_contradiction_by_name(tmp_path):
    few = measured(tmp_path / "few", "centroid", 3)
    many = measured(tmp_path / "many", "centroid", 5)
    value = json.loads(few.read_text())
    rows = [{**row, "value": row["value"] + (1 if row["trial"] == 1 else 0)} for row in value["rows"]]
    rows = [{name: one for name, one in row.items() if name not in ("dataset", "backbone")} for row in rows]
    few.unlink()
    cell = cell_of("lowshot", "own", "digits", method="centroid", shots=1, trials=3, seed=0, options={})
    few = write(tmp_path / "few", cell, rows).path
    report = Report.of([tmp_path / "few", tmp_path / "many"])
    assert [record.path for record in report.found.records] == [many]
    [error] = report.found.damaged
    assert error.file == few
    assert "draw 1 has other numbers here than in" in str(error)
    assert report.incomplete is not None
    assert report.incomplete.exit_code == 3
    assert {row["trials"] for row in table_of(report) if row["trial"] == "mean"} == {"5"}


def result(path: Path, values: list[float]) -> Path:
    """What a command wrote of a setting, without a sweep around it."""
    same = {"dataset": "digits", "backbone": "own", "method": "centroid", "shots": 1, "metric": "top1"}
    rows = [{**same, "trial": trial, "value": value} for trial, value in enumerate(values)]
    rows.append({**same, "trial": "mean", "value": float(np.mean(values))})
    path.write_text(
        json.dumps({"schema": "fewvit.result/1", "task": "lowshot", "rows": rows, "run": {"protocol": "mae/1"}})
    )
    return path


def test_commands_results_are_set_aside_where_their_draws_agree_and_stay_where_their_data_may_be_others(tmp_path):
    result(tmp_path / "a.json", [50.0, 60.0])
    result(tmp_path / "b.json", [50.0, 60.0, 70.0])
    result(tmp_path / "c.json", [50.5, 60.0])
    report = Report.of([tmp_path])
    assert [record.path.name for record in report.found.records] == ["b.json", "c.json"]
    assert (len(report.found.damaged), len(report.found.notes)) == (0, 1)


def test_of_one_result_a_setting_alone_is_set_aside(tmp_path):
    one = result(tmp_path / "a.json", [50.0, 60.0])
    value = json.loads(one.read_text())
    value["rows"] += [{**row, "method": "ridge"} for row in value["rows"]]
    one.write_text(json.dumps(value))
    result(tmp_path / "b.json", [50.0, 60.0, 70.0])
    rows = table_of(Report.of([tmp_path]))
    assert [(row["method"], row["trials"]) for row in rows if row["trial"] == "mean"] == [
        ("centroid", "3"), ("ridge", "2"),
    ]  # fmt: skip


def test_a_mean_without_its_draws_has_the_number_that_its_result_says(tmp_path):
    one = result(tmp_path / "a.json", [50.0, 60.0])
    value = json.loads(one.read_text())
    value["rows"], value["run"]["trials"] = value["rows"][-1:], 7
    one.write_text(json.dumps(value))
    assert [row["trials"] for row in table_of(Report.of([tmp_path]))] == ["7"]
