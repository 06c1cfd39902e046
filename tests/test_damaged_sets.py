"""Public data sets whose files are damaged, contradict themselves or are no files: each is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_sets import jpeg, png, real_json, val_name, vtab, write

from fewvit.datasets import open_dataset
from fewvit.errors import DataError
from fewvit.public_sets._imagenet import synsets

ORDER = synsets()
NAMES = ["zebra", "ant", "mole"]


def refused(source: str) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(source)
    return str(caught.value)


# ---- ImageNet's validation images


def flat(root: Path, *names: str) -> str:
    return write(root, {f"val/{name}": jpeg(3) for name in names})


def test_a_list_that_gives_an_image_two_classes_is_refused_by_its_name(tmp_path):
    root = flat(tmp_path, val_name(3), val_name(7))
    lines = [f"{val_name(3)} {ORDER[3]}", f"{val_name(7)} {ORDER[7]}", f"val/{val_name(3)} {ORDER[3]}"]
    write(tmp_path, {"val.txt": "\n".join(lines)})
    assert len(open_dataset(f"imagenet:{root}@val")) == 2  # twice the same says nothing new
    write(tmp_path, {"val.txt": "\n".join([*lines, f"{val_name(3)} {ORDER[11]}"])})
    assert f"gives 1 image two classes: {val_name(3)[:-5]}" in refused(f"imagenet:{root}@val")


@pytest.mark.parametrize("text", [f"{val_name(7)[:-5]} {ORDER[3]}\n", "\n".join([ORDER[3]] * 50_000)])
def test_an_image_that_is_there_twice_is_refused_by_every_list(text, tmp_path):
    root = flat(tmp_path, val_name(7), val_name(7).replace(".JPEG", ".png"))
    write(tmp_path, {"val.txt": text})
    assert "there twice" in refused(f"imagenet:{root}@val")
    write(tmp_path, {"real.json": real_json({7: [3]})})
    assert "there twice" in refused(f"imagenet-real:{root}")


@pytest.mark.parametrize("name", ["ILSVRC2012_val_000010009.JPEG", "ILSVRC2012_val_00001000 copy.JPEG"])
def test_the_number_in_a_name_ends_where_the_name_ends(name, tmp_path):
    root = flat(tmp_path, val_name(7), name)
    write(tmp_path, {"real.json": real_json({7: [3], 1000: [7]}), "val.txt": "\n".join([ORDER[3]] * 50_000)})
    assert "not called ILSVRC2012_val_00000001.JPEG or the like" in refused(f"imagenet-real:{root}")
    assert name in refused(f"imagenet:{root}@val")


def test_a_name_in_other_letters_is_the_same_name(tmp_path):
    root = flat(tmp_path, val_name(7).lower())
    write(tmp_path, {"real.json": real_json({7: [3]})})
    assert open_dataset(f"imagenet-real:{root}").labels.tolist() == [3]


def test_an_empty_folder_of_v2_is_refused_as_those_of_its_relatives(tmp_path):
    root = write(tmp_path, {f"{k}/0.png": b"x" for k in range(1000) if k != 7})
    (tmp_path / "7").mkdir()
    assert "1 class has no image: 7" in refused(f"imagenet-v2:{root}")


def test_a_source_without_its_folder_is_told_so(tmp_path):
    assert "no folder behind the colon" in refused("imagenet:")
    assert "no folder behind the colon" in refused("imagenet:@val")


# ---- VTAB and other lists


def test_a_set_of_vtab_whose_test_images_are_learnt_from_is_refused_by_every_command(tmp_path):
    vtab(tmp_path, "cifar", {"train800": [3, 7], "val200": [7], "test": [3, 11]})
    both = tmp_path / "cifar/train800val200.txt"
    test = tmp_path / "cifar/test.txt"
    test.write_text(test.read_text() + both.read_text())
    assert "test shares 3 images with train800val200" in refused(f"vtab:{tmp_path}/cifar@test")


def test_a_path_that_is_spelled_in_two_ways_stands_twice(tmp_path):
    root = write(tmp_path, {"images/banded/1.jpg": png(1), "labels/train1.txt": "banded/1.jpg\nbanded/./1.jpg\n"})
    assert "more than once" in refused(f"dtd:{root}@train1")
