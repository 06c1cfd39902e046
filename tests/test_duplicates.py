"""Groups of copies: planted ones, against brute force; the threshold that made copies give; what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fewvit.datasets import Listing
from fewvit.errors import FingerprintMismatch
from fewvit.evaluate.inputs import Backbones, FeatureReader
from fewvit.extraction.cache import Cache
from fewvit.extraction.pipeline import FeatureOptions
from fewvit.extraction.work import Work
from fewvit.features import FeatureSet
from fewvit.models.spec import Access
from fewvit.neighbors.pairs import wilson
from fewvit.retrieval import copy_threshold
from fewvit.retrieval.compared import Comparison, compare, of_features
from fewvit.retrieval.copy_threshold import Request, calibrated_threshold, lowest_threshold
from fewvit.retrieval.duplicates import find_duplicates
from fewvit.retrieval.index import ImageIndex
from fewvit.retrieval.made_copies import EDITS, Plan, made_copies
from fewvit_cli import main as cli

from made_images import folder_of, jpeg, tiny_weights
from oracles import unit_rows

SMALL = ("--img-size", "32")  # pixels: two by two patches


@pytest.fixture
def fewvit(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


def reader(folder: Path, backbone: str = "fewvit_tiny") -> FeatureReader:
    return FeatureReader(Backbones([backbone], Access(folder)), FeatureOptions(), Cache(folder), Work())


def cloud(n: int, d: int = 13, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def a_set(rows: np.ndarray, ids: list[str] | None = None, digests: list[bytes] | None = None, fingerprint: str = ""):
    ids = ids or [f"{i:04d}.jpg" for i in range(len(rows))]
    given = FeatureSet(rows, np.full(len(rows), -1), ids, [], fingerprint, digests=digests)
    return of_features("cloud", given, None)


def brute_groups(rows: np.ndarray, threshold: float, split: int | None = None) -> set[frozenset[int]]:
    """Connected parts of the graph of close pairs and equal rows, by walking it."""
    unit = unit_rows(rows).astype(np.float64)
    near = unit @ unit.T >= threshold
    near |= (rows[:, None] == rows[None]).all(axis=2) & (split is None)
    if split is not None:
        across = np.arange(len(rows)) >= split
        twins = (unit[:, None] == unit[None]).all(axis=2)
        near = (near & (across[:, None] != across[None])) | twins
    seen: set[int] = set()
    groups = set()
    for start in range(len(rows)):
        part, queue = set(), [start] if start not in seen else []
        while queue:
            row = queue.pop()
            if row not in part:
                part.add(row)
                queue += np.flatnonzero(near[row]).tolist()
        seen |= part
        if len(part) > 1 and (split is None or min(part) < split <= max(part)):
            groups.add(frozenset(part))
    return groups


def with_copies(n: int, seed: int = 3) -> np.ndarray:
    """A cloud with near copies, chains of them, and rows that are equal bit for bit."""
    random = np.random.default_rng(seed)
    rows = cloud(n, seed=seed)
    at = random.permutation(n)
    for first, second in zip(at[:40], at[40:80], strict=True):
        rows[second] = rows[first] + random.uniform(0, 0.3) * random.standard_normal(13)
    for first, second in zip(at[20:50], at[80:110], strict=True):
        rows[second] = rows[first]
    return rows


# ---- groups


@pytest.mark.parametrize("split", [None, 101, 397])
@pytest.mark.parametrize("exact", [None, False])
def test_the_groups_are_the_connected_parts_of_the_graph_of_close_pairs(split, exact):
    rows = with_copies(499)
    sets = (a_set(rows),) if split is None else (a_set(rows[:split]), a_set(rows[split:]))
    found = find_duplicates(Comparison(sets), 0.95, exact=exact)
    groups = {frozenset(group.rows.tolist()) for group in found.groups}
    assert groups == brute_groups(rows, 0.95, split)
    assert len(groups) > 10


def test_the_pairs_are_all_pairs_that_score_at_least_the_threshold():
    rows = with_copies(499)
    unit = unit_rows(rows).astype(np.float64)
    scores = (unit @ unit.T).astype(np.float32)
    for split in (None, 211):
        pairs: dict[tuple[int, int], float] = {}
        sets = (a_set(rows),) if split is None else (a_set(rows[:split]), a_set(rows[split:]))

        def take(some, pairs=pairs):
            for a, b, value in zip(some.first.tolist(), some.second.tolist(), some.scores.tolist(), strict=True):
                assert a < b
                assert (a, b) not in pairs
                pairs[a, b] = value

        find_duplicates(Comparison(sets), 0.9, take_pairs=take)
        wanted = {
            (a, b)
            for a, b in np.argwhere(scores >= np.float32(0.9)).tolist()
            if a < b and (split is None or a < split <= b)
        }
        assert set(pairs) == wanted
        assert all(abs(pairs[a, b] - scores[a, b]) < 2e-7 for a, b in wanted)


def test_a_group_begins_with_its_first_id_and_scores_are_those_with_it():
    rows = np.array([[1, 0], [0.6, 0.8], [0.96, 0.28], [-1, 0], [-0.96, 0.28]], np.float32)
    found = find_duplicates(Comparison((a_set(rows, ["d", "B", "a", "e", "c"]),)), 0.75)
    assert [group.names for group in found.groups] == [["B", "a", "d"], ["c", "e"]]
    [first, second] = found.groups
    np.testing.assert_allclose(first.scores, [1, 0.8, 0.6], atol=1e-6)  # d is in by way of a
    np.testing.assert_allclose(second.scores, [1, 0.96], atol=1e-6)
    assert first.kinds == ["first", "near", "near"]


def test_images_of_the_same_bytes_are_exact_copies_whatever_their_features_are():
    rows = cloud(7)
    rows[5] = rows[2]
    digests = [bytes([i]) * 32 for i in (1, 2, 3, 1, 4, 3, 5)]
    found = find_duplicates(Comparison((a_set(rows, digests=digests),)), 0.999)
    assert [(g.names, g.kinds) for g in found.groups] == [
        (["0000.jpg", "0003.jpg"], ["first", "exact"]),
        (["0002.jpg", "0005.jpg"], ["first", "exact"]),
    ]
    assert found.groups[1].scores.tolist() == [1, 1]


def test_across_two_sets_a_group_has_images_of_both_and_begins_with_one_of_the_first():
    rows = cloud(11)
    other = np.concatenate([rows[3:4], cloud(5, seed=5), cloud(1, seed=9), cloud(1, seed=9)])
    found = find_duplicates(Comparison((a_set(rows), a_set(other, list("hgfedcba")))), 0.99)
    [group] = found.groups  # the last two of the other set are copies of one another, and of nothing else
    assert group.names == ["0003.jpg", "h"]
    assert group.rows.tolist() == [3, 11]


def test_a_thousand_equal_rows_are_one_comparison(monkeypatch):
    rows = np.concatenate([np.repeat(cloud(1), 1009, axis=0), cloud(7, seed=5)])
    found = find_duplicates(Comparison((a_set(rows),)), 0.999)
    assert found.pairs == 0
    assert [len(group.rows) for group in found.groups] == [1009]


def test_the_order_of_the_rows_changes_no_group():
    rows, order = with_copies(499), np.random.default_rng(5).permutation(499)
    ids = np.array([f"{i:03d}" for i in np.random.default_rng(7).permutation(499)])
    one = find_duplicates(Comparison((a_set(rows, ids.tolist()),)), 0.95)
    other = find_duplicates(Comparison((a_set(rows[order], ids[order].tolist()),)), 0.95)
    assert [(g.names, g.scores.tolist(), g.kinds) for g in one.groups] == [
        (g.names, g.scores.tolist(), g.kinds) for g in other.groups
    ]


# ---- the index


def test_an_index_with_removed_images_and_half_precision_gives_its_live_images(tmp_path):
    rows = with_copies(499)
    source = FeatureSet(rows, np.full(499, -1), [f"{i:03d}" for i in range(499)], [], "abc")
    index = ImageIndex.build(tmp_path / "idx", source)
    index = index.remove([f"{i:03d}" for i in range(0, 499, 3)])
    live = np.array([i for i in range(499) if i % 3])
    found = find_duplicates(compare(None, Listing(), index=index), 0.95)
    names = {frozenset(int(name) for name in group.names) for group in found.groups}
    assert names == {frozenset(live[list(group)].tolist()) for group in brute_groups(rows[live], 0.95)}


def test_features_of_another_fingerprint_are_refused_beside_an_index(tmp_path):
    source = FeatureSet(cloud(11), np.full(11, -1), [str(i) for i in range(11)], [], "abc")
    index = ImageIndex.build(tmp_path / "idx", source)
    FeatureSet(cloud(3), np.full(3, -1), list("abc"), [], "xyz").save(tmp_path / "other.npz")
    with pytest.raises(FingerprintMismatch, match=r"abc.*xyz"):
        compare(reader(tmp_path), Listing(), index=index, against=str(tmp_path / "other.npz"))


# ---- the command


def saved(path: Path, rows: np.ndarray, fingerprint: str = "abc", ids: list[str] | None = None) -> Path:
    names = ids or [f"{path.stem}/{i}" for i in range(len(rows))]
    FeatureSet(rows, np.full(len(rows), -1), names, [], fingerprint).save(path)
    return path


def test_the_command_tells_groups_as_rows_and_says_which_threshold_it_took(fewvit, tmp_path):
    rows = cloud(7)
    rows[6] = 3 * rows[1]
    code, out, err = fewvit("index", "duplicates", "--data", saved(tmp_path / "a.npz", rows), "--format", "json")
    told = json.loads(out)
    assert code == 0
    assert told["task"] == "index"
    assert [(r["group"], r["id"], r["set"], r["kind"]) for r in told["rows"]] == [
        (1, "a/1", "data", "first"),
        (1, "a/6", "data", "near"),
    ]
    assert told["run"]["threshold"] == 0.999
    assert "threshold 0.999" in err
    assert "--calibrate" in err


def test_pairs_are_printed_as_csv_and_groups_are_kept_in_a_file(fewvit, tmp_path):
    rows = cloud(7)
    rows[6], rows[0] = rows[1], rows[1]
    data = saved(tmp_path / "a.npz", rows, ids=["d", "a,b", "x", "y", "z", "w", "c\udce9"])
    code, out, _ = fewvit(
        "index", "duplicates", "--data", data, "--threshold", "0.9", "--pairs", "--out", tmp_path / "o"
    )
    lines = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert lines[0] == ["id_a", "id_b", "score"]
    assert sorted(map(tuple, lines[1:])) == [
        ("a,b", "c\\udce9", "1.0"),
        ("a,b", "d", "1.0"),
        ("c\\udce9", "d", "1.0"),
    ]
    assert [row["id"] for row in json.loads((tmp_path / "o").read_text())["rows"]] == ["a,b", "c\udce9", "d"]


def test_images_that_leak_from_one_set_into_another_are_found(fewvit, tmp_path, weights):
    train = folder_of(tmp_path / "train", {"cat": 5, "dog": 7})
    val = folder_of(tmp_path / "val", {"cat": 3, "dog": 2}, first_seed=100)
    shutil.copy(train / "dog" / "003.jpg", val / "cat" / "leaked.jpg")
    code, out, err = fewvit(
        "index", "duplicates", "-m", weights, *SMALL, "--data", train, "--against", val,
        "--threshold", "1", "--format", "csv",
    )  # fmt: skip
    assert code == 0, err
    assert [line.split(",")[1:] for line in out.splitlines()[1:]] == [
        ["dog/003.jpg", "data", "1.0", "first"],
        ["cat/leaked.jpg", "against", "1.0", "exact"],
    ]


def test_an_index_is_compared_with_images_by_its_own_backbone(fewvit, tmp_path, weights):
    train = folder_of(tmp_path / "train", {"cat": 5, "dog": 7})
    assert fewvit("index", "build", "-m", weights, *SMALL, "--data", train, "--index", tmp_path / "idx")[0] == 0
    new = folder_of(tmp_path / "new", {"cat": 2}, first_seed=3)  # seeds 3 and 4: cats of the index
    code, out, err = fewvit(
        "index", "duplicates", "--index", tmp_path / "idx", "--against", new, "--threshold", "1", "--format", "csv"
    )
    assert code == 0, err
    assert [line.split(",")[0:3] for line in out.splitlines()[1:]] == [
        ["1", "cat/003.jpg", "data"],
        ["1", "cat/000.jpg", "against"],
        ["2", "cat/004.jpg", "data"],
        ["2", "cat/001.jpg", "against"],
    ]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--data", "a.npz", "--threshold", "1.5"), 2, "--threshold 1.5"),
        (("--data", "a.npz", "--threshold", "0"), 2, "above 0"),
        (("--data", "a.npz", "--threshold", "nan"), 2, "--threshold nan"),
        (("--data", "a.npz", "--threshold", "0.9", "--calibrate"), 2, "--calibrate"),
        (("--data", "a.npz", "--calibrate"), 2, "these are features"),
        (("--data", "a.npz", "--sample", "50"), 2, "--sample 50 says how --calibrate works"),
        (("--data", "a.npz", "--threshold", "0.9", "--copy-precision", "0.9"), 2, "--copy-precision 0.9"),
        (("--data", "a.npz", "--index", "idx"), 3, "no such folder"),
        ((), 2, "--data SRC"),
        (("--data", "a.npz", "--against", "other.npz"), 4, "another backbone"),
        (("--data", "a.npz", "--against", "wide.npz"), 4, "columns"),
        (("--data", "a.npz", "--against", "empty.npz"), 3, "no image"),
        (("--data", "empty.npz"), 3, "no image"),
        (("--data", "nan.npz"), 5, "NaN"),
        (("--data", "none.npz"), 3, "no such file"),
        (("--data", "a.npz", "--format", "xml"), 2, "xml"),
        (("--data", "a.npz", "--pairs", "--format", "json"), 2, "--pairs"),
    ],
)
def test_what_cannot_be_compared_is_refused(fewvit, tmp_path, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.npz", cloud(7))
    saved(tmp_path / "other.npz", cloud(7), "xyz")
    saved(tmp_path / "wide.npz", cloud(7, 17), "")
    saved(tmp_path / "empty.npz", np.zeros((0, 13), np.float32))
    bad = cloud(7)
    bad[3, 5] = np.nan
    saved(tmp_path / "nan.npz", bad)
    found, out, err = fewvit("index", "duplicates", *words)
    assert (found, out) == (code, "")
    assert told in err
    assert len(err.strip().splitlines()) <= 2


# ---- calibration


def test_the_threshold_is_the_lowest_with_which_the_precision_is_sure():
    """By trying every score: 600 copies, of which the lower ones lie among 80 other pairs that count twice."""
    random = np.random.default_rng(3)
    positive = random.uniform(0.7, 1, 600).astype(np.float32)
    negative = random.uniform(0.5, 0.8, (40, 2)).astype(np.float32)
    times = np.full(40, 2)
    found = lowest_threshold(positive, negative, times, 0.95)

    def low(threshold: float) -> float:
        hits = int((positive >= np.float32(threshold)).sum())
        return wilson(hits, hits + 2 * int((negative >= np.float32(threshold)).sum()))[0]

    assert low(found) >= 0.95
    lower = positive[positive < np.float32(found)]
    assert len(lower) > 20
    assert all(low(value) < 0.95 for value in lower.tolist())
    assert found == round(found, 6)  # the flag says all of it


def test_where_the_precision_cannot_be_reached_the_surest_threshold_is_taken_and_said_to_be_it():
    found = copy_threshold.CopyThreshold(0.5, 0.99, 30, 0, {"crop": (30, 50)}, [], 0, 50, 100)
    assert not found.is_reached
    assert any("NOT reached" in line for line in found.lines())
    sure = copy_threshold.CopyThreshold(0.5, 0.99, 500, 0, {"crop": (500, 500)}, [], 0, 50, 100)
    assert sure.is_reached
    assert not any("NOT" in line for line in sure.lines())
    assert "--threshold 0.5" in sure.lines()[0]
    assert any("--sample N" in line for line in found.lines())
    # 500 of 500 would be enough (0.9924 at least), and 7 other pairs are too many: 500 of 507 is 0.972 at least
    kept = copy_threshold.CopyThreshold(0.5, 0.99, 500, 7, {"crop": (500, 500)}, [("a", "b", 0.99)], 7, 500, 900)
    [line] = [line for line in kept.lines() if "NOT reached" in line]
    assert "copies that were there before" in line
    assert "--sample" not in line
    few = copy_threshold.CopyThreshold(0.5, 0.99, 300, 7, {"crop": (300, 300)}, [("a", "b", 0.99)], 7, 300, 900)
    assert any("--sample N" in line for line in few.lines())  # 300 of 300 is 0.9874 at least
    random = np.random.default_rng(3)
    positive, negative = random.uniform(0, 1, 97).astype(np.float32), random.uniform(0, 1, (97, 3)).astype(np.float32)
    threshold = lowest_threshold(positive, negative, np.ones(97, np.int64), 0.99)
    lows = {}
    for value in positive.tolist():
        hits = int((positive >= value).sum())
        lows[value] = wilson(hits, hits + int((negative >= value).sum()))[0]
    assert abs(max(lows, key=lambda value: lows[value]) - threshold) < 2e-6


def test_made_copies_are_the_same_for_the_same_seed_and_others_for_another():
    names = ["a", "a", "b", "b", "c"]

    def made(seed: int) -> list[bytes]:
        plan = Plan(np.array([0, 0, 1, 1, 2]), list(EDITS), names, seed)
        copies = made_copies(plan, lambda row: jpeg(row), 1 << 20)
        return [copies.read(i) for i in range(5)]

    assert made(3) == made(3)
    assert all(one != other for one, other, kind in zip(made(3), made(5), EDITS, strict=True) if kind != "mirror")


def test_made_copies_are_what_their_kind_says():
    from PIL import Image

    original = Image.open(io.BytesIO(jpeg(3, (97, 131)))).convert("RGB")
    plan = Plan(np.zeros(5, np.int64), list(EDITS), list("abcde"), 7)
    copies = made_copies(plan, lambda row: jpeg(3, (97, 131)), 1 << 20)
    made = {kind: Image.open(io.BytesIO(copies.read(i))).convert("RGB") for i, kind in enumerate(EDITS)}
    share = made["crop"].width * made["crop"].height / (97 * 131)
    assert 0.45 < share < 0.95
    assert 0.29 < made["resize"].width / 131 < 0.76
    for kind in ("jpeg", "overlay", "mirror"):
        assert made[kind].size == original.size

    def differs(one, other):
        return np.abs(np.asarray(one, int) - np.asarray(other, int)).max(axis=2)

    assert differs(made["jpeg"], original).mean() < 20
    assert 0.02 < (differs(made["overlay"], original) > 40).mean() < 0.25
    flipped = original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert differs(made["mirror"], flipped).mean() < 5 < differs(made["mirror"], original).mean()


def test_an_image_that_is_gone_since_makes_no_copy_and_is_counted(fewvit, tmp_path, weights):
    train = folder_of(tmp_path / "train", {"cat": 11})
    assert fewvit("index", "build", "-m", weights, *SMALL, "--data", train, "--index", tmp_path / "idx")[0] == 0
    os.unlink(train / "cat" / "004.jpg")
    words = ("index", "duplicates", "--index", tmp_path / "idx", "--calibrate", "--sample", "55", "--format", "json")
    code, _, err = fewvit(*words)
    assert code == 3
    assert "cannot be" in err
    code, out, err = fewvit(*words, "--max-bad", "5")
    assert code == 0, err
    recall = json.loads(out)["run"]["calibration"]["recall"]
    assert sum(kind["made"] for kind in recall.values()) == 50


def test_the_flag_that_is_printed_repeats_the_threshold(fewvit, tmp_path, weights):
    train = folder_of(tmp_path / "train", {"cat": 11, "dog": 13})
    shutil.copy(train / "cat" / "004.jpg", train / "dog" / "same.jpg")
    words = ("index", "duplicates", "-m", weights, *SMALL, "--data", train, "--format", "json")
    code, out, err = fewvit(*words, "--calibrate", "--sample", "90")
    assert code == 0, err
    told = json.loads(out)
    threshold = told["run"]["threshold"]
    assert f"--threshold {threshold}" in err
    again = json.loads(fewvit(*words, "--threshold", threshold)[1])
    assert again["rows"] == told["rows"]
    assert {"cat/004.jpg", "dog/same.jpg"} <= {row["id"] for row in told["rows"]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_held_out_photographs_the_calibrated_threshold_has_the_precision_it_promises(shared, tmp_path):
    """1,500 photographs give a threshold; of 1,500 others a copy of each counts beside all pairs of different ones."""
    with zipfile.ZipFile(shared / "data" / "tinyimagenet-val.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpeg", ".jpg")))
        for at, name in enumerate(names[:: len(names) // 3000][:3000]):
            folder = tmp_path / ("one" if at % 2 else "other")
            folder.mkdir(exist_ok=True)
            (folder / f"{at:05d}.jpeg").write_bytes(archive.read(name))
    reads = reader(tmp_path / "cache")
    one, other = (compare(reads, Listing(), data=str(tmp_path / name)) for name in ("one", "other"))
    assert one.pipeline is not None
    found = calibrated_threshold(one.sets[0], one.pipeline, reads.extractor, Request(seed=3))
    assert found.is_reached
    held = other.sets[0]
    plan = Plan(
        np.arange(len(held)), [list(EDITS)[i % 5] for i in range(len(held))], held.names(np.arange(len(held))), 5
    )
    assert held.read is not None
    copies = reads.extractor.features(other.pipeline, made_copies(plan, held.read, 1 << 26))
    own = unit_rows(held.rows.take(np.arange(len(held)))).astype(np.float64)
    scores = (own * unit_rows(copies.features)).sum(axis=1)
    between = own @ own.T
    hits = int((scores >= found.threshold).sum())
    mistakes = int((between[np.triu_indices(len(own), 1)] >= found.threshold).sum())
    assert hits > 400
    assert hits / (hits + mistakes) >= 0.99
    jpegs = scores[1::5]
    assert (jpegs >= found.threshold).mean() > 0.9
