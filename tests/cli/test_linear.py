"""`fewvit linear` from outside."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewvit.runs.folder import RunFolder

from made_images import folder_of, tiny_weights

RUN = "import sys; from fewvit_cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of three classes, and a small backbone."""
    root = tmp_path_factory.mktemp("linear")
    folder_of(root / "data/train", {"a": 11, "b": 13, "c": 7})
    folder_of(root / "data/val", {"a": 3, "b": 5, "c": 2}, first_seed=300)
    tiny_weights(root / "tiny.pth")
    return root


@pytest.fixture
def words(place):
    return ("--data", place / "data", "-m", place / "tiny.pth", "--img-size", 32, "--epochs", 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Feature files that a linear head can tell apart: 20 train images and 9 test images of each of five classes."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(3)
    centres = random.normal(size=(5, 13))
    for name, per_class in (("train", 20), ("test", 9)):
        labels = np.repeat(np.arange(5), per_class)
        rows = (centres[labels] + 0.3 * random.normal(size=(len(labels), 13))).astype(np.float32)
        ids = [f"{name}/{i}" for i in range(len(labels))]
        np.savez(folder / f"{name}.npz", features=rows, labels=labels, ids=ids, classes=[f"c{i}" for i in range(5)])
    return ("--train", folder / "train.npz", "--test", folder / "test.npz")


def run(fewvit, *words):
    code, out, err = fewvit("linear", *words, "--format", "json")
    return code, json.loads(out) if code == 0 else None, err


def test_features_that_can_be_told_apart_are(fewvit, files):
    code, result, err = run(fewvit, *files, "--epochs", 40)
    assert code == 0, err
    [top1, top5] = result["rows"]
    assert (top1["metric"], top5["metric"]) == ("top1", "top5")
    assert top1["value"] > 95
    assert top5["value"] == 100
    assert {k: top1[k] for k in ("method", "protocol", "views", "selected_on", "n_train", "n_test")} == {
        "method": "linear",
        "protocol": "dinov2/1",
        "views": "cached",
        "selected_on": "train",
        "n_train": 90,
        "n_test": 45,
    }
    assert len(result["run"]["linear"]["heads"]) == 16
    assert result["run"]["linear"]["judged_by"] == 10
    assert "the features name no protocol: the linear probe of dinov2/1 is taken" in err
    assert "chosen by 10 held-out training images" in err


@pytest.mark.parametrize(("protocol", "heads"), [("dino/1", 6), ("dinov2/1", 64), ("mae/1", 5), ("msn/1", 1)])
def test_every_protocol_runs_on_images(fewvit, words, protocol, heads):
    code, result, err = run(fewvit, *words, "--protocol", protocol)
    assert code == 0, err
    row = result["rows"][0]
    assert row["protocol"] == protocol
    assert row["layers"] in (1, 2)  # the backbone has two blocks
    assert row["pool"] in ("cls", "cls+mean")
    assert len(result["run"]["linear"]["heads"]) == heads
    assert (row["n_train"], row["n_test"]) == (28, 10)


def test_choosing_on_the_test_images_holds_nothing_out_and_says_so(fewvit, words):
    code, result, err = run(fewvit, *words, "--select-on", "test", "--lr", "0.001,0.1")
    assert code == 0, err
    assert result["rows"][0]["selected_on"] == "test"
    assert result["rows"][0]["n_train"] == 31
    best = max(head["selection_top1"] for head in result["run"]["linear"]["heads"])
    assert result["rows"][0]["value"] >= round(best, 2) - 0.01  # the best epoch, of which the last is one
    assert "as the papers did" in err


def test_the_test_labels_reach_no_choice(fewvit, place, files, tmp_path):
    """With other labels on the test side the same head is chosen."""
    with np.load(files[3]) as test:
        arrays = dict(test)
    np.savez(tmp_path / "test.npz", **{**arrays, "labels": (arrays["labels"] + 1) % 5})
    first, second = (run(fewvit, *files[:3], file, "--epochs", 3)[1] for file in (files[3], tmp_path / "test.npz"))
    assert first["run"]["linear"]["heads"] == second["run"]["linear"]["heads"]
    assert [row["lr"] for row in first["rows"]] == [row["lr"] for row in second["rows"]]
    assert first["rows"][0]["value"] > 90 > second["rows"][0]["value"]


def test_augmented_views_go_through_the_backbone_and_are_named(fewvit, words):
    code, result, err = run(fewvit, *words, "--augment", "--protocol", "mae/1", "--pool", "mean")
    assert code == 0, err
    row = result["rows"][0]
    assert (row["views"], row["pool"], row["layers"]) == ("augmented", "mean", 1)


def test_half_precision_is_named_in_the_rows(fewvit, files):
    code, result, err = run(fewvit, *files, "--precision", "bf16", "--epochs", 20)
    assert code == 0, err
    assert result["rows"][0]["precision"] == "bf16"
    assert result["rows"][0]["value"] > 90


def test_heads_that_diverge_are_told_and_the_run_goes_on(fewvit, files):
    code, result, err = run(fewvit, *files, "--lr", "1e39,0.5", "--epochs", 20)
    assert code == 0, err
    assert "1 head of 2 diverged" in err
    assert result["rows"][0]["lr"] == 0.5
    assert result["rows"][0]["value"] > 90
    assert [head.get("diverged_in_step") for head in result["run"]["linear"]["heads"]] in ([None, 1], [None, 2])


def test_a_grid_that_diverges_wholly_is_a_numerical_failure(fewvit, files):
    code, _, err = run(fewvit, *files, "--lr", "1e39")
    assert code == 5
    assert "--lr" in err


def test_one_image_of_each_class_leaves_the_protocols_default(fewvit, place, tmp_path):
    folder_of(tmp_path / "train", {"a": 1, "b": 1, "c": 1}, first_seed=40)
    code, result, err = run(
        fewvit,
        "--train",
        tmp_path / "train",
        "--test",
        place / "data/val",
        "-m",
        place / "tiny.pth",
        "--img-size",
        32,
        "--protocol",
        "dinov2/1",
        "--epochs",
        3,
    )
    assert code == 0, err
    assert "nothing could be held out" in err
    assert (
        "learning rate 1 is taken after the last epoch, nearest to 2.56, which is for batches of 2 what the "
        "protocol's 0.005 is" in err
    )
    assert result["run"]["linear"]["default_lr"] == pytest.approx(0.005 * 1024 / 2)
    assert (result["rows"][0]["lr"], result["rows"][0]["selected_on"], result["rows"][0]["epochs"]) == (
        1.0,
        "default",
        3,
    )  # nearest to 0.005 x 1024 / 2


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--protocol", "dinov3/1"), 2, "dinov2/1"),
        (("--protocol", "timm/1"), 2, "dinov2/1"),
        (("--select-on", "val"), 2, "train nor test"),
        (("--lr", "fast"), 2, "list of numbers"),
        (("--lr", "-1"), 2, "--lr -1: a learning rate is a finite number above 0"),
        (("--lr", "0.1,0"), 2, "--lr 0: "),
        (("--lr", "nan"), 2, "--lr nan: "),
        (("--lr", "0.1,inf"), 2, "--lr inf: "),
        (("--set", "nonsense=1"), 2, "momentum"),
        (("--set", "weight_decay=-1"), 2, "--set weight_decay=-1: 0 or more"),
        (("--set", "epochs=4"), 2, "unknown option"),
        (("--layers", "each"), 2, "knn and lowshot"),
        (("--layers", "3"), 2, "2 blocks"),
        (("--pool", "cls+dist"), 2, "distillation"),
        (("-b", 1000), 3, "fewer than one batch"),
        (("-m", "dino_vits16,dino_vits8", "--weights", "random", "--out", "run"), 2, "one backbone"),
        (("--head-classes", "x.txt"), 2, "--head"),
    ],
)
def test_a_wrong_argument_has_its_exit_code_and_says_what_to_do(fewvit, words, more, code, told):
    found, _, err = run(fewvit, *words, *more)
    assert found == code, err
    assert told in err
    assert "Traceback" not in err


