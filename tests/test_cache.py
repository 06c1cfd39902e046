"""The feature store: rows come back by the bytes of their image, and damage of any part is told, never returned."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fewvit.errors import CacheError, ResourceError
from fewvit.extraction.cache import Cache, FeatureStore, default_cache_dir, key_digest

KEY = {"backbone": "toy", "weights": "w3", "pool": "cls", "layers": 1}
WIDTH = 5


def digest(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def vector(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(WIDTH).astype(np.float32)


def put(store: FeatureStore, numbers, notes=None) -> None:
    store.put([digest(n) for n in numbers], notes or [n % 7 for n in numbers], np.stack([vector(n) for n in numbers]))


def check(store: FeatureStore, numbers) -> None:
    features, notes = store.gather([digest(n) for n in numbers])
    np.testing.assert_array_equal(features, np.stack([vector(n) for n in numbers]))
    assert notes.tolist() == [n % 7 for n in numbers]
    assert (features.dtype, notes.dtype) == (np.float32, np.uint16)


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def filled(cache) -> Cache:
    """Rows 0-6, 7-11 and 12-24 in three shards."""
    store = cache.store(KEY)
    for numbers in (range(7), range(7, 12), range(12, 25)):
        put(store, numbers)
    return cache


def files(cache: Cache, ending: str) -> list[Path]:
    return sorted(p for p in (cache.folder / "features").glob(f"*/*{ending}") if p.name != "key.json")


def shard_of(cache: Cache, n: int) -> str:
    """The name of the shard that holds a row."""
    [path] = [p for p in files(cache, ".rows") if digest(n) in p.read_bytes()]
    return path.stem


ORDERS = [
    [24, 0, 11, 7, 12, 6],
    list(range(25)),  # whole shards, each in its own order
    list(range(24, -1, -1)),
    [12, 0, 13, 1, 14, 2, 15, 3, 16, 4, 17, 5, 18, 6, 19, 20, 21, 22, 23, 24],  # whole shards, interleaved
    [7, 8, 9, 10, 10, 0, 8, 9, 10, 11, 12],  # as many rows as a shard has, but not all of them
    [3],
    [20, 20, 3, 20, 3],
    [],
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("reopened", [False, True])
def test_rows_are_gathered_in_the_order_asked_from_whichever_shard(order, reopened, filled):
    store = filled.store(KEY)
    if not reopened:
        put(store, [99])  # a store that has also written
    if order:
        check(store, order)
    else:
        features, notes = store.gather([])
        assert (features.shape, notes.shape) == ((0, WIDTH), (0,))


def test_a_store_knows_what_it_has(filled):
    store = filled.store(KEY)
    assert len(store) == 25
    assert digest(24) in store
    assert digest(25) not in store
    assert len(filled.store({**KEY, "pool": "mean"})) == 0


def test_opening_a_store_makes_no_folder(cache):
    cache.store(KEY)
    assert not cache.folder.exists()


def test_the_same_image_twice_is_one_row_and_the_first_feature_stays(cache):
    store = cache.store(KEY)
    put(store, [3, 7])
    store.put([digest(7), digest(11)], [1, 2], np.ones((2, WIDTH)))
    assert len(store) == 3
    np.testing.assert_array_equal(store.gather([digest(7)])[0][0], vector(7))
    assert len(cache.store(KEY)) == 3


def test_of_many_copies_of_an_image_the_first_counts(cache):
    store, first = cache.store(KEY), {}
    for start, shard in ((0, [3, 1, 3, 4]), (4, [1, 5]), (6, [6, 5, 7])):
        rows = np.arange(start, start + len(shard))  # a feature of its own for each row tells which one was taken
        store.put([digest(n) for n in shard], [0] * len(shard), np.repeat(rows[:, None], WIDTH, axis=1))
        for row, n in zip(rows, shard, strict=True):
            first.setdefault(n, row)
    assert len(store) == len(first)
    for asked in ([7, 6, 5, 4, 3, 1], [4, 1], [1, 5], [7, 3]):
        assert store.gather([digest(n) for n in asked])[0][:, 0].tolist() == [first[n] for n in asked]


def test_digests_that_differ_in_their_last_bytes_only_or_end_in_zeros_are_told_apart(cache):
    alike = [b"\1" * 31 + b"\0", b"\1" * 31 + b"\2", bytes(32), b"\1" + bytes(31)]
    cache.store(KEY).put(alike, [3, 7, 11, 13], np.stack([vector(n) for n in range(4)]))
    store = cache.store(KEY)
    features, notes = store.gather(alike[::-1])
    np.testing.assert_array_equal(features, np.stack([vector(n) for n in (3, 2, 1, 0)]))
    assert notes.tolist() == [13, 11, 7, 3]
    assert all(one in store for one in alike)
    assert b"\1" * 31 + b"\3" not in store
    assert b"\1" * 31 not in store


@pytest.mark.parametrize("asked", [[25], [0, 25], [*range(7), 25], [25, *range(7)]])
def test_a_row_that_is_not_there_is_a_key_error_wherever_it_is_asked(asked, filled):
    with pytest.raises(KeyError):
        filled.store(KEY).gather([digest(n) for n in asked])


def test_threads_ask_while_rows_are_added(cache):
    store, missed = cache.store(KEY), []
    put(store, [0])

    def ask() -> None:
        for _ in range(300):
            if digest(0) not in store or digest(-1) in store:
                missed.append(1)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for n in range(1, 30):
            put(store, [n])
        assert [one.result() for one in asking] == [None] * 3
    assert missed == []
    check(store, range(30))


def test_equal_work_writes_equal_files(cache, tmp_path):
    other = Cache(tmp_path / "other")
    for one in (cache, other, cache):
        put(one.store(KEY), [3, 7, 11])
    names = [[p.name for p in sorted(one.folder.rglob("*"))] for one in (cache, other)]
    assert names[0] == names[1]
    assert len(files(cache, ".rows")) == 1


def test_features_are_kept_as_float32_whatever_they_were(cache):
    rows = np.asfortranarray(np.arange(15, dtype=np.float64).reshape(3, 5) / 3)
    cache.store(KEY).put([digest(n) for n in range(3)], [0, 65535, 7], rows)
    features, notes = cache.store(KEY).gather([digest(n) for n in range(3)])
    np.testing.assert_array_equal(features, rows.astype(np.float32))
    assert notes.tolist() == [0, 65535, 7]


def test_a_shard_is_plain_numpy_and_its_manifest_says_what_it_holds(filled):
    name = shard_of(filled, 8)
    folder = files(filled, ".rows")[0].parent
    line, _, content = (folder / f"{name}.rows").read_bytes().partition(b"\n")
    data = (folder / f"{name}.npy").read_bytes()
    rows = b"".join(digest(n) + (n % 7).to_bytes(2, "little") for n in range(7, 12))
    sha256 = hashlib.sha256(data).hexdigest()
    assert json.loads(line) == {"format": 1, "count": 5, "width": WIDTH, "sha256": sha256, "bytes": len(data)}
    assert content == rows
    assert name == hashlib.sha256(sha256.encode() + rows).hexdigest()[:32]
    np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), np.stack([vector(n) for n in range(7, 12)]))
    assert json.loads((folder / "key.json").read_text()) == KEY


# ---- damage


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        middle = len(data) - 3
        flipped = data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
        path.write_bytes({"flipped": flipped, "cut": data[:-4], "empty": b"", "grown": data + b"\0" * 4}[how])


HOWS = ["flipped", "cut", "empty", "grown", "missing", "folder"]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_features_are_told_when_they_are_asked_for_and_others_still_come(how, filled):
    path = files(filled, f"{shard_of(filled, 8)}.npy")[0]
    damage(path, how)
    store = filled.store(KEY)
    check(store, [0, 6, 24])
    with pytest.raises(CacheError, match="damaged"):
        store.gather([digest(n) for n in range(7, 12)])  # the whole shard
    with pytest.raises(CacheError, match="damaged") as error:
        store.gather([digest(0), digest(8)])
    assert error.value.exit_code == 4
    assert str(error.value).startswith(f"{path}: ")
    assert "--no-cache" in str(error.value)


def rewrite(path: Path, change: dict, rows: bytes | None = None) -> None:
    line, _, content = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(line), **change}).encode() + b"\n" + (content if rows is None else rows))


@pytest.mark.parametrize("how", [*HOWS[:4], "fewer", "sha256"])
def test_damaged_rows_are_told_when_the_store_is_opened(how, filled):
    path = files(filled, f"{shard_of(filled, 8)}.rows")[0]
    rows = path.read_bytes().partition(b"\n")[2]
    if how == "fewer":
        rewrite(path, {"count": 4}, rows[34:])
    elif how == "sha256":
        rewrite(path, {"sha256": "0" * 64})
    else:
        damage(path, how)
    with pytest.raises(CacheError, match="damaged") as error:
        filled.store(KEY)
    assert str(error.value).startswith(f"{path}: ")


def test_features_that_are_damaged_while_a_store_is_open_are_told(filled):
    store = filled.store(KEY)
    path = files(filled, f"{shard_of(filled, 8)}.npy")[0]
    damage(path, "flipped")
    with pytest.raises(CacheError):
        store.gather([digest(8)])


def test_a_file_that_shrinks_after_it_was_checked_is_told(filled):
    store = filled.store(KEY)
    check(store, range(25))
    damage(files(filled, f"{shard_of(filled, 8)}.npy")[0], "cut")
    with pytest.raises(CacheError, match="bytes instead of"):
        store.gather([digest(8)])


@pytest.mark.parametrize("by", [1, -1])
def test_a_header_that_changes_after_the_file_was_checked_is_told(by, filled):
    store = filled.store(KEY)
    check(store, range(25))
    path = files(filled, f"{shard_of(filled, 8)}.npy")[0]
    content = bytearray(path.read_bytes())
    content[content.index(b"(5")] += by  # of the shape; the size stays
    path.write_bytes(content)
    with pytest.raises(CacheError, match="not an array of its manifest's 5 rows of 5"):
        store.gather([digest(8)])


def test_the_first_image_that_is_not_in_a_store_is_named(filled):
    with pytest.raises(KeyError) as error:
        filled.store(KEY).gather([digest(n) for n in (0, 24, 99, 98)])
    assert error.value.args == (digest(99).hex(),)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "{}", '{"format": 1}', '{"format": "one"}', '{"format": 1, "rows": 3}']
)
def test_a_damaged_manifest_is_told_when_the_store_is_opened(text, filled):
    path = files(filled, f"{shard_of(filled, 8)}.rows")[0]
    path.write_text(text)
    with pytest.raises(CacheError, match="cannot be read") as error:
        filled.store(KEY)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "change", [{"count": 6}, {"count": 1}, {"width": 7}, {"count": "5"}, {"count": 10, "width": 2}]
)
def test_a_manifest_whose_counts_are_not_its_arrays_is_told(change, filled):
    path = files(filled, f"{shard_of(filled, 8)}.rows")[0]
    rewrite(path, change)
    with pytest.raises(CacheError, match="damaged"):
        filled.store(KEY).gather([digest(8)])


def test_a_width_that_the_only_shard_has_not_is_told(cache):
    put(cache.store(KEY), range(3))
    [path] = files(cache, ".rows")
    rewrite(path, {"width": 7})
    with pytest.raises(CacheError, match="damaged"):
        cache.store(KEY).gather([digest(1)])


def test_a_newer_format_is_refused_and_called_new(filled):
    path = files(filled, f"{shard_of(filled, 8)}.rows")[0]
    rewrite(path, {"format": 2})
    with pytest.raises(CacheError, match="newer fewvit"):
        filled.store(KEY)


@pytest.mark.parametrize("features_too", [False, True])
def test_a_shard_without_its_manifest_does_not_exist(features_too, filled):
    name = shard_of(filled, 8)
    for path in files(filled, ".*"):
        if path.name == f"{name}.rows" or (features_too and path.name == f"{name}.npy"):
            path.unlink()
    store = filled.store(KEY)
    assert digest(8) not in store
    check(store, [*range(7), *range(12, 25)])
    put(store, range(7, 12))  # the work is done again and fits
    check(filled.store(KEY), range(25))


def test_features_are_hashed_once_per_process(filled, monkeypatch):
    store = filled.store(KEY)
    check(store, range(25))
    real, hashed = hashlib.sha256, []
    monkeypatch.setattr(
        "fewvit.extraction.cache.hashlib.sha256", lambda data=b"": (hashed.append(len(data)), real(data))[1]
    )
    store.gather([real(str(n).encode()).digest() for n in range(25)])
    assert hashed == []


# ---- many processes, and killed ones

WRITER = """
import hashlib, sys, numpy as np
from pathlib import Path
from fewvit.extraction.cache import Cache
digest = lambda n: hashlib.sha256(str(n).encode()).digest()
vector = lambda n: np.random.default_rng(n).standard_normal(5).astype(np.float32)
store = Cache(Path(sys.argv[1])).store({"backbone": "toy", "weights": "w3", "pool": "cls", "layers": 1})
first, last, step = map(int, sys.argv[2:])
for start in range(first, last, step):
    numbers = range(start, min(start + step, last))
    store.put([digest(n) for n in numbers], [n % 7 for n in numbers], np.stack([vector(n) for n in numbers]))
