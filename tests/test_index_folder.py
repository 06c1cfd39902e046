"""The folder of an index: what is damaged or hostile is refused by name, and what goes wrong leaves the old index."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from fewvit.errors import DataError, FewvitError, IntegrityError, ResourceError, UsageError
from fewvit.features import FeatureSet
from fewvit.retrieval import adding, growth
from fewvit.retrieval.columns import Strings
from fewvit.retrieval.describe import found_rows, index_facts
from fewvit.retrieval.folder import IndexFolder, _current
from fewvit.retrieval.growth import Made, Wish
from fewvit.retrieval.manifest import Manifest, Recall
from fewvit.retrieval.opened import OpenIndex
from fewvit.retrieval.origin import recipe_of
from fewvit.retrieval.segment import RECORD
from fewvit.sources import FeatureSource

from made_indexes import PART, D, asked, built, opened, random_rows, source_of

QUERIES = np.random.default_rng(11).normal(size=(3, D)).astype(np.float32)
KINDS = ("flat", "hnsw", "ivf", "compact")
CLASSED = {
    name: (row, ("ox", "hen")[i % 2]) for i, (name, row) in enumerate((n, r[0]) for n, r in random_rows(3, 43).items())
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """An index of each kind with everything in it: classes, two segments, dead rows in both."""
    root = tmp_path_factory.mktemp("originals")
    for kind in KINDS:
        built(root / kind, CLASSED, kind)
        adding.add(IndexFolder(root / kind), source_of(random_rows(5, 11, "more/")), None, "", size=PART)
        growth.remove(IndexFolder(root / kind), ["003", "017", "more/007"])
    return root


@pytest.fixture
def copy(originals, tmp_path):
    """`copy("flat")` is the path of a fresh copy."""

    def make(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return shutil.copytree(originals / kind, tmp_path / kind)

    return make


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != ".lock")


def whole(path: Path) -> list:
    """Everything that a reader may do with an index; its answers."""
    index = opened(path)
    found = asked(index, QUERIES, 60)
    assert found == asked(index, QUERIES, 60, folder="")
    near = index.search(QUERIES, 5)
    assert len(found_rows(index, ["a", "b", "c"], near)) == 15
    assert index_facts(index)["images"] == len(index)
    assert index.rows_of(["000", "more/003", "nowhere"])[2] == -1
    index.verify()
    return found


def rewrite(path: Path, change=lambda values: None, contents: dict[str, bytes] | None = None) -> None:
    """A manifest that is consistent with whatever it says: files with new contents, and every digest made anew."""
    manifest = OpenIndex.open(path, check=False).manifest
    text = manifest.to_text()
    for file in manifest.files:
        if contents is not None and file.path in contents:
            data = contents[file.path]
            (path / file.path).write_bytes(data)
            text = text.replace(file.sha256, hashlib.sha256(data).hexdigest())
            old, new = (json.dumps({"bytes": size})[1:-1] for size in (file.bytes, len(data)))
            at = text.index(f'"path": "{file.path}"')
            before = text.rindex(old, 0, at)
            text = text[:before] + new + text[before + len(old) :]
    values = json.loads(text)
    change(values)
    name_as_current(path, values)


def name_as_current(path: Path, values: dict) -> None:
    """Commit a manifest, whatever it says."""
    data = json.dumps(values).encode()
    digest = hashlib.sha256(data).hexdigest()
    name = f"manifests/7-{digest[:16]}.json"
    (path / name).write_bytes(data)
    (path / "CURRENT").write_text(_current(name, digest))


def first(path: Path, what: str) -> str:
    """The path, in the index, of the first file of a kind."""
    segments = OpenIndex.open(path, check=False).manifest.segments
    return next(file.path for segment in segments if (file := getattr(segment, what)) is not None)


# ---- damage


def test_each_of_200_bits_that_flip_is_noticed_and_its_file_named(copy):
    random = np.random.default_rng(1)
    for kind in KINDS:
        path = copy(kind)
        whole(path)
        names = files(path)
        assert len(names) == 1 + 1 + 1 + 2 * 4 + (kind != "flat")  # CURRENT, manifest, classes, segments, structure
        for number in range(50):
            file = names[number] if number < len(names) else names[random.integers(len(names))]
            data = bytearray(file.read_bytes())
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            before = file.read_bytes()
            file.write_bytes(data)
            with pytest.raises(IntegrityError) as caught:
                OpenIndex.open(path)
            named = str(caught.value)
            assert file.name in named or (file.name == "CURRENT" and "/manifests/" in named)
            file.write_bytes(before)
        whole(path)


@pytest.mark.parametrize("how", ["cut by a byte", "cut in half", "emptied", "longer", "gone", "a folder", "a pipe"])
def test_a_file_of_another_size_or_kind_is_named(copy, how):
    path = copy("hnsw")
    for file in files(path):
        if file.name == "CURRENT" and how in ("gone", "a folder", "a pipe"):
            continue  # then there is no index
        before = file.read_bytes()
        file.unlink()
        match how:
            case "a folder":
                file.mkdir()
            case "a pipe":
                os.mkfifo(file)
            case "gone":
                pass
            case _:
                size = {"cut by a byte": -1, "cut in half": len(before) // 2, "emptied": 0, "longer": None}[how]
                file.write_bytes(before[:size] if size is not None else before + b"\0")
        with pytest.raises(IntegrityError, match=file.name):
            OpenIndex.open(path)
        if how == "a folder":
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(before)
    whole(path)


def test_a_file_that_is_cut_between_the_look_at_its_size_and_its_mapping_is_named(copy, monkeypatch):
    path = copy("flat")
    features = path / first(path, "features")
    size, real = features.stat().st_size, os.fstat
    os.truncate(features, size - 1)

    class Before:  # what the file was when its size was looked at
        st_size, st_mode = size, features.stat().st_mode

    monkeypatch.setattr(
        "fewvit.retrieval.folder.os.fstat",
        lambda handle: Before if real(handle).st_ino == features.stat().st_ino else real(handle),
    )
    with pytest.raises(IntegrityError, match="was cut while it was opened"):
        OpenIndex.open(path)


def test_two_files_that_changed_places_are_noticed(copy):
    path = copy("flat")
    one, other = (path / segment.features.path for segment in OpenIndex.open(path).manifest.segments)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged"):
        OpenIndex.open(path)


def test_a_file_of_another_build_is_noticed_though_its_size_is_right(copy, tmp_path):
    path = copy("hnsw")
    built(tmp_path / "other", random_rows(1, 43, "o"), "hnsw")
    for what in ("features", "ids", "records"):
        target = path / first(path, what)
        before = target.read_bytes()
        target.write_bytes((tmp_path / "other" / first(tmp_path / "other", what)).read_bytes()[: len(before)])
        with pytest.raises(IntegrityError, match=target.name):
            OpenIndex.open(path)
        target.write_bytes(before)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '{"manifest": 3, "sha256": "x"}\n',
        json.dumps({"manifest": "../x.json", "sha256": "0" * 64}) + "\n",
        json.dumps({"manifest": "manifests/../../x.json", "sha256": "0" * 64}) + "\n",
        json.dumps({"manifest": "/etc/passwd", "sha256": "0" * 64}) + "\n",
        json.dumps({"manifest": "manifests/\0", "sha256": "0" * 64}) + "\n",
        "[" * 100_000,
    ],
)
def test_a_current_that_names_no_manifest_is_refused(copy, text):
    path = copy("flat")
    (path / "CURRENT").write_text(text)
    with pytest.raises(IntegrityError, match="it does not name a manifest"):
        OpenIndex.open(path)


def test_a_manifest_of_the_future_is_refused_with_the_advice_to_update(copy):
    path = copy("flat")
    rewrite(path, lambda values: values.update(min_reader=99, schema="fewvit.index/7"))
    with pytest.raises(IntegrityError, match=r"fewvit\.index/7.*99.*\n  Update fewvit"):
        OpenIndex.open(path)


def test_a_damaged_index_is_built_again_as_the_error_advises(copy):
    for file in ("CURRENT", first(copy("flat"), "features")):
        path = copy("flat")
        (path / file).write_bytes(b"x")
        with pytest.raises(IntegrityError, match="Build the index again"):
            OpenIndex.open(path)
        built(path, CLASSED)
        assert len(opened(path)) == len(CLASSED)
        opened(path).verify()


@pytest.mark.parametrize("change", ["add", "compact"])
def test_a_change_never_writes_damaged_features_under_a_new_digest(copy, change):
    path = copy("flat")
    features = path / OpenIndex.open(path).manifest.segments[1].features.path  # `add` joins it with what is new
    data = bytearray(features.read_bytes())
    data[5] ^= 1
    features.write_bytes(data)
    changes = {
        "add": lambda: adding.add(IndexFolder(path), source_of(random_rows(9, 11, "new/")), None, "", size=PART),
        "compact": lambda: growth.compact(IndexFolder(path), size=PART),
    }
    with pytest.raises(IntegrityError, match=features.name):
        changes[change]()
    with pytest.raises(IntegrityError, match=features.name):
        OpenIndex.open(path)


# ---- hostility behind consistent digests

ODD = (
    None,
    -1,
    0,
    1 << 40,
    10**30,
    True,
    1.5,
    "x",
    "",
    "../x",
    "/etc/passwd",
    "data/\0",
    "data",
    [],
    {},
    [[]],
    {"a": 1},
)


def leaves(values, path=()):
    if isinstance(values, dict | list) and values:
        for key, inner in values.items() if isinstance(values, dict) else enumerate(values):
            yield (*path, key)
            yield from leaves(inner, (*path, key))


def test_whatever_a_consistent_manifest_says_it_is_refused_or_answers_are_the_same(copy):
    path = copy("compact")
    wanted = whole(path)
    text = OpenIndex.open(path).manifest.to_text()
    refused = 0
    for leaf in dict.fromkeys(leaves(json.loads(text))):
        if leaf[0] in ("facts", "recipe") or leaf == ("recall", "value"):
            continue
        for odd in ODD:
            values = inner = json.loads(text)
            for key in leaf[:-1]:
                inner = inner[key]
            inner[leaf[-1]] = odd
            name_as_current(path, values)
            try:
                assert whole(path) == wanted, (leaf, odd)
            except IntegrityError:
                refused += 1
    assert refused > 300


def test_what_an_older_or_newer_fewvit_notes_besides_is_passed_over(copy):
    path = copy("flat")
    wanted = whole(path)
    rewrite(path, lambda values: values.update(extra={"memory": 1}, skipped=3, tomorrow=[1]))
    assert whole(path) == wanted


def test_a_manifest_without_segments_or_with_two_structures_is_refused(copy):
    path = copy("hnsw")
    rewrite(path, lambda values: values.update(segments=[]))
    with pytest.raises(IntegrityError, match="contradicts itself"):
        OpenIndex.open(path)
    path = copy("hnsw")
    rewrite(path, lambda values: values["segments"][1].update(structure=values["segments"][0]["structure"]))
    with pytest.raises(IntegrityError, match="contradicts itself"):
        OpenIndex.open(path)


@pytest.mark.parametrize("what", ["ids", "records", "dead", "features", "classes"])
def test_hostile_contents_are_refused_or_found_and_never_another_error(copy, what):
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(60):
        path = copy("flat")
        manifest = OpenIndex.open(path).manifest
        file = manifest.classes.path if what == "classes" else first(path, what)
        data = bytearray((path / file).read_bytes())
        at = int(random.integers(len(data) // 8)) * 8 if random.random() < 0.7 else 0
        data[at : at + 8] = np.int64(
            random.choice([-1, 1 << 62, 2**63 - 1, -(2**63), 41, 3, 0x7FC000007FC00000])
        ).tobytes()
        rewrite(path, contents={file: bytes(data)})
        try:
            index = opened(path)
            near = index.search(QUERIES, 60)
            assert np.isin(near.rows, index.live).all()
            assert len(set(near.of(0)[0].tolist())) == len(near.of(0)[0])
            found_rows(index, ["a", "b", "c"], near)
            index.verify()
        except IntegrityError:
            refused += 1
    assert refused > 5


def test_dead_rows_that_are_no_whole_numbers_and_a_path_that_no_file_has_are_refused(copy):
    path = copy("flat")
    rewrite(path, contents={first(path, "dead"): b"\0" * 13})
    with pytest.raises(IntegrityError, match="dead rows that do not fit"):
        OpenIndex.open(path)
    path = copy("flat")
    rewrite(path, lambda values: values["classes"].update(path="data/\ud800"))
    with pytest.raises(IntegrityError, match="contradicts itself"):
        OpenIndex.open(path)


RECIPE = {
    **dict.fromkeys(("weights", "checkpoint_key", "family")),
    **{"backbone": "fewvit_tiny", "seed": 3, "weights_sha256": "7" * 64, "license": "", "key": {"weights": "7"}},
    "options": {"layers": "1", "reading": None},
}


@pytest.mark.parametrize("name", [*RECIPE, "options.layers", "options.protocol", "options.reading"])
def test_a_recipe_with_a_value_of_another_type_is_refused_with_the_field(copy, name):
    manifest = dataclasses.replace(opened(copy("flat")).manifest, recipe=RECIPE)
    assert recipe_of(manifest).options.layers == "1"
    for value in (7.5, [], b"x"):
        changed = json.loads(json.dumps(RECIPE))
        (changed["options"] if "." in name else changed)[name.rpartition(".")[2]] = value
        with pytest.raises(IntegrityError, match="no usable recipe"):
            recipe_of(dataclasses.replace(manifest, recipe=changed))


def test_a_structure_that_names_a_file_of_its_own_opens_none(copy, tmp_path):
    faiss = pytest.importorskip("faiss")
    path = copy("ivf")
    segment = opened(path).segments[0]
    lists = faiss.index_factory(D, "IVF1,SQ8", faiss.METRIC_INNER_PRODUCT)
    lists.train(np.ascontiguousarray(segment.features))
    lists.add(np.ascontiguousarray(segment.features))
    on_disk = faiss.OnDiskInvertedLists(1, lists.code_size, str(tmp_path / "victim"))
    on_disk.merge_from_1(lists.invlists)
    lists.replace_invlists(on_disk)
    writer = faiss.VectorIOWriter()
    faiss.write_index(lists, writer)
    rewrite(path, contents={first(path, "structure"): faiss.vector_to_array(writer.data).tobytes()})
    (tmp_path / "victim").unlink()
    with pytest.raises(IntegrityError, match="FAISS cannot read it"):
        opened(path).search(QUERIES, 3)


FUZZ = """
import resource, sys
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from fewvit.errors import IntegrityError
from fewvit.neighbors.installed import faiss_library
from made_indexes import D, asked, opened
from test_index_folder import QUERIES, first, rewrite
faiss_library().omp_set_num_threads(1)
path, kind = Path(sys.argv[1]), sys.argv[2]
truth = [dict(one) for one in asked(opened(path), QUERIES, 60)]
file = first(path, "structure")
good = (path / file).read_bytes()
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
random = np.random.default_rng(13)
refused = 0
for number in range(150):
    data = bytearray(good)
    at = int(random.integers(len(data) if number % 2 else min(len(data), 300)))
    if number % 3 == 0:
        data[at] ^= 1 << int(random.integers(8))
    elif number % 3 == 1:
        data[at : at + 8] = np.int64(random.choice([-1, 0, 1 << 40, 1 << 31, 1 << 62])).tobytes()
    else:
        data = data[:at] + random.integers(0, 256, 64, np.uint8).tobytes() + data[at + 64 * (number % 2):]
    rewrite(path, contents={file: bytes(data)})
    try:
        for everything in (True, False):
            index = opened(path, everything=everything)
            found = asked(index, QUERIES, 7)
            for one, right in zip(found, truth):
                assert len(dict(one)) == len(one) and all(right.get(name) == score for name, score in one), one
            assert asked(index, QUERIES, 7, folder="more/")
    except IntegrityError:
        refused += 1
    except MemoryError:
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "compact"])
def test_a_corrupt_structure_with_right_digests_ends_no_process_and_gives_no_wrong_id(copy, python, kind):
    done = python(FUZZ, copy(kind), kind, Path(__file__).parent, OMP_NUM_THREADS="1")
    assert int(done.stdout) > 30


