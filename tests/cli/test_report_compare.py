"""`fewvit report --compare`: what is printed, written and refused."""

from __future__ import annotations

import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest

from fewvit_cli import show

from made_sweeps import many, planned, predictions, put

SKILLS = {"dino": 0.95, "msn": 0.75, "mae": 0.4}


@pytest.fixture
def sweep(tmp_path):
    many(tmp_path / "sweep", SKILLS, 5)
    return planned(tmp_path / "sweep")


def test_json_holds_the_rows_and_how_they_were_found(fewvit, sweep):
    code, out, err = fewvit("report", sweep, "--compare", "dino,msn,mae", "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert found["task"] == "report"
    tables = [row["table"] for row in found["rows"]]
    assert (tables.count("pairs"), tables.count("over data sets")) == (15, 3)
    assert found["run"]["compare"]["names"] == ["dino", "msn", "mae"]
    assert found["run"]["compare"]["resamples"] == 10_000
    assert set(found["run"]["compare"]["notes"]) <= set(err.splitlines())


def test_csv_has_the_same_rows(fewvit, sweep):
    rows = json.loads(fewvit("report", sweep, "--compare", "dino,msn,mae", "--format", "json")[1])["rows"]
    lines = list(
        csv.DictReader(io.StringIO(fewvit("report", sweep, "--compare", "dino,msn,mae", "--format", "csv")[1]))
    )
    assert [(line["a"], line["verdict"]) for line in lines] == [(row["a"] or "", row["verdict"] or "") for row in rows]
    assert float(lines[0]["ci95_low"]) == rows[0]["ci95"][0]


def test_the_table_shows_the_verdicts(fewvit, sweep):
    code, out, err = fewvit("report", sweep, "--compare", "dino,mae")
    assert code == 0
    assert out.count("dino is better") == 5
    assert "5 data sets are too few for a test over data sets" in err
    assert "0.0625" in err


def test_the_page_has_the_comparison_and_is_the_same_bytes_twice(fewvit, sweep, tmp_path):
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        assert fewvit("report", sweep, "--compare", "dino,msn,mae", "--out", page, "--title", "T")[0] == 0
    text = pages[0].read_text()
    assert text == pages[1].read_text()
    assert '<section id="comparing">' in text
    assert "Critical differences" in text
    assert "dino is better" in text


def test_without_the_option_a_report_compares_nothing(fewvit, sweep):
    code, out, _ = fewvit("report", sweep, "--format", "json")
    assert code == 0
    assert "compare" not in json.loads(out)["run"]


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        ("dino,dino", 2, "a thing cannot be compared with itself"),
        ("dino", 2, "two names or more"),
        ("", 2, "two names or more"),
        ("dino,mea", 2, "Did you mean mae"),
        ("dino,other", 3, "no two of dino, other"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(fewvit, sweep, tmp_path, names, code, words):
    put(sweep, "other", predictions(0.9, 3, 2), data="elsewhere", contents="cc")
    planned(sweep)
    found, _, err = fewvit("report", sweep, "--compare", names, "--out", tmp_path / "x.html")
    assert (found, words in err) == (code, True), err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_on_a_terminal_a_table_is_as_wide_as_it_and_what_had_no_room_is_named(fewvit, sweep, monkeypatch, columns):
    monkeypatch.setattr(show, "_room", lambda: columns)
    code, out, err = fewvit("report", sweep, "--compare", "dino,mae")
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    [line] = [line for line in err.splitlines() if line.startswith("no room for")]
    assert line.endswith("--format csv has all columns")
    assert "p_mcnemar" in line
    assert "verdict" in out.splitlines()[0].split()


@pytest.mark.parametrize(("is_terminal", "room"), [(True, 81), (False, 100)])
def test_a_table_has_the_terminals_width_and_100_characters_elsewhere(monkeypatch, is_terminal, room):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: is_terminal))
    monkeypatch.setenv("COLUMNS", "81")
    assert show._room() == room
