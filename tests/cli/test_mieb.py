"""`fewvit mieb` from outside."""

from __future__ import annotations

import json

import pytest

from made_features import made
from made_images import folder_of, tiny_weights


@pytest.fixture
def pair(tmp_path):
    for features in made(29, 1.3, {0: (41, 31), 1: (23, 13), 2: (19, 17), 3: (11, 7), 4: (37, 29)}):
        features.save(tmp_path / f"{features.name}.npz")
    return ("--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz")


def run(fewvit, *words):
    code, out, err = fewvit("mieb", *words, "--format", "json")
    return code, json.loads(out) if code == 0 else None, err


def test_features_get_every_score_and_the_manifest_says_what_was_done(fewvit, pair):
    code, result, err = run(fewvit, *pair)
    assert code == 0, err
    means = {row["metric"]: row["value"] for row in result["rows"] if row.get("trial", "mean") == "mean"}
    assert means["accuracy"] == pytest.approx(89.48453608247424, abs=1e-9)  # mteb's, as in tests/test_mieb.py
    assert means["nmi"] == pytest.approx(77.11345302284475, abs=1e-9)
    assert means["hit_rate_at_1"] == pytest.approx(76.289, abs=1e-3)
    assert result["task"] == "mieb"
    assert result["run"]["evaluation"] == "mieb/1"
    assert [one["draw"] for one in result["run"]["probe"]] == [0, 1, 2, 3, 4]
    assert "probe: 75 images a draw, 16 of each of 5 classes; 1 class has fewer" in err


def test_the_table_has_means_and_what_has_no_draws_and_verbose_every_draw(fewvit, pair):
    _, table, _ = fewvit("mieb", *pair)
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["probe"] * 3 + ["clustering"] * 4 + [
        "retrieval"
    ] * 2
    assert "89.48" in table
    _, verbose, _ = fewvit("mieb", *pair, "-v")
    assert len(verbose.splitlines()) == 1 + 3 * 6 + 4 + 2


def test_without_the_probe_the_test_set_is_enough_and_the_train_set_is_not_read(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 3, "b": 2})
    folder_of(data / "val", {"a": 3, "b": 4}, first_seed=50)
    (data / "train/a/000.jpg").write_bytes(b"no image")
    words = ("-m", tiny_weights(tmp_path / "tiny.pth"), "--img-size", 32, "--tasks", "retrieval,clustering")
    code, parts, err = run(fewvit, *words, "--data", data)
    assert code == 0, err
    assert {(row["method"], row["n_test"]) for row in parts["rows"]} == {("clustering", 7), ("retrieval", 7)}
    code, alone, err = run(fewvit, *words, "--test", data / "val")
    assert code == 0, err
    assert alone["rows"] == parts["rows"]
    code, _, err = run(fewvit, *words[:4], "--data", data, "--tasks", "probe")
    assert (code, "cannot be decoded" in err) == (3, True), err


def test_the_seed_of_other_commands_changes_no_draw(fewvit, pair):
    assert run(fewvit, *pair, "--seed", 7)[1]["rows"] == run(fewvit, *pair)[1]["rows"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--tasks", "prob"), 2, "Did you mean probe"),
        (("--tasks", ","), 2, "no task"),
        (("--tasks", "probe"), 2, "two sets are needed"),
        (("--tasks", "clustering"), 2, "two sets are needed"),
        (("--tasks", "clustering", "--test", "none.npz"), 3, "none.npz"),
    ],
)
def test_what_cannot_be_done_is_told(fewvit, words, code, told):
    found, out, err = fewvit("mieb", *words)
    assert (found, out, told in err) == (code, "", True), err
