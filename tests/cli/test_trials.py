"""What a table tells of trials."""

from __future__ import annotations

import json

import pytest


def table(text):
    """Rows of a printed table, of columns that are never empty but the last."""
    header, *lines = (line.split() for line in text.splitlines())
    return [dict(zip(header, line, strict=False)) for line in lines]


@pytest.mark.parametrize("words", [("lowshot", "--classifier", "centroid", "--no-calibration"), ("knn", "--k", "1")])
def test_of_one_trial_the_table_has_one_row_for_each_number_and_speaks_of_no_mean(fewvit, files, words):
    command, *rest = words
    code, out, err = fewvit(command, *files, *rest, "--shots", "1", "--trials", 1)
    assert (code, "means over" in err) == (0, False), err
    measured = json.loads(fewvit(command, *files, *rest, "--shots", "1", "--trials", 1, "--format", "json")[1])["rows"]
    assert [row["metric"] for row in table(out)] == list(dict.fromkeys(row["metric"] for row in measured))
    assert "trial" not in table(out)[0]
    assert {row["shots"] for row in table(out)} == {"1"}
    assert [row["value"] for row in table(out)] == [f"{row['value']:.2f}" for row in measured if row["trial"] == "mean"]


@pytest.mark.parametrize("words", [("lowshot", "--classifier", "centroid", "--no-calibration"), ("knn", "--k", "1")])
def test_of_several_trials_the_table_has_the_means_and_says_so(fewvit, files, words):
    command, *rest = words
    code, out, err = fewvit(command, *files, *rest, "--shots", "1", "--trials", 2)
    assert (code, "means over the trials" in err) == (0, True), err
    assert {row["trial"] for row in table(out)} == {"mean"}
    assert {"std", "ci95_low", "ci95_high", "method"} <= set(table(out)[0])
    code, out, err = fewvit(command, *files, *rest, "--shots", "1", "--trials", 2, "-v")
    assert (code, "means over the trials" in err) == (0, False)
    assert [line.split()[out.split().index("trial")] for line in out.splitlines()[1:]].count("mean") == len(
        out.splitlines()[1:]
    ) / 3


def test_one_list_of_images_is_one_trial_and_two_are_two(fewvit, files, tmp_path):
    words = (*files, "--classifier", "centroid", "--no-calibration")
    saved = [tmp_path / f"{seed}.csv" for seed in (3, 5)]
    for seed, path in zip((3, 5), saved, strict=True):
        assert fewvit("lowshot", *words, "--shots", "1,2", "--trials", 1, "--seed", seed, "--save-split", path)[0] == 0
    _, out, err = fewvit("lowshot", *words, "--subset", saved[0])
    assert "means over" not in err
    assert [row["shots"] for row in table(out)] == ["1"] * 3 + ["2"] * 3
    assert "means over" in fewvit("lowshot", *words, "--subset", saved[0], "--subset", saved[1])[2]
