"""Public data sets whose files are damaged, contradict themselves or are no files: each is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from made_sets import cifar10, cifar_rows, flowers, jpeg, png, real_json, stl10, val_name, vtab, write

from fewvit.datasets import open_dataset
from fewvit.errors import DataError, FewvitError
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


# ---- no files, endless files, and numbers and pickles of no sense


def _flowers(root: Path) -> str:
    return flowers(root, [3, 7, 3], {"trnid": [1, 2], "valid": [3], "tstid": [3]})


def _mini(root: Path) -> str:
    return write(root, {"images/1.png": png(3), "train.csv": f"filename,label\n1.png,{ORDER[3]}\n"})


def _real(root: Path) -> str:
    return write(root, {f"val/{val_name(7)}": jpeg(3), "real.json": real_json({7: [3]})})


def _stl(root: Path) -> str:
    return stl10(root, NAMES, {"train": [0, 1, 2]})


def _cifar(root: Path) -> str:
    return cifar10(root, NAMES)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/proc/self/maps"])
@pytest.mark.parametrize(
    ("make", "source", "files"),
    [
        (_flowers, "flowers102:{}@train", ["imagelabels.mat", "setid.mat"]),
        (_mini, "mini-imagenet:{}@train", ["train.csv"]),
        (_real, "imagenet-real:{}", ["real.json"]),
        (
            _stl,
            "stl10:{}@train",
            [f"stl10_binary/{name}" for name in ("train_X.bin", "train_y.bin")],
        ),
        (_cifar, "cifar10:{}@train", [f"cifar-10-batches-py/{name}" for name in ("data_batch_3", "batches.meta")]),
    ],
)
def test_what_has_no_end_is_refused_unread(kind, make, source, files, tmp_path):
    root = make(tmp_path)
    for name in files:
        path, kept = tmp_path / name, (tmp_path / name).read_bytes()
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
        refused(source.format(root))
        path.unlink()
        path.write_bytes(kept)
    open_dataset(source.format(root))


def test_a_file_that_is_far_too_large_is_refused_unread(tmp_path):
    root = _real(tmp_path)
    with open(tmp_path / "real.json", "wb") as handle:
        handle.truncate(1 << 40)
    assert "more than 64 MiB" in refused(f"imagenet-real:{root}")


DIGITS = "9" * 5000


@pytest.mark.parametrize("text", [f"{val_name(7)} {DIGITS}\n", "\n".join([DIGITS] * 50_000)])
def test_a_number_of_5000_digits_is_no_label(text, tmp_path):
    root = flat(tmp_path, val_name(7))
    write(tmp_path, {"val.txt": text})
    assert "val.txt" in refused(f"imagenet:{root}@val")


def test_a_number_of_5000_digits_is_no_class_of_vtab(tmp_path):
    vtab(tmp_path, "cifar", {"train800": [3, 7], "val200": [7], "test": [3, 11]})
    write(tmp_path, {"cifar/test.txt": f"images/test/00_0.png {DIGITS}\n"})
    assert "test.txt: line 1" in refused(f"vtab:{tmp_path}/cifar@test")


def test_a_field_that_is_longer_than_a_csv_takes_is_refused(tmp_path):
    root = _mini(tmp_path)
    write(tmp_path, {"train.csv": f'filename,label\n"{"x" * 140_000}",{ORDER[3]}\n'})
    assert "train.csv: not a list" in refused(f"mini-imagenet:{root}@train")


ENDLESS: list[object] = [1]
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([[1, 2], [3]], ["a", "b"]),
        (ENDLESS, ["a", "b"]),
        (3, ["a", "b"]),
        ([True, 1], ["a", "b"]),
        ([2**70, 1], ["a", "b"]),
        ([0, 1], 3),
        ([0, 1], []),
        ([0, 1], ["a", "a"]),
        ([0, 1], [["a"], "b"]),
    ],
)
def test_labels_and_names_of_no_sense_are_refused_in_plain_words(labels, names, tmp_path):
    content = pickle.dumps({"data": cifar_rows([0, 1]), "labels": labels}, protocol=2)
    files = {f"data_batch_{n}": content for n in range(1, 6)}
    write(tmp_path / "cifar-10-batches-py", {**files, "batches.meta": pickle.dumps({"label_names": names}, protocol=2)})
    with pytest.raises(FewvitError) as caught:  # a number of 71 bits is a pickle that is refused: an IntegrityError
        open_dataset(f"cifar10:{tmp_path}@train")
    assert "cifar-10-batches-py" in str(caught.value)
    assert "to -1" not in str(caught.value)


def test_a_link_in_an_archive_that_leads_to_itself_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        member.type, member.linkname = tarfile.SYMTYPE, "batches.meta"
        tar.addfile(member, io.BytesIO())
    assert "batches.meta: is no file in the archive" in refused(f"cifar10:{tmp_path}@train")
