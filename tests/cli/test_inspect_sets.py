"""`fewvit inspect neighbors`, `embed` and `quality`: options, files, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewvit.inspect.qualities import NOTES

from made_images import folder_of

TINY = ("-m", "fewvit_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("images"), {"three": 7, "seven": 12})


@pytest.fixture
def features(tmp_path):
    random = np.random.default_rng(1)
    np.savez(
        tmp_path / "f.npz", features=random.normal(size=(31, 7)).astype(np.float32), labels=np.arange(31) % 3,
        classes=["a", "b", "c"],
    )  # fmt: skip
    return tmp_path / "f.npz"


def rows(out: str) -> list[dict]:
    return json.loads(out)["rows"]


@pytest.mark.parametrize(
    ("verb", "own"),
    [
        ("neighbors", ("--k", "--sample", "--wrong-only", "--leave-one-out", "--train", "--test", "--seed", "--out")),
        ("embed", ("--method", "--data", "--out", "--seed")),
        ("quality", ("--sample", "--views", "--k", "--explain", "--layers", "--data", "--out")),
    ],
)
def test_help_lists_every_option(fewvit, verb, own):
    code, out, _ = fewvit("inspect", verb, "--help")
    assert code == 0
    assert all(name in out for name in own)


def test_a_gallery_writes_the_pictures_and_a_row_for_each_neighbour(fewvit, folder, tmp_path):
    words = ("inspect", "neighbors", "--data", folder, *TINY, "--leave-one-out", "--k", 3, "--sample", 5)
    files = ("-o", tmp_path / "g.png", "-o", tmp_path / "g.npz")
    code, out, err = fewvit(*words, *files, "--format", "json")
    assert code == 0, err
    assert "5 of 19 images with a label, picked by seed 0" in err
    found = rows(out)
    assert len(found) == 15
    assert all(row["right"] == (row["label"] == row["query_label"]) for row in found)
    assert all(row["id"] != row["query"] for row in found)
    with np.load(tmp_path / "g.npz") as arrays:
        assert arrays["right"].ravel().tolist() == [row["right"] for row in found]
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    _, table, _ = fewvit(*words, "-o", tmp_path / "g.npz")
    assert len(table.splitlines()) == 6  # a line for each query


def test_a_map_writes_a_page_that_may_be_replaced_by_another(fewvit, folder, tmp_path):
    words = ("inspect", "embed", "--data", folder, *TINY, "--method", "pca", "-o", tmp_path / "m.html")
    code, out, err = fewvit(*words, "--format", "json")
    assert code == 0, err
    first = (tmp_path / "m.html").read_bytes()
    assert [row["metric"] for row in rows(out)] == ["kept@10", "explained"]
    assert fewvit(*words)[0] == 0
    assert (tmp_path / "m.html").read_bytes() == first
    (tmp_path / "m.html").write_text("my notes")
    code, _, err = fewvit(*words)
    assert code == 2
    assert "would replace a file" in err


def test_features_make_a_map_without_pictures_and_no_gallery(fewvit, features, tmp_path):
    code, _, err = fewvit("inspect", "embed", "--data", features, "--method", "pca", "-o", tmp_path / "m.html")
    assert code == 0, err
    assert '"side":0' in (tmp_path / "m.html").read_text()
    gallery = ("inspect", "neighbors", "--data", features, "--leave-one-out", "-o", tmp_path / "g.png")
    code, _, err = fewvit(*gallery)
    assert code == 2
    assert "features were given" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("embed", "--method", "pca"), "no file to draw into"),
        (("embed", "--method", "tsme", "-o", "m.png"), "tsme"),
        (("embed", "--method", "pca", "-o", "m.pdf"), "m.pdf"),
        (("embed", "-m", "fewvit_tiny,dino_vits16", "--method", "pca", "-o", "m.html"), "one backbone"),
        (("embed", "--layers", "each", "-o", "m.png"), "--layers each is for"),
        (("neighbors", "-m", "fewvit_tiny,dino_vits16", "-o", "m.png"), "are several"),
        (("neighbors",), "no file to draw into"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(fewvit, features, words, told):
    code, out, err = fewvit("inspect", *words, "--data", features)
    assert (code, out) == (2, "")
    assert told in err


def test_quality_of_each_layer_comes_from_one_pass_and_nothing_is_chosen(fewvit, folder):
    words = ("inspect", "quality", "--data", folder, *TINY, "--sample", 4, "--views", 2, "--format", "json")
    code, out, err = fewvit(*words, "--layers", "each")
    assert code == 0, err
    assert "nothing is chosen here" in err
    found = rows(out)
    layers = sorted({row["layer"] for row in found})
    assert layers == list(range(1, len(layers) + 1))
    assert len(layers) > 1
    assert len(found) == len(NOTES) * len(layers)
    last = {row["metric"]: row["value"] for row in found if row["layer"] == layers[-1]}
    code, out, err = fewvit(*words)
    assert "nothing is chosen" not in err
    alone = {row["metric"]: row["value"] for row in rows(out)}
    assert alone == pytest.approx(last, rel=1e-4)


def test_quality_explains_each_measure_and_says_what_features_cannot_show(fewvit, features):
    code, out, err = fewvit("inspect", "quality", "--data", features, "--explain")
    assert code == 0
    assert "views of the images is not measured" in err.replace("\n", " ")
    metrics = [line.split()[3] for line in out.splitlines()[1:]]
    assert NOTES["rankme"] in err
    assert NOTES["lidar"] not in err
    assert len(metrics) == 4
