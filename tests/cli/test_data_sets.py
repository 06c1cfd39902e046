"""`fewvit data list`, `fetch` and `check NAME DIR`, and public sets as sources of commands."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from made_sets import cifar10, flowers, png, real_json, val_name, vtab, write

from fewvit.public_sets import public_sets
from fewvit.public_sets._imagenet import synsets

from made_images import tiny_weights

NAMES = ["zebra", "ant", "mole", "bat", "cow"]


def test_the_list_has_every_set(fewvit):
    code, out, err = fewvit("data", "list", "--format", "json")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["rows"]] == [name for name, _ in public_sets()]


@pytest.mark.parametrize("name", [name for name, _ in public_sets()])
def test_fetch_tells_home_licence_and_layout_and_asks_no_network(name, fewvit, no_sockets):
    code, out, err = fewvit("data", "fetch", name, "--format", "json")
    assert code == 0, err
    [facts] = json.loads(out)["rows"]
    assert facts["from"].startswith("https://")
    assert facts["licence"]
    assert any("DIR" in line for line in facts["layout"])
    assert facts["source"].startswith(f"{name}:DIR")
    assert "nothing was downloaded" in err
    code, out, _ = fewvit("data", "fetch", name)
    assert f"fewvit data check {name} DIR" in " ".join(out.split())


def test_an_unknown_set_is_told_the_nearest_ones(fewvit, tmp_path):
    for words in (("fetch", "cifar"), ("check", "cifar", tmp_path)):
        code, _, err = fewvit("data", *words)
        assert (code, "Did you mean cifar10, cifar100?" in err) == (2, True), err


def test_a_check_counts_names_what_is_missing_and_ends_with_3(fewvit, tmp_path):
    root = flowers(tmp_path, [3, 7, 102], {"trnid": [1, 2], "valid": [3], "tstid": [3]})
    os.remove(tmp_path / "jpg/image_00003.jpg")
    code, out, err = fewvit("data", "check", "flowers102", root, "--format", "json")
    assert code == 3
    rows = {row["what"]: row for row in json.loads(out)["rows"]}
    assert rows["train"] == {
        "what": "train",
        "state": "other than published",
        "images": 2,
        "published_images": 1020,
        "classes": 2,
        "published_classes": 102,
    }
    assert rows["val"]["state"] == rows["test"]["state"] == "missing"
    lines = err.splitlines()
    assert "train: 2 images, published are 1020" in lines
    assert "train: 2 classes, published are 102" in lines
    [missing] = [line for line in lines if line.startswith("test: ")]
    assert "1 of its 1 image is not there: image_00003.jpg" in missing
    data = (tmp_path / "setid.mat").read_bytes()
    assert rows["setid.mat"]["sha256"] == hashlib.sha256(data).hexdigest()
    md5 = hashlib.md5(data).hexdigest()
    assert (
        f"setid.mat: its MD5 is {md5}, that of the published file a5357ecc9cb78c4bef273ce3793fc85c" in lines
    )  # a list of another version, with both digests


def test_a_digest_that_is_not_known_is_called_so(fewvit, tmp_path):
    files: dict[str, bytes | str] = {f"val/{val_name(n)}": b"never opened" for n in range(1, 8)}
    root = write(tmp_path, {**files, "real.json": real_json({n: [n] for n in range(1, 8)})})
    code, out, err = fewvit("data", "check", "imagenet-real", root, "--format", "csv")
    assert code == 3
    assert "val: 7 images, published are 46837" in err
    assert "real.json,unknown" in out


def test_folders_of_the_published_size_end_with_0(fewvit, tmp_path):
    wnids = synsets("imagenet_a")
    each = [38 if place < 100 else 37 for place in range(200)]  # 7500 in all
    root = tmp_path / "a"
    for wnid, count in zip(wnids, each, strict=True):
        (root / wnid).mkdir(parents=True)
        for n in range(count):
            (root / wnid / f"{n}.jpg").touch()
    code, out, err = fewvit("data", "check", "imagenet-a", root, "--format", "csv")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "test,as published,7500,7500,200,200"


def test_a_check_of_vtab_names_the_sets_that_are_missing_one_a_line(fewvit, tmp_path):
    vtab(tmp_path, "cifar", {"train800": [3], "val200": [7], "test": [3, 11]})
    code, _, err = fewvit("data", "check", "vtab", tmp_path)
    assert code == 3
    assert "cifar@test: 2 images, published are 10000" in err.splitlines()
    assert err.count(": no such folder") == 18
    code, _, err = fewvit("data", "check", "vtab", tmp_path / "nowhere")
    assert (code, "no such folder" in err) == (3, True)


def test_a_command_learns_from_one_part_and_is_tested_on_the_other(fewvit, tmp_path):
    root = cifar10(tmp_path / "data", NAMES)
    words = ("knn", "-m", tiny_weights(tmp_path / "tiny.pth"), "--img-size", 32, "--k", 1, "--format", "json")
    code, out, err = fewvit(*words, "--data", f"cifar10:{root}")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {(row["dataset"], row["n_train"], row["n_test"]) for row in rows} == {("cifar10", 10, 3)}
    assert [row["value"] for row in rows if row["metric"] == "top1"] == [100.0]  # every colour was seen
    code, again, err = fewvit(*words, "--train", f"cifar10:{root}@train", "--test", f"cifar10:{root}@test")
    assert code == 0, err
    assert json.loads(again)["rows"] == rows


def test_real_and_masked_sets_are_marked_by_knn_lowshot_and_linear_alike(fewvit, tmp_path):
    """Training images of three colours; three ReaL images of these colours, whose lists hold another class first."""
    order = synsets()
    classes = [3, 7, 900]
    train = write(tmp_path / "train", {f"{order[k]}/{n}.png": png(k, 16) for k in classes for n in range(3)})
    lists = {1: [7, 3], 2: [900, 7], 3: [3], 4: [900]}  # of images of colours 3, 7, 900, 900
    colours = {1: 3, 2: 7, 3: 900, 4: 900}
    write(tmp_path / "real", {f"val/{val_name(n)}": png(k, 16) for n, k in colours.items()})
    real = write(tmp_path / "real", {"real.json": real_json(lists)})
    words = ("-m", tiny_weights(tmp_path / "tiny.pth"), "--img-size", 32, "--format", "json")
    pair = ("--train", train, "--test", f"imagenet-real:{real}")
    for command in (("knn", "--k", 1), ("lowshot", "--shots", 2, "--classifier", "centroid", "--trials", 1)):
        code, out, err = fewvit(*command, *words, *pair)
        assert code == 0, err
        values = [row["value"] for row in json.loads(out)["rows"] if row["metric"] == "top1"]
        assert set(values) == {75.0}  # three of four predictions are in their lists
    for side, source in (("train", train), ("test", f"imagenet-real:{real}")):
        code, _, err = fewvit("extract", *words[:4], "--data", source, "--out", tmp_path / f"{side}.npz")
        assert code == 0, err
    code, out, err = fewvit(
        "knn", "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", "--k", 1, "--format", "json"
    )
    assert [row["value"] for row in json.loads(out)["rows"] if row["metric"] == "top1"] == [75.0], err
    with np.load(tmp_path / "test.npz") as arrays:
        assert arrays["accepted"].shape == (4, 2)
    code, out, err = fewvit(
        *("linear", "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", "--epochs", 40),
        *("--format", "json"),
    )
    assert code == 0, err
    assert [row["value"] for row in json.loads(out)["rows"] if row["metric"] == "top1"] == [75.0]
    code, _, err = fewvit("mieb", "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz")
    assert (code, "MIEB knows one label" in err) == (2, True), err


def test_a_check_of_a_published_set_refuses_what_belongs_to_images_and_writes_its_rows(fewvit, tmp_path):
    root = flowers(tmp_path / "f", [3, 7], {"trnid": [1], "valid": [2], "tstid": [2]})
    for words in (("--save-list", "l.csv"), ("--against", "x"), ("-m", "fewvit_tiny"), ("--out", tmp_path / "a.html")):
        code, _, err = fewvit("data", "check", "flowers102", root, *words)
        assert (code, "SRC without DIR" in err) == (2, True), err
    code, _, err = fewvit("data", "check", "flowers102", root, "--out", tmp_path / "rows.json")
    assert code == 3, err
    assert [row["what"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]][:2] == ["train", "val"]


def test_a_part_that_is_there_and_refused_is_not_called_missing(fewvit, tmp_path):
    root = flowers(tmp_path / "f", [3, 7], {"trnid": [1], "valid": [2], "tstid": [2]})
    (tmp_path / "f/setid.mat").write_bytes(b"MATLAB 5.0")
    code, out, err = fewvit("data", "check", "flowers102", root, "--format", "json")
    assert code == 3
    assert {row["state"] for row in json.loads(out)["rows"] if "." not in row["what"]} == {"refused"}
    assert "train: refused: " in err
    assert "not a readable .mat file" in err
