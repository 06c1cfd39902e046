"""Weights files of others' making through the command line, each against its origin's own forward pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FAMILY = ("--family", "dino")
HALF = ("--mean", ".5,.5,.5", "--std", ".5,.5,.5")
PREFIXES = (
    "module orig_mod fsdp_wrapped dino_compiled teacher_alone model_state_dict net lightning_model_backbone encoder"
)
# file -> options that say what it leaves open, file of the origin's features
EQUAL = {
    "heads12_width384.pth": (("--heads", 12), "heads12_width384"),
    "heads12_width192.pth": (("--heads", 12), "heads12_width192"),
    "timm_headless_half_statistics.pth": (HALF, "timm_headless_half_statistics"),
    "mmpretrain.pth": (FAMILY, "mmpretrain"),
    **{f"prefix_{name}.pth": (FAMILY, f"prefix_{name}") for name in PREFIXES.split()},
    "two_trunks.ckpt": (("--checkpoint-key", "teacher_backbone"), "prefix_plain"),
    "two_trunks_momentum.ckpt": (("--checkpoint-key", "backbone"), "prefix_plain"),
}


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory) -> Path:
    script = shared / "cases/make.py"
    if not script.is_file():
        pytest.skip("the cases are not here: set FEWVIT_SHARED to a folder with cases/make.py in it")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def extract(fewvit, cases, tmp_path):
    """Extracts the cases' images with one of their files; gives exit code, stderr, and features if there are any."""

    def run(file: str, *options: object):
        out = tmp_path / "features.npz"
        out.unlink(missing_ok=True)
        words = ("extract", "--backbone", cases / "checkpoints" / file, "--data", cases / "images", "--out", out)
        code, _, told = fewvit(*words, "--decode", "pil", "--cache-dir", tmp_path / "cache", *options)
        return code, told, np.load(out)["features"] if out.exists() else None

    return run


@pytest.mark.parametrize("file", EQUAL)
def test_features_are_those_of_the_origins_own_forward_pass(file, extract, cases):
    options, right = EQUAL[file]
    code, told, features = extract(file, *options)
    assert code == 0
    assert sum("taken for" in line for line in told.splitlines()) == 1
    assert np.abs(features - np.load(cases / "checkpoints" / f"{right}.npy")).max() < 1e-4


@pytest.mark.parametrize("file", ["heads12_width384.pth", "heads12_width192.pth"])
def test_heads_that_nobody_told_are_said_to_be_assumed(file, extract):
    code, told, _ = extract(file)
    [line] = [line for line in told.splitlines() if "taken for" in line]
    assert code == 0
    assert "(assumed; --heads)" in line


@pytest.mark.parametrize("file", ["timm_headless_half_statistics.pth", "mmpretrain.pth", "prefix_encoder.pth"])
def test_statistics_that_nothing_shows_are_asked_for(file, extract):
    code, told, features = extract(file)
    assert (code, features) == (2, None)
    assert "mean and std are open" in told


def test_a_square_table_is_said_to_be_assumed_and_another_grid_changes_the_features(extract):
    code, told, square = extract("grid_7x28.pth", *FAMILY)
    assert code == 0
    assert "positions 14x14 (assumed from 196; --grid)" in told
    code, told, wide = extract("grid_7x28.pth", *FAMILY, "--grid", "7x28")
    assert code == 0
    assert "positions 7x28 (--grid)" in told
    assert np.abs(wide - square).max() > 1e-2


@pytest.mark.parametrize(("file", "first"), [("two_trunks.ckpt", "student"), ("two_trunks_momentum.ckpt", "momentum")])
def test_both_trunks_of_a_file_are_listed_with_the_words_that_choose(file, first, extract):
    code, told, _ = extract(file)
    assert code == 2
    assert f"--checkpoint-key {first}_backbone" in told
    assert told.count("--checkpoint-key") == 2


def test_i_jepas_file_is_known_by_its_keys(extract):
    code, told, _ = extract("ijepa_no_class_token.pth.tar")
    assert code == 4
    assert "has no class token: I-JEPA by its keys encoder and target_encoder" in told
    assert "msn" not in told


def test_a_file_that_lacks_a_tensor_is_called_incomplete_by_its_name(extract):
    code, told, _ = extract("one_tensor_missing.pth", *FAMILY)
    assert code == 4
    assert "incomplete" in told
    assert "blocks.1.attn.qkv.weight" in told
    assert "another architecture" not in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--heads", 7), "--heads 7 does not divide the width 384"),
        (("--heads", "many"), "--heads 'many'"),
        (("--grid", "7x29"), "--grid 7x29 is 203 positions, and the file's table has 196"),
        (("--std", "58,57,57"), "--std '58,57,57'"),
    ],
)
def test_what_contradicts_the_file_or_makes_no_sense_is_refused(options, words, extract):
    code, told, features = extract("heads12_width384.pth", *options)
    assert (code, features) == (2, None)
    assert words in told
