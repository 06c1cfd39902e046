"""Several backbones in one command, from outside."""

from __future__ import annotations

import csv
import json

import pytest
from scipy.stats import binomtest

from made_images import folder_of, tiny_weights


@pytest.mark.parametrize("command", ["knn", "lowshot"])
def test_two_backbones_in_one_command_are_compared_on_what_they_predicted(command, fewvit, tmp_path):
    images = tmp_path / "images"
    folder_of(images / "train", {"ant": 3, "bee": 5, "cat": 4})
    folder_of(images / "val", {"ant": 5, "bee": 2, "cat": 7}, first_seed=100)
    both = ",".join(str(tiny_weights(tmp_path / f"{seed}.pth", seed=seed)) for seed in (3, 7))
    words = ("--shots", "2", "--trials", "2")
    own = ("--k", "2") if command == "knn" else ("--classifier", "knn", "--save-predictions", tmp_path / "p.csv")
    code, out, err = fewvit(command, "--data", images, "-m", both, *words, *own, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    [pair] = result["run"]["comparisons"]
    mean = {
        row["backbone"]: row["value"] for row in result["rows"] if (row["metric"], row["trial"]) == ("top1", "mean")
    }
    assert (pair["value_a"], pair["value_b"]) == pytest.approx((mean[pair["a"]], mean[pair["b"]]))
    assert f"{pair['a']} less {pair['b']} is {pair['difference']:+.2f} points of top-1" in err
    if command == "lowshot":
        with open(tmp_path / "p.csv") as handle:
            rows = [row for row in csv.DictReader(handle) if row["trial"] == "0"]
        right = {(row["backbone"], row["id"]): row["label"] == row["prediction"] for row in rows}
        a = {name for (backbone, name), hit in right.items() if hit and backbone == pair["a"]}
        b = {name for (backbone, name), hit in right.items() if hit and backbone == pair["b"]}
        alone = len(a - b), len(a ^ b)
        assert pair["p_mcnemar"] == pytest.approx(binomtest(*alone).pvalue if alone[1] else 1.0)


def test_one_backbone_is_compared_with_nothing(fewvit, files):
    code, out, _ = fewvit("knn", *files, "--k", "2", "--format", "json")
    assert code == 0
    assert "comparisons" not in json.loads(out)["run"]
