"""`fewvit finetune` and what becomes of its runs."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from fewvit.calibration import stratified_folds
from fewvit.datasets import open_dataset
from fewvit.digests import DigestMemory
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.runs.folder import RunFolder
from fewvit.splits import n_per_class

from made_images import folder_of, tiny_weights

CLASSES = {"a": 7, "b": 6, "c": 9}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("finetune")
    folder_of(root / "images/train", CLASSES)
    folder_of(root / "images/val", {"a": 11, "b": 13, "c": 5}, first_seed=300)
    tiny_weights(root / "weights/tiny.pth")
    return root


@pytest.fixture(autouse=True)
def _cache(monkeypatch, place):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(place / "cache"))  # frozen features once for all tests


@pytest.fixture
def tune(fewvit, place):
    def run(out, *more, images=place / "images", backbone=place / "weights/tiny.pth"):
        words = [
            "finetune",
            "--backbone",
            backbone,
            "--data",
            images,
            "--img-size",
            32,
            "--epochs",
            2,
            "--out",
            out,
            "--format",
            "json",
        ]
        code, stdout, err = fewvit(*words, *more)
        return code, json.loads(stdout) if code == 0 and stdout else None, err

    return run


def values(result, method, metric="top1"):
    [value] = [row["value"] for row in result["rows"] if (row["method"], row["metric"]) == (method, metric)]
    return value


# ---- what is measured


@pytest.mark.parametrize("shots", [2, 5])
def test_the_frozen_rows_are_those_of_lowshot_for_the_same_draw(fewvit, tune, place, tmp_path, shots):
    code, result, err = tune(tmp_path / "run", "--shots", shots, "--trial", 1, "--set", "select=false")
    assert code == 0, err
    images = ("--backbone", place / "weights/tiny.pth", "--data", place / "images", "--img-size", 32)
    words = ["lowshot", *images, "--shots", shots, "--trials", 2]
    code, stdout, err = fewvit(*words, "--format", "json")
    assert code == 0, err
    expected = {(r["method"], r["metric"]): r["value"] for r in json.loads(stdout)["rows"] if r["trial"] == 1}
    found = {(r["method"], r["metric"]): r["value"] for r in result["rows"] if r["method"] != "lora"}
    assert found == pytest.approx(
        expected, rel=1e-5
    )  # accuracies, and the calibration that folds of the labelled images decide
    assert {m for m, _ in found} == {"knn", "centroid", "logistic"}
    assert {(r["shots"], r["trial"], r["n_train"], r["n_test"]) for r in result["rows"]} == {(shots, 1, 3 * shots, 29)}


@pytest.mark.parametrize("mode", ["lora", "last-block", "bias", "norm", "full"])
def test_a_network_that_has_not_moved_classifies_as_the_frozen_logistic_regression(tune, tmp_path, mode):
    code, result, err = tune(
        tmp_path / "run", "--mode", mode, "--set", "lr=1e-30", "--set", "select=false", "--set", "min_lr=0"
    )
    assert code == 0, err
    assert [values(result, mode, m) for m in ("top1", "top5")] == [
        values(result, "logistic", m) for m in ("top1", "top5")
    ]
    assert result["run"]["gain"] <= 0
    verdict = result["run"]["verdict"]
    assert verdict in err
    assert ("lost" in verdict) == (result["run"]["gain"] < 0)
    assert f"{mode} {values(result, mode):.2f} %" in verdict


def test_labels_of_the_test_images_choose_nothing(tune, place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place / "images/train", other / "train")
    for name, source in (("a", "b"), ("b", "c"), ("c", "a")):  # the same images under other names
        shutil.copytree(place / "images/val" / source, other / "val" / name)
    found = []
    for images in (place / "images", other):
        out = tmp_path / f"run-{images.name}"
        code, result, err = tune(out, "--shots", 3, images=images)
        assert code == 0, err
        found.append(
            (
                (out / "adapter.safetensors").read_bytes(),
                (out / "head.safetensors").read_bytes(),
                result["run"]["chosen"],
            )
        )
    assert found[0] == found[1]


def test_the_classifiers_bundle_labels_the_test_images_as_the_rows_say(fewvit, tune, place, tmp_path):
    code, result, err = tune(tmp_path / "run", "--set", "lr=0.02", "--mode", "bias")
    assert code == 0, err
    code, stdout, err = fewvit(
        "predict", tmp_path / "run/classifier.bundle", place / "images/val", "--threshold", 0, "--format", "csv"
    )
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert len(rows) == 29
    right = np.mean([row["label"] == row["id"].split("/")[0] for row in rows])
    assert 100 * right == pytest.approx(values(result, "bias"))


def test_saved_predictions_are_those_of_the_bundle_and_a_finished_run_writes_the_same(fewvit, tune, place, tmp_path):
    out, first, later = tmp_path / "run", tmp_path / "first.csv", tmp_path / "later.csv"
    code, result, err = tune(out, "--shots", 3, "--trial", 1, "--save-predictions", first)
    assert code == 0, err
    assert f"wrote {first}" in err
    code, stdout, err = fewvit(
        "predict", out / "classifier.bundle", place / "images/val", "--threshold", 0, "--format", "csv"
    )
    assert code == 0, err
    said = {row["id"]: row for row in csv.DictReader(io.StringIO(stdout))}
    rows = list(csv.DictReader(first.read_text().splitlines()))
    assert len(rows) == 29
    for row in rows:
        assert row["prediction"] == said[row["id"]]["label"]
        assert row["label"] == row["id"].split("/")[0]
        assert (row["method"], row["shots"], row["trial"]) == ("lora", "3", "1")
        assert float(row["probability"]) == pytest.approx(float(said[row["id"]]["confidence"]), abs=1e-3)
    right = 100 * np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(values(result, "lora"))
    code, again, err = tune(out, "--shots", 3, "--trial", 1, "--save-predictions", later)
    assert (code, again) == (0, result), err
    assert later.read_bytes() == first.read_bytes()
    assert tune(tmp_path / "other", "--save-predictions", tmp_path / "p.txt")[0] == 2
    assert not (tmp_path / "other").exists()


# ---- what comes out


@pytest.mark.parametrize(
    ("mode", "file"), [("lora", "adapter.safetensors"), ("norm", "adapter.safetensors"), ("full", "model.safetensors")]
)
def test_a_run_folder_is_a_backbone_for_every_other_command(fewvit, tune, place, tmp_path, mode, file):
    out = tmp_path / "runs/mine"
    code, result, err = tune(out, "--mode", mode, "--set", "lr=0.05", "--set", "select=false")
    assert code == 0, err
    assert {
        "manifest.json",
        "log.jsonl",
        "result.json",
        "checkpoints",
        file,
        "head.safetensors",
        "classifier.bundle",
    } <= {p.name for p in out.iterdir()}
    code, stdout, err = fewvit("knn", "--backbone", out, "--data", place / "images", "--k", 3, "--format", "json")
    assert code == 0, err
    row = json.loads(stdout)["rows"][0]
    assert (row["backbone"], row["n_test"]) == ("mine", 29)
    access = Access(tmp_path / "cache", offline=True)
    tuned, base = (resolve(str(name), access, DigestMemory()) for name in (out, place / "weights/tiny.pth"))
    assert tuned.fingerprint != base.fingerprint
    assert tuple(tuned.preprocess["crop"]) == (32, 32)
    images = torch.randn(2, 3, 32, 32)
    features = [build(spec, Readout(), (32, 32), engine="eager").encode(images) for spec in (tuned, base)]
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert (
        result["run"]["trained_parameters"] > sum(t.numel() for t in load_file(out / "head.safetensors").values()) - 3
    )
    code, _, err = fewvit("backbones", "export", out, "--out", tmp_path / "x.pth")
    assert code == 3
    assert "pretrain" in err


def test_a_finished_run_answers_from_its_result_and_other_arguments_are_refused_with_the_difference(
    fewvit, tune, place, tmp_path
):
    out = tmp_path / "run"
    code, first, err = tune(out, "--set", "select=false")
    assert code == 0, err
    before = (out / "adapter.safetensors").read_bytes()
    assert tune(out, "--set", "select=false", "-j", 1, "--save-every", 3)[1] == first
    for words, difference in (
        (["--set", "rank=4"], "recipe.rank: 8 -> 4"),
        (["--shots", 3], "shots: 5 -> 3"),
        (["--mode", "bias"], "mode: lora -> bias"),
        (["--trial", 1], "trial: 0 -> 1"),
        (["--decode", "pil"], "decode: fast -> pil"),
    ):
        code, _, err = tune(out, "--set", "select=false", *words)
        assert code == 2
        assert "begun with other arguments" in err
        assert difference in err or "and" in difference
    assert (out / "adapter.safetensors").read_bytes() == before
    code, _, err = tune(out, "--shots", 2, "--overwrite", "--set", "select=false")
    assert code == 0, err


def test_other_images_under_the_same_names_are_noticed(tune, place, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    assert tune(tmp_path / "run", "--shots", 6, "--set", "select=false", images=images)[0] == 0
    one = images / "train/b/003.jpg"  # every image of b is labelled
    one.write_bytes((images / "val/b/001.jpg").read_bytes())
    code, _, err = tune(tmp_path / "run", "--shots", 6, "--set", "select=false", images=images)
    assert code == 2
    assert "images of labelled are no longer what they were" in err
    assert "under the same names: labelled 1 of 18 (b/003.jpg)" in err
    (tmp_path / "run/contents.npz").write_bytes(b"damaged")  # costs no more than the names
    code, _, err = tune(tmp_path / "run", "--shots", 6, "--set", "select=false", images=images)
    assert (code, "under the same names\n" in err) == (2, True), err
    (tmp_path / "run/contents.json").unlink()  # as a run of before it was noted
    code, _, err = tune(tmp_path / "run", "--shots", 6, "--set", "select=false", images=images)
    assert (code, "data.labelled: " in err, "data.train" not in err) == (2, True, True), err


def test_what_an_adapter_was_trained_on_is_found_again_or_missed_by_name(fewvit, tune, place, tmp_path):
    weights = shutil.copy(place / "weights/tiny.pth", tmp_path / "base.pth")
    code, _, err = tune(tmp_path / "run", "--set", "select=false", backbone=weights)
    assert code == 0, err
    moved = tmp_path / "else"
    moved.mkdir()
    shutil.move(tmp_path / "run", moved / "run")
    extract = [
        "extract",
        "--data",
        place / "images/val",
        "--img-size",
        32,
        "--out",
        tmp_path / "f.npz",
        "--backbone",
        moved / "run",
    ]
    assert fewvit(*extract)[0] == 0
    shutil.move(tmp_path / "base.pth", tmp_path / "other.pth")
    code, _, err = fewvit(*extract)
    assert code == 2
    assert "base.pth" in err
    shutil.move(tmp_path / "other.pth", moved / "base.pth")  # beside the run
    assert fewvit(*extract)[0] == 0
    tiny_weights(moved / "base.pth", seed=6)
    code, _, err = fewvit(*extract)
    assert code == 4
    assert "was trained on" in err


def test_a_damaged_adapter_is_refused(fewvit, tune, place, tmp_path):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    file = out / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    code, _, err = fewvit(
        "extract", "--backbone", out, "--data", place / "images/val", "--out", tmp_path / "f.npz", "--no-cache"
    )
    assert code == 4
    assert "adapter.safetensors" in err
    (out / "result.json").unlink()  # so that no digest tells
    code, _, err = fewvit(
        "extract", "--backbone", out, "--data", place / "images/val", "--out", tmp_path / "f.npz", "--no-cache"
    )
    assert (code, "the run's own command and --overwrite" in err, "backbones fetch" in err) == (4, True, False), err


@pytest.mark.slow
def test_another_token_than_the_family_reads_is_told_beside_its_numbers(fewvit, tune, place, tmp_path):
    """MAE's recipe trains a norm over the mean patch token: beside a class token's, its numbers say so."""
    full, bias = tmp_path / "full", tmp_path / "bias"
    code, result, err = tune(full, "--mode", "full", "--shots", 2, "--set", "select=false", backbone="fewvit_tiny")
    assert code == 0, err
    assert "full reads the mean patch token, the frozen ones the class token" in result["run"]["verdict"]
    assert result["run"]["verdict"] in err
    assert result["run"]["protocol"] == "mae/2"  # of the frozen ones too
    assert {(row["method"], row["pool"]) for row in result["rows"]} == {
        ("knn", "cls"),
        ("centroid", "cls"),
        ("logistic", "cls"),
        ("full", "mean"),
    }
    code, result, err = tune(bias, "--mode", "bias", "--shots", 2, "--set", "select=false", backbone="fewvit_tiny")
    assert code == 0, err
    assert "reads the" not in result["run"]["verdict"]
    assert not any("pool" in row for row in result["rows"])
    told = "was fine-tuned to be read by its mean patch token, where mae/2 reads the class token"
    for run, words, expected in ((full, (), True), (full, ("--pool", "mean"), False), (bias, (), False)):
        code, _, err = fewvit("knn", "--backbone", run, "--data", place / "images", "--k", 3, *words)
        assert (code, told in err) == (0, expected), err
        assert "MAE's frozen class token" not in err  # it is no longer as MAE left it
    shots = ("--shots", 2, "--trials", 1, "--classifier", "centroid", "--no-calibration")
    for name, expected in ((bias, False), ("fewvit_tiny", True)):
        code, _, err = fewvit("lowshot", "--backbone", name, "--data", place / "images", "--img-size", 32, *shots)
        assert (code, "frozen MAE features" in err) == (0, expected), err


def test_backbones_explains_a_run_and_says_what_else_it_can_do_with_it(fewvit, tune, place, tmp_path):
    out = tmp_path / "run"
    assert tune(out, "--shots", 2, "--set", "select=false")[0] == 0
    code, stdout, err = fewvit("backbones", "info", out, "--format", "json")
    assert code == 0, err
    [facts] = json.loads(stdout)["rows"]
    spec = resolve(str(out), Access(tmp_path / "cache", offline=True), DigestMemory())
    assert facts["what"] == "fewvit finetune, mode lora, 2 images per class"
    assert (facts["family"], facts["pool"], facts["preprocess"]["crop"]) == ("dino", "cls", [32, 32])
    assert (facts["file"], facts["sha256"]) == (str(spec.file), spec.weights_sha256)
    assert facts["base"] == str(place / "weights/tiny.pth")
    assert facts["architecture"]["width"] == 64
    assert "adapter.safetensors" in fewvit("backbones", "info", out)[1]
    code, _, err = fewvit("backbones", "check", out)
    assert (code, "`fewvit backbones info RUN`" in err) == (2, True), err
    code, _, err = fewvit("backbones", "info", out / "adapter.safetensors")
    assert (code, "not a layout that is known" in err) == (4, True), err
    code, _, err = fewvit("backbones", "info", tmp_path / "runs/none")
    assert (code, "no such run" in err) == (3, True), err
    code, _, err = fewvit("backbones", "export", out, "--out", tmp_path / "x.pth")
    assert (code, "fewvit backbones info" in err) == (3, True), err
    code, _, err = fewvit("knn", "--backbone", out / "checkpoints", "--data", place / "images")
    assert (code, f"a part of the run {out}" in err) == (3, True), err


@pytest.mark.parametrize(("mode", "file"), [("norm", "adapter.safetensors"), ("full", "model.safetensors")])
def test_weights_that_were_changed_after_the_run_are_refused_and_the_same_bytes_are_not(
    fewvit, tune, place, tmp_path, mode, file
):
    out = tmp_path / "run"
    assert tune(out, "--mode", mode, "--set", "select=false")[0] == 0
    extract = ["extract", "--backbone", out, "--data", place / "images/val", "--out", tmp_path / "f.npz"]
    whole = load_file(out / file)
    before = (out / file).read_bytes()
    (out / file).write_bytes(save({name: tensor * 1.01 for name, tensor in whole.items()}))
    code, _, err = fewvit(*extract)
    assert code == 4
    assert file in err
    assert "--overwrite" in err
    (out / file).write_bytes(before)
    assert fewvit(*extract)[0] == 0


def test_a_run_whose_result_notes_no_digest_stays_a_backbone(fewvit, tune, place, tmp_path):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    result = json.loads((out / "result.json").read_text())
    del result["run"]["weights_sha256"], result["result_sha256"]
    (out / "result.json").write_text(json.dumps(result))
    assert fewvit("extract", "--backbone", out, "--data", place / "images/val", "--out", tmp_path / "f.npz")[0] == 0


@pytest.mark.parametrize("file", ["adapter.safetensors", "head.safetensors"])
def test_a_finished_run_that_lost_a_file_says_so_and_overwrite_brings_it_back(fewvit, tune, place, tmp_path, file):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    (out / file).unlink()
    knn = ["knn", "--backbone", out, "--data", place / "images", "--k", 3]
    found = [tune(out, "--set", "select=false"), *([fewvit(*knn)] if file.startswith("adapter") else [])]
    for code, _, err in found:
        assert code == 4, err
        assert file in err
        assert "not there any more" in err
        assert "--overwrite" in err
    assert tune(out, "--set", "select=false", "--overwrite")[0] == 0
    assert fewvit(*knn)[0] == 0


def test_a_result_that_cannot_be_read_is_4_and_comes_back_when_it_is_deleted(fewvit, tune, place, tmp_path):
    out = tmp_path / "run"
    code, result, _ = tune(out, "--set", "select=false")
    assert code == 0
    (out / "result.json").write_text("{")
    for code, _, err in (
        tune(out, "--set", "select=false"),
        fewvit("knn", "--backbone", out, "--data", place / "images", "--k", 3),
    ):
        assert code == 4
        assert "Delete it and repeat" in err
    (out / "result.json").unlink()
    assert tune(out, "--set", "select=false")[1]["rows"] == result["rows"]


def test_an_adapter_can_be_trained_on_a_run_that_is_an_adapter(fewvit, tune, place, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert tune(one, "--set", "select=false", "--set", "lr=0.05")[0] == 0
    code, result, err = tune(
        two, "--set", "select=false", "--mode", "norm", "--set", "lr=1e-30", "--set", "min_lr=0", backbone=one
    )
    assert code == 0, err
    assert result["rows"][0]["backbone"] == "one"
    access = Access(tmp_path / "cache", offline=True)
    images = torch.randn(2, 3, 32, 32)
    specs = [resolve(str(run), access, DigestMemory()) for run in (one, two)]
    features = [build(spec, Readout(), (32, 32), engine="eager").encode(images) for spec in specs]
    torch.testing.assert_close(features[0], features[1], atol=1e-5, rtol=1e-4)
    assert specs[0].fingerprint != specs[1].fingerprint


@pytest.mark.parametrize(
    "file", ["msn.pth.tar", "mae_pretrain.pth", "mae_finetuned.pth", "dinov2_reg4.pth", "dinov2_swiglu.pth"]
)
def test_every_familys_layout_is_fine_tuned_in_full_and_read_back(fewvit, parity, place, tmp_path, file):
    words = [
        "finetune",
        "--backbone",
        parity.folder / file,
        "--data",
        place / "images",
        "--mode",
        "full",
        "--shots",
        2,
        "--epochs",
        1,
    ]
    size = 28 if file.startswith("dinov2") else 32
    code, stdout, err = fewvit(
        *words, "--img-size", size, "--set", "select=false", "--out", tmp_path / "run", "--format", "json"
    )
    assert code == 0, err
    spec = resolve(str(tmp_path / "run"), Access(tmp_path / "cache", offline=True), DigestMemory())
    assert spec.architecture.final_norm == ("fc_norm" if file.startswith("mae") else "norm")
    assert (
        spec.license
        == resolve(str(parity.folder / file), Access(tmp_path / "cache", offline=True), DigestMemory()).license
    )
    assert len(json.loads(stdout)["rows"]) == 12


# ---- choosing on held-out images


def test_the_best_weights_of_the_search_are_kept_where_nothing_is_trained_anew(fewvit, tune, place, tmp_path):
    """The bundle classifies the held-out images as the search saw it: their share is the one that was chosen by."""
    out = tmp_path / "run"
    code, result, err = tune(out, "--set", "refit=false", "--set", "lr=0.03", "--mode", "norm", "--epochs", 6)
    assert code == 0, err
    train = open_dataset(str(place / "images/train"))
    [split] = n_per_class(train.labels, train.classes, [5], 1, 0)
    held = split.train[stratified_folds(train.labels[split.train], 5, 0) == 0]
    assert len(held) == 3
    code, stdout, err = fewvit(
        "predict", out / "classifier.bundle", place / "images/train", "--threshold", 0, "--format", "csv"
    )
    assert code == 0, err
    said = {row["id"]: row["label"] for row in csv.DictReader(io.StringIO(stdout))}
    right = 100 * np.mean([said[train.ids[row]] == train.classes[train.labels[row]] for row in held])
    outcome = json.loads((out / "search/0/outcome.json").read_text())
    assert right == pytest.approx(outcome["held_top1"]) == pytest.approx(result["run"]["chosen"]["held_out_top1"])
    best = max(outcome["curve"], key=lambda e: (e["held_top1"], -e["held_loss"], -e["epoch"]))
    assert result["run"]["chosen"]["epochs"] == outcome["epochs"] == best["epoch"]


def test_the_learning_rate_with_the_best_held_out_images_trains_all_of_them_as_long_as_it_should(tune, tmp_path):
    out = tmp_path / "run"
    code, result, err = tune(out, "--epochs", 4, "--mode", "bias")
    assert code == 0, err
    outcomes = [json.loads((out / f"search/{i}/outcome.json").read_text()) for i in range(3)]
    assert len({outcome["lr"] for outcome in outcomes}) == 3
    best = max(outcomes, key=lambda o: (o["held_top1"], -o["held_loss"], -o["lr"]))
    chosen = result["run"]["chosen"]
    assert (chosen["lr"], chosen["epochs"]) == (best["lr"], best["epochs"])
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert records[-1]["epoch"] + 1 == best["epochs"]
    assert not list((out / "search").glob("*/checkpoints"))


def test_a_search_ends_when_it_has_not_got_better_for_so_many_epochs(tune, tmp_path):
    out = tmp_path / "run"
    code, _, err = tune(out, "--set", "lr=1e-30", "--set", "min_lr=0", "--set", "patience=2", "--epochs", 30)
    assert code == 0, err
    curve = json.loads((out / "search/0/outcome.json").read_text())["curve"]
    assert len(curve) == 3  # the first is the best; two more were no better


def test_one_labelled_image_per_class_is_said_and_takes_the_fixed_defaults(tune, tmp_path):
    code, result, err = tune(tmp_path / "run", "--shots", 1)
    assert code == 0, err
    assert "one labelled image per class: nothing can be held out" in err
    chosen = result["run"]["chosen"]
    assert chosen.pop("temperature") >= 1
    assert chosen == {"lr": 3e-4, "epochs": 2, "held_out_top1": None, "calibrated_on": 0}
    assert not (tmp_path / "run/search").exists()
    assert not (tmp_path / "run/calibration").exists()


def test_a_learning_rate_that_diverges_is_left_out_and_if_all_do_it_is_5(tune, tmp_path, monkeypatch):
    from fewvit.finetune import modes

    monkeypatch.setitem(modes._GRIDS, "last-block", (1e-4, 1e-4, 1e38))
    code, result, err = tune(tmp_path / "run", "--mode", "last-block", "--set", "warmup_epochs=0")
    assert code == 0, err
    assert "learning rate 1e+38 diverges" in err
    assert result["run"]["chosen"]["lr"] == 1e-4
    code, _, err = tune(tmp_path / "other", "--mode", "last-block", "--set", "lr=1e38", "--set", "warmup_epochs=0")
    assert code == 5
    assert "1e+38" in err


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "lorra"], "Did you mean lora"),
        (["--set", "rnk=3"], "Did you mean rank"),
        (["--set", "rank=three"], "is not a whole number"),
        (["--set", "lr=-1"], "--set lr=-1: above 0"),
        (["--set", "lr=0"], "--set lr=0: above 0"),
        (["--set", "lr=nan"], "--set lr=nan: not a finite number"),
        (["--set", "mixup=inf"], "--set mixup=inf: not a finite number"),
        (["--set", "weight_decay=-0.1"], "--set weight_decay=-0.1: 0 or more"),
        (["--set", "layer_decay=0"], "--set layer_decay=0: above 0"),
        (["--set", "patience=0"], "--set patience=0: at least 1"),
        (["--set", "rank=0"], "--set rank=0: at least 1"),
        (["--set", "targets=zzz"], "not layers"),
        (["--set", "targets=q+qkv"], "name either"),
        (
            ["--mode", "norm", "--set", "rank=4"],
            "--set rank=4: --mode norm has no such option; it goes with --mode lora",
        ),
        (["--max-bad", "some"], "--max-bad 'some'"),
        (["--precision", "fp16", "--device", "cpu"], "GPUs only"),
        (["--set", "mode=full"], "unknown option"),
        (["--set", "targets=qkv+up"], "targets"),
        (["--set", "crop=0"], "crop"),
        (["--set", "flip=2"], "flip"),
        (["--set", "blocks=3"], "2 blocks"),
        (["--set", "pool=fc_norm", "--set", "head=linear"], "--mode full"),
        (["--set", "pool=fc_norm", "--mode", "full"], "head=linear"),
        (["--set", "bias.rank=3"], "the mode is lora"),
        (["--epochs", "0"], "at least 1"),
        (["--shots", "0"], "from 1"),
        (["--shots", "1,2"], "one number of labelled images per class"),
        (["--out", ""], "--out is empty"),
        (["--trial", "-1"], "from 0"),
        (["--precision", "fp8"], "fp8"),
        (["--accumulate", "5"], "does not divide"),
        (["--backbone", "dino_vits16,dino_vitb16"], "several"),
        (["--backbone", "timm:resnet18", "--weights", "random"], "plain ViTs"),
    ],
)
def test_what_makes_no_sense_is_refused_with_2(tune, tmp_path, words, said):
    code, _, err = tune(tmp_path / "run", *words)
    assert code == 2, err
    assert said in err
    assert "frozen, top-1" not in err  # before anything is computed
    assert not (tmp_path / "run").exists()  # or written


def test_a_run_that_came_to_nothing_may_be_begun_with_other_arguments_unless_it_is_under_way(
    fewvit, tune, place, tmp_path, monkeypatch
):
    """Whoever corrects an argument after an early failure is not sent to another folder.

    Who forgot a run in another window is.
    """
    from fewvit import finetune
    from fewvit.errors import DataError

    out = tmp_path / "run"

    def fails(*_):
        (out / "search/1").mkdir(parents=True)
        (out / "search/1/log.jsonl").write_text('{"step": 1}\n')
        raise DataError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "frozen_rows", fails)
        assert tune(out, "--shots", 3)[0] == 3
    with RunFolder(out).in_use():
        code, _, err = tune(out, "--shots", 2)
        assert code == 2
        assert "shots: 3 -> 2" in err
    code, result, err = tune(out, "--shots", 2, "--set", "lr=1e-4")
    assert code == 0, err
    assert result["rows"][0]["shots"] == 2
    assert not (out / "search/1/log.jsonl").exists()  # of the attempt; this one has one learning rate
    assert tune(out, "--shots", 3)[0] == 2  # now there is something to lose


def test_test_images_that_changed_under_their_names_are_told_where_they_would_count(tune, place, tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(place / "images", images)
    code, _, err = tune(out, images=images)
    assert code == 0, err
    shutil.copyfile(images / "val/a/003.jpg", images / "val/b/004.jpg")
    code, _, err = tune(out, "--save-predictions", tmp_path / "p.csv", images=images)
    assert (code, "images of test are no longer what they were" in err) == (2, True), err
    assert not (tmp_path / "p.csv").exists()
    (out / "result.json").unlink()  # and of a run that goes on
    code, _, err = tune(out, images=images)
    assert (code, "images of test are no longer what they were" in err) == (2, True), err
    assert (out / "adapter.safetensors").exists()


@pytest.mark.parametrize("file", ["adapter.safetensors", "head.safetensors", "classifier.bundle"])
def test_a_finished_run_whose_files_are_damaged_or_gone_says_so(tune, tmp_path, file):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    content = bytearray((out / file).read_bytes())
    content[-2] ^= 1
    (out / file).write_bytes(content)
    code, _, err = tune(out, "--set", "select=false")
    assert (code, file in err, "damaged" in err, "--overwrite" in err) == (4, True, True, True), err
    (out / file).unlink()
    code, _, err = tune(out, "--set", "select=false")
    assert (code, file in err, "--overwrite" in err) == (4, True, True), err


def test_a_runs_classifier_goes_with_its_folder(fewvit, tune, place, tmp_path):
    """Moved it finds its backbone beside it; a copy uses its own and not the one it was made with."""
    out, moved, copy = tmp_path / "run", tmp_path / "elsewhere/moved", tmp_path / "copy"
    assert tune(out, "--set", "select=false")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    said = []
    shutil.copytree(out, copy)
    for folder in (out, moved, copy):
        if folder == moved:
            out.rename(moved)
        code, stdout, err = fewvit("predict", folder / "classifier.bundle", place / "images/val", "--format", "csv")
        assert code == 0, err
        said.append(stdout)
    assert said[0] == said[1] == said[2]
    content = bytearray((copy / "adapter.safetensors").read_bytes())
    content[-2] ^= 1
    (copy / "adapter.safetensors").write_bytes(content)
    code, _, err = fewvit("predict", copy / "classifier.bundle", place / "images/val")
    assert (code, str(copy) in err) == (4, True), err
    content = bytearray((copy / "classifier.bundle").read_bytes())
    content[-2] ^= 1
    (copy / "classifier.bundle").write_bytes(content)
    code, _, err = fewvit("predict", copy / "classifier.bundle", place / "images/val")
    assert (code, "--overwrite" in err, "fewvit fit" in err) == (4, True, False), err
    (copy / "classifier.bundle").unlink()
    code, _, err = fewvit("predict", copy / "classifier.bundle", place / "images/val")
    assert (code, "of this finished run is gone" in err, "fewvit fit" in err) == (3, True, False), err
    (copy / "result.json").unlink()
    code, _, err = fewvit("predict", copy / "classifier.bundle", place / "images/val")
    assert (code, "has not finished" in err, "fewvit fit" in err) == (3, True, False), err


@pytest.mark.parametrize("inside", ["train/run", "val/a/run", "train"])
def test_a_run_among_the_images_is_refused(tune, place, tmp_path, inside):
    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    code, _, err = tune(images / inside, images=images)
    assert code == 2, err
    assert not list(images.rglob("manifest.json"))
    assert (
        tune(images / "run", "--set", "select=false", images=images)[0] == 0
    )  # beside train/ and val/ it is in nobody's way


def test_images_that_cannot_be_decoded_are_counted_in_every_row_and_told_once(tune, place, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    (images / "val/b/004.jpg").write_bytes(b"")
    code, result, err = tune(tmp_path / "run", "--max-bad", 2, images=images)
    assert code == 0, err
    assert {(row["skipped"], row["n_test"]) for row in result["rows"]} == {(1, 28)}
    assert err.count("b/004.jpg") == 1


def test_a_run_stays_until_the_images_of_the_one_that_replaces_it_could_be_read(tune, place, tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(place / "images", images)
    assert tune(out, "--set", "select=false", images=images)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (images / "val/b/004.jpg").write_bytes(b"")
    code, _, err = tune(out, "--overwrite", "--set", "select=false", images=images)
    assert (code, "b/004.jpg" in err) == (3, True), err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    code, result, err = tune(out, "--overwrite", "--set", "select=false", "--max-bad", 1, images=images)
    assert code == 0, err
    assert result["rows"][0]["n_test"] == 28


def test_a_run_that_another_command_trains_is_neither_trained_twice_nor_removed(tune, tmp_path):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    (out / "result.json").unlink()  # as before its end
    with RunFolder(out).in_use():
        for words, said in (([], "cannot go on with it"), (["--overwrite"], "does not remove it")):
            code, _, err = tune(out, "--set", "select=false", *words)
            assert (code, "another command is training this run" in err, said in err) == (2, True, True), err
    assert (out / "adapter.safetensors").exists()
    assert tune(out, "--set", "select=false")[0] == 0  # and goes on when the other one has ended


def test_overwrite_removes_no_run_of_another_command_and_none_before_the_arguments_are_found_good(
    fewvit, tune, place, tmp_path
):
    out = tmp_path / "run"
    assert tune(out, "--set", "select=false")[0] == 0
    code, _, err = fewvit(
        "linear", "--backbone", place / "weights/tiny.pth", "--data", place / "images", "--out", out, "--overwrite"
    )
    assert (code, "is a run of `fewvit finetune`" in err, "delete it yourself" in err) == (2, True, True), err
    assert tune(out, "--overwrite", "--set", "rank=0")[0] == 2
    assert tune(out, "--overwrite", "--shots", 99)[0] == 3
    assert (out / "adapter.safetensors").exists()


def test_a_wrong_option_is_told_before_a_missing_folder(fewvit, place):
    for words, said in ((["--set", "rank=0"], "rank=0"), (["--shots", "1,2"], "--shots"), ([], "Give --out RUN")):
        code, _, err = fewvit("finetune", "--data", place / "images", *words)
        assert (code, said in err) == (2, True), err


def test_help_promises_neither_features_nor_several_backbones(fewvit):
    code, stdout, _ = fewvit("finetune", "--help")
    assert code == 0
    options = stdout.partition("Sources are")[0]
    assert ".npz" not in options
    assert "several with commas" not in options
    assert "always needed" in " ".join(options.split())


def test_a_class_with_too_few_images_is_named_and_kept_on_request(tune, tmp_path):
    code, _, err = tune(tmp_path / "run", "--shots", 7)
    assert code == 3
    assert "b (6)" in err
    code, result, err = tune(tmp_path / "run", "--shots", 7, "--allow-fewer", "--set", "select=false")
    assert code == 0, err
    assert result["rows"][0]["n_train"] == 20


def test_a_labelled_image_that_cannot_be_decoded_fails_unless_it_may_be_left_out(tune, place, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    (images / "train/b/002.jpg").write_bytes(b"no picture")
    code, _, err = tune(tmp_path / "run", "--shots", 6, images=images)
    assert code == 3
    assert "002.jpg" in err
    code, result, err = tune(tmp_path / "other", "--shots", 6, "--max-bad", 1, "--set", "select=false", images=images)
    assert code == 0, err
    assert {row["n_train"] for row in result["rows"]} == {17}


def test_the_modes_are_listed(fewvit):
    code, stdout, _ = fewvit("finetune", "--mode", "list", "--format", "json")
    assert code == 0
    assert [row["mode"] for row in json.loads(stdout)["rows"]] == ["lora", "last-block", "full", "bias", "norm"]


def test_out_of_memory_is_6_with_a_batch_size_to_try(tune, tmp_path, monkeypatch):
    from fewvit.methods._trunk import Trunk

    def without_room(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(Trunk, "through", without_room)
    code, _, err = tune(tmp_path / "run", "--set", "select=false", "-b", 6)
    assert code == 6
    assert "--batch-size 3" in err


# ---- how it is carried out


@pytest.mark.slow
def test_parts_of_a_batch_and_recomputed_blocks_come_to_the_same_adapter(tune, tmp_path):
    words = ["--set", "select=false", "--set", "lr=0.01", "-b", 6, "--set", "mixup=0.8"]
    found = {}
    for name, more in {"plain": (), "parts": ("--accumulate", 2), "recomputed": ("--checkpoint-activations",)}.items():
        code, _, err = tune(tmp_path / name, *words, *more)
        assert code == 0, err
        found[name] = load_file(tmp_path / name / "adapter.safetensors")
    for name in ("parts", "recomputed"):
        for key, tensor in found["plain"].items():
            torch.testing.assert_close(found[name][key], tensor, atol=1e-4, rtol=1e-3, msg=f"{name} {key}")
    assert max(float(t.abs().max()) for k, t in found["plain"].items() if k.endswith("lora_b")) > 0.01


def test_bf16_trains_nearly_as_fp32(tune, tmp_path):
    heads = []
    for precision in ("fp32", "bf16"):
        code, _, err = tune(
            tmp_path / precision,
            "--set",
            "select=false",
            "--precision",
            precision,
            "--set",
            "lr=0.01",
            "--mode",
            "last-block",
        )
        assert code == 0, err
        heads.append(load_file(tmp_path / precision / "head.safetensors")["weight"])
    assert not torch.equal(*heads)
    torch.testing.assert_close(heads[0], heads[1], atol=0.03, rtol=0.1)


@pytest.mark.parametrize(
    ("one", "other", "images", "told"), [(23.0, 25.0, 60, True), (23.0, 25.0, 10_000, False), (25.0, 25.0, 60, False)]
)
def test_a_difference_that_chance_may_give_is_called_so(one, other, images, told):
    from fewvit.finetune.evaluation import _verdict

    rows = [
        {"method": method, "metric": "top1", "value": value, "n_test": images}
        for method, value in (("logistic", other), ("lora", one))
    ]
    verdict = _verdict(rows[:1], rows[1:])
    assert (f"on {images} test images so much may be chance" in verdict["verdict"]) == told
    assert verdict["gain"] == one - other


def test_the_bound_of_chance_is_two_deviations_of_a_difference():
    from fewvit.finetune.evaluation import _by_chance

    draw = np.random.default_rng(0).binomial(400, 0.3, size=(2, 20_000)) / 4
    assert (np.abs(draw[0] - draw[1]) > _by_chance(30, 30, 400)).mean() == pytest.approx(0.05, abs=0.01)