"""


def test_writers_in_two_processes_need_no_lock(cache, python):
    with ThreadPoolExecutor(2) as pool:  # overlapping rows, and shards of other sizes
        list(pool.map(lambda words: python(WRITER, cache.folder, *words), [(0, 150, 3), (90, 211, 11)]))
    store = cache.store(KEY)
    assert len(store) == 211
    check(store, range(211))


KILLED = """
import os, signal, sys
from fewvit import files
renames, limit = [0], int(sys.argv.pop())
real = os.replace
def replace(a, b):
    real(a, b)
    renames[0] += 1
    if renames[0] == limit:
        os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = replace
"""


@pytest.mark.parametrize("renames", range(1, 6))
def test_a_writer_killed_between_any_two_files_leaves_a_valid_store(renames, cache, python):
    # key.json, then two files for each shard of five rows: the last of them makes the shard exist
    assert python(KILLED + WRITER, cache.folder, 0, 10, 5, renames, check=False).returncode == -9
    whole = (renames - 1) // 2 * 5
    store = cache.store(KEY)
    assert len(store) == whole
    check(store, range(whole)) if whole else None
    put(store, range(10))
    check(cache.store(KEY), range(10))


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
"""


def test_a_full_disk_loses_the_shard_that_did_not_fit_and_no_other(cache, python):
    put(cache.store(KEY), range(200, 203))
    done = python(FULL + WRITER, cache.folder, 0, 100, 100, check=False)
    assert "ResourceError: " in done.stderr
    assert "disk full" in done.stderr
    store = cache.store(KEY)
    assert len(store) == 3
    check(store, range(200, 203))
    assert not list(cache.folder.rglob("*.tmp"))