def test_features_cannot_be_augmented(fewvit, files):
    code, _, err = run(fewvit, *files, "--augment")
    assert code == 2
    assert "cannot be augmented" in err


# ---- run folders


def test_a_finished_run_gives_its_result_again_and_refuses_other_arguments(fewvit, words, tmp_path):
    out = tmp_path / "runs/probe"
    code, first, err = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out)
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == {
        *(
            "manifest.json",
            "contents.json",
            "contents.npz",
            "log.jsonl",
            "checkpoints",
            "head.safetensors",
            "result.json",
        )
    }
    code, again, err = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out)
    assert (code, again) == (0, first), err
    assert "epoch" not in err
    code, _, err = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out, "--lr", "0.1")
    assert code == 2
    assert "lrs" in err
    code, other, err = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out, "--lr", "0.1", "--overwrite")
    assert code == 0, err
    assert other["rows"][0]["lr"] == 0.1


def test_images_that_changed_under_their_names_are_told_where_they_would_count(fewvit, place, words, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(place / "data", data)
    words = ("--data", data, *words[2:], "--out", out)
    code, trained, err = run(fewvit, *words)
    assert code == 0, err
    kept = (data / "train/b/004.jpg").read_bytes()
    for side, name in (("train", "train/b/004.jpg"), ("test", "val/b/004.jpg")):
        former = (data / name).read_bytes()
        shutil.copyfile(data / "val/a/001.jpg", data / name)
        assert run(fewvit, *words)[1] == trained  # what was found is told as ever
        (out / "result.json").rename(tmp_path / "result.json")  # as before its end
        code, _, err = run(fewvit, *words)
        told = f"under the same names: {side} 1 of {31 if side == 'train' else 10} (b/004.jpg)"
        assert (code, f"images of {side} are no longer what they were" in err, told in err) == (2, True, True), err
        (tmp_path / "result.json").rename(out / "result.json")
        code, _, err = run(fewvit, *words, "--save-predictions", tmp_path / "p.csv")
        assert (code, f"images of {side} are no longer what they were" in err) == (2, True), err
        assert not (tmp_path / "p.csv").exists()
        (data / name).write_bytes(former)
    assert kept == (data / "train/b/004.jpg").read_bytes()
    assert run(fewvit, *words, "--save-predictions", tmp_path / "p.csv")[0] == 0


def test_a_run_stays_until_the_images_of_the_one_that_replaces_it_could_be_read(fewvit, place, words, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(place / "data", data)
    words = ("--data", data, *words[2:], "--out", out)
    assert run(fewvit, *words)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (data / "val/b/004.jpg").write_bytes(b"")
    code, _, err = run(fewvit, *words, "--overwrite")
    assert (code, "b/004.jpg" in err) == (3, True), err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    code, result, err = run(fewvit, *words, "--overwrite", "--max-bad", 1)
    assert code == 0, err
    assert (result["rows"][0]["n_test"], result["rows"][0]["skipped"]) == (9, 1)


def test_features_from_files_train_as_those_of_the_images_do(fewvit, place, words, tmp_path):
    model = ("-m", place / "tiny.pth", "--img-size", 32, "--pool", "cls", "--layers", 1)
    for part in ("train", "val"):
        assert fewvit("extract", *model, "--data", place / "data" / part, "--out", tmp_path / f"{part}.npz")[0] == 0
    same = ("--protocol", "dinov2/1", "--epochs", 4)
    code, images, err = run(fewvit, "--data", place / "data", *model, *same)
    assert code == 0, err
    code, features, err = run(fewvit, "--train", tmp_path / "train.npz", "--test", tmp_path / "val.npz", *same)
    assert code == 0, err
    assert [row["value"] for row in features["rows"]] == [row["value"] for row in images["rows"]]
    standings = [[head["selection_top1"] for head in result["run"]["linear"]["heads"]] for result in (images, features)]
    assert standings[0] == standings[1]


def test_a_run_that_another_command_trains_is_neither_trained_twice_nor_removed(fewvit, files, tmp_path):
    out = tmp_path / "run"
    assert run(fewvit, *files, "--out", out)[0] == 0
    (out / "result.json").unlink()  # as before its end
    with RunFolder(out).in_use():
        for words, said in (([], "cannot go on with it"), (["--overwrite"], "does not remove it")):
            code, _, err = run(fewvit, *files, "--out", out, *words)
            assert (code, "another command is training this run" in err, said in err) == (2, True, True), err
    assert (out / "head.safetensors").exists()
    assert run(fewvit, *files, "--out", out)[0] == 0  # and goes on when the other one has ended


@pytest.mark.slow
def test_a_run_is_overwritten_only_by_arguments_that_are_good(fewvit, files, tmp_path):
    out = tmp_path / "run"
    assert run(fewvit, *files, "--out", out)[0] == 0
    before = (out / "result.json").read_bytes()
    assert run(fewvit, *files, "--out", out, "--overwrite", "--set", "weight_decay=-1")[0] == 2
    assert (out / "result.json").read_bytes() == before
    code, again, err = run(fewvit, *files, "--out", out, "--overwrite", "--lr", "0.1")
    assert code == 0, err
    assert {head["lr"] for head in again["run"]["linear"]["heads"]} == {0.1}


def test_a_run_that_was_killed_before_its_result_was_written_finds_the_same_one(fewvit, words, tmp_path):
    out = tmp_path / "run"
    _, first, _ = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out)
    before = digest(out)
    for name in ("result.json", "head.safetensors"):
        (out / name).unlink()
    code, again, err = run(fewvit, *words, "--protocol", "dinov2/1", "--out", out)
    assert code == 0, err
    assert again["rows"] == first["rows"]
    assert again["run"]["linear"] == first["run"]["linear"]
    assert digest(out) == before


def test_other_data_under_the_same_run_are_refused(fewvit, words, place, tmp_path):
    assert run(fewvit, *words, "--out", tmp_path / "run")[0] == 0
    other = folder_of(tmp_path / "other", {"a": 5, "b": 5, "c": 5}, first_seed=900)
    code, _, err = run(fewvit, "--train", other, "--test", place / "data/val", *words[2:], "--out", tmp_path / "run")
    assert code == 2
    assert "data.train" in err


def test_the_heads_file_gives_the_runs_accuracy_again(fewvit, words, place, tmp_path):
    out = tmp_path / "run"
    _, trained, _ = run(fewvit, *words, "--protocol", "msn/1", "--out", out)
    for head in (out, out / "head.safetensors"):  # it brings its protocol, and with that MSN's bilinear resize
        code, found, err = run(fewvit, *words[:6], "--head", head)
        assert code == 0, err
        assert [row["value"] for row in found["rows"]] == [row["value"] for row in trained["rows"]]
    some = folder_of(tmp_path / "some", {"c": 3, "a": 2}, first_seed=300)  # fewer classes, known by their names
    code, found, err = run(fewvit, "--test", some, *words[2:6], "--head", out)
    assert code == 0, err
    tiny_weights(tmp_path / "other.pth", seed=6)
    code, _, err = run(fewvit, "--test", some, "-m", tmp_path / "other.pth", *words[4:6], "--head", out)
    assert code == 4
    assert "other weights" in err
    folder_of(some, {"z": 1}, first_seed=700)
    code, _, err = run(fewvit, "--test", some, *words[2:6], "--head", out)
    assert code == 3
    assert "none of the head's: z" in err


@pytest.fixture
def probe(fewvit, files, tmp_path):
    """A finished run on feature files, and the words that made it."""
    words = (*files, "--epochs", 1, "-b", 10, "--lr", 0.1, "--out", tmp_path / "probe")
    code, _, err = run(fewvit, *words)
    assert code == 0, err
    return tmp_path / "probe", words


def test_features_in_a_file_are_probed_by_the_protocol_that_made_them(fewvit, files, tmp_path):
    def with_protocol(*more, **text):
        words = []
        for flag, file in (files[:2], files[2:]):
            with np.load(file) as arrays:
                np.savez(tmp_path / file.name, **arrays, **text)
            words += [flag, tmp_path / file.name]
        code, result, err = run(fewvit, *words, "--epochs", 1, "--lr", 0.1, *more)
        assert code == 0, err
        return result["rows"][0]["protocol"], err

    found, err = with_protocol(protocol="mae/1")
    assert found == "mae/1"
    assert "the features are of mae/1: the linear probe of mae/1 is taken; --protocol NAME takes another" in err
    assert with_protocol(backbone="msn_vits16")[0] == "msn/1"
    found, err = with_protocol("--protocol", "dino/1", protocol="mae/1")
    assert found == "dino/1"
    assert "is taken" not in err
    found, err = with_protocol(protocol="timm/1")
    assert found == "dinov2/1"
    assert "the features are of timm/1, which has no linear probe: the linear probe of dinov2/1 is taken" in err


@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_a_finished_run_whose_head_is_gone_or_damaged_says_so(fewvit, probe, damage):
    out, words = probe
    file = out / "head.safetensors"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    for again in (words, (*words[2:4], "--head", out)):
        code, _, err = run(fewvit, *again)
        assert code == 4, err
        assert str(file) in err
        assert ("is gone" if damage == "gone" else "is damaged or another one") in err
        assert "--overwrite" in err
    code, _, err = run(fewvit, *words, "--overwrite")
    assert code == 0, err
    assert run(fewvit, *words[2:4], "--head", out)[0] == 0


def test_a_cut_head_of_a_run_that_noted_no_digest_is_told_too_and_not_as_a_backbones_weights(fewvit, probe):
    out, words = probe
    stored = json.loads((out / "result.json").read_text())
    del stored["run"]["head_sha256"], stored["result_sha256"]
    (out / "result.json").write_text(json.dumps(stored))
    assert run(fewvit, *words)[0] == 0
    file = out / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    code, _, err = run(fewvit, *words)
    assert code == 4
    assert "--overwrite" in err
    assert "backbones fetch" not in err
    file.rename(out / "elsewhere.safetensors")
    code, _, err = run(fewvit, *words[2:4], "--head", out / "elsewhere.safetensors")
    assert code == 4
    assert "Get it again where it came from" in err
    assert "backbones fetch" not in err


def test_a_head_of_a_run_of_another_command_is_refused(fewvit, files, tmp_path):
    """Of fine-tuning: it is a linear layer of the right width, on features that nobody gives it here."""
    out = tmp_path / "tuned"
    RunFolder(out).begin({"command": "finetune"}, {})
    save_file({"weight": torch.ones(5, 13), "bias": torch.zeros(5)}, out / "head.safetensors")
    for head in (out, out / "head.safetensors"):
        code, _, err = run(fewvit, *files[2:], "--head", head)
        assert code == 2, err
        assert "a run of `fewvit finetune`" in err
        assert f"fewvit predict {out}/classifier.bundle" in err
    RunFolder(tmp_path / "pretrained").begin({"command": "pretrain"}, {})
    code, _, err = run(fewvit, *files[2:], "--head", tmp_path / "pretrained")
    assert code == 2
    assert f"--backbone {tmp_path / 'pretrained'}" in err


def test_a_head_that_is_not_there_is_told_as_a_head(fewvit, files, tmp_path):
    code, _, err = run(fewvit, *files[2:], "--head", tmp_path / "nowhere.pth")
    assert code == 3
    assert "no such file" in err
    assert "spelling of --head" in err
    assert "--weights" not in err
    (tmp_path / "empty").mkdir()
    code, _, err = run(fewvit, *files[2:], "--head", tmp_path / "empty")
    assert code == 3
    assert "no run of `fewvit linear`" in err
    RunFolder(tmp_path / "begun").begin({"command": "linear"}, {})
    code, _, err = run(fewvit, *files[2:], "--head", tmp_path / "begun")
    assert code == 3
    assert "has not finished" in err


def test_a_head_wants_test_images_alone(fewvit, files, tmp_path):
    for words in ((), files[:2]):
        code, _, err = run(fewvit, *words, "--head", tmp_path / "nowhere.pth")
        assert code == 2
        assert "no images to judge the head by" in err
        assert "--test SRC" in err


def test_options_of_training_are_refused_beside_a_head_by_their_names(fewvit, files, tmp_path):
    head = head_file(tmp_path / "head.pth", 13, 5)
    for words, named in (
        (("--lr", 0.1, "--epochs", 3), "--lr, --epochs"),
        (("-b", 10), "--batch-size"),
        (("--augment",), "--augment"),
        (("--cached",), "--cached"),
        (("--select-on", "train"), "--select-on"),
        (("--set", "momentum=0.5"), "--set"),
        (("--save-every", 500), "--save-every"),
        (("--overwrite",), "--overwrite"),
        (("--seed", 0), "--seed"),
    ):
        code, _, err = run(fewvit, *files[2:], "--head", head, *words)
        assert code == 2, words
        assert f"--head trains nothing, so {named} can change nothing" in err
    (tmp_path / "defaults.toml").write_text("epochs = 3\n")  # the defaults of a training that was before
    assert run(fewvit, *files[2:], "--head", head, "-j", 1, "--config", tmp_path / "defaults.toml")[0] == 0


def test_the_seed_of_random_weights_goes_with_a_head(fewvit, place, tmp_path):
    words = (
        "--data",
        place / "data",
        "-m",
        "dino_vitt16",
        "--weights",
        "random",
        "--img-size",
        32,
        "--pool",
        "cls",
        "--layers",
        1,
    )
    code, _, err = run(fewvit, *words, "--head", head_file(tmp_path / "head.pth", 192, 3), "--seed", 3)
    assert code == 0, err


def head_file(path: Path, width: int, outputs: int) -> Path:
    torch.save(
        {
            "weight": torch.randn(outputs, width, generator=torch.Generator().manual_seed(1)),
            "bias": torch.zeros(outputs),
        },
        path,
    )
    return path


def test_a_head_of_the_wrong_width_names_both_widths(fewvit, words, tmp_path):
    code, _, err = run(fewvit, *words[:6], "--head", head_file(tmp_path / "head.pth", 1000, 3))
    assert code == 4
    assert "1000 numbers" in err
    assert "have 128" in err  # two class tokens of 64
    code, _, err = run(
        fewvit, *words[:6], "--head", head_file(tmp_path / "head.pth", 1000, 3), "--protocol", "dinov2/1"
    )
    assert code == 4
    assert "64 or 128 or 128 or 192" in err


def test_a_head_of_another_width_than_given_features_names_both_widths(fewvit, files, tmp_path):
    code, _, err = run(fewvit, *files[2:], "--head", head_file(tmp_path / "head.pth", 12, 5))
    assert code == 4
    assert "12 numbers" in err
    assert "have 13" in err


def test_the_outputs_of_a_head_without_names_are_taken_in_order_or_named(fewvit, words, tmp_path):
    code, found, err = run(fewvit, *words[:6], "--head", head_file(tmp_path / "head.pth", 128, 3))
    assert code == 0, err
    assert "taken for the 3 classes in their order" in err
    assert (found["rows"][0]["layers"], found["rows"][0]["pool"], found["rows"][0]["n_test"]) == (2, "cls", 10)
    larger = head_file(tmp_path / "larger.pth", 128, 7)
    code, _, err = run(fewvit, *words[:6], "--head", larger)
    assert code == 3
    assert "7 outputs" in err
    (tmp_path / "names.txt").write_text("x\nc\ny\na\nz\nb\nw\n")
    code, found, err = run(fewvit, *words[:6], "--head", larger, "--head-classes", tmp_path / "names.txt")
    assert code == 0, err
    (tmp_path / "names.txt").write_text("a\nb\n")
    code, _, err = run(fewvit, *words[:6], "--head", larger, "--head-classes", tmp_path / "names.txt")
    assert code == 3
    assert "2 names for the 7 classes" in err
    for wrong, told in (
        ("x\nc\ny\na\nz\nB\nw\n", "none of the head's: b"),
        ("x\nc\ny\na\na\nb\nw\n", "in more than one line: a"),
    ):
        (tmp_path / "names.txt").write_text(wrong)
        code, _, err = run(fewvit, *words[:6], "--head", larger, "--head-classes", tmp_path / "names.txt")
        assert code == 3
        assert told in err
        assert f"{tmp_path / 'names.txt'}: " in err
    code, _, err = run(fewvit, *words[:6], "--head", larger, "--head-classes", tmp_path / "nowhere.txt")
    assert code == 3
    assert "spelling of --head-classes" in err


def test_of_two_readings_that_are_as_wide_as_the_head_it_is_said_which_is_taken(fewvit, words, tmp_path):
    head = head_file(tmp_path / "head.pth", 128, 3)
    code, found, err = run(fewvit, *words[:6], "--protocol", "dinov2/1", "--head", head)
    assert code == 0, err
    assert (found["rows"][0]["layers"], found["rows"][0]["pool"]) == (1, "cls+mean")
    assert "taken to read cls+mean of 1 block; as wide would be cls of 2 blocks (--pool cls --layers 2)" in err
    code, found, err = run(fewvit, *words[:6], "--protocol", "dinov2/1", "--head", head, "--pool", "cls", "--layers", 2)
    assert code == 0, err
    assert (found["rows"][0]["layers"], found["rows"][0]["pool"]) == (2, "cls")
    assert "as wide" not in err


def table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as handle:
        return list(csv.DictReader(handle))


def test_saved_predictions_are_those_of_the_chosen_heads_formula_and_a_finished_run_writes_the_same(
    fewvit, files, tmp_path
):
    """By hand: the softmax of W x + b of the head that the run keeps, on the features as they lie in the file."""
    out, first, later, of_head = (tmp_path / name for name in ("run", "first.csv", "later.csv", "head.csv"))
    words = (*files, "--epochs", 3, "--lr", "0.01,0.3", "--out", out)
    code, trained, err = run(fewvit, *words, "--save-predictions", first)
    assert code == 0, err
    assert f"wrote {first}" in err
    rows, head = table(first), load_file(out / "head.safetensors")
    with np.load(files[3]) as test:
        scores = test["features"].astype(np.float64) @ head["weight"].double().numpy().T + head["bias"].double().numpy()
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        assert [row["id"] for row in rows] == test["ids"].tolist()
        assert [row["label"] for row in rows] == [f"c{label}" for label in test["labels"]]
    assert [row["prediction"] for row in rows] == [f"c{c}" for c in shares.argmax(axis=1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.max(axis=1), rtol=1e-4)
    assert {row["method"] for row in rows} == {"linear"}
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert 100 * right / len(rows) == pytest.approx(trained["rows"][0]["value"])
    code, again, err = run(fewvit, *words, "--save-predictions", later)
    assert (code, again) == (0, trained), err
    assert run(fewvit, *files[2:], "--head", out, "--save-predictions", of_head)[0] == 0
    assert table(later) == table(of_head) == rows


def test_saved_predictions_of_a_finished_run_read_the_columns_that_its_head_does(fewvit, words, tmp_path):
    """The head of the class token alone, behind that of the block before it in what the backbone was asked for."""
    out, first, later = (tmp_path / name for name in ("run", "first.csv", "later.csv"))
    more = ("--protocol", "dinov2/1", "--lr", 0.1, "--pool", "cls", "--out", out)
    code, trained, err = run(fewvit, *words, *more, "--save-predictions", first)
    assert code == 0, err
    assert run(fewvit, *words, *more, "--save-predictions", later)[1] == trained
    assert table(later) == table(first)
    assert len(table(first)) == 10


def test_saved_predictions_bear_the_names_of_a_list(fewvit, files, tmp_path):
    """Two outputs more than there are classes, and the classes in another order."""
    head, names = head_file(tmp_path / "head.pth", 13, 7), ["c3", "x", "c1", "c0", "y", "c4", "c2"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    words = ("--head", head, "--head-classes", tmp_path / "names.txt", "--save-predictions", tmp_path / "p.csv")
    code, _, err = run(fewvit, *files[2:], *words)
    assert code == 0, err
    with np.load(files[3]) as test:
        best = (test["features"] @ torch.load(head)["weight"].numpy().T).argmax(axis=1)
        labels = [f"c{label}" for label in test["labels"]]
    assert [(row["label"], row["prediction"]) for row in table(tmp_path / "p.csv")] == [
        (labels[i], names[c]) for i, c in enumerate(best)
    ]


def test_names_for_a_head_that_has_its_own_are_refused(fewvit, probe, tmp_path):
    out, words = probe
    (tmp_path / "names.txt").write_text("c4\nc3\nc2\nc1\nc0\n")
    code, _, err = run(fewvit, *words[2:4], "--head", out, "--head-classes", tmp_path / "names.txt")
    assert code == 2
    assert "names its 5 itself" in err


def test_the_accuracy_of_a_head_is_that_of_its_formula(fewvit, files, tmp_path):
    """By hand: argmax of W x + b on the features as they lie in the file."""
    file = head_file(tmp_path / "head.pth", 13, 5)
    code, found, err = run(fewvit, *files[2:], "--head", file)
    assert code == 0, err
    with np.load(files[3]) as test:
        scores = test["features"] @ torch.load(file)["weight"].numpy().T
        wanted = 100 * (scores.argmax(axis=1) == test["labels"]).mean()
    assert found["rows"][0]["value"] == pytest.approx(wanted)


# ---- faults


def start(out: Path, files, *more: object) -> subprocess.Popen[str]:
    words = [
        "linear",
        *files,
        "--epochs",
        25,
        "-b",
        10,
        "--save-every",
        6,
        "--out",
        out,
        "--seed",
        1,
        "--format",
        "json",
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def digest(run: Path) -> str:
    return hashlib.sha256((run / "head.safetensors").read_bytes()).hexdigest()


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if list((out / "checkpoints").glob("step-*.json")) or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_was_ended_goes_on_and_ends_with_the_same_bits(number, files, tmp_path):
    whole = start(tmp_path / "whole", files)
    broken = start(tmp_path / "broken", files)
    wait_for_checkpoint(tmp_path / "broken", broken)
    broken.send_signal(number)
    _, err = broken.communicate(timeout=100)
    assert broken.returncode == (143 if number == signal.SIGTERM else -9), err
    assert "Go on with" in err or number == signal.SIGKILL
    resumed = start(tmp_path / "broken", files)
    found, wanted = (json.loads(process.communicate(timeout=100)[0]) for process in (resumed, whole))
    assert digest(tmp_path / "broken") == digest(tmp_path / "whole")
    assert found["rows"] == wanted["rows"]
    assert found["run"]["linear"] == wanted["run"]["linear"]