# ---- writers


def test_a_second_builder_is_told_to_wait_and_readers_go_on(copy):
    path = copy("flat")
    wanted = whole(path)
    with IndexFolder(path).writing():
        for change in (
            lambda: built(path, random_rows(1, 3)),
            lambda: growth.remove(IndexFolder(path), ["000"]),
            lambda: growth.compact(IndexFolder(path)),
            lambda: adding.add(IndexFolder(path), source_of(random_rows(1, 3)), None, ""),
        ):
            with pytest.raises(UsageError, match="another command is changing this index") as caught:
                change()
            assert caught.value.exit_code == 2
        assert whole(path) == wanted
    assert growth.remove(IndexFolder(path), ["000"]).removed == 1


def test_a_place_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds other things than an index \(thesis\.tex\)"):
        built(tmp_path, random_rows(1, 3))
    with pytest.raises(UsageError, match="is a file"):
        built(tmp_path / "thesis.tex", random_rows(1, 3))
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize("folder", ["data", "manifests"])
def test_a_folder_of_somebody_elses_that_is_called_as_one_of_ours_is_left_alone(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "cat.jpg").write_text("x")
    with pytest.raises(UsageError, match=rf"holds other things than an index \({folder}/cat\.jpg\)"):
        built(tmp_path, random_rows(1, 3))
    with IndexFolder(tmp_path).writing():  # what a first build that was killed left is removed here, and nothing else
        assert (tmp_path / folder / "cat.jpg").read_text() == "x"


