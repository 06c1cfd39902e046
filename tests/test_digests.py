"""Digests remembered by a file's identity: what forgets, what is not believed, and many processes at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fewvit import digests
from fewvit.digests import DigestMemory, identity_of, part_identity


def identity(n: int, ctime_ns: int = 7) -> bytes:
    return np.array([3, n, 11, 13, ctime_ns], "<i8").tobytes()


def digest(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def status(**changed) -> SimpleNamespace:
    return SimpleNamespace(**{"st_dev": 3, "st_ino": 5, "st_size": 7, "st_mtime_ns": 11, "st_ctime_ns": 13, **changed})


@pytest.fixture
def old_file(tmp_path):
    """A file whose content and status changed long enough ago to be believed."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"one")
    time.sleep(digests._RECENT_NS / 1e9 + 0.02)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that were read to know their digest."""
    seen: list[Path] = []
    real = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda path: (seen.append(Path(path)), real(path))[1])
    return seen


def test_an_identity_is_device_inode_size_and_two_times():
    found = np.frombuffer(identity_of(status()), "<i8").tolist()
    assert found == [3, 5, 7, 11, 13]
    for name in vars(status()):
        assert identity_of(status(**{name: 17})) != identity_of(status())


def test_a_time_before_1970_and_an_inode_of_64_bits_have_identities():
    assert np.frombuffer(identity_of(status(st_mtime_ns=-5)), "<i8")[3] == -5
    assert np.frombuffer(identity_of(status(st_ino=2**64 - 1)), "<u8")[1] == 2**64 - 1


def test_a_part_of_a_file_changes_its_identity_with_the_file_and_keeps_its_time():
    whole = identity(3, ctime_ns=17)
    assert len(part_identity(whole, 7)) == 40
    assert part_identity(whole, 7)[32:] == whole[32:]
    others = {
        part_identity(whole, 8),
        part_identity(identity(4, ctime_ns=17), 7),
        part_identity(identity(3, ctime_ns=18), 7),
    }
    assert part_identity(whole, 7) not in others
    assert len(others) == 3


CHANGES = {
    "rewritten": lambda path: path.write_bytes(b"two"),
    "grown": lambda path: path.write_bytes(b"one more"),
    "touched": lambda path: os.utime(path, ns=(0, 0)),
    "moved over": lambda path: (path.with_name("y").write_bytes(b"two"), os.replace(path.with_name("y"), path)),
    "copied with its times": lambda path: (
        shutil.copy2(path, path.with_name("y")),
        path.with_name("y").write_bytes(b"two"),
        shutil.copystat(path, path.with_name("y")),
        os.replace(path.with_name("y"), path),
    ),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changed_is_read_again(how, old_file, tmp_path, reads):
    memory = DigestMemory(tmp_path / "memory")
    assert memory.digest_of(old_file) == hashlib.sha256(b"one").hexdigest()
    CHANGES[how](old_file)
    for known in (memory, DigestMemory(tmp_path / "memory")):
        assert known.digest_of(old_file) == hashlib.sha256(old_file.read_bytes()).hexdigest()
    assert len(reads) >= 2


def test_a_file_that_did_not_change_is_read_once_even_after_a_restart(old_file, tmp_path, reads):
    for _ in range(3):
        assert DigestMemory(tmp_path / "memory").digest_of(old_file) == hashlib.sha256(b"one").hexdigest()
    assert reads == [old_file]


def test_a_rename_keeps_neither_name_nor_time_but_a_hard_link_shares_the_digest(old_file, tmp_path, reads):
    os.link(old_file, tmp_path / "link")
    time.sleep(digests._RECENT_NS / 1e9 + 0.02)  # linking changes ctime
    memory = DigestMemory(tmp_path / "memory")
    assert memory.digest_of(old_file) == memory.digest_of(tmp_path / "link")
    assert reads == [old_file]


def test_a_file_that_may_still_change_under_the_same_time_stamps_is_not_remembered(tmp_path, monkeypatch):
    now = 10**18
    monkeypatch.setattr(digests.time, "time_ns", lambda: now)
    memory = DigestMemory(tmp_path / "memory")
    for age, kept in ((0, False), (99_999_999, False), (100_000_000, False), (100_000_001, True), (-(10**9), False)):
        memory.put(identity(age, now - age), digest(age))
        assert (memory.get(identity(age, now - age)) is not None) is kept
    memory.save()
    assert len(list((tmp_path / "memory").iterdir())) == 1


def test_rehashing_reads_again_and_what_it_finds_is_believed_from_then_on(old_file, tmp_path, reads):
    known = identity_of(old_file.stat())
    wrong = DigestMemory(tmp_path / "memory")
    wrong.put(known, digest(3))  # the content changed and the identity did not, as on a file system that keeps no times
    wrong.save()
    right = hashlib.sha256(b"one").hexdigest()
    assert DigestMemory(tmp_path / "memory").digest_of(old_file) == digest(3).hex()
    assert DigestMemory(tmp_path / "memory", rehash=True).digest_of(old_file) == right
    for _ in range(3):
        assert DigestMemory(tmp_path / "memory").digest_of(old_file) == right
    assert wrong.get(identity(99)) is None


def test_without_a_folder_memory_ends_with_the_process(old_file, reads):
    memory = DigestMemory()
    assert memory.digest_of(old_file) == memory.digest_of(old_file)
    assert reads == [old_file]
    memory.save()
    DigestMemory().digest_of(old_file)
    assert len(reads) == 2


def filled(folder: Path, numbers: range, *, per_file: int = 7) -> None:
    for start in numbers[::per_file]:
        memory = DigestMemory(folder)
        for n in range(start, min(start + per_file, numbers.stop)):
            memory.put(identity(n), digest(n))
        memory.save()


def test_thousands_of_digests_are_told_apart(tmp_path):
    filled(tmp_path, range(5003), per_file=1009)
    memory = DigestMemory(tmp_path)
    assert all(memory.get(identity(n)) == digest(n) for n in range(5003))
    assert memory.get(identity(5003)) is None
    assert memory.get(identity(3, ctime_ns=8)) is None
    wanted = [identity(5003), None, identity(17), identity(3, ctime_ns=8), identity(0)]
    assert memory.get_all(wanted) == [None, None, digest(17), None, digest(0)]


def test_identities_that_share_a_search_key_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_mix", lambda identity: np.zeros(len(identity), np.uint64))
    filled(tmp_path, range(13), per_file=5)
    memory = DigestMemory(tmp_path)
    assert [memory.get(identity(n)) for n in range(14)] == [*map(digest, range(13)), None]
    assert memory.get_all([identity(n) for n in range(14)]) == [*map(digest, range(13)), None]


def test_what_is_new_is_known_before_and_after_it_is_saved(tmp_path):
    memory = DigestMemory(tmp_path)
    for n in (3, 7):
        memory.put(identity(n), digest(n))
        assert (memory.get(identity(n)), memory.get_all([identity(n), identity(11)])) == (digest(n), [digest(n), None])
        memory.save()
        assert (memory.get(identity(n)), memory.get_all([identity(n), identity(11)])) == (digest(n), [digest(n), None])
    memory.save()  # with nothing new
    assert len(list(tmp_path.iterdir())) == 2


def test_one_identity_with_two_digests_is_not_believed(tmp_path):
    for n in (3, 7):
        memory = DigestMemory(tmp_path, rehash=True)
        memory.put(identity(1), digest(n))
        memory.put(identity(2), digest(11))
        memory.save()
    memory = DigestMemory(tmp_path)
    assert (memory.get(identity(1)), memory.get(identity(2))) == (None, digest(11))
    assert memory.get_all([identity(1), identity(2)]) == [None, digest(11)]
    memory.put(identity(1), digest(13))
    assert memory.get(identity(1)) == digest(13)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "renamed", "grown"])
def test_a_damaged_record_file_is_not_believed_and_the_others_are(damage, tmp_path):
    filled(tmp_path, range(10), per_file=5)
    path = next(p for p in tmp_path.iterdir() if digest(3) in p.read_bytes())
    data = path.read_bytes()
    if damage == "renamed":
        path.rename(tmp_path / f"{'0' * 32}.bin")
    else:
        flipped = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        path.write_bytes({"flipped": flipped, "cut": data[:-72], "empty": b"", "grown": data + data[:72]}[damage])
    memory = DigestMemory(tmp_path)
    assert [memory.get(identity(n)) for n in range(10)] == [None] * 5 + [digest(n) for n in range(5, 10)]
    filled(tmp_path, range(5), per_file=5)  # they are remembered anew
    assert DigestMemory(tmp_path).get(identity(3)) == digest(3)


def test_many_record_files_become_one_and_nothing_is_forgotten(tmp_path):
    filled(tmp_path, range(31), per_file=1)
    assert len(list(tmp_path.glob("*.bin"))) == 31
    memory = DigestMemory(tmp_path)
    memory.put(identity(31), digest(31))
    memory.save()
    assert len(list(tmp_path.iterdir())) == 1
    for known in (memory, DigestMemory(tmp_path)):
        assert [known.get(identity(n)) for n in range(33)] == [*map(digest, range(32)), None]


def test_a_record_file_that_another_process_merges_away_meanwhile_is_no_error(tmp_path, monkeypatch):
    filled(tmp_path, range(10), per_file=5)
    real = Path.read_bytes

    def vanishing(path):
        if path.suffix == ".bin" and digest(3) in real(path):
            path.unlink()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    memory = DigestMemory(tmp_path)
    assert [memory.get(identity(n)) for n in (3, 7)] == [None, digest(7)]


WRITER = """
import hashlib, sys, numpy as np
from pathlib import Path
from fewvit.digests import DigestMemory
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for n in range(first, first + 40):
    memory = DigestMemory(folder)
    memory.put(np.array([3, n, 11, 13, 7], "<i8").tobytes(), hashlib.sha256(str(n).encode()).digest())
    memory.save()