def test_a_full_disk_is_a_resource_error(cache, monkeypatch):
    monkeypatch.setattr(
        "fewvit.files.os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ResourceError):
        put(cache.store(KEY), [3])


def test_what_killed_writers_left_is_swept_from_a_store_after_a_day(cache):
    put(cache.store(KEY), [3])
    folder = files(cache, ".rows")[0].parent
    for name, age in ((".old.tmp", 90_000), (".young.tmp", 80_000)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / "key.json").unlink()
    put(cache.store(KEY), [7])
    assert [p.name for p in folder.glob(".*")] == [".young.tmp"]
    assert (folder / "key.json").exists()


# ---- undecodable images


def test_what_cannot_be_decoded_is_remembered_with_its_reason(cache):
    store = cache.store(KEY)
    assert store.bad(digest(3)) is None
    store.put_bad(digest(3), "a/b\udcff.jpg", "cut short")
    assert cache.store(KEY).bad(digest(3)) == "cut short"
    assert cache.store(KEY).bad(digest(7)) is None
    assert digest(3) not in cache.store(KEY)
    put(cache.store(KEY), [7])
    check(cache.store(KEY), [7])


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_reason_is_as_if_it_were_not_there(text, cache):
    store = cache.store(KEY)
    store.put_bad(digest(3), "x.jpg", "cut short")
    [path] = (cache.folder / "features").rglob(f"{digest(3).hex()}.json")
    path.write_text(text)
    assert store.bad(digest(3)) is None


# ---- the key, and the whole cache


def test_a_store_is_named_by_all_of_its_key_but_the_names_of_backbone_and_protocol():
    assert key_digest(KEY) == hashlib.sha256(b'{"layers": 1, "pool": "cls", "weights": "w3"}').hexdigest()
    assert key_digest({**KEY, "backbone": "other"}) == key_digest({**KEY, "protocol": "dino/1"}) == key_digest(KEY)
    assert key_digest(dict(reversed(KEY.items()))) == key_digest(KEY)
    others = {
        key_digest({**KEY, "pool": "mean"}),
        key_digest({**KEY, "layers": 2}),
        key_digest({**KEY, "weights": "w7"}),
        key_digest(KEY),
    }
    assert len(others) == 4


def test_stores_are_listed_with_their_keys_images_and_bytes(filled):
    other = {**KEY, "backbone": "other", "pool": "mean"}
    put(filled.store(other), range(3))
    found = {facts["key"]["backbone"]: facts for facts in filled.stores()}
    assert {name: (facts["images"], facts["shards"], facts["key"]) for name, facts in found.items()} == {
        "toy": (25, 3, KEY),
        "other": (3, 1, other),
    }
    for facts in found.values():
        assert facts["bytes"] == sum(p.stat().st_size for p in Path(facts["folder"]).iterdir())


def test_a_store_with_an_unreadable_key_does_not_hide_the_others(filled):
    put(filled.store({**KEY, "pool": "mean"}), range(3))
    next(iter((filled.folder / "features").glob("*/key.json"))).write_text("{")
    assert len(list(filled.stores())) == 1


def test_clearing_one_backbone_leaves_the_others_weights_and_licences(filled):
    put(filled.store({**KEY, "backbone": "other", "pool": "mean"}), range(3))
    for name in ("weights", "licenses"):
        (filled.folder / name).mkdir()
        (filled.folder / name / "x").write_bytes(b"x")
    sizes = {facts["key"]["backbone"]: facts["bytes"] for facts in filled.stores()}
    assert filled.clear(backbone="other") == sizes["other"]
    assert [facts["key"]["backbone"] for facts in filled.stores()] == ["toy"]
    check(filled.store(KEY), range(25))
    assert filled.clear(backbone="nobody") == 0
    (filled.folder / "digests").mkdir()
    (filled.folder / "backbones").mkdir()
    assert filled.clear() == sizes["toy"]
    assert sorted(p.name for p in filled.folder.iterdir()) == ["licenses", "weights"]
    assert list(filled.stores()) == []


def test_an_empty_cache_has_no_stores_and_nothing_to_clear(cache):
    assert list(cache.stores()) == []
    assert cache.clear() == 0


def test_digests_are_kept_in_the_cache_and_forgotten_for_a_rehash(cache):
    memory = cache.digests()
    memory.put(digest(1) + bytes(8), digest(3))
    memory.save()
    assert cache.digests().get(digest(1) + bytes(8)) == digest(3)
    assert cache.digests(rehash=True).get(digest(1) + bytes(8)) is None


def test_the_cache_folder_is_the_variables_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEWVIT_CACHE_DIR", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("FEWVIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/fewvit")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache_dir() == tmp_path / ".cache" / "fewvit"
