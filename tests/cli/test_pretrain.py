"""`fewvit pretrain` and what becomes of its runs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fewvit.plugins import find
from fewvit.runs.folder import RunFolder

from made_images import folder_of, jpeg


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("images"), {"a": 7, "b": 6})


@pytest.fixture(autouse=True)
def smallest(monkeypatch, tmp_path):
    """A recipe of each method that is small enough for a test."""
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    for method in ("dino", "msn", "mae"):
        kind = find("methods", method)
        small = kind.presets["small/32"]
        architecture = dataclasses.replace(small.architecture, width=64, depth=2, heads=1)
        monkeypatch.setattr(
            kind, "presets", {**kind.presets, "test/tiny": dataclasses.replace(small, architecture=architecture)}
        )


def pretrain(fewvit, method, images, out, *more):
    return fewvit(
        "pretrain", method, "--data", images, "--preset", "test/tiny", "--epochs", 2, "-b", 4, "--out", out, *more
    )


@pytest.mark.parametrize("method", ["dino", "msn", "mae"])
def test_a_run_folder_is_a_backbone_for_every_other_command(fewvit, method, images, tmp_path):
    out = tmp_path / "runs/mine"
    code, stdout, err = pretrain(fewvit, method, images, out, "--format", "json")
    assert code == 0, err
    rows = json.loads(stdout)["rows"]
    assert {row["metric"] for row in rows} == {"loss", "feature_std", "rankme"}
    assert all(row["method"] == method for row in rows)
    code, stdout, err = fewvit("extract", "--backbone", out, "--data", images, "--out", tmp_path / "f.npz")
    assert code == 0, err
    with np.load(tmp_path / "f.npz") as file:
        assert file["features"].shape == (13, 64)
    code, stdout, err = fewvit(
        "knn", "--backbone", out, "--train", images, "--leave-one-out", "--k", 3, "--format", "json"
    )
    assert code == 0, err
    assert json.loads(stdout)["rows"][0]["backbone"] == "mine"


def test_an_encoder_that_was_changed_or_deleted_after_the_run_is_4(fewvit, images, tmp_path):
    from safetensors.torch import load_file, save_file

    out = tmp_path / "run"
    assert pretrain(fewvit, "mae", images, out)[0] == 0
    encoder = out / "encoder.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(encoder).items()}, encoder)
    extract = ("extract", "--backbone", out, "--data", images, "--out", tmp_path / "f.npz")
    code, _, err = fewvit(*extract)
    assert (code, "encoder.safetensors: the sha256 is" in err, "--overwrite" in err) == (4, True, True), err
    encoder.unlink()
    for code, _, err in (fewvit(*extract), pretrain(fewvit, "mae", images, out)):
        assert (code, "not there any more" in err, "--overwrite" in err) == (4, True, True), err


@pytest.mark.parametrize("method", ["dino", "msn", "mae"])
def test_the_exported_official_file_gives_the_features_of_the_run(fewvit, method, images, tmp_path):
    out = tmp_path / "run"
    assert pretrain(fewvit, method, images, out)[0] == 0
    code, _, err = fewvit("backbones", "export", out, "--out", tmp_path / "official.pth")
    assert code == 0, err
    found = []
    for name, source in (("run", out), ("file", tmp_path / "official.pth")):
        code, _, err = fewvit(
            "extract",
            "--backbone",
            source,
            "--data",
            images,
            "--img-size",
            32,
            "--decode",
            "pil",
            "--out",
            tmp_path / f"{name}.npz",
        )
        assert code == 0, err
        with np.load(tmp_path / f"{name}.npz") as file:
            found.append(file["features"])
    # the file's protocol resizes to 36 pixels first, the run's shows whole images: so compare the networks, not the
    # pixels
    assert found[0].shape == found[1].shape
    import torch

    from fewvit import load_backbone

    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run, file = (
        load_backbone(str(s), device="cpu", img_size=32, engine="eager") for s in (out, tmp_path / "official.pth")
    )
    torch.testing.assert_close(run.encode(pixels), file.encode(pixels))


def test_init_goes_on_from_another_runs_encoder(fewvit, images, tmp_path):
    from safetensors.torch import load_file

    assert pretrain(fewvit, "mae", images, tmp_path / "first")[0] == 0
    code, _, err = pretrain(
        fewvit,
        "dino",
        images,
        tmp_path / "second",
        "--init",
        tmp_path / "first",
        "--set",
        "lr=1e-30",
        "--set",
        "min_lr=0",
    )
    assert code == 0, err
    first, second = (load_file(tmp_path / name / "encoder.safetensors") for name in ("first", "second"))
    assert all(
        (first[name] - second[name]).abs().max() < 1e-20 for name in first
    )  # at this learning rate nothing moves


def test_a_monitor_that_has_every_training_image_leaves_nothing_to_train_on(fewvit, images, tmp_path):
    code, _, err = pretrain(fewvit, "mae", images, tmp_path / "run", "--monitor", images)
    assert (code, "nothing is left to train on" in err) == (3, True), err


def test_the_monitor_judges_by_images_that_are_never_trained_on(fewvit, images, tmp_path):
    inside = tmp_path / "inside"
    folder_of(inside, {"a": 3, "b": 4})  # the first of the training images, under other names
    code, stdout, err = pretrain(fewvit, "mae", images, tmp_path / "run", "--monitor", inside, "--format", "json")
    assert code == 0, err
    assert "are the monitor's too and are not trained on" in err
    result = json.loads(stdout)
    trained_on = {row["n_train"] for row in result["rows"]}
    assert trained_on == {13 - int(err.split(" of 13 images")[0].split()[-1])}
    assert any(row["metric"] == "top1" for row in result["rows"])


def test_the_start_is_judged_as_the_end_is_and_the_run_says_whether_it_gained(fewvit, images, tmp_path):
    """The oracle: `fewvit knn --leave-one-out` on the weights gone on from, and a run that moves none of them."""
    judges = folder_of(tmp_path / "judges", {"a": 13, "b": 17}, first_seed=900)
    assert pretrain(fewvit, "mae", images, tmp_path / "first", "--set", "lr=0.1")[0] == 0
    still = ("--init", tmp_path / "first", "--set", "lr=1e-30", "--set", "min_lr=0", "--monitor", judges)
    code, stdout, err = pretrain(fewvit, "mae", images, tmp_path / "still", *still, "--format", "json")
    assert code == 0, err
    result = json.loads(stdout)
    top1, gain = ([row for row in result["rows"] if row["metric"] == name] for name in ("top1", "top1_gain"))
    of_monitor = {"k": 20, "n_test": 30, "monitor": "judges", "n_train": 13}
    assert [{name: row[name] for name in of_monitor} for row in (*top1, *gain)] == [of_monitor] * 2
    log = [json.loads(line) for line in (tmp_path / "still/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "knn_top1" in line] == [0, 3, 6]
    assert log[0]["step"] == 0
    assert top1[0]["value"] == top1[0]["start"] == log[0]["knn_top1"]
    assert gain[0]["value"] == 0
    low, high = gain[0]["ci95"]
    assert low == pytest.approx(-high)
    assert high == pytest.approx(100 * 1.959964 / 32)
    assert result["run"]["verdict"].startswith("neither gained nor lost for certain: ")
    assert result["run"]["verdict"] in err
    knn = ("knn", "--backbone", tmp_path / "first", "--train", judges, "--leave-one-out", "--k", 20, "--pool", "mean")
    rows = json.loads(fewvit(*knn, "--format", "json")[1])["rows"]
    assert next(row["value"] for row in rows if row["metric"] == "top1") == pytest.approx(log[0]["knn_top1"])


def test_going_on_with_few_images_takes_the_epochs_that_its_minutes_have_room_for(
    fewvit, images, tmp_path, monkeypatch
):
    """Measured once: the run keeps its epochs, whatever the pace is when it is called again."""
    from fewvit.pretrain import budget

    assert pretrain(fewvit, "mae", images, tmp_path / "first")[0] == 0
    paces = [13 * 3.5 / 600, None]  # images a second: three and a half epochs of 13 images in ten minutes

    def pace(*given):
        return paces.pop(0)

    monkeypatch.setattr(budget, "_pace", pace)
    out = tmp_path / "second"
    words = ("pretrain", "mae", "--data", images, "--preset", "test/tiny", "-b", 4, "--init", tmp_path / "first")
    code, stdout, err = fewvit(*words, "--out", out, "--format", "json")
    assert code == 0, err
    assert err.startswith("3 of test/tiny's 100 epochs: about 8.6 minutes at 0.0758 images/s, of a budget of 10; ")
    result = json.loads(stdout)["run"]
    assert (result["epochs"], result["steps"]) == (3, 9)
    again, stdout, err = fewvit(*words, "--out", out, "--format", "json")
    assert (again, json.loads(stdout)["run"]["epochs"], "budget" in err, len(paces)) == (0, 3, False, 1)
    code, _, err = fewvit(*words, "--out", out, "--minutes", 20)
    assert code == 2
    assert "minutes: 10.0 -> 20.0" in err
    code, stdout, err = fewvit(*words, "--epochs", 1, "--out", tmp_path / "third", "--format", "json")
    assert (code, json.loads(stdout)["run"]["epochs"], "budget" in err) == (0, 1, False)


def test_the_pace_is_measured_by_steps_of_the_run(fewvit, images, tmp_path):
    code, stdout, err = fewvit(
        "pretrain", "mae", "--data", images, "--preset", "test/tiny", "-b", 4, "--minutes", 1e-9,
        *("--out", tmp_path / "run", "--format", "json"),
    )  # fmt: skip
    assert code == 0, err
    assert err.startswith("1 of test/tiny's 100 epochs: about ")
    assert json.loads(stdout)["run"]["epochs"] == 1


def test_what_init_changes_of_a_preset_is_told_once(fewvit, images, tmp_path):
    words = ("--init", "fewvit_tiny")
    code, _, err = pretrain(fewvit, "dino", images, tmp_path / "run", *words)
    assert code == 0, err
    assert "--init fewvit_tiny changes what --preset test/tiny trains: width 192 (the preset's: 64)" in err
    assert "changes what" not in pretrain(fewvit, "dino", images, tmp_path / "run", *words)[2]
    assert "changes what" not in pretrain(fewvit, "dino", images, tmp_path / "scratch")[2]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("-b", 14), 3, "fewer than one batch"),
        (("--preset", "small/63"), 2, "small/64"),
        (("--set", "nonsense=1"), 2, "nonsense"),
        (("--set", "lr=high"), 2, "a number"),
        (("--set", "lr=nan"), 2, "--set lr=nan: not a finite number"),
        (("--set", "lr=-1"), 2, "--set lr=-1: above 0"),
        (("--set", "teacher_temperature=0"), 2, "--set teacher_temperature=0: above 0"),
        (("--set", "final_weight_decay=-0.1"), 2, "--set final_weight_decay=-0.1: 0 or more"),
        (("--set", "momentum_teacher=1.5"), 2, "--set momentum_teacher=1.5: a number from 0 to 1"),
        (("--max-bad", "some"), 2, "--max-bad 'some'"),
        (("--epochs", 0), 2, "at least 1"),
        (("--minutes", 3), 2, "--minutes and --epochs both say"),
        (("--accumulate", 3), 2, "does not divide"),
        (("--precision", "int8"), 2, "fp32, bf16"),
        (("--precision", "fp16"), 2, "GPUs only"),
        (("--init", "dino_vits17"), 2, "dino_vits16"),
        (("--monitor", "nowhere"), 3, "no such file"),
    ],
)
def test_a_wrong_argument_has_its_exit_code_and_says_what_to_do(fewvit, images, tmp_path, words, code, told):
    found, _, err = pretrain(fewvit, "dino", images, tmp_path / "run", *words)
    assert found == code, err
    assert told in err
    assert "Traceback" not in err
    assert code != 2 or not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["dino", "msn", "mae"])
def test_every_preset_is_within_the_bounds_of_set(method):
    from fewvit.runs.request import require_sensible

    for recipe in find("methods", method).presets.values():
        require_sensible(vars(recipe))


def test_overwrite_removes_no_run_of_another_command_and_none_before_the_arguments_are_found_good(
    fewvit, images, tmp_path
):
    out = tmp_path / "run"
    assert pretrain(fewvit, "mae", images, out)[0] == 0
    tuned = (
        "finetune",
        "--backbone",
        "fewvit_tiny",
        "--train",
        images,
        "--test",
        images,
        "--shots",
        2,
        "--out",
        out,
        "--overwrite",
    )
    for code, _, err in (
        fewvit(*tuned),
        fewvit("linear", "--train", images, "--test", images, "--out", out, "--overwrite"),
    ):
        assert (code, "is a run of `fewvit pretrain`" in err, "delete it yourself" in err) == (2, True, True), err
    for words in (("--set", "lr=-1"), ("--max-bad", "some"), ("--precision", "fp16")):
        assert pretrain(fewvit, "mae", images, out, "--overwrite", *words)[0] == 2
    with RunFolder(out).in_use():
        code, _, err = pretrain(fewvit, "dino", images, out, "--overwrite")
        assert (code, "another command is training this run" in err) == (2, True), err
    assert (out / "encoder.safetensors").exists()
    assert pretrain(fewvit, "dino", images, out, "--overwrite")[0] == 0


def test_images_that_changed_under_their_names_are_told_by_number_and_name_where_they_would_count(
    fewvit, images, tmp_path
):
    data, judges, out = tmp_path / "data", folder_of(tmp_path / "judges", {"a": 3, "b": 4}, 900), tmp_path / "run"
    shutil.copytree(images, data)
    words = ("--monitor", judges, "--format", "json")
    code, trained, err = pretrain(fewvit, "mae", data, out, *words)
    assert code == 0, err
    former = {
        place / name: (place / name).read_bytes() for place in (data, judges) for name in ("a/001.jpg", "b/002.jpg")
    }
    for place, side, images_of_it in ((data, "data", 13), (judges, "monitor", 7)):
        for name in ("a/001.jpg", "b/002.jpg"):
            (place / name).write_bytes(jpeg(77))
        assert pretrain(fewvit, "mae", data, out, *words)[:2] == (0, trained)  # what was found is told as ever
        (out / "result.json").rename(tmp_path / "result.json")  # as before its end
        code, _, err = pretrain(fewvit, "mae", data, out, *words)
        told = f"images of {side} are no longer what they were when this run was begun, under the same names: {side} "
        assert (code, f"{told}2 of {images_of_it} (a/001.jpg, b/002.jpg)" in err, "--overwrite" in err) == (
            2,
            True,
            True,
        ), err
        for file, content in former.items():
            file.write_bytes(content)  # other time stamps, the same pictures
        code, again, err = pretrain(fewvit, "mae", data, out, *words)
        assert (code, json.loads(again)["rows"]) == (0, json.loads(trained)["rows"]), err
        trained = again  # which took no step
    assert pretrain(fewvit, "mae", data, tmp_path / "other", *words)[0] == 0


def test_one_class_makes_no_monitor(fewvit, images, tmp_path):
    one = folder_of(tmp_path / "one", {"a": 4}, first_seed=70)
    code, _, err = pretrain(fewvit, "dino", images, tmp_path / "run", "--monitor", one)
    assert code == 3
    assert "two classes" in err


def test_images_that_cannot_be_decoded_are_an_error_or_left_out_with_their_names(fewvit, images, tmp_path):
    broken = folder_of(tmp_path / "broken", {"a": 7, "b": 6})
    (broken / "a/junk.jpg").write_bytes(b"\xff\xd8\xffjunk")
    code, _, err = pretrain(fewvit, "mae", broken, tmp_path / "run")
    assert code == 3
    assert "a/junk.jpg" in err
    code, stdout, err = pretrain(fewvit, "mae", broken, tmp_path / "other", "--max-bad", 1, "--format", "json")
    assert code == 0, err
    assert json.loads(stdout)["run"]["skipped"] == 1
    assert json.loads(stdout)["rows"][0]["n_train"] == 13


def test_images_that_are_all_the_same_are_refused(fewvit, tmp_path):
    folder = tmp_path / "same/a"
    folder.mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (40, 40), (3, 7, 11)).save(folder / f"{i}.png")
    code, _, err = pretrain(fewvit, "dino", tmp_path / "same", tmp_path / "run")
    assert code == 3
    assert "same image" in err


def test_a_folder_with_other_things_is_never_taken_for_a_run(fewvit, images, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    code, _, err = pretrain(fewvit, "dino", images, tmp_path / "thesis", "--overwrite")
    assert code == 2
    assert "other things" in err
    assert (tmp_path / "thesis/chapter.tex").exists()


def test_mae_draws_its_reconstructions(fewvit, images, tmp_path):
    assert pretrain(fewvit, "mae", images, tmp_path / "run")[0] == 0
    with Image.open(tmp_path / "run/reconstructions/epoch-0002.png") as image:
        assert image.size == (8 * 32, 3 * 32)
    assert (tmp_path / "run/curves.png").exists()


def test_the_recipe_of_the_bundled_backbone_is_taken_as_it_stands(fewvit, images, tmp_path):
    from pathlib import Path

    recipe = Path(__file__).resolve().parents[2] / "recipes/fewvit_tiny.toml"
    code, _, err = fewvit("pretrain", "mae", "--config", recipe, "--data", images, "--out", tmp_path / "run")
    assert code == 3
    assert "13 images are fewer than one batch of 64" in err  # the recipe's batch, not the preset's
    begun = json.loads((tmp_path / "run/manifest.json").read_text())["what"]
    assert (begun["recipe"]["lr"], begun["recipe"]["epochs"], begun["preset"]) == (0.004, 10, "small/64-d6")


def of_sizes(root, sizes):
    (root / "a").mkdir(parents=True)
    for seed, size in enumerate(sizes):
        (root / "a" / f"{seed}.jpg").write_bytes(jpeg(seed, size))
    return root


@pytest.fixture
def crops_of_64(monkeypatch):
    """The smallest recipe with larger crops; tiny ones of 32 pixels are there too."""
    kind = find("methods", "mae")
    tiny, view = kind.presets["test/tiny"], kind.presets["small/64"].views[0]
    larger = dataclasses.replace(tiny, architecture=dataclasses.replace(tiny.architecture, grid=16), views=(view,))
    monkeypatch.setattr(kind, "presets", {**kind.presets, "test/64": larger})
    return ("--preset", "test/64")


NOTE = "smaller than the 64 pixels of the largest crop"


def test_images_smaller_than_the_largest_crop_are_counted_once_and_a_fitting_preset_is_named(
    fewvit, crops_of_64, tmp_path
):
    images = of_sizes(tmp_path / "images", [(64, 90), (63, 90), (90, 40), (35, 35), (34, 50), (100, 33), (80, 70)])
    code, _, err = pretrain(fewvit, "mae", images, tmp_path / "run", *crops_of_64)
    assert code == 0, err
    [line] = [line for line in err.splitlines() if NOTE in line]
    assert line.startswith("5 of the 7 images looked at are")
    assert line.endswith("; --preset small/32 fits them better")
    for file in (tmp_path / "run/result.json", *(tmp_path / "run/checkpoints").iterdir()):
        file.unlink()
    code, _, err = pretrain(fewvit, "mae", images, tmp_path / "run", *crops_of_64)  # the same run, again
    assert code == 0, err
    assert NOTE not in err


def test_one_small_image_among_large_ones_asks_for_no_other_preset_and_large_ones_for_no_note(
    fewvit, crops_of_64, tmp_path
):
    one = of_sizes(tmp_path / "one", [(64, 64), (200, 200), (63, 64), (70, 70), (99, 65)])
    err = pretrain(fewvit, "mae", one, tmp_path / "first", *crops_of_64)[2]
    [line] = [line for line in err.splitlines() if NOTE in line]
    assert line.startswith("1 of the 5 images looked at is")
    assert "--preset" not in line
    none = of_sizes(tmp_path / "none", [(64, 64), (200, 200), (70, 70), (99, 65)])
    assert NOTE not in pretrain(fewvit, "mae", none, tmp_path / "second", *crops_of_64)[2]


def test_a_run_shorter_than_its_preset_warms_up_in_proportion():
    from fewvit.options import parse_setting
    from fewvit.pretrain.request import PretrainingRequest, recipe_of

    shorter = recipe_of(PretrainingRequest("dino", "small/64", "x", epochs=10))
    assert (shorter.warmup_epochs, shorter.warmup_teacher_temperature_epochs) == (1.0, 3)
    longer = recipe_of(PretrainingRequest("dino", "small/64", "x", epochs=300))
    assert longer.warmup_epochs == 10.0
    asked = recipe_of(
        PretrainingRequest("dino", "small/64", "x", settings=(parse_setting("warmup_epochs=4"),), epochs=10)
    )
    assert asked.warmup_epochs == 4.0


def test_tensorboard_gets_the_log(fewvit, images, tmp_path):
    pytest.importorskip("tensorboard")
    assert pretrain(fewvit, "mae", images, tmp_path / "run", "--tensorboard")[0] == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    [last] = [record["loss"] for record in logged if "loss" in record][-1:]
    assert events.Scalars("loss")[-1].value == pytest.approx(last, rel=1e-6)


def test_activation_checkpointing_changes_no_bit_and_accumulation_keeps_the_batch(fewvit, images, tmp_path):
    from safetensors.torch import load_file

    for name, words in {"plain": (), "again": ("--checkpoint-activations",), "parts": ("--accumulate", 2)}.items():
        assert pretrain(fewvit, "mae", images, tmp_path / name, *words)[0] == 0
    plain, again, parts = (load_file(tmp_path / name / "encoder.safetensors") for name in ("plain", "again", "parts"))
    for name, tensor in plain.items():
        assert (tensor == again[name]).all(), name
        np.testing.assert_allclose(tensor, parts[name], atol=2e-3)
