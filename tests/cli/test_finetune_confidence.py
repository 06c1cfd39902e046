"""How sure the network of `fewvit finetune` may be: by images held out of networks trained as it was, or no surer than
the frozen classifier.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from fewvit.bundles.file import load_bundle
from fewvit.calibration import best_temperature, cautious, scale, softmax, stratified_folds
from fewvit.errors import DataError, IntegrityError, NumericalError
from fewvit.files import sha256_of
from fewvit.finetune import confidence
from fewvit.finetune.trainings import Trainings
from fewvit.runs.outcome import read_outcome, write_outcome

from made_images import folder_of, tiny_weights

COUNTS = {"a": 7, "b": 6, "c": 9}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("confidence")
    folder_of(root / "images/train", COUNTS)
    folder_of(root / "images/val", {"a": 5, "b": 7, "c": 3}, first_seed=300)
    tiny_weights(root / "tiny.pth")
    return root


@pytest.fixture
def tune(fewvit, place, tmp_path):
    def run(*more):
        words = ("finetune", "--backbone", place / "tiny.pth", "--data", place / "images", "--img-size", 32)
        how = ("--mode", "last-block", "--epochs", 3, "--set", "lr=0.01", "--device", "cpu")
        store = ("--cache-dir", place / "cache", "--out", tmp_path / "run", "--format", "json")
        code, out, err = fewvit(*words, *how, *store, *more)
        assert code == 0, err
        return json.loads(out)["run"]["chosen"], tmp_path / "run", err

    return run


@pytest.fixture
def trained(monkeypatch):
    """What each training learnt from, how many steps it took, and the run's labels."""
    seen, real = [], Trainings.train

    def train(self, place, lr, fit, held, *more, **named):
        ended = real(self, place, lr, fit, held, *more, **named)
        seen.append((place.name, fit.tolist(), held.tolist(), ended.steps, self.labelled.labels))
        return ended

    monkeypatch.setattr(Trainings, "train", train)
    return seen


