"""`fewvit layers`: its numbers are those of the other commands on one block, its choice is the largest of its rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewvit.evaluate.inputs import by_layer
from fewvit.evaluate.layers import Choice, LayerOptions, told
from fewvit.splits import n_per_class

from made_images import folder_of, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    folder_of(root / "train", {"cat": 6, "dog": 7, "owl": 5})
    folder_of(root / "val", {"cat": 2, "dog": 3, "owl": 2}, first_seed=100)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache-of-layers"))


def rows_of(run, *words) -> tuple[list[dict], dict]:
    code, out, err = run(*words, "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    return found["rows"], found["run"]


def test_each_number_is_that_of_knn_and_lowshot_on_this_block_and_token_alone(fewvit, weights, images):
    both = ("-m", weights, "--data", images)
    rows, _ = rows_of(fewvit, "layers", *both, "--k", 3, "--shots", 2, "--trials", 2)
    assert {(row["layer"], row["pool"]) for row in rows} == {(n, pool) for n in (1, 2) for pool in ("cls", "mean")}
    for layer, pool in ((1, "cls"), (2, "mean")):
        one = ("--layers", f"block{layer}", "--pool", pool)
        own = {
            (row["method"], row.get("trial")): row["value"]
            for row in rows
            if (row["layer"], row["pool"]) == (layer, pool)
        }
        [knn] = [row["value"] for row in rows_of(fewvit, "knn", *both, *one, "--k", 3)[0] if row["metric"] == "top1"]
        assert own["knn", None] == knn
        lowshot = ("--shots", 2, "--trials", 2, "--classifier", "logistic", "--no-calibration")
        for row in rows_of(fewvit, "lowshot", *both, *one, *lowshot)[0]:
            if row["metric"] == "top1":
                assert own["logistic", row["trial"]] == pytest.approx(row["value"])


def test_the_choice_is_the_best_of_its_rows_and_its_lead_is_over_the_protocols_token(fewvit, weights, images):
    asked = ("layers", "-m", weights, "--data", images, "--k", 3, "--shots", 2, "--trials", 2)
    for on, judged in (("test", {"knn": None, "logistic": None}), ("train", None)):
        rows, run = rows_of(fewvit, *asked, "--choose-on", on)
        judged = judged or {"knn": "train, leave-one-out", "logistic": "train, held out"}
        for choice in run["choices"]:
            means = {
                (row.get("judged_on"), row["layer"], row["pool"]): row["value"]
                for row in rows
                if row["method"] == choice["by"] and row.get("trial") in (None, "mean")
            }
            of_choice = {place: value for place, value in means.items() if place[0] == judged[choice["by"]]}
            assert len(of_choice) == 4
            assert choice["value"] == max(of_choice.values())
            assert choice["test"] == means[None, choice["layer"], choice["pool"]]
            assert (choice["last"], choice["last_pool"]) == (means[None, 2, "cls"], "cls")
            assert choice["over_last"] == pytest.approx(choice["test"] - choice["last"])
    held = [row for row in rows if row.get("judged_on") == "train, held out"]
    labels = np.repeat([0, 1, 2], [6, 7, 5])
    drawn = {row for split in n_per_class(labels, ("cat", "dog", "owl"), [2], 2, 0) for row in split.train.tolist()}
    assert {row["n_test"] for row in held} == {18 - len(drawn)}
    alone = [row for row in rows if row.get("judged_on") == "train, leave-one-out"]
    assert {(row["n_train"], row["n_test"], row["k"]) for row in alone} == {(17, 18, 2)}


def test_no_test_image_changes_a_choice_on_the_train_images(fewvit, weights, images, tmp_path):
    folder_of(tmp_path / "other", {"cat": 1, "dog": 4, "owl": 3}, first_seed=500)
    asked = ("layers", "-m", weights, "--train", images / "train", "--k", 3, "--shots", 2, "--trials", 2)
    places = []
    for test in (images / "val", tmp_path / "other"):
        rows, run = rows_of(fewvit, *asked, "--test", test, "--choose-on", "train")
        chosen = [{name: one[name] for name in ("by", "layer", "pool", "value")} for one in run["choices"]]
        places.append((chosen, [row["value"] for row in rows if "judged_on" in row]))
    assert places[0] == places[1]


def test_one_pass_gives_all_blocks_and_the_second_run_needs_none(fewvit, weights, images, tmp_path):
    asked = ("layers", "-m", weights, "--data", images, "--shots", 1, "--trials", 1, "--cache-dir", tmp_path / "new")
    first = json.loads(fewvit(*asked, "--format", "json")[1])["run"]
    again = json.loads(fewvit(*asked, "--format", "json")[1])["run"]
    assert (first["images"], first["computed"]) == (25, 25)  # of both sides, whatever the number of blocks
    assert (again["images"], again["computed"]) == (25, 0)


def test_it_is_told_what_a_choice_by_test_accuracy_is_worth():
    choice = Choice("knn", "test", 9, "mean", 71.2, 71.2, 69.9, "cls")
    first, caution = told([choice], "", LayerOptions())
    assert first == (
        "best by 20-NN on the test images: the mean patch token of block 9, 71.20 %, 1.30 points over the last "
        "block's class token (69.90 %)"
    )
    assert "--choose-on train" in caution
    honest = list(told([Choice("logistic", "train", 9, "mean", 70.0, 71.2, 72.0, "cls")], "a", LayerOptions()))
    assert honest == [
        "a: chosen on the train images, the mean patch token of block 9: 71.20 % by 5-shot logistic regression, "
        "0.80 points below the last block's class token (72.00 %)"
    ]


def test_what_has_no_blocks_to_compare_is_refused(fewvit, weights, images, files):
    both = ("-m", weights, "--data", images)
    for words, said in (
        ((*both, "--layers", "2"), "measures each block"),
        ((*both, "--pool", "cls+mean"), "measures each block"),
        ((*both, "--choose-on", "val"), "not one of test, train"),
        (files, "features of a file are of one block"),
    ):
        code, _, err = fewvit("layers", *words)
        assert code == 2
        assert said in err


def test_a_picture_of_the_blocks_is_drawn_and_no_other_file_is_replaced(fewvit, weights, images, tmp_path):
    asked = ("layers", "-m", weights, "--data", images, "--shots", 1, "--trials", 2)
    code, _, err = fewvit(*asked, "--plot", tmp_path / "layers.svg")
    assert code == 0, err
    drawn = (tmp_path / "layers.svg").read_text()
    assert all(words in drawn for words in ("1-shot logistic regression", "class token", "mean patch token", "block"))
    (tmp_path / "mine.svg").write_text("<svg/>")
    assert fewvit(*asked, "--plot", tmp_path / "mine.svg")[0] == 2


def test_rows_by_block_and_token_are_the_columns_that_the_readout_concatenates():
    from types import SimpleNamespace
    from typing import Any, cast

    from fewvit.features import FeatureSet

    features = np.arange(2 * 12, dtype=np.float32).reshape(2, 12)  # 3 blocks of width 2, twice
    train = FeatureSet(features, np.array([0, 1]), ["a", "b"], ["x", "y"])
    inputs = cast(
        Any, SimpleNamespace(pipeline=SimpleNamespace(each=True, layers=3, pool="cls,mean"), train=train, test=None)
    )
    found = {(where["layer"], where["pool"]): one.features[0].tolist() for where, one, _ in by_layer(inputs)}
    assert found == {
        (1, "cls"): [0, 1],
        (1, "mean"): [6, 7],
        (2, "cls"): [2, 3],
        (2, "mean"): [8, 9],
        (3, "cls"): [4, 5],
        (3, "mean"): [10, 11],
    }