def test_files_that_others_put_into_an_index_stay_whatever_is_changed(copy):
    path = copy("flat")
    foreign = [path / name for name in ("notes.txt", ".notes.tmp", "data/cat.jpg", "data/.cat.tmp", "manifests/a.json")]
    for file in foreign:
        file.write_text("x")
    growth.remove(IndexFolder(path), ["000"])
    growth.compact(IndexFolder(path))
    built(path, random_rows(1, 3))
    assert [file.read_text() for file in foreign] == ["x"] * 5


def test_where_no_index_is_the_error_says_how_to_make_one(tmp_path):
    for path, why in ((tmp_path, "no index"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(DataError, match=f"{why}\n  Make one with `fewvit index build"):
            OpenIndex.open(path)


def test_an_open_index_answers_on_after_its_files_were_removed(copy):
    path = copy("hnsw")
    index = opened(path)
    wanted = asked(index, QUERIES, 60)
    built(path, random_rows(99, 5))
    again = opened(path)
    assert len(asked(again, QUERIES, 60)[0]) == 5
    shutil.rmtree(path)
    assert asked(index, QUERIES, 60) == wanted
    assert asked(again, QUERIES, 60)


READ_ONLY = """
import os, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from fewvit.errors import DataError
from fewvit.retrieval import adding, growth
from fewvit.retrieval.folder import IndexFolder
from made_indexes import asked, built, opened, random_rows, source_of
from test_index_folder import QUERIES
built(sys.argv[1], random_rows(1, 23))
wanted = asked(opened(sys.argv[1]), QUERIES, 5)
for folder, _, files in os.walk(sys.argv[1]):
    os.chmod(folder, 0o555)
    for file in files:
        os.chmod(os.path.join(folder, file), 0o444)
if os.geteuid() == 0:
    os.seteuid(65534)
assert asked(opened(sys.argv[1]), QUERIES, 5) == wanted
for change in (
    lambda: adding.add(IndexFolder(sys.argv[1]), source_of(random_rows(2, 3, "x")), None, ""),
    lambda: growth.remove(IndexFolder(sys.argv[1]), ["003"]),
    lambda: built(sys.argv[1], random_rows(1, 3)),
):
    try:
        change()
    except DataError as error:
        print(error)
assert asked(opened(sys.argv[1]), QUERIES, 5) == wanted
"""


def test_an_index_in_a_folder_that_cannot_be_written_is_searched_and_not_changed(python):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        done = python(READ_ONLY, Path(folder, "index"), Path(__file__).parent)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("Permission denied while writing to this index" in line and ".lock" in line for line in lines)


@pytest.mark.parametrize("change", ["build", "add", "remove", "compact"])
def test_a_disk_that_fills_up_at_any_write_leaves_the_old_index(copy, monkeypatch, change):
    path = copy("hnsw")
    wanted, fsync, left = whole(path), os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    do = {
        "build": lambda: built(path, random_rows(1, 41), "hnsw"),
        "add": lambda: adding.add(IndexFolder(path), source_of(random_rows(1, 7, "n")), None, "", size=PART),
        "remove": lambda: growth.remove(IndexFolder(path), ["000"]),
        "compact": lambda: growth.compact(IndexFolder(path), size=PART),
    }[change]
    monkeypatch.setattr("fewvit.files.os.fsync", failing)
    monkeypatch.setattr("fewvit.files.fsync_folder", lambda folder: None)
    told: list[str] = []
    for writes in range(1, 30):
        left = writes
        try:
            do()
            break
        except ResourceError as error:
            told.append(str(error))
        assert whole(path) == wanted
        assert not list(path.rglob("*.tmp"))
    assert all("choose another folder with --index;" in error for error in told)
    assert writes == len(told) + 1 == {"build": 8, "add": 10, "remove": 4, "compact": 7}[change]
    assert whole(path) != wanted or change == "compact"
    kept = {path / file.path for file in opened(path).manifest.files}
    assert set(path.glob("data/*")) == kept  # what failed left nothing behind in the end
    assert len(list(path.glob("manifests/*"))) == 1


def test_a_real_limit_on_the_size_of_files_is_a_full_disk(copy, python):
    path = copy("flat")
    wanted = whole(path)
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from made_indexes import built, random_rows\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "built(sys.argv[1], random_rows(1, 997))\n"
    )
    done = python(code, path, Path(__file__).parent, check=False)
    assert "ResourceError: " in done.stderr
    assert "disk full" in done.stderr
    assert whole(path) == wanted


def test_the_folder_holds_what_the_current_version_needs_and_no_more(copy):
    path = copy("compact")
    for step in range(3):
        adding.add(IndexFolder(path), source_of(random_rows(20 + step, 7, f"{step}/")), None, "", size=PART)
        manifest = opened(path).manifest
        named = {"CURRENT", *(file.path for file in manifest.files)}
        there = {str(file.relative_to(path)) for file in files(path)}
        assert {name for name in there if not name.startswith("manifests/")} == named
        assert len(there - named) == 1


# ---- what the files hold


def test_a_manifest_comes_back_from_its_text_whole(copy):
    for kind in KINDS:
        manifest = OpenIndex.open(copy(kind)).manifest
        assert Manifest.of_text(manifest.to_text(), "x") == manifest
        odd = dataclasses.replace(manifest, backbone="caf\udce9 \u00e9 \n <b>")
        text = odd.to_text().encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        assert Manifest.of_text(text, "x") == odd


def test_a_promise_is_kept_where_the_lower_end_of_what_was_measured_is_as_high():
    for low, is_met in ((0.9499, False), (0.95, True), (0.9501, True)):
        assert Recall(0.96, low, 0.97, 10, 100, wanted=0.95).is_met is is_met


@pytest.mark.parametrize("width", [1, 21, 1 << 20])
def test_an_index_of_one_image_has_from_one_column_to_a_million(tmp_path, width):
    features = np.zeros((1, width), np.float32)
    features[0, -1] = 2
    source = FeatureSource("made", FeatureSet(features, np.array([-1]), ["only"], []))
    growth.build(IndexFolder(tmp_path / "i"), source, None, Made("", "", {}, {}), Wish())
    near = OpenIndex.open(tmp_path / "i").search(features, 3)
    assert (near.rows.tolist(), near.scores.tolist()) == ([0], [1.0])


@pytest.mark.parametrize(("name", "value"), [("visited", 0), ("rerank", 0), ("visited", -1)])
def test_an_effort_of_nothing_is_refused(copy, name, value):
    path = copy("ivf")
    rewrite(path, lambda values: values["effort"].update({name: value}))
    with pytest.raises(IntegrityError, match="contradicts itself"):
        OpenIndex.open(path)
    rewrite(copy("ivf"), lambda values: values["effort"].update({name: 1}))
    OpenIndex.open(path)


def test_what_the_system_does_not_open_is_told_and_not_called_damaged(copy):
    path = copy("flat")
    file = path / first(path, "features")
    file.unlink()
    file.symlink_to(file.name)  # a loop
    with pytest.raises(DataError, match="symbolic links while reading this index"):
        OpenIndex.open(path)


def test_a_current_that_the_system_does_not_open_is_not_called_damaged(copy):
    path = copy("flat")
    opened = os.open

    def denied(name, *rest, **more):
        if str(name).endswith("CURRENT"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return opened(name, *rest, **more)

    with mock.patch("os.open", denied), pytest.raises(DataError, match="Permission denied while reading this index"):
        OpenIndex.open(path)


def test_a_column_finds_strings_and_beginnings_as_a_list_does():
    random = np.random.default_rng(3)
    letters = [b"a", b"b", b"\xff", b"\xfe", b"\x00", b"/", "\u00e9".encode()]
    words = {b"".join(letters[i] for i in random.integers(7, size=random.integers(0, 5))) for _ in range(211)}
    ordered = sorted(words)
    column = Strings(memoryview(Strings.of([os.fsdecode(word) for word in ordered])))
    assert [column.raw(row) for row in range(len(column))] == ordered
    assert [os.fsencode(word) for word in column] == ordered
    column.require_sorted()
    for word in [*ordered[::7], b"ab\xff\xff", b"zz", b"\xff" * 3, b"\x01"]:
        name = os.fsdecode(word)
        assert column.find(name) == (ordered.index(word) if word in words else None)
        found = column.beginning(name)
        assert ordered[found] == [one for one in ordered if one.startswith(word)]
    assert column.find("\ud800") is None  # half a surrogate pair is no name of a file
    rows = random.integers(len(ordered), size=31)
    assert [os.fsencode(word) for word in column.take(rows)] == [ordered[row] for row in rows]
    with pytest.raises(IntegrityError, match="not in order at row 1"):
        Strings(memoryview(Strings.of(["b", "a"]))).require_sorted()
    with pytest.raises(IntegrityError, match="not in order at row 2"):
        Strings(memoryview(Strings.of(["a", "b", "b"]))).require_sorted()


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, b"\0" * 8, np.int64(-1).tobytes() * 3, np.int64(2**63 - 1).tobytes() * 3]
)
def test_what_is_no_column_is_refused(data):
    with pytest.raises(IntegrityError, match="not a column of strings"):
        Strings(memoryview(data))


