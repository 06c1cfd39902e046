"""What a real disk holds besides images: pipes, loops, links, odd names.

Nothing hangs, nothing is listed twice, nothing goes uncounted.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest

from fewvit.datasets import Listing, open_dataset
from fewvit.datasets import _listing as listing
from fewvit.errors import DataError

OUTSIDE = "link out of the folder; --follow-links follows it"
NEAR, FOLLOW = Listing(), Listing(follow_links=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders `hens` (2 images) and `oxen` (3), in a folder that has neighbours."""
    for name in ("hens/1.jpg", "hens/2.jpg", "oxen/1.jpg", "oxen/deep/2.jpg", "oxen/deep/3.jpg"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "root"


PLAIN = {
    "hens/1.jpg": "hens",
    "hens/2.jpg": "hens",
    "oxen/1.jpg": "oxen",
    "oxen/deep/2.jpg": "oxen",
    "oxen/deep/3.jpg": "oxen",
}


def listed(root: Path, how: Listing = NEAR) -> tuple[dict[str, str], dict[str, int]]:
    """id -> class, and what was left out; every id is read and must hold its own file."""
    dataset = open_dataset(str(root), how)
    for i, id_ in enumerate(dataset.ids):
        assert dataset.read(i) == (root / id_).read_bytes()
    return {id_: dataset.classes[k] for id_, k in zip(dataset.ids, dataset.labels, strict=True)}, dict(dataset.left_out)


def test_pipes_sockets_devices_and_folders_that_are_called_images_are_never_opened(root, monkeypatch):
    os.mkfifo(root / "hens" / "pipe.jpg")
    os.mkfifo(root / "pipe")
    (root / "oxen" / "folder.jpg").mkdir()
    (root / "oxen" / "folder.jpg" / "1.jpg").write_text("in a folder that is called an image")
    monkeypatch.chdir(root / "hens")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        os.symlink("/dev/zero", root / "hens" / "zero.jpg")
        os.symlink("pipe.jpg", root / "hens" / "link to pipe.jpg")
        start = time.perf_counter()
        assert listed(root) == (PLAIN, {"not a regular file": 5, OUTSIDE: 1})
        assert listed(root, FOLLOW) == (PLAIN, {"not a regular file": 6})
        assert time.perf_counter() - start < 1


def test_a_loop_of_links_lists_each_file_once_under_its_own_name(root):
    os.symlink(root, root / "hens" / "again")
    os.symlink("..", root / "oxen" / "deep" / "up")
    os.symlink("self.jpg", root / "hens" / "self.jpg")
    os.symlink("nowhere", root / "oxen" / "gone.jpg")
    for how in (NEAR, FOLLOW):
        assert listed(root, how) == (PLAIN, {"listed already": 2, "broken link": 2})


def test_a_link_never_renames_or_relabels_a_file(root):
    os.symlink("oxen", root / "a class that sorts first")
    os.symlink("../oxen/1.jpg", root / "hens" / "0.jpg")
    os.symlink("../../hens", root / "oxen" / "deep" / "hens")
    assert listed(root) == (PLAIN, {"listed already": 3})


def test_of_several_names_of_one_file_the_first_by_its_bytes_stays(root):
    names = [f"{letter}/0.jpg" for letter in "ygwbisdhpmz"]
    for name in names:  # in no order, so that the order on disk is not theirs
        (root / name).parent.mkdir()
        (root / name).parent.joinpath("own.jpg").write_text(name)
        os.link(root / "oxen" / "1.jpg", root / name)
    expected = {**PLAIN, **{f"{letter}/own.jpg": letter for letter in "ygwbisdhpmz"}, "b/0.jpg": "b"}
    del expected["oxen/1.jpg"]
    assert listed(root) == (expected, {"listed already": 11})


def test_links_are_followed_below_the_root_and_beyond_it_only_when_asked(root):
    outside = root.parent / "outside"
    (outside / "more").mkdir(parents=True)
    for name in ("1.jpg", "more/2.jpg"):
        (outside / name).write_text(f"outside {name}")
    os.symlink(outside, root / "yaks")
    os.symlink(outside / "1.jpg", root / "hens" / "3.jpg")
    os.symlink("/etc/hostname", root / "hens" / "hostname.jpg")
    (root / ".store").mkdir()
    (root / ".store" / "4.jpg").write_text("hidden, but linked to")
    os.symlink("../.store/4.jpg", root / "oxen" / "4.jpg")
    near = {**PLAIN, "oxen/4.jpg": "oxen"}
    assert listed(root) == (near, {"hidden": 1, OUTSIDE: 3})
    far = {**near, "hens/3.jpg": "hens", "yaks/more/2.jpg": "yaks"}
    if os.path.isfile("/etc/hostname"):
        far["hens/hostname.jpg"] = "hens"
    ids, left_out = listed(root, FOLLOW)
    assert ids == far
    assert left_out["listed already"] == 1  # outside/1.jpg is hens/3.jpg: of two links the first in order counts


def test_a_folder_beside_the_root_that_shares_its_beginning_is_outside(root):
    beside = root.parent / "root2"
    beside.mkdir()
    (beside / "1.jpg").write_text("beside")
    os.symlink(beside / "1.jpg", root / "hens" / "3.jpg")
    assert listed(root) == (PLAIN, {OUTSIDE: 1})


def test_the_root_may_be_a_link_itself(root):
    os.symlink(root, root.parent / "link")
    assert listed(root.parent / "link") == (PLAIN, {})


def test_hidden_and_system_files_are_left_out_and_counted(root):
    (root / "hens" / "Thumbs.db").touch()
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        (root / folder).mkdir()
        (root / folder / "1.jpg").touch()
    for name in ("._1.jpg", ".hidden.jpg", ".DS_Store"):
        (root / "oxen" / name).touch()
    assert listed(root) == (PLAIN, {"system file": 3, "hidden": 3})


ODD = [
    b"new\nline.jpg",
    b"tab\t.jpg",
    b'comma,"quote".jpg',
    b"<img onerror=alert(1)>.jpg",
    "🐔.jpg".encode(),
    b"-rf.jpg",
    b"latin_\xe9.jpg",
    b"a b .JPG",
]


def test_odd_names_survive_and_are_ordered_by_their_bytes(root):
    for name in ODD:
        Path(os.fsdecode(os.path.join(os.fsencode(root), b"hens", name))).write_bytes(name)
    ids, left_out = listed(root)
    assert left_out == {}
    odd = [id_ for id_ in ids if id_ not in PLAIN]
    assert [os.fsencode(id_) for id_ in odd] == sorted(b"hens/" + name for name in ODD)
    assert len(open_dataset(str(root)).digest) == 64  # it can be hashed too


def test_classes_that_differ_only_by_case_or_unicode_form_are_reported(tmp_path):
    names = ["A", "a", "\u00e9", "e\u0301", "E", "b"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_text(name)
    if len(os.listdir(tmp_path)) < len(names):
        pytest.skip("this file system does not tell such names apart")
    notes = open_dataset(str(tmp_path)).notes
    assert notes == [
        "classes 'A' and 'a' differ only by case or Unicode form",
        r"classes 'e\u0301' and '\xe9' differ only by case or Unicode form",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_stops_the_run_and_a_file_stops_nothing(root):
    os.chmod(root / "hens" / "1.jpg", 0)
    dataset = open_dataset(str(root))
    with pytest.raises(PermissionError):
        dataset.read(0)
    os.chmod(root / "oxen" / "deep", 0)
    try:
        with pytest.raises(DataError, match="deep"):
            open_dataset(str(root))
    finally:
        os.chmod(root / "oxen" / "deep", 0o700)


def test_an_error_while_listing_is_an_error_of_the_data_that_names_the_folder(root, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"deep: Permission denied while listing"):
        open_dataset(str(root))
