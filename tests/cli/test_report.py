"""`fewvit report`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest

from made_results import cell_of, write

ROW = {"method": "knn", "k": 3, "temperature": 0.07, "metric": "top1", "n_test": 7, "value": 60.0}


@pytest.fixture
def results(fewvit, files, tmp_path) -> Path:
    """Two results as their commands wrote them: k-NN by stdout, low-shot by --out."""
    folder = tmp_path / "results"
    folder.mkdir()
    code, out, _ = fewvit("knn", *files, "--k", "1,3", "--format", "json")
    assert code == 0
    (folder / "knn.json").write_text(out)
    code, _, _ = fewvit(
        "lowshot", *files, "--shots", "1,2", "--trials", "2", "--classifier", "centroid", "-q",
        "--out", folder / "lowshot.json",
    )  # fmt: skip
    assert code == 0
    return folder


def test_without_out_the_table_of_the_means_is_printed(fewvit, results):
    code, out, _ = fewvit("report", results)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[0] == "task"
    assert [line.split()[0] for line in lines[1:]] == ["knn"] * 4 + ["lowshot"] * 6


def test_the_formats_carry_every_row_and_the_task_is_report(fewvit, results):
    rows = list(csv.DictReader(io.StringIO(fewvit("report", results, "--format", "csv")[1])))
    value = json.loads(fewvit("report", results, "--format", "json")[1])
    assert (value["schema"], value["task"]) == ("fewvit.result/1", "report")
    assert len(rows) == len(value["rows"]) == 4 + 2 * 3 * 3  # two trials and their mean, of three metrics
    found = json.loads((results / "knn.json").read_text())["rows"]
    assert [float(row["value"]) for row in rows[:4]] == [row["value"] for row in found]


def test_each_ending_gets_its_own_and_stdout_stays_empty_unless_asked(fewvit, results, tmp_path):
    names = ("x.html", "x.csv", "x.json", "x.md", "x.tex")
    words = [word for name in names for word in ("--out", tmp_path / name)]
    code, out, err = fewvit("report", results, *words)
    assert (code, out) == (0, "")
    assert [line for line in err.splitlines() if line.startswith("wrote")] == [f"wrote {tmp_path / n}" for n in names]
    starts = ("<!doctype html>", "task,", "{", "<!-- fewvit report -->", "% fewvit report")
    for name, start in zip(names, starts, strict=True):
        assert (tmp_path / name).read_text().startswith(start)
    before = {name: (tmp_path / name).read_bytes() for name in names if name != "x.json"}  # which has the command line
    code, out, _ = fewvit("report", results, *words, "--format", "csv")
    assert code == 0
    assert out == (tmp_path / "x.csv").read_text()
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_damaged_result_ends_with_3_after_everything_else_is_written(fewvit, results, tmp_path):
    (results / "broken.json").write_text("{")
    code, out, err = fewvit("report", results, "--out", tmp_path / "x.md", "--format", "table")
    assert code == 3
    assert (tmp_path / "x.md").exists()
    assert len(out.splitlines()) == 11
    assert "left out 1 damaged result" in err
    assert "broken.json" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere",), 3, "no such file or folder"),
        ((".",), 3, "no result is here"),
        (("x.csv",), 3, "--format json"),
        (("results", "--out", "x.xlsx"), 2, "written as"),
        (("results", "--out", "a.csv", "--out", "./a.csv"), 2, "twice names one file"),
        (("results", "--out", "results/knn.json"), 2, "would replace a result that is read"),
        (("results", "--out", "notes.md"), 2, "not a report"),
        (("results", "--format", "xml"), 2, "is not one of"),
        ((), 2, "DIR"),
    ],
)
def test_bad_words_and_places_are_refused(fewvit, results, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("value\n1\n")
    (tmp_path / "notes.md").write_text("# my notes\n")
    found, out, err = fewvit("report", *words)
    assert (found, out) == (code, ""), err
    assert said in err
    assert (tmp_path / "notes.md").read_text() == "# my notes\n"


def test_a_metric_that_is_none_is_refused_before_anything_is_written(fewvit, results, tmp_path):
    code, _, err = fewvit("report", results, "--metric", "f1", "--out", tmp_path / "x.csv", "--out", tmp_path / "x.tex")
    assert (code, list(tmp_path.glob("x.*"))) == (2, [])
    assert "Known: top1, top5, ece" in err


def test_the_layout_in_rows_has_a_row_for_each_mean(fewvit, results, tmp_path):
    assert fewvit("report", results, "--layout", "rows", "--out", tmp_path / "x.md")[0] == 0
    lines = (tmp_path / "x.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + 4 + 6


def test_without_the_extra_the_page_is_refused_and_tables_are_not(fewvit, results, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else found(name, *a))
    code, _, err = fewvit("report", results, "--out", tmp_path / "x.html")
    assert code == 2
    assert "pip install 'fewvit[report]'" in err
    assert fewvit("report", results, "--out", tmp_path / "x.tex")[0] == 0


def test_a_half_done_sweep_is_reported_and_says_so(fewvit, tmp_path):
    from fewvit.sweep.folder import SweepFolder

    cells = [cell_of("knn", name) for name in ("a", "b", "c")]
    write(tmp_path / "sweep", cells[0], [ROW])
    SweepFolder(tmp_path / "sweep").write_plan({}, cells)
    code, _, err = fewvit("report", tmp_path / "sweep")
    assert code == 0
    assert "sweep sweep: 1 of 3 cells finished, 2 missing" in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_fault(results, tmp_path, closed):
    import subprocess
    import sys

    script = "import sys; from fewvit_cli.main import main; main()"
    words = [sys.executable, "-c", script, "report", str(results), "--format", "csv", "--out", str(tmp_path / "x.csv")]
    ended = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "x.csv").read_text().startswith("task,")


def test_links_in_a_circle_are_no_place(fewvit, results, tmp_path):
    (tmp_path / "self").symlink_to("self")
    code, _, err = fewvit("report", tmp_path / "self")
    assert code == 3
    assert "no such file or folder" in err


def test_a_damaged_or_failed_cell_is_told_in_one_line_of_whole_sentences(fewvit, tmp_path):
    from fewvit.sweep.folder import SweepFolder

    cells = [cell_of("knn", name) for name in ("a", "b", "c", "d")]
    folder = SweepFolder(tmp_path / "sweep")
    for cell in cells[:3]:
        write(tmp_path / "sweep", cell, [ROW])
    folder.write_plan({}, cells)
    folder.write_failed(cells[3], "1 of 3 images cannot be decoded: x.jpg\n  Repair or remove them.", 3)
    for path in sorted((tmp_path / "sweep" / "cells").iterdir())[:2]:
        path.write_text(path.read_text().replace("60.0", "61.0"))
    code, _, err = fewvit("report", tmp_path / "sweep", "--out", tmp_path / "x.html")
    assert code == 3
    assert "\\n" not in err
    told = [line for line in err.splitlines() if "its bytes are not those that were written" in line]
    assert len(told) == 2
    assert all("its bytes are not those that were written. " in line and line.endswith(".") for line in told)
    page = (tmp_path / "x.html").read_text()
    assert "x.jpg. Repair or remove them." in page
    assert "\\n" not in page.partition("<script>")[0].partition("cannot be decoded")[2][:200]


def test_a_note_with_its_advice_below_it_is_one_line(capsys):
    from fewvit_cli.shared import Output
    from fewvit_cli.show import Screen

    Screen(Output()).notify("failed: a cell: x.jpg (b'junk\\n')\n  Repair or remove it.")
    assert capsys.readouterr().err == "failed: a cell: x.jpg (b'junk\\n'). Repair or remove it.\n"