@pytest.mark.parametrize("places", [(0, 1, 4), (0, 1, 2), (1, 1, 3), (-1, 1, 3), (0, 4, 3), (0, -1, 3)])
def test_places_that_do_not_fit_the_text_of_a_column_are_refused(places):
    whole = np.array([2, 0, 1, 3], "<i8").tobytes() + b"abc"
    assert list(Strings(memoryview(whole))) == ["a", "bc"]
    with pytest.raises(IntegrityError, match="its places do not fit its text"):
        Strings(memoryview(np.array([2, *places], "<i8").tobytes() + b"abc"))


def test_a_column_of_no_string_is_one():
    assert list(Strings(memoryview(Strings.of([])))) == []


def test_verify_names_features_that_no_writer_writes_and_ids_out_of_order(copy):
    for what, change, told in (
        ("features", lambda data: data[: 4 * D] + np.full(D, 3, "<f4").tobytes() + data[8 * D :], "not of unit length"),
        ("features", lambda data: np.full(D, np.nan, "<f4").tobytes() + data[4 * D :], "not of unit length"),
        ("ids", lambda data: data[:-3] + b"000", "not in order"),
    ):
        path = copy("flat")
        file = first(path, what)
        rewrite(path, contents={file: change((path / file).read_bytes())})
        with pytest.raises(IntegrityError, match=told):
            opened(path).verify()


