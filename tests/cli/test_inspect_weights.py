"""`fewvit inspect` of weights: files, results, options and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

COMMANDS = {
    "positions": ["--out", "--backbone", "--weights"],
    "filters": ["--components", "--out"],
    "distance": ["--data", "--sample", "--img-size"],
    "vit-paper": ["--data", "--sample"],
    "reconstruct": ["--mask-ratio", "--norm-pix", "--no-norm-pix", "--decoder-heads", "--seed"],
    "prototypes": ["--shown", "--only", "--nearest", "--checkpoint-key"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_lists_every_option(fewvit, verb):
    code, out, _ = fewvit("inspect", verb, "--help")
    assert code == 0
    assert all(option in out for option in COMMANDS[verb])


def test_a_figure_is_written_as_a_picture_and_as_arrays_and_told_in_numbers(fewvit, tmp_path):
    picture, arrays = tmp_path / "seven.png", tmp_path / "seven.npz"
    words = ["--backbone", "fewvit_tiny", "--data", "digits", "--sample", 3, "--out", picture, "--out", arrays]
    code, out, err = fewvit("inspect", "vit-paper", *words, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert result["task"] == "inspect"
    assert {row["part"] for row in result["rows"]} == {"filters", "positions", "distance"}
    assert result["run"]["images"] == 3
    with np.load(arrays) as saved:
        assert saved["distance/per_image"].shape == (3, 6, 3)
        told = [row["value"] for row in result["rows"] if row["metric"] == "attention_distance"]
        np.testing.assert_allclose(told, saved["distance/distance"].ravel(), atol=1e-3)
    with Image.open(picture) as opened:
        assert opened.width > 1000
    assert "3 of 1797 images" in err


def test_the_same_command_writes_the_same_bytes(fewvit, tmp_path):
    def made(name: str) -> bytes:
        assert fewvit("inspect", "positions", "-m", "fewvit_tiny", "-o", tmp_path / name)[0] == 0
        return (tmp_path / name).read_bytes()

    for ending in ("png", "svg", "npz"):
        assert made(f"a.{ending}") == made(f"b.{ending}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["positions", "-m", "fewvit_tiny"], "no file to draw into"),
        (["positions", "-m", "fewvit_tiny", "-o", "x.txt"], ".npz"),
        (["distance", "-m", "fewvit_tiny", "-o", "x.png"], "Give --data SRC"),
        (["reconstruct", "-m", "fewvit_tiny", "--data", "digits", "-o", "x.png"], "holds no decoder"),
        (["prototypes", "-m", "fewvit_tiny", "--data", "digits", "-o", "x.png"], "no prototypes"),
        (["prototypes", "-m", "fewvit_tiny", "--data", "digits", "--only", "a", "-o", "x.png"], "--only"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(fewvit, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fewvit("inspect", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert not list(tmp_path.iterdir())


def test_reconstruction_takes_the_decoders_own_size_where_none_is_given(fewvit, parity, tmp_path):
    file = parity.folder / "mae_full.pth"
    words = ["inspect", "reconstruct", "-m", file, "--data", "digits", "--sample", 2, "-o", tmp_path / "r.npz"]
    code, _, err = fewvit(*words, "--no-norm-pix")
    assert code == 0, err
    with np.load(tmp_path / "r.npz") as saved:
        assert saved["original"].shape == (2, 64, 64, 3)
        assert saved["hidden"].sum(axis=(1, 2)).tolist() == [12, 12]
    code, _, err = fewvit(*words, "--img-size", 128)
    assert code == 2
    assert "--img-size 64" in err
