"""`fewvit lowshot` from outside."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from fewvit.evaluate import lowshot

from made_images import folder_of, tiny_weights


def run(fewvit, *words):
    code, out, err = fewvit("lowshot", *words, "--format", "json")
    return code, json.loads(out) if code == 0 else None, err


def test_every_classifier_shot_and_trial_has_its_rows(fewvit, files, tmp_path):
    code, result, err = run(fewvit, *files, "--trials", 2, "--save-split", tmp_path / "s.csv")
    assert code == 0, err
    seen = {(row["method"], row["shots"], row["trial"], row["metric"]) for row in result["rows"]}
    assert seen == {
        (m, s, t, k)
        for m in ("logistic", "knn", "centroid")
        for s in (1, 2, 5)
        for t in (0, 1, "mean")
        for k in ("top1", "top5", "ece")
    }
    assert result["run"]["classifiers"]["logistic, 1 shot, trial 0"]["lambd"] == 0.0025
    assert "2 shots, trial 1: 10 images, 2 of each of 5 classes" in err
    assert f"wrote {tmp_path / 's.csv'}" in err
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


def test_the_seconds_of_the_fits_go_from_the_features_to_the_last_row(fewvit, files, monkeypatch):
    now = iter([10.25, 17.3734])
    monkeypatch.setattr(lowshot, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    _, result, _ = run(fewvit, *files, "--shots", 1, "--classifier", "centroid")
    assert result["run"]["seconds"] == {"fit": 7.123}


def test_options_of_classifiers_reach_them(fewvit, files):
    _, given, _ = run(fewvit, *files, "--shots", 5, "--trials", 1, "--classifier", "logistic", "--lambd", 0.5)
    _, set_, _ = run(
        fewvit, *files, "--shots", 5, "--trials", 1, "--classifier", "logistic", "--set", "logistic.lambd=0.5"
    )
    assert given["rows"] == set_["rows"]
    assert set_["run"]["classifiers"]["logistic, 5 shots, trial 0"]["lambd"] == 0.5


def test_images_are_read_and_untrained_weights_are_said(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 5, "b": 3})
    folder_of(data / "val", {"a": 2, "b": 3})
    weights = tiny_weights(tmp_path / "tiny.pth")
    code, result, err = run(
        fewvit, "-m", weights, "--data", data, "--shots", "1,2", "--classifier", "centroid", "--layers", "each"
    )
    assert code == 0, err
    assert {row["layer"] for row in result["rows"]} == {1, 2}
    assert result["run"]["protocol"] == "dino/1"


def test_every_layer_s_predictions_stand_in_one_file(fewvit, tmp_path):
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 5, "b": 3})
    folder_of(data / "val", {"a": 2, "b": 3})
    words = (
        "-m",
        tiny_weights(tmp_path / "tiny.pth"),
        "--data",
        data,
        "--shots",
        1,
        "--trials",
        2,
        "--classifier",
        "centroid,knn",
    )
    code, _, err = run(fewvit, *words, "--layers", "each", "--save-predictions", tmp_path / "p.csv")
    assert code == 0, err
    assert [path.name for path in tmp_path.glob("p*")] == ["p.csv"]
    table = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert list(table[0])[:4] == ["layer", "method", "shots", "trial"]
    seen = [(row["layer"], row["method"], row["trial"]) for row in table[::5]]
    assert seen == [(layer, method, trial) for layer in "12" for method in ("centroid", "knn") for trial in "01"]
    assert (
        run(fewvit, *words, "--layers", "each", "--save-predictions", tmp_path / "p.csv")[0] == 0
    )  # its own file is replaced


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


def archive(path, labels, classes, **more):
    """A features file of so many rows per label, 13 columns."""
    rows = np.random.default_rng(7).normal(size=(len(labels), 13)).astype(np.float32)
    np.savez(
        path,
        features=rows,
        labels=labels,
        ids=[f"{path.stem}/{i}" for i in range(len(labels))],
        classes=classes,
        **more,
    )
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
        name: archive(
            tmp_path / f"{name}.npz",
            np.repeat([0, 1], 7),
            ["a", "b"],
            **({"weights": "random"} if name == side else {}),
        )
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
    train, test = (
        archive(tmp_path / f"{name}.npz", np.repeat([0, 1], 7), ["a", "b"], **carried) for name in ("train", "test")
    )
    code, _, err = fewvit(
        "lowshot", "--train", train, "--test", test, "--classifier", "logistic", "--shots", "1,2", *words
    )
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
    from fewvit import sources

    def never(*words, **more):
        raise AssertionError("images were extracted before the cheap checks")

    monkeypatch.setattr(sources, "extract", never)


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
        (("--data", "anywhere"), 2, "--data excludes --train and --test"),
        (("--classifier", "knn,centroid", "--lambd", "0.5"), 2, "--lambd is the penalty of the logistic regression"),
        (("--lambd", "-1"), 2, "--lambd -1: the penalty must be a number above zero"),
        (("--lambd", "nan"), 2, "--lambd nan: the penalty"),
        (("--classifier", "logistic", "--set", "max_iter=1"), 5, "max_iter"),
    ],
)
def test_what_cannot_be_measured_is_said_with_its_exit_code(words, code, says, fewvit, files):
    got, out, err = fewvit("lowshot", *files, *words)
    assert (got, out) == (code, ""), err
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "calibrated"),
    [
        ((), {1: "no: 1-shot", 2: "yes"}),
        (("--no-calibration",), {1: "no", 2: "no"}),
        (("--classifier", "laplacian-shot"), {1: "no", 2: "no"}),  # labels all test images at once
    ],
    ids=["as it is", "not wanted", "transductive"],
)
def test_a_calibration_error_says_whether_anything_was_calibrated(words, calibrated, fewvit, files):
    code, result, err = run(fewvit, *files, "--shots", "1,2", "--trials", 2, *words)
    assert code == 0, err
    told = {(row["metric"], row["shots"], row["trial"], row.get("calibrated")) for row in result["rows"]}
    draws = (0, 1, "mean")
    wanted = {("ece", shots, trial, word) for shots, word in calibrated.items() for trial in draws}
    assert told == wanted | {(m, shots, trial, None) for m in ("top1", "top5") for shots in (1, 2) for trial in draws}


def test_a_list_in_which_one_class_has_two_images_is_calibrated(fewvit, files, tmp_path):
    run(fewvit, *files, "--shots", "2", "--trials", 1, "--save-split", tmp_path / "s.csv")
    header, *lines = (tmp_path / "s.csv").read_text().splitlines()
    by_class = {line.split(",")[-1]: line for line in lines}
    for name, chosen in (("one.csv", list(by_class.values())), ("two.csv", [*lines[:2], *list(by_class.values())[1:]])):
        (tmp_path / name).write_text("\n".join([header, *dict.fromkeys(chosen)]) + "\n")
    words = {}
    for name in ("one.csv", "two.csv"):
        code, result, err = run(fewvit, *files, "--subset", tmp_path / name, "--allow-fewer")
        assert code == 0, err
        words[name] = {row["calibrated"] for row in result["rows"] if row["metric"] == "ece"}
    assert words == {"one.csv": {"no: 1-shot"}, "two.csv": {"yes"}}


def test_the_mark_of_what_is_not_calibrated_has_room_in_eighty_columns(fewvit, files):
    from fewvit.results import Result

    _, result, _ = run(fewvit, *files, "--trials", 2)
    means = [row for row in result["rows"] if row["trial"] == "mean"]
    fitted = Result("lowshot", means).fitted(80)
    assert "calibrated" in fitted.cells[0]
    assert max(len("  ".join(line)) for line in fitted.cells) <= 80