# three images cannot make two steps an epoch: they make three
@pytest.mark.parametrize(("shots", "parts", "longer"), [(5, 5, 1), (2, 2, 1.5)])
def test_the_temperature_is_of_images_that_neither_taught_nor_chose(tune, trained, shots, parts, longer):
    chosen, out, err = tune("--shots", shots)
    (_, searched, _, _, labels), (_, everything, _, steps, _), *others = trained
    part = stratified_folds(labels, parts, 0)
    assert sorted(searched) == np.flatnonzero(part != 0).tolist()  # the first part chose
    assert len(everything) == 3 * shots
    assert [name for name, *_ in others] == [str(p) for p in range(1, parts)]
    logits, held = [], []
    for name, fit, none, taken, _ in others:
        rows = np.flatnonzero(part == int(name))
        assert sorted([*fit, *rows]) == list(range(len(labels)))
        assert (none, taken) == ([], longer * steps)  # as long as the final network
        logits.append(np.load(out / "calibration" / name / "logits.npy"))
        held += rows.tolist()
    temperature = cautious(best_temperature(softmax(np.concatenate(logits)), labels[held]), len(held))
    assert chosen["temperature"] == pytest.approx(temperature, abs=1e-4)
    assert chosen["calibrated_on"] == len(held) == 3 * (shots - shots // parts)
    assert f"confidences calibrated on {len(held)} images, each held out" in err
    bundle = load_bundle(out / "classifier.bundle")
    assert (bundle.temperature, bundle.calibrated_on) == (pytest.approx(temperature), len(held))
    assert not list((out / "calibration").glob("*/checkpoints"))


def test_where_nothing_chose_all_parts_calibrate(tune, trained):
    assert tune("--shots", 5, "--set", "select=false")[0]["calibrated_on"] == 15
    assert [name for name, *_ in trained] == ["run", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("how", [("--shots", 1), ("--shots", 5, "--set", "calibrate=false")])
def test_without_images_held_out_it_is_no_surer_of_the_labelled_ones_than_the_frozen_classifier(
    tune, trained, monkeypatch, how
):
    asked, real = [], confidence.temperature_as_sure
    monkeypatch.setattr(
        confidence, "temperature_as_sure", lambda shares, target: asked.append((shares, target)) or real(shares, target)
    )
    chosen, out, err = tune(*how, "--set", "patience=99", "--epochs", 20, "--set", "label_smoothing=0")
    [(shares, target)] = asked
    assert len(shares) == len(trained[-1][1])  # the labelled images
    assert shares.max(axis=1).mean() > target + 0.05  # it had become surer
    assert scale(shares, chosen["temperature"]).max(axis=1).mean() == pytest.approx(target, abs=1e-3)
    assert chosen["calibrated_on"] == load_bundle(out / "classifier.bundle").calibrated_on == 0
    assert "confidences calibrated on" not in err


def test_a_part_whose_training_diverges_calibrates_nothing(tune, monkeypatch):
    real = Trainings.train

    def train(self, place, *given, **named):
        if place.parent.name == "calibration" and place.name in broken:
            raise NumericalError("the loss is NaN")
        return real(self, place, *given, **named)

    monkeypatch.setattr(Trainings, "train", train)
    broken = {"2"}
    chosen, _, err = tune("--shots", 5)
    assert chosen["calibrated_on"] == 9
    assert "3 images calibrate nothing: the loss is NaN" in err
    broken = set("1234")
    chosen, _, err = tune("--shots", 5, "--overwrite")
    assert (chosen["calibrated_on"], chosen["temperature"] >= 1) == (0, True)


def test_a_run_that_was_interrupted_while_it_calibrates_goes_on_to_the_same_temperature(
    fewvit, tune, place, tmp_path, monkeypatch, trained
):
    whole, out, _ = tune("--shots", 5)
    logits = [np.load(out / "calibration" / str(part) / "logits.npy") for part in range(1, 5)]
    real, names = Trainings.train, [name for name, *_ in trained]

    def train(self, place, *given, **named):
        if place.name == "3":
            raise KeyboardInterrupt
        return real(self, place, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainings, "train", train)
        with pytest.raises(AssertionError):  # it ends with 130
            tune("--shots", 5, "--overwrite")
    assert not (out / "result.json").exists()
    trained.clear()
    assert tune("--shots", 5)[0] == whole
    assert [name for name, *_ in trained] == ["run", "3", "4"]  # the final training has ended already
    assert all(
        np.array_equal(one, np.load(out / "calibration" / str(part) / "logits.npy"))
        for part, one in enumerate(logits, 1)
    )
    assert names == ["0", "run", "1", "2", "3", "4"]


@pytest.mark.parametrize("damage", [b"", b"not an array", b"other shape", b"\x93NUMPY\x01\x00v\x00" + b"{" * 118])
def test_damaged_logits_of_a_part_are_named_and_not_believed(tmp_path, damage):
    file = tmp_path / "logits.npy"
    if damage == b"other shape":
        np.save(file, np.zeros((2, 3), np.float32))
    else:
        file.write_bytes(damage)
    write_outcome(tmp_path, {"logits_sha256": sha256_of(file)})
    with pytest.raises(IntegrityError, match=r"logits\.npy.*damaged") as told:
        confidence._load(tmp_path, (3, 3))
    assert "Remove the folder" in str(told.value)


def test_logits_with_another_number_and_outcomes_with_another_word_are_not_what_was_written(tmp_path):
    confidence._save(tmp_path, np.arange(9, dtype=np.float32).reshape(3, 3))
    assert np.array_equal(confidence._load(tmp_path, (3, 3)), np.arange(9).reshape(3, 3))
    data = bytearray((tmp_path / "logits.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "logits.npy").write_bytes(data)
    with pytest.raises(IntegrityError, match="sha256"):
        confidence._load(tmp_path, (3, 3))
    write_outcome(tmp_path, {"lr": 0.1, "held_top1": 40.0})
    assert read_outcome(tmp_path) == {"lr": 0.1, "held_top1": 40.0}
    outcome = tmp_path / "outcome.json"
    outcome.write_text(outcome.read_text().replace("40.0", "90.0"))
    with pytest.raises(IntegrityError, match="was changed"):
        read_outcome(tmp_path)
    outcome.write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_outcome(tmp_path)


def test_logits_that_no_outcome_speaks_of_are_computed_again(tmp_path):
    np.save(tmp_path / "logits.npy", np.zeros((3, 3), np.float32))
    assert confidence._load(tmp_path, (3, 3)) is None


def test_a_pipe_in_the_place_of_logits_is_refused_and_not_waited_for(tmp_path):
    write_outcome(tmp_path, {"logits_sha256": ""})
    os.mkfifo(tmp_path / "logits.npy")
    with pytest.raises(DataError, match="not a regular file"):
        confidence._load(tmp_path, (3, 3))
