"""Pictures of predictions, from outside: what stands in them, and what is refused before any work."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")


def words_of(path) -> list[str]:
    """The words of an SVG."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_a_diagram_has_the_error_of_all_draws_and_a_matrix_the_counts_of_the_best(fewvit, files, tmp_path):
    plots = ("--plot-reliability", tmp_path / "r.svg", "--plot-confusion", tmp_path / "c.svg")
    saved = ("--save-confusion", tmp_path / "c.csv", "--classifier", "centroid,knn", "--shots", "1,5", "--trials", 1)
    code, out, err = fewvit("lowshot", *files, *saved, *plots, "--format", "json")
    assert code == 0, err
    rows = [row for row in json.loads(out)["rows"] if row["trial"] == 0]
    drawn = " ".join(words_of(tmp_path / "r.svg"))
    for row in rows:
        if row["metric"] == "ece":
            assert f"{row['method']}: ECE {row['value']:.2f}" in drawn
    assert "shots 1" in drawn or "1 per class" in drawn
    best = max((row for row in rows if row["metric"] == "top1"), key=lambda row: row["value"])
    with open(tmp_path / "c.csv") as handle:
        table = [row for row in csv.reader(handle) if row[:2] == [best["method"], str(best["shots"])]]
    counts = sorted(cell for row in table for cell in row[4:] if cell != "0")
    words = words_of(tmp_path / "c.svg")
    assert sorted(word for word in words if word.isdigit()) == counts
    assert f"{best['method']}, {best['shots']} per class" in words
    assert {"c0", "c4"} <= set(words)


def test_of_many_classes_those_in_most_mistakes_are_drawn_and_it_is_said(fewvit, tmp_path):
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(37), 4)
    for name in ("train", "test"):
        rows = np.eye(37)[labels] + np.where(labels < 30, 0.6, 0.01)[:, None] * random.normal(size=(len(labels), 37))
        ids = [f"{name}/{i}" for i in range(len(labels))]
        classes = [f"kind{i:02d}" for i in range(37)]
        np.savez(tmp_path / name, features=rows.astype(np.float32), labels=labels, ids=ids, classes=classes)
    files = ("--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz")
    picture = ("--plot-confusion", tmp_path / "c.svg", "--save-confusion", tmp_path / "c.csv")
    code, _, err = fewvit("lowshot", *files, "--classifier", "centroid", "--shots", "2", "--trials", 1, *picture)
    assert code == 0, err
    words = words_of(tmp_path / "c.svg")
    with open(tmp_path / "c.csv") as handle:
        counts = [list(map(int, row[4:])) for row in list(csv.reader(handle))[1:]]
    wrong = {c: sum(counts[c]) + sum(row[c] for row in counts) - 2 * counts[c][c] for c in range(37)}
    worst = sorted(wrong, key=lambda c: (-wrong[c], c))[:30]
    assert wrong[worst[-1]] > min(wrong.values())
    assert {word for word in words if word.startswith("kind")} == {f"kind{c:02d}" for c in worst}
    assert "30 of 37 classes, those in most mistakes" in " ".join(words)


def test_fit_draws_what_it_held_out(fewvit, files, tmp_path):
    words = ("fit", "--data", files[1], "--out", tmp_path / "b.fewvit", "--format", "json")
    code, out, err = fewvit(*words, "--plot-reliability", tmp_path / "r.svg", "--plot-confusion", tmp_path / "c.png")
    assert code == 0, err
    [ece] = [row["value"] for row in json.loads(out)["rows"] if row["metric"] == "ece"]
    assert f"logistic: ECE {ece:.2f}" in words_of(tmp_path / "r.svg")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_fit_has_nothing_to_draw_of_one_image_per_class(fewvit, tmp_path):
    np.savez(tmp_path / "one.npz", features=np.eye(3, 7, dtype=np.float32), labels=[0, 1, 2], classes=["a", "b", "c"])
    words = ("fit", "--data", tmp_path / "one.npz", "--out", tmp_path / "b.fewvit")
    code, _, err = fewvit(*words, "--plot-reliability", tmp_path / "r.png")
    assert (code, (tmp_path / "b.fewvit").exists()) == (2, False)
    assert "nothing to draw" in err


def test_a_second_run_may_replace_our_picture_and_no_other(fewvit, files, tmp_path):
    words = ("lowshot", *files, "--classifier", "centroid", "--shots", "2", "--trials", 1)
    for name in ("r.png", "r.svg"):
        picture = ("--plot-reliability", tmp_path / name)
        assert fewvit(*words, *picture)[0] == 0
        first = (tmp_path / name).read_bytes()
        assert fewvit(*words, *picture)[0] == 0
        assert (tmp_path / name).read_bytes() == first
    (tmp_path / "photo.png").write_bytes(b"\x89PNG somebody's")
    code, _, err = fewvit(*words, "--plot-reliability", tmp_path / "photo.png")
    assert code == 2
    assert "would replace a file that is not a picture that fewvit drew" in err


@pytest.mark.parametrize("command", ["lowshot", "linear", "finetune", "fit"])
@pytest.mark.parametrize("flag", ["--plot-reliability", "--plot-confusion"])
def test_what_cannot_be_drawn_is_refused_before_the_work(command, flag, fewvit, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    # there are no images: whoever began to work would say that first
    words = (command, "--data", tmp_path / "none", "--out", tmp_path / "out")
    code, _, err = fewvit(*words, flag, tmp_path / "file" / "r.png")
    assert (code, "this is no folder" in err) == (3, True), err
    code, _, err = fewvit(*words, flag, tmp_path / "r.jpg")
    assert (code, "Let the name end in .png or .svg" in err) == (2, True), err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else found(name, *a))
    code, _, err = fewvit(*words, flag, tmp_path / "r.png")
    assert (code, "pip install 'fewvit[plots]'" in err) == (2, True), err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc")
def test_a_place_that_takes_no_files_is_told_before_anything_is_fitted(fewvit, files, tmp_path):
    """Where permissions say that it does: it is what root is told of any folder."""
    data = ("--data", files[files.index("--train") + 1])
    code, _, err = fewvit("fit", *data, "--out", tmp_path / "b.fewvit", "--plot-confusion", "/proc/p.png")
    assert (code, "--plot-confusion cannot be written: no file can be made" in err) == (3, True), err
    assert not (tmp_path / "b.fewvit").exists()