def test_dead_rows_are_rows_of_their_segment_each_once(copy):
    path = copy("flat")
    segment = next(one for one in OpenIndex.open(path).segments if len(one.dead))
    n, dead = segment.rows, segment.dead
    assert len(dead) == 2
    file = segment.stored.dead.path
    for wrong in ([0, n], [-1, 0], [1, 1], [2, 1]):
        rewrite(copy("flat"), contents={file: np.array(wrong, "<i8").tobytes()})
        with pytest.raises(IntegrityError, match="dead rows that do not fit"):
            OpenIndex.open(path)
    copy("flat")
    rewrite(path, contents={file: np.array([0, n - 1], "<i8").tobytes()})
    again = next(one for one in OpenIndex.open(path).segments if len(one.dead))
    assert np.flatnonzero(~again.live).tolist() == [0, n - 1]


@pytest.mark.parametrize("more", [-1, 1])
def test_a_segment_has_as_many_ids_as_rows(copy, more):
    path = copy("flat")
    segment = OpenIndex.open(path).segments[0]
    names = [*segment.ids, "zzz"][: segment.rows + more]
    rewrite(path, contents={segment.stored.ids.path: Strings.of(names)})
    with pytest.raises(IntegrityError, match=f"a segment of {segment.rows} rows has {segment.rows + more} ids"):
        OpenIndex.open(path)


