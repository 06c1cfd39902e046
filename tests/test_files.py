"""Replacing a file: a reader sees the old content or the new one, whatever happens to the writer."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
import time

import pytest

from fewvit import files
from fewvit.errors import DataError, ResourceError
from fewvit.files import (
    between_commas,
    locked,
    replacing,
    replacing_folder,
    require_file,
    require_writable,
    sha256_of,
    sweep,
    whole,
    write_json,
)

OLD, NEW = b"old content", b"new content, and longer"


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(OLD)
    return path


def alone(path) -> bool:
    """Whether nothing but the file is in its folder."""
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_new_content_appears_when_the_block_ends_and_not_before(target):
    with replacing(target) as handle:
        handle.write(NEW)
        handle.flush()
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert alone(target)


def test_folders_on_the_way_are_made(tmp_path):
    with replacing(tmp_path / "a" / "b" / "x.txt", "w") as handle:
        handle.write("ü\n")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "ü\n".encode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_leaves_the_old_content_alone(error, target):
    def fail(handle):
        handle.write(NEW)
        raise error

    with pytest.raises(error), replacing(target) as handle:
        fail(handle)
    assert target.read_bytes() == OLD
    assert alone(target)


def test_text_is_written_as_it_is_with_odd_file_names_and_line_ends(tmp_path):
    with replacing(tmp_path / "x.txt", "w") as handle:
        handle.write("b\udcff\r\nc\n")
    assert (tmp_path / "x.txt").read_bytes() == b"b\xff\r\nc\n"


def test_a_long_name_can_be_replaced(tmp_path):
    path = tmp_path / ("n" * 250)
    with replacing(path) as handle:
        handle.write(NEW)
    assert path.read_bytes() == NEW


def test_content_is_on_disk_before_the_name_and_the_name_before_the_block_ends(target, monkeypatch):
    seen = []
    monkeypatch.setattr(
        files.os, "fsync", lambda fd, real=os.fsync: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))
    )
    monkeypatch.setattr(files.os, "replace", lambda a, b, real=os.replace: (seen.append("renamed"), real(a, b)))
    with replacing(target) as handle:
        handle.write(NEW)
    assert seen[0].startswith(str(target.parent / ".x.bin."))
    assert seen[1:] == ["renamed", str(target.parent)]


def test_two_writers_at_once_leave_one_whole_content(target):
    with replacing(target) as one, replacing(target) as other:
        one.write(b"one")
        other.write(b"other")
    assert target.read_bytes() == b"one"  # the one that ended last
    assert alone(target)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_resource_error_that_names_the_file(number, target, monkeypatch):
    def full(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match=r"disk full while writing x\.bin") as error, replacing(target) as handle:
        handle.write(NEW)
    assert error.value.exit_code == 6
    assert str(target) in str(error.value)
    assert target.read_bytes() == OLD
    assert alone(target)


def test_a_target_that_cannot_be_replaced_is_a_data_error(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="while writing x"), replacing(tmp_path / "x") as handle:
        handle.write(NEW)
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(DataError), replacing(tmp_path / "file" / "x"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x"]


LIMITED = """
import resource, signal, sys
from fewvit.errors import ResourceError
from fewvit.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with replacing(sys.argv[1]) as handle:
        handle.write(bytes(9000))
except ResourceError as error:
    print(error.exit_code)
"""


def test_a_write_that_does_not_fit_leaves_the_old_content_and_no_litter(target, python):
    assert python(LIMITED, target).stdout.strip() == "6"
    assert target.read_bytes() == OLD
    assert alone(target)


KILLED = """
import os, signal, sys
from fewvit import files
where, path = sys.argv[1:]
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if where == "before the rename":
    files.os.replace = die
elif where == "after the rename":
    files.fsync_folder = die
with files.replacing(path) as handle:
    handle.write(b"new content, and longer")
    handle.flush()
    if where == "while writing":
        die()
