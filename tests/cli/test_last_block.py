"""`fewvit lowshot --classifier last-block`."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

from fewvit.finetune import last_block

from made_images import folder_of, tiny_weights

CLASSES = {"a": 7, "b": 6, "c": 9}
QUICK = ("--set", "last-block.epochs=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("last-block")
    folder_of(root / "images/train", CLASSES)
    folder_of(root / "images/val", {"a": 11, "b": 13, "c": 15}, first_seed=300)
    tiny_weights(root / "weights/tiny.pth")
    return root


@pytest.fixture
def lowshot(fewvit, place, tmp_path):
    def run(*more, classifier="last-block", images=place / "images"):
        words = [
            "lowshot",
            "--backbone",
            place / "weights/tiny.pth",
            "--data",
            images,
            "--img-size",
            32,
            "--format",
            "json",
        ]
        code, out, err = fewvit(*words, "--classifier", classifier, "--cache-dir", tmp_path / "cache", *more)
        return code, json.loads(out) if out else None, err

    return run


def values(rows, method, trial=0):
    return {row["metric"]: row["value"] for row in rows if (row["method"], row["trial"]) == (method, trial)}


@pytest.mark.parametrize("shots", [1, 5])
def test_a_row_is_what_fine_tuning_the_same_draw_gives(fewvit, lowshot, place, tmp_path, shots):
    how = ("--shots", shots, "--set", "lr=1e-2")
    code, found, err = lowshot(*how, *QUICK, "--trials", 2)
    assert code == 0, err
    words = [
        "finetune",
        "--backbone",
        place / "weights/tiny.pth",
        "--data",
        place / "images",
        "--img-size",
        32,
        "--mode",
        "last-block",
    ]
    code, out, err = fewvit(*words, *how, "--trial", 1, "--epochs", 2, "--out", tmp_path / "run", "--format", "json")
    assert code == 0, err
    tuned = values(json.loads(out)["rows"], "last-block", 1)
    assert values(found["rows"], "last-block", 1) == pytest.approx(tuned, abs=1e-3)
    assert tuned != pytest.approx(values(json.loads(out)["rows"], "logistic", 1), abs=1e-3)  # it learnt something


def test_its_rows_follow_those_of_the_other_classifiers_and_have_means(lowshot):
    code, found, err = lowshot(
        "--shots", "1,2", "--trials", 2, *QUICK, "--set", "logistic.lambd=0.5", classifier="last-block,logistic"
    )
    assert code == 0, err
    assert [row["method"] for row in found["rows"]] == ["logistic"] * 18 + ["last-block"] * 18
    assert {(row["shots"], row["n_train"], row["n_test"]) for row in found["rows"]} == {(1, 3, 39), (2, 6, 39)}
    assert found["run"]["classifiers"]["logistic, 1 shot, trial 0"]["lambd"] == 0.5
    assert "nothing was held out" in found["run"]["classifiers"]["last-block, 1 shot, trial 1"]["why"]
    assert "best on held-out images" in found["run"]["classifiers"]["last-block, 2 shots, trial 0"]["why"]
    assert "last block, 2 shots, trial 1: learning rate" in err


@pytest.mark.slow
def test_repeated_nothing_is_trained_and_without_a_cache_it_is_the_same(lowshot, monkeypatch):
    from fewvit.training import loop

    steps, real = [], loop.Run.step
    monkeypatch.setattr(loop.Run, "step", lambda self, *a, **k: steps.append(1) or real(self, *a, **k))
    first = lowshot("--shots", 2, *QUICK)[1]["rows"]
    done = len(steps)
    assert done
    assert lowshot("--shots", 2, *QUICK)[1]["rows"] == first
    assert len(steps) == done
    assert lowshot("--shots", 2, *QUICK, "--no-cache")[1]["rows"] == first
    assert len(steps) == 2 * done
    assert lowshot("--shots", 2, *QUICK, "--set", "lr=0.01")[0] == 0  # another training
    assert len(steps) > 2 * done


def test_what_is_shared_runs_once_for_every_test_image_whatever_the_number_of_trials(lowshot, monkeypatch):
    from fewvit.finetune.tuning import Tuning

    seen, real = [], Tuning.enter
    monkeypatch.setattr(Tuning, "enter", lambda self, images: seen.append(len(images)) or real(self, images))
    assert lowshot("--shots", 1, "--trials", 3, *QUICK)[0] == 0
    # tokens of the three labelled images of each trial, then of the 39 test images: always eight at a time
    assert seen == [8] * (3 + 5)


def test_test_labels_reach_no_training(lowshot, place, tmp_path):
    swapped = tmp_path / "swapped"
    (swapped / "val").mkdir(parents=True)
    (swapped / "train").symlink_to(place / "images/train")
    for one, other in zip("abc", "bca", strict=True):
        (swapped / "val" / one).symlink_to(place / "images/val" / other)
    files = [tmp_path / "one.csv", tmp_path / "other.csv"]
    for images, file in zip((place / "images", swapped), files, strict=True):
        code, _, err = lowshot(
            "--shots", 2, "--trials", 1, *QUICK, "--save-predictions", file, "--follow-links", images=images
        )
        assert code == 0, err

    def predictions(file, rename):
        lines = [line.split(",") for line in file.read_text().splitlines()[1:]]
        return {f"{rename[line[3][0]]}{line[3][1:]}": line[5:] for line in lines}  # after method, shots, trial

    assert predictions(files[0], dict(zip("abc", "abc", strict=True))) == predictions(
        files[1], dict(zip("abc", "bca", strict=True))
    )


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_command_and_the_same_command_goes_on(lowshot, monkeypatch, number):
    whole = lowshot("--shots", 2, "--trials", 2, *QUICK, "--no-cache")[1]["rows"]
    real, calls = last_block.choose, []

    def once(trainings):
        calls.append(1)
        return (real(trainings)[0], number) if len(calls) == 2 else real(trainings)

    monkeypatch.setattr(last_block, "choose", once)
    # what a shell starts in the background ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, found, _ = lowshot("--shots", 2, "--trials", 2, *QUICK)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, found) == (128 + number, None)
    assert lowshot("--shots", 2, "--trials", 2, *QUICK)[1]["rows"] == whole


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--layers", "each"), "class token or mean patch token"),
        (("--layers", "2"), "class token or mean patch token"),
        (("--set", "last-block.epochz=2"), "unknown option 'epochz'. Did you mean epochs"),
        (("--set", "epochz=2"), "unknown option 'epochz'"),
        (("--set", "epochs=0"), "--epochs 0: at least 1"),
        (("--set", "knn.k=2"), "knn is not among the chosen"),
    ],
)
def test_what_it_cannot_do_is_refused(lowshot, words, told):
    code, _, err = lowshot("--shots", 1, *words)
    assert (code, told in err) == (2, True), err


@pytest.mark.slow
def test_features_from_files_and_models_of_timm_are_refused(fewvit, place, tmp_path):
    from fewvit.features import FeatureSet

    made = FeatureSet(np.eye(4, 3, dtype=np.float32), np.array([0, 0, 1, 1]), list("wxyz"), ["a", "b"])
    made.save(tmp_path / "x.npz")
    code, _, err = fewvit(
        "lowshot",
        "--train",
        tmp_path / "x.npz",
        "--test",
        tmp_path / "x.npz",
        "--shots",
        1,
        "--classifier",
        "last-block",
    )
    assert (code, "trains on images" in err) == (2, True), err
    words = (
        "lowshot",
        "-m",
        "swin_t",
        "--weights",
        "random",
        "--data",
        place / "images",
        "--shots",
        1,
        "--classifier",
        "last-block",
    )
    code, _, err = fewvit(*words)
    assert (code, "model of timm's own" in err) == (2, True), err


def test_it_is_listed_and_cleared_with_the_cache(fewvit, lowshot, tmp_path):
    _, out, _ = fewvit("lowshot", "--classifier", "list", "--format", "json")
    assert "last-block" in {row["classifier"] for row in json.loads(out)["rows"]}
    assert lowshot("--shots", 1, "--trials", 1, *QUICK)[0] == 0
    tuned = tmp_path / "cache/tuned"
    size = sum(file.stat().st_size for file in tuned.rglob("*") if file.is_file())
    assert size > 0
    _, out, _ = fewvit("cache", "clear", "--cache-dir", tmp_path / "cache", "--format", "json")
    assert json.loads(out)["rows"][0]["freed_bytes"] > size
    assert not tuned.exists()


def test_maes_numbers_stand_beside_the_classifier_that_they_were_measured_with():
    from types import SimpleNamespace

    from fewvit.backbones import find_variant
    from fewvit.evaluate.lowshot import _published_method

    def method(name, shots):
        family, variant = find_variant(name)
        spec = SimpleNamespace(family=family, architecture=variant.architecture)
        return _published_method(SimpleNamespace(pipeline=SimpleNamespace(spec=spec)), shots)

    assert [method("mae_vitb16", shots) for shots in (1, 2, 5)] == ["logistic", "last-block", "last-block"]
    assert (
        {method("mae_vith14", shots) for shots in (1, 2, 5)}
        == {method("msn_vits16", 5), method("dino_vitb16", 2)}
        == {"logistic"}
    )
