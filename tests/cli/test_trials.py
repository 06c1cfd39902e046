"""What a table tells of trials."""

from __future__ import annotations

import json

import numpy as np
import pytest


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


def table(text):
    """Rows of a printed table, of columns that are never empty."""
    header, *lines = (line.split() for line in text.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


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
    assert [line.split()[out.split().index("trial")] for line in out.splitlines()[1:]].count("mean") == len(out.splitlines()[1:]) / 3


def test_one_list_of_images_is_one_trial_and_two_are_two(fewvit, files, tmp_path):
    words = (*files, "--classifier", "centroid", "--no-calibration")
    saved = [tmp_path / f"{seed}.csv" for seed in (3, 5)]
    for seed, path in zip((3, 5), saved, strict=True):
        assert fewvit("lowshot", *words, "--shots", "1,2", "--trials", 1, "--seed", seed, "--save-split", path)[0] == 0
    _, out, err = fewvit("lowshot", *words, "--subset", saved[0])
    assert "means over" not in err
    assert [row["shots"] for row in table(out)] == ["1"] * 3 + ["2"] * 3
    assert "means over" in fewvit("lowshot", *words, "--subset", saved[0], "--subset", saved[1])[2]


def archive(path, labels, classes, **more):
    """A features file of so many rows per label, 13 columns."""
    rows = np.random.default_rng(7).normal(size=(len(labels), 13)).astype(np.float32)
    np.savez(path, features=rows, labels=labels, ids=[f"{path.stem}/{i}" for i in range(len(labels))], classes=classes, **more)
    return path


@pytest.mark.parametrize("command", ["lowshot", "knn"])
def test_test_classes_that_are_only_named_in_the_training_file_are_refused(fewvit, tmp_path, command):
    classes = [f"c{i}" for i in range(6)]
    train = archive(tmp_path / "train.npz", np.repeat([0, 2, 4], 7), classes)
    test = archive(tmp_path / "test.npz", np.repeat(np.arange(6), 3), classes)
    code, out, err = fewvit(command, "--train", train, "--test", test)
    assert (code, out) == (3, ""), err
    assert "3 classes of the test set are not in the training set: c1, c3, c5" in err


@pytest.mark.parametrize("command", ["lowshot", "knn"])
@pytest.mark.parametrize("side", ["train", "test"])
def test_untrained_weights_of_either_side_are_marked(fewvit, tmp_path, command, side):
    files = {
        name: archive(tmp_path / f"{name}.npz", np.repeat([0, 1], 7), ["a", "b"], **({"weights": "random"} if name == side else {}))
        for name in ("train", "test")
    }
    code, out, err = fewvit(command, "--train", files["train"], "--test", files["test"], "--format", "json")
    assert code == 0, err
    assert {row.get("weights") for row in json.loads(out)["rows"]} == {"random"}


@pytest.mark.parametrize(
    ("carried", "words", "told"),
    [
        ({"backbone": "dino_vits16"}, (), "lambda 0.1, dino/1's (unofficial)"),
        ({"backbone": "msn_vits16"}, (), "lambda 0.0025, MSN's for n per class"),
        ({"backbone": "mine.pth", "protocol": "dino/1"}, (), "lambda 0.1, dino/1's (unofficial)"),
        ({"backbone": "dino_vits16", "protocol": "msn/1"}, (), "lambda 0.0025, MSN's for n per class"),
        ({"backbone": "dino_vits16"}, ("--protocol", "msn/1"), "lambda 0.0025, MSN's for n per class"),
        ({"backbone": "mine.pth"}, (), "lambda 0.0025, MSN's, since the features' protocol is not known"),
    ],
)
def test_features_from_a_file_have_their_protocols_lambda(fewvit, tmp_path, carried, words, told):
    train, test = (archive(tmp_path / f"{name}.npz", np.repeat([0, 1], 7), ["a", "b"], **carried) for name in ("train", "test"))
    code, _, err = fewvit("lowshot", "--train", train, "--test", test, "--classifier", "logistic", "--shots", "1,2", *words)
    assert code == 0, err
    assert [line for line in err.splitlines() if "lambda" in line] == [f"logistic regression: {told}"]


def test_a_folder_and_its_features_give_the_same_logistic_rows(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 7, "b": 5})
    folder_of(data / "val", {"a": 2, "b": 3})
    weights = tiny_weights(tmp_path / "tiny.pth")
    how = ("--classifier", "logistic", "--shots", "1,2")
    _, images, _ = run(fewvit, "-m", weights, "--data", data, *how)
    for part in ("train", "val"):
        assert fewvit("extract", "-m", weights, "--data", data / part, "--out", tmp_path / f"{part}.npz")[0] == 0
    code, given, err = run(fewvit, "--train", tmp_path / "train.npz", "--test", tmp_path / "val.npz", *how)
    assert code == 0, err
    assert [row["value"] for row in given["rows"]] == [row["value"] for row in images["rows"]]
    assert given["run"]["classifiers"] == images["run"]["classifiers"]


@pytest.fixture
def no_extraction(monkeypatch):
    from fewvit.evaluate import inputs

    def never(*words, **more):
        raise AssertionError("images were extracted before the cheap checks")

    monkeypatch.setattr(inputs, "extract", never)


def test_names_numbers_and_fingerprints_are_checked_before_the_images_are_read(fewvit, tmp_path, no_extraction):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 7, "b": 5})
    folder_of(data / "val", {"a": 2, "b": 3})
    model = ("-m", tiny_weights(tmp_path / "tiny.pth"))
    (tmp_path / "list.txt").write_text("a/000.jpg\nb/999.jpg\n")
    code, _, err = fewvit("lowshot", *model, "--data", data, "--subset", tmp_path / "list.txt")
    assert (code, "1 of its 2 images is not among the train images: b/999.jpg" in err) == (3, True), err
    code, _, err = fewvit("lowshot", *model, "--data", data, "--shots", 6)
    assert (code, "1 class has fewer than 6 images: b (5)" in err) == (3, True), err
    other = archive(tmp_path / "other.npz", np.repeat([0, 1], 7), ["a", "b"], fingerprint="f" * 64)
    for command in ("lowshot", "knn"):
        code, _, err = fewvit(command, *model, "--train", other, "--test", data / "val")
        assert (code, "train features are of ffffffffffff, test features of" in err) == (4, True), err
        code, _, err = fewvit(command, *model, "--train", data / "train", "--test", other)
        assert (code, "test features of ffffffffffff" in err) == (4, True), err
