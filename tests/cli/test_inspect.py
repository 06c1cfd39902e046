"""`fewvit inspect` from outside: files, rows, what is told and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fewvit.backbones import Architecture
from fewvit.features import FeatureSet

from made_images import folder_of, tiny_weights

pytest.importorskip("matplotlib")
SMALL = Architecture(width=64, depth=3, heads=1, patch=16, grid=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "small.pth", SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("images"), {"cat": 3, "dog": 4})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def inspect(fewvit, weights, images):
    """Runs `fewvit inspect VERB …` on pictures of 64 x 80 pixels, 4 x 5 patches."""

    def run(verb, *words, data=images):
        model = () if "-m" in words else ("-m", weights)
        return fewvit("inspect", verb, *model, "--data", data, "--img-size", "64x80", *words)

    return run


# arrays of one number, or truth, per patch
MAPS = ("attention", "mask", "rollout", "last", "score", "foreground", "norms", "above")
VERBS = ("attention", "rollout", "pca", "norms")


@pytest.mark.parametrize("verb", VERBS)
def test_a_figure_is_a_picture_its_arrays_and_rows_of_a_result(verb, inspect, tmp_path):
    files = [tmp_path / f"figure{ending}" for ending in (".png", ".svg", ".npz")]
    outs = [word for path in files for word in ("--out", path)]
    code, out, err = inspect(verb, "--sample", 3, "--seed", 5, *outs, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert result["task"] == "inspect"
    assert result["run"]["figure"] == verb
    assert {"metric", "value", "backbone", "task"} <= set(result["rows"][0])
    assert all(f"wrote {path}" in err for path in files)
    assert "3 of 7 images" in err
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "picture" in re.findall(r"<text[^>]*>([^<]*)</text>", files[1].read_text())
    with np.load(files[2]) as arrays:
        assert arrays["pixels"].shape == (3, 64, 80, 3)
        assert {array.shape[-2:] for name, array in arrays.items() if name in MAPS} == {(4, 5)}
        named = [row["id"] for row in result["rows"] if "id" in row]
        assert list(dict.fromkeys(named)) in ([], arrays["ids"].tolist())
    before = [path.read_bytes() for path in files]
    assert inspect(verb, "--sample", 3, "--seed", 5, *outs)[0] == 0  # our own files may be replaced
    assert [path.read_bytes() for path in files] == before


def test_the_table_has_means_over_pictures_and_json_each_picture(inspect, tmp_path):
    words = ("attention", "--out", tmp_path / "a.npz")
    rows = json.loads(inspect(*words, "--sample", 7, "--format", "json")[1])["rows"]
    areas = [row["value"] for row in rows if row["metric"] == "mask_area"]
    table = [line.split() for line in inspect(*words, "--sample", 7)[1].splitlines()]
    assert len(areas) == 7
    assert len(table) == 3
    shown = dict(zip(table[0], table[1], strict=False))
    assert float(shown["value"]) == pytest.approx(np.mean(areas), abs=1e-3)


def test_stretched_pictures_show_the_whole_and_cropped_ones_the_middle(inspect, images, tmp_path):
    for fit in ("crop", "stretch"):
        assert inspect("attention", "--sample", 2, "--fit", fit, "--out", tmp_path / f"{fit}.npz")[0] == 0
    found = [np.load(tmp_path / f"{fit}.npz")["pixels"].astype(int) for fit in ("crop", "stretch")]
    assert np.abs(found[0] - found[1]).mean() > 3
    from PIL import Image

    name = np.load(tmp_path / "stretch.npz")["ids"][0]
    whole = np.asarray(Image.open(images / str(name)).resize((80, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found[1][0] - whole).mean() < 1


def test_one_image_is_a_source(inspect, images, tmp_path):
    code, _, err = inspect("pca", "--out", tmp_path / "a.png", data=images / "cat" / "000.jpg")
    assert code == 0, err
    assert "one picture has components of its own" in err


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("attention",), "no file to draw into"),
        (("attention", "--out", "a.jpg"), "no figure is written so"),
        (("attention", "--out", "a.png", "--block", "7"), "has 3 blocks, so give 1 to 3"),
        (("attention", "--out", "a.png", "--mass", "60"), "--mass 60"),
        (("attention", "--out", "a.png", "--query", "patch"), "--query 'patch'"),
        (("attention", "--out", "a.png", "--coloured", "1,2"), "--coloured 1,2"),
        (("attention", "--out", "a.png", "--img-size", "70"), "the nearest are 64 and 80"),
        (("attention", "--out", "a.png", "--fit", "pad"), "--fit 'pad'"),
        (("rollout", "--out", "a.png", "--discard", "1"), "--discard 1"),
        (("pca", "--out", "a.png", "--style", "dino"), "--style 'dino'"),
        (("norms", "--out", "a.png", "--cutoff", "0"), "--cutoff 0"),
        (("norms", "--out", "a.png", "-m", "dino_vits16,dino_vitb16", "--weights", "random"), "one backbone"),
        (("attention", "--out", "a.npz", "--out", "a.npz"), "twice names"),
    ],
)
def test_what_cannot_be_is_an_error_of_usage_in_words(words, told, inspect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = inspect(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert list(tmp_path.glob("a.*")) == []


def test_no_figure_replaces_a_file_that_is_none(inspect, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG of somebody else")
    np.savez(tmp_path / "numbers.npz", features=np.ones(3))
    for name in ("photo.png", "numbers.npz"):
        code, _, err = inspect("pca", "--out", tmp_path / name)
        assert code == 2
        assert "not a figure of fewvit" in err


def test_features_are_no_pictures(inspect, tmp_path):
    FeatureSet(np.ones((3, 5), np.float32), np.array([3, 7, 7]), ["a", "b", "c"], list("abcdefgh")).save(
        tmp_path / "f.npz"
    )
    code, _, err = inspect("norms", "--out", tmp_path / "a.png", data=tmp_path / "f.npz")
    assert code == 2
    assert "holds features" in err


def test_pictures_that_cannot_be_decoded_are_left_out_by_name_where_that_is_allowed(inspect, images, tmp_path):
    broken = folder_of(tmp_path / "some", {"cat": 3})
    (broken / "cat" / "001.jpg").write_bytes(b"no picture")
    assert inspect("norms", "--out", tmp_path / "a.npz", data=broken)[0] == 3
    code, out, err = inspect("norms", "--out", tmp_path / "a.npz", "--max-bad", 1, "--format", "json", data=broken)
    assert code == 0, err
    assert "skipped cat/001.jpg" in err
    assert json.loads(out)["run"]["skipped"] == 1
    assert np.load(tmp_path / "a.npz")["ids"].tolist() == ["cat/000.jpg", "cat/002.jpg"]


def test_help_lists_every_option_of_each_figure(fewvit):
    own = {
        "attention": ("--block", "--mass", "--query", "--coloured", "--fit"),
        "rollout": ("--block", "--mass", "--query", "--discard", "--fit"),
        "pca": ("--style", "--threshold", "--fit"),
        "norms": ("--block", "--cutoff", "--fit"),
    }
    for verb, flags in own.items():
        _, out, _ = fewvit("inspect", verb, "--help")
        for flag in (*flags, "--data", "--sample", "--seed", "--out", "--img-size", "--backbone", "--family"):
            assert flag in out, (verb, flag)
        assert "--pool" not in out  # what has no meaning here