"""


@pytest.mark.parametrize(
    ("where", "content"), [("while writing", OLD), ("before the rename", OLD), ("after the rename", NEW)]
)
def test_a_killed_writer_leaves_the_old_content_or_the_new_one_whole(where, content, target, python):
    assert python(KILLED, where, target, check=False).returncode == -9
    assert target.read_bytes() == content
    litter = [p for p in target.parent.iterdir() if p != target]
    assert len(litter) == (content == OLD)
    assert all(p.name.startswith(".x.bin.") and p.suffix == ".tmp" for p in litter)
    with replacing(target) as handle:  # and the next writer is not disturbed
        handle.write(b"next")
    assert target.read_bytes() == b"next"


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path, monkeypatch, error):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_bytes(OLD)
    rename = os.rename

    def second_fails(source, target):
        if str(source).endswith(".tmp"):
            raise error
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", second_fails)
    with pytest.raises((DataError, KeyboardInterrupt)), replacing_folder(tmp_path / "x") as new:
        (new / "a").write_bytes(NEW)
    assert (tmp_path / "x" / "a").read_bytes() == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_sweep_removes_what_killed_writers_left_long_ago_and_nothing_else(tmp_path):
    now = time.time()
    ages = {".x.bin.1.tmp": 101, ".x.bin.2.tmp": 99, "x.tmp": 10**6, ".hidden": 10**6, "x.bin": 10**6}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(OLD)
        os.utime(tmp_path / name, (now - age, now - age))
    assert sweep(tmp_path, 100, now) == 1
    assert {p.name for p in tmp_path.iterdir()} == set(ages) - {".x.bin.1.tmp"}
    assert sweep(tmp_path / "nowhere", 100, now) == 0


def test_json_comes_back_whole_sorted_and_with_odd_names_escaped(tmp_path):
    value = {"b": ["b\udcff", "ü", 3.5], "a": {"z": None, "y": True}}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_bytes()
    assert json.loads(text) == value
    assert text.decode("ascii").index('"a"') < text.decode("ascii").index('"b"')
    assert text.endswith(b"}\n")


def test_json_that_is_no_json_is_never_written(target):
    for value in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(target, value)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 7, (2 << 20) + 1])
def test_the_digest_of_a_file_is_sha256_of_all_its_bytes(size, tmp_path):
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data[:size]).hexdigest()


# ---- locks, and folders that can be written


def test_a_lock_keeps_others_waiting_until_its_block_ends(target):
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with locked(target):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with locked(target):
        inside.set()
        other.join(timeout=0.3)
        order.append("first")
    other.join(timeout=30)
    assert order == ["first", "second"]
    assert alone(target)


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(target, monkeypatch):
    """The file that a waiting process holds open may be gone: locking it would keep nobody away."""
    real, seen = fcntl.flock, []

    def flock(descriptor, how):
        if not seen:
            target.with_name(f".{target.name}.lock").unlink()
        seen.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(target):
        assert target.with_name(f".{target.name}.lock").exists()
    assert len(seen) == 2
    assert alone(target)


def test_a_lock_ends_with_an_error_and_one_that_a_dead_process_left_is_no_hindrance(target):
    target.with_name(f".{target.name}.lock").touch()
    with pytest.raises(KeyError), locked(target):
        raise KeyError
    with locked(target):
        pass
    assert alone(target)


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(errno.EACCES, DataError, 3), (errno.EROFS, DataError, 3), (errno.ENOSPC, ResourceError, 6)],
)
def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(number, kind, code, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(files.Path, "touch", refuse)
    with pytest.raises(kind, match="--cache-dir") as error:
        require_writable(tmp_path)
    assert error.value.exit_code == code
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_a_folder_below_a_file_cannot_be_written(target):
    with pytest.raises(DataError, match=r"x\.bin/cache: .*\n.*--cache-dir"):
        require_writable(target / "cache")


def test_a_path_with_commas_that_is_there_is_one_name_of_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("lr=0.1,wd=0.04/ckpt.pth", "a,b,c", "x,y"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for text, names in {
        "lr=0.1,wd=0.04/ckpt.pth": ["lr=0.1,wd=0.04/ckpt.pth"],
        "dino_vits16,lr=0.1,wd=0.04/ckpt.pth,x,y": ["dino_vits16", "lr=0.1,wd=0.04/ckpt.pth", "x,y"],
        "lr=0.1,wd=0.04,a,b,c": ["lr=0.1,wd=0.04", "a,b,c"],
        "a,b": ["a", "b"],
        ",x,,z,": ["x", "z"],
        f"{tmp_path}/x,y,{tmp_path}/a,b,c": [f"{tmp_path}/x,y", f"{tmp_path}/a,b,c"],
        "": [],
    }.items():
        assert between_commas(text) == names


def test_what_has_no_end_is_no_file_and_is_not_waited_for(tmp_path):
    (tmp_path / "file").write_bytes(b"7" * 70)
    assert whole(tmp_path / "file", 70) == b"7" * 70
    with pytest.raises(OSError, match="70 bytes, more than --max-bytes 69"):
        whole(tmp_path / "file", 69)
    os.mkfifo(tmp_path / "pipe")
    start = time.perf_counter()
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null", "/proc/self/environ", "/sys/kernel/mm/ksm/run"):
        if os.path.exists(path):
            with pytest.raises(OSError, match="not a regular file"):
                whole(path, 70)
            with pytest.raises(DataError, match="not a regular file"):
                require_file(path)
    assert time.perf_counter() - start < 1
    require_file(tmp_path)
    require_file(tmp_path / "nothing")
