"""`fewvit lowshot` from outside."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from pictures import folder_of, tiny_weights


@pytest.fixture
def files(tmp_path):
    """Feature files of five classes: 11 train images and 7 test images of each."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(5, 13))
    for name, per_class in (("train", 11), ("test", 7)):
        labels = np.repeat(np.arange(5), per_class)
        rows = (centres[labels] + random.normal(size=(len(labels), 13))).astype(np.float32)
        ids = [f"{name}/{i}" for i in range(len(labels))]
        np.savez(tmp_path / f"{name}.npz", features=rows, labels=labels, ids=ids, classes=[f"c{i}" for i in range(5)])
    return ("--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz")


def run(fewvit, *words):
    code, out, err = fewvit("lowshot", *words, "--format", "json")
    return code, json.loads(out) if code == 0 else None, err


def test_every_classifier_shot_and_trial_has_its_rows(fewvit, files, tmp_path):
    code, result, err = run(fewvit, *files, "--trials", 2, "--save-split", tmp_path / "s.csv")
    assert code == 0, err
    seen = {(row["method"], row["shots"], row["trial"], row["metric"]) for row in result["rows"]}
    assert seen == {
        (m, s, t, k) for m in ("logistic", "knn", "centroid") for s in (1, 2, 5) for t in (0, 1, "mean") for k in ("top1", "top5", "ece")
    }
    assert result["run"]["classifiers"]["logistic, 1 shot, trial 0"]["lambd"] == 0.0025
    assert "2 shots, trial 1: 10 images, 2 of each of 5 classes" in err
    table = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(table) == 2 * 5 * (1 + 2 + 5)


def test_a_saved_split_is_taken_again(fewvit, files, tmp_path):
    _, first, _ = run(fewvit, *files, "--shots", 2, "--trials", 2, "--save-split", tmp_path / "s.csv")
    code, again, err = run(fewvit, *files, "--subset-path", tmp_path / "s.csv")
    assert code == 0, err
    assert again["rows"] == first["rows"]


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (("--shots", "1"), ("--shots", "1,1,1")),
        (("--percent", "20"), ("--percent", "20,20.0")),
        (("--shots", "1", "--classifier", "knn"), ("--shots", "1", "--classifier", "knn,knn")),
    ],
)
def test_what_is_given_twice_is_counted_once(once, twice, fewvit, files):
    (_, first, _), (_, again, _) = run(fewvit, *files, *once), run(fewvit, *files, *twice)
    assert again["rows"] == first["rows"]


def test_a_list_given_twice_is_one_trial_without_an_interval(fewvit, files, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"train/{11 * c}\n" for c in range(5)))
    words = ("--subset", tmp_path / "list.txt") * 2
    code, result, err = run(fewvit, *files, *words, "--classifier", "centroid")
    assert code == 0, err
    assert {row["trial"] for row in result["rows"]} == {0, "mean"}
    assert not any("ci95" in row for row in result["rows"])
    assert "counted once" in err


def test_options_of_classifiers_reach_them(fewvit, files):
    _, given, _ = run(fewvit, *files, "--shots", 5, "--trials", 1, "--classifier", "logistic", "--lambd", 0.5)
    _, set_, _ = run(fewvit, *files, "--shots", 5, "--trials", 1, "--classifier", "logistic", "--set", "logistic.lambd=0.5")
    assert given["rows"] == set_["rows"]
    assert set_["run"]["classifiers"]["logistic, 5 shots, trial 0"]["lambd"] == 0.5


def test_images_are_read_and_untrained_weights_are_said(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 5, "b": 3})
    folder_of(data / "val", {"a": 2, "b": 3})
    weights = tiny_weights(tmp_path / "tiny.pth")
    code, result, err = run(fewvit, "-m", weights, "--data", data, "--shots", "1,2", "--classifier", "centroid", "--layers", "each")
    assert code == 0, err
    assert {row["layer"] for row in result["rows"]} == {1, 2}
    assert result["run"]["protocol"] == "dino/1"


def test_dinov2s_low_shot_features_are_resized_to_the_crop_and_its_k_nns_are_not(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 7, "b": 5})
    folder_of(data / "val", {"a": 2, "b": 3})
    words = ("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", data, "--protocol", "dinov2/1", "--img-size", "32")
    code, result, err = run(fewvit, *words, "--shots", "1,5", "--trials", 1, "--classifier", "logistic")
    assert code == 0, err
    assert (result["run"]["protocol"], result["run"]["preprocess"]["cover"]) == ("dinov2/1", [32, 32])
    told = result["run"]["classifiers"]
    assert "best of 45 by DINOv2's rule" in told["logistic, 5 shots, trial 0"]["why"]
    assert "one image per class" in told["logistic, 1 shot, trial 0"]["why"]
    neighbours = json.loads(fewvit("knn", *words, "--k", "1", "--format", "json")[1])
    assert neighbours["run"]["preprocess"]["cover"] == [37, 37]
    train = tmp_path / "train.npz"
    assert fewvit("extract", *words[:2], *words[4:], "--data", data / "train", "--out", train)[0] == 0
    code, _, err = fewvit("lowshot", *words[:2], *words[4:], "--train", train, "--test", data / "val", "--shots", 1)
    assert code == 4  # features that were made for k-NN
    assert "another backbone, transform" in err


def test_the_classifiers_are_listed(fewvit):
    code, out, _ = fewvit("lowshot", "--classifier", "list")
    assert code == 0
    for name in ("logistic", "centroid", "pt_map"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--shots", "12"), 3, "5 classes have fewer than 12 images"),
        (("--shots", "0"), 2, "nothing to learn from"),
        (("--shots", "x"), 2, "--shots"),
        (("--percent", "0"), 2, "--percent"),
        (("--classifier", "logistik"), 2, "logistic"),
        (("--set", "kk=3"), 2, "unknown option"),
        (("--set", "ridge.alpha=3"), 2, "not among the chosen"),
        (("--subset", "nothing.txt"), 3, "no such file"),
        (("--subset", "nothing.txt", "--shots", "1"), 2, "--subset"),
        (("--save-predictions", "x.txt"), 2, "parquet"),
        (("--classifier", "logistic", "--set", "max_iter=1"), 5, "max_iter"),
    ],
)
def test_what_cannot_be_measured_is_said_with_its_exit_code(words, code, says, fewvit, files):
    got, out, err = fewvit("lowshot", *files, *words)
    assert (got, out) == (code, ""), err
    assert says in err
    assert "Traceback" not in err