"""


def test_processes_that_write_and_merge_at_once_lose_nothing_that_cannot_be_read_again(tmp_path, python):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda first: python(WRITER, tmp_path, first), (0, 40, 80)))
    memory = DigestMemory(tmp_path)
    found = [memory.get(identity(n)) for n in range(120)]
    assert all(value in (None, digest(n)) for n, value in enumerate(found))  # never another file's digest
    assert sum(value is not None for value in found) == 120
    assert not list(tmp_path.glob(".*"))


# ---- of whole data sets


def test_the_contents_of_a_data_set_are_the_digests_of_its_files_and_are_read_once(tmp_path, monkeypatch):
    import hashlib

    from fewvit import digests
    from fewvit.datasets import open_dataset

    files = {f"{name}.jpg": name.encode() * 3 for name in "bac"}
    for name, content in files.items():
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
        os.utime(tmp_path / "images" / name, (1, 1))
    monkeypatch.setattr(digests, "_RECENT_NS", -1)  # the files are new
    monkeypatch.setattr(digests, "_AT_ONCE", 2)
    dataset, told = open_dataset(str(tmp_path / "images")), []
    found = digests.contents_of(dataset, DigestMemory(tmp_path / "memory"), told.append)
    wanted = [hashlib.sha256(files[name]).digest() for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert list(map(bytes, found.each)) == wanted
    assert found.digest == hashlib.sha256(dataset.digest.encode() + b"".join(wanted)).hexdigest()
    assert told == [f"reading 3 images of {dataset.name} once, to know them again"]
    monkeypatch.setattr(digests, "_read_digest", None)  # nobody reads again
    again = digests.contents_of(dataset, DigestMemory(tmp_path / "memory"), told.append)
    assert again.digest == found.digest
    assert len(told) == 1


def test_an_image_that_cannot_be_read_counts_by_its_error_and_is_asked_again(tmp_path):
    from fewvit.datasets import open_dataset
    from fewvit.digests import contents_of

    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    dataset, memory = open_dataset(str(tmp_path)), DigestMemory()
    (tmp_path / "b.jpg").rename(tmp_path / "elsewhere")
    gone = contents_of(dataset, memory)
    assert bytes(gone.each[1]) == b"2".ljust(32, b"\0")  # ENOENT
    (tmp_path / "elsewhere").rename(tmp_path / "b.jpg")
    assert contents_of(dataset, memory).digest not in ("", gone.digest)