def test_what_was_built_to_search_with_is_read_and_asked(copy, monkeypatch):
    segment = OpenIndex.open(copy("hnsw")).segments[0]
    first_time = segment.candidates
    assert first_time is not None
    monkeypatch.setattr("fewvit.retrieval.segment.Candidates.read", lambda *args: pytest.fail("it was read again"))
    assert segment.candidates is first_time
    assert OpenIndex.open(copy("flat")).segments[0].candidates is None


@pytest.mark.parametrize(("name", "number"), [("label", 2), ("label", -2), ("source", 0), ("source", -7)])
def test_a_row_of_a_class_or_source_that_is_not_there_is_refused(copy, name, number):
    path = copy("flat")
    file = first(path, "records")
    records = np.frombuffer((path / file).read_bytes(), RECORD).copy()
    records[name][5] = number
    rewrite(path, contents={file: records.tobytes()})
    with pytest.raises(FewvitError, match=f"its {name}s run from"):
        OpenIndex.open(path)


def test_an_id_that_is_live_in_two_segments_is_found_by_verify(copy):
    path = copy("flat")
    segments = OpenIndex.open(path).manifest.segments
    ids = sorted(["000", *(f"more/{i:03d}" for i in range(1, 11))])
    rewrite(path, contents={segments[1].ids.path: Strings.of(ids)})
    with pytest.raises(IntegrityError, match="1 ids are there twice"):
        opened(path).verify()
