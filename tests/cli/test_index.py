"""`fewvit index`: every verb from the command line, with the backbone that is in the package."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest

from fewvit.features import FeatureSet
from fewvit.retrieval.folder import _current
from fewvit.retrieval.opened import OpenIndex

from made_images import folder_of, jpeg
from made_indexes import random_rows, source_of

MODEL = ("-m", "fewvit_tiny", "--img-size", "32", "--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of two classes, and an index of them."""
    from fewvit_cli import main as cli

    root = tmp_path_factory.mktemp("made")
    folder_of(root / "images", {"hens": 7, "oxen": 10})
    code = cli.run([*map(str, ("index", "build", *MODEL, "-q", "--data", root / "images", "--index", root / "index"))])
    assert code == 0
    return root


@pytest.fixture
def place(made, tmp_path):
    """A copy of both, which a test may change."""
    shutil.copytree(made / "images", tmp_path / "images")
    shutil.copytree(made / "index", tmp_path / "index")
    return tmp_path


@pytest.fixture
def ok(fewvit):
    """Runs `fewvit index …` and gives the JSON's rows, or the facts."""

    def run(*words: object) -> list[dict] | dict:
        code, out, err = fewvit("index", *words, "--format", "json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def searched(ok):
    """ids of each query."""

    def run(*words: object) -> dict[str, list[str]]:
        found = ok("search", "--device", "cpu", *words)
        assert (found["schema"], found["task"]) == ("fewvit.result/1", "index")
        lists: dict[str, list[str]] = {}
        for row in found["rows"]:
            lists.setdefault(row["query"], []).append(row["id"])
            assert row["rank"] == len(lists[row["query"]])
        return lists

    return run


def facts(found: dict) -> dict:
    """The facts of an answer, whatever stands around them."""
    return found["rows"][0] if "rows" in found else found


# ---- build and info


def test_build_says_what_it_did_and_info_what_is_there(ok, made, tmp_path):
    did = facts(ok("build", *MODEL, "--data", made / "images", "--index", tmp_path / "i", "--kind", "flat"))
    assert {
        name: did[name] for name in ("images", "added", "dead", "kind", "recall", "version", "dimension", "skipped")
    } == {
        "images": 17,
        "added": 17,
        "dead": 0,
        "kind": "flat",
        "recall": 1.0,
        "version": 1,
        "dimension": 192,
        "skipped": 0,
    }
    info = facts(ok("info", "--index", tmp_path / "i"))
    wanted = {
        "images": 17,
        "classes": 2,
        "kind": "flat",
        "backbone": "fewvit_tiny",
        "segments": 1,
        "recall_wanted": 0.95,
    }
    assert {name: info[name] for name in wanted} == wanted
    assert info["sources"] == [str(made / "images")]
    assert info["bytes"] == sum(path.stat().st_size for path in (tmp_path / "i/data").iterdir())
    assert len(info["fingerprint"]) == 64


@pytest.mark.parametrize("verb", [("info",), ("verify",), ("verify", "--images"), ("search", "--like", "hens/003.jpg")])
def test_every_answer_comes_as_a_table_and_as_csv_too(fewvit, made, verb):
    code, table, err = fewvit("index", *verb, "--index", made / "index")
    assert code == 0, err
    assert "17" in table or "hens/003.jpg" in table
    code, text, err = fewvit("index", *verb, "--index", made / "index", "--format", "csv")
    assert code == 0, err
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    assert any("17" in row or "hens/003.jpg" in row for row in rows)


def test_a_rebuild_replaces_the_index_and_one_of_another_size_needs_overwrite(fewvit, ok, place):
    words = ("build", "-m", "fewvit_tiny", "--device", "cpu", "--data", place / "images", "--index", place / "index")
    assert facts(ok(*words, "--img-size", "32"))["version"] == 2
    code, _, err = fewvit("index", *words, "--img-size", "40")
    assert code == 2
    assert "the new one would be of" in err
    assert "--overwrite" in err
    assert facts(ok("info", "--index", place / "index"))["version"] == 2
    assert facts(ok(*words, "--img-size", "40", "--overwrite"))["version"] == 3


def test_a_damaged_index_is_replaced_with_overwrite(fewvit, ok, place):
    (place / "index/CURRENT").write_text("{}")
    words = ("build", *MODEL, "--data", place / "images", "--index", place / "index")
    code, _, err = fewvit("index", *words)
    assert code == 4
    assert "--overwrite" in err
    assert facts(ok(*words, "--overwrite"))["images"] == 17


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--kind", "annoy"), "--kind 'annoy' is not one of auto, flat, hnsw, ivf, compact"),
        (("--recall", "0"), "--recall 0.0: a share"),
        (("--recall", "1.5"), "--recall 1.5: a share"),
        (("--recall", "nan"), "--recall nan: a share"),
        (("--memory", "lots"), "--memory 'lots' is no size such as 500M or 4G"),
        (("--layers", "each"), "--layers each"),
        (("-m", "fewvit_tiny,dino_vits16"), "an index is of one backbone"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(fewvit, made, tmp_path, words, told):
    code, out, err = fewvit("index", "build", *MODEL, "--data", made / "images", "--index", tmp_path / "i", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert not (tmp_path / "i").exists()


def test_an_index_is_never_made_where_other_files_are_or_among_the_images(fewvit, place):
    (place / "notes").mkdir()
    (place / "notes/thesis.tex").write_text("x")
    for index in (place / "notes", place / "images/index"):
        code, _, err = fewvit("index", "build", *MODEL, "--data", place / "images", "--index", index)
        assert code == 2, err
    assert not (place / "images/index").exists()


def test_bad_sources_are_told_with_their_exit_code(fewvit, tmp_path):
    index = ("--index", tmp_path / "i")
    assert fewvit("index", "build", *MODEL, *index)[0] == 2  # no --data
    assert fewvit("index", "build", *MODEL, "--data", tmp_path / "nowhere", *index)[0] == 3
    (tmp_path / "bad/a").mkdir(parents=True)
    (tmp_path / "bad/a/x.jpg").write_bytes(b"no picture")
    code, _, err = fewvit("index", "build", *MODEL, "--data", tmp_path / "bad", *index)
    assert (code, "cannot be decoded" in err) == (3, True)


@pytest.mark.parametrize("verb", ["info", "verify", "search", "compact", "add", "remove"])
def test_where_no_index_is_every_verb_says_how_to_make_one(fewvit, made, tmp_path, verb):
    words = {"search": ("--like", "x"), "add": ("--data", made / "images"), "remove": ("x",)}.get(verb, ())
    code, out, err = fewvit("index", verb, "--index", tmp_path / "nowhere", *words)
    assert (code, out) == (3, "")
    assert "fewvit index build" in err
    assert not (tmp_path / "nowhere").exists()


# ---- search


def test_an_image_finds_itself_first_and_results_say_label_and_score(ok, made):
    found = ok("search", made / "images/oxen/004.jpg", "--index", made / "index", "--k", 3, "--device", "cpu")
    first, *others = found["rows"]
    assert {name: first[name] for name in ("rank", "id", "label")} == {"rank": 1, "id": "oxen/004.jpg", "label": "oxen"}
    assert first["query"] == str(made / "images/oxen/004.jpg")
    assert first["score"] == pytest.approx(1, abs=1e-6)
    assert first["score"] >= others[0]["score"] >= others[1]["score"]
    assert not any("file" in row for row in found["rows"])
    assert found["run"]["index"] == str(made / "index")


def test_an_id_of_the_index_as_the_query_gives_what_its_file_does(searched, made):
    [by_file] = searched(made / "images/hens/002.jpg", "--index", made / "index").values()
    [by_id] = searched("--like", "hens/002.jpg", "--index", made / "index").values()
    assert by_id == by_file
    assert len(by_id) == 10


def test_a_folder_a_list_on_stdin_and_several_files_are_as_many_queries(searched, made, monkeypatch, tmp_path):
    index = ("--index", made / "index", "--k", 1)
    folder_of(tmp_path / "q", {"x": 1})
    shutil.copy(made / "images/hens/001.jpg", tmp_path / "q/x/000.jpg")
    assert searched(tmp_path / "q", *index) == {str(tmp_path / "q/x/000.jpg"): ["hens/001.jpg"]}
    one, other = made / "images/hens/005.jpg", made / "images/oxen/007.jpg"
    wanted = {str(one): ["hens/005.jpg"], str(other): ["oxen/007.jpg"]}
    assert searched(one, other, *index) == wanted
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{one}\n\n{other}\r\n"))
    assert searched("-", *index) == wanted


def test_filters_threshold_and_combinations_agree_with_the_library(searched, made):
    index, opened = ("--index", made / "index"), OpenIndex.open(made / "index")
    names = opened.ids(opened.live)
    features = dict(zip(names, opened.features(opened.live).astype(np.float64), strict=True))

    def ranked(query: np.ndarray, keep=lambda name: True) -> list[str]:
        return sorted(filter(keep, names), key=lambda name: (-round(float(features[name] @ query), 6), name))

    one, other, far = (features[name] for name in ("hens/002.jpg", "oxen/003.jpg", "oxen/009.jpg"))
    likes = ("--like", "hens/002.jpg", "--like", "oxen/003.jpg")
    [found] = searched(*likes[:2], *index, "--class", "oxen", "--k", 99).values()
    assert found == ranked(one, lambda name: name.startswith("oxen"))
    [found] = searched(*likes[:2], *index, "--folder", "hens/00", "--k", 99).values()
    assert found == ranked(one, lambda name: name.startswith("hens"))
    [found] = searched(*likes[:2], *index, "--threshold", 0.9, "--k", 99).values()
    assert found == [name for name in ranked(one) if features[name] @ one >= 0.9]
    assert len(found) >= 1
    [found] = searched(*likes, *index, "--combine", "mean", "--k", 99).values()
    assert found == ranked(one + other)
    [found] = searched(*likes, *index, "--combine", "max", "--k", 99).values()
    best = {name: round(max(float(features[name] @ one), float(features[name] @ other)), 6) for name in names}
    assert found == sorted(names, key=lambda name: (-best[name], name))
    unwanted = made / "images/oxen/009.jpg"
    [found] = searched(*likes[:2], *index, "--not", unwanted, "--k", 99).values()
    assert found == ranked(2 * one - far)
    [found] = searched(*likes[:2], *index, "--not-like", "oxen/009.jpg", "--k", 99).values()
    assert found == ranked(2 * one - far)
    both = ("--not", unwanted, "--not-like", "oxen/004.jpg")
    [found] = searched(*likes[:2], *index, *both, "--k", 99).values()
    assert found == ranked(2 * one - (far + features["oxen/004.jpg"]) / 2)
    [found] = searched(*likes, *index, "--combine", "max", "--not", unwanted, "--k", 99).values()
    kept = [name for name in names if best[name] >= features[name] @ far]
    assert found == sorted(kept, key=lambda name: (-best[name], name))
    assert len(kept) < 17
    [found] = searched(*likes[:2], *index, "--combine", "max", "--not", unwanted, "--k", 99).values()
    assert found == ranked(one, lambda name: features[name] @ one >= features[name] @ far)
    assert len(found) < 17


def test_a_k_above_the_number_of_images_finds_all_of_them(searched, made):
    [found] = searched("--like", "hens/002.jpg", "--index", made / "index", "--k", 10**12).values()
    assert len(found) == 17


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--like", "hens/002.jpg", "--k", "0"), 2, "--k 0"),
        (("--like", "hens/002.jpg", "--k", "-1"), 2, "--k -1"),
        ((), 2, "nothing to look for"),
        (("--like", "hens/777.jpg"), 3, "no image hens/777.jpg in this index"),
        (("--like", "hens/02.jpg"), 3, "Did you mean hens/002.jpg"),
        (("--like", "HENS/002.JPG"), 3, "Did you mean hens/002.jpg"),
        (("--like", "hens/002.jpg", "--not-like", "oxen/01.jpg"), 3, "Did you mean oxen/001.jpg"),
        (("--not-like", "oxen/001.jpg"), 2, "nothing to look for"),
        (("--like", "hens/002.jpg", "--class", "hen"), 2, "Did you mean hens"),
        (("--like", "hens/002.jpg", "--class", "oxen, hens"), 2, "--class oxen --class hens."),
        (("--like", "hens/002.jpg", "--combine", "median"), 2, "way to combine"),
        (("--like", "hens/002.jpg", "--threshold", "nan"), 2, "between -1 and 1"),
        (("--like", "hens/002.jpg", "--threshold", "60"), 2, "between -1 and 1"),
        (("nowhere.jpg",), 3, "nowhere.jpg"),
    ],
)
def test_searches_that_make_no_sense_are_told_so(fewvit, made, words, code, told):
    found = fewvit("index", "search", *words, "--index", made / "index")
    assert (found[0], found[1]) == (code, "")
    assert told in found[2]


def test_a_query_of_another_backbone_readout_or_size_is_refused_with_both_fingerprints(fewvit, made, tmp_path):
    query = ("index", "search", made / "images/hens/002.jpg", "--index", made / "index", "--device", "cpu")
    for words in (
        ("--img-size", "64"),
        ("--pool", "mean"),
        ("--layers", "2"),
        ("-m", "fewvit_tiny", "--img-size", "64"),
        ("--precision", "bf16"),
    ):
        code, out, err = fewvit(*query, *words)
        assert (code, out) == (4, ""), (words, err)
        assert "in the index" in err
        assert "now" in err
    code, _, err = fewvit(*query, "-m", "dino_vits16")
    assert code == 4, err
    features = FeatureSet(np.ones((1, 192), np.float32), np.array([-1]), ["q"], [], "e" * 64)
    features.save(tmp_path / "q.npz")
    code, _, err = fewvit("index", "search", tmp_path / "q.npz", "--index", made / "index")
    assert (code, "eeeeeeeeeeee" in err) == (4, True)
    source_of(random_rows(1, 3)).given.save(tmp_path / "narrow.npz")
    code, _, err = fewvit("index", "search", tmp_path / "narrow.npz", "--index", made / "index")
    assert (code, "13 columns" in err) == (4, True)


def test_files_that_are_gone_or_changed_are_marked_and_verify_counts_them(ok, place, fewvit):
    words = ("build", *MODEL, "--data", place / "images", "--index", place / "index")
    ok(*words)
    (place / "images/hens/001.jpg").unlink()
    (place / "images/hens/002.jpg").write_bytes(jpeg(999))
    rows = ok("search", "--like", "hens/001.jpg", "--index", place / "index", "--k", 99)["rows"]
    marks = {row["id"]: row["file"] for row in rows if "file" in row}
    assert marks == {"hens/001.jpg": "missing", "hens/002.jpg": "changed"}
    found = facts(ok("verify", "--images", "--index", place / "index"))
    assert (found["missing"], found["changed"], found["whole"]) == (1, 1, True)
    _, table, _ = fewvit("index", "search", "--like", "hens/001.jpg", "--index", place / "index", "--k", 99)
    assert "missing" in table


def test_a_result_is_written_beside_being_shown(fewvit, made, tmp_path):
    words = ("index", "search", "--like", "hens/001.jpg", "--index", made / "index", "--k", 2)
    assert fewvit(*words, "--out", tmp_path / "r.csv")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["id"] == "hens/001.jpg"


# ---- changes


def test_add_remove_and_compact_tell_what_they_did(ok, fewvit, place):
    index = ("--index", place / "index")
    ok("build", *MODEL, "--data", place / "images", *index)
    folder_of(place / "images", {"eels": 2}, first_seed=300)
    os.rename(place / "images/hens/003.jpg", place / "images/hens/new.jpg")
    (place / "images/hens/004.jpg").unlink()
    code, out, err = fewvit("index", "add", "--data", place / "images", *index, "--device", "cpu", "--format", "json")
    assert code == 0, err
    did = facts(json.loads(out))
    wanted = {"added": 2, "renamed": 1, "missing": 1, "unchanged": 15, "computed": 2, "images": 19}
    assert {name: did[name] for name in wanted} == wanted
    assert f"1 image of the index is no longer in {place / 'images'}; `fewvit index remove --missing`" in err
    did = facts(ok("remove", "--missing", *index))
    assert (did["removed"], did["images"], did["dead"]) == (1, 18, 2)
    did = facts(ok("remove", "eels/000.jpg", "eels/001.jpg", *index))
    assert (did["removed"], did["images"]) == (2, 16)
    did = facts(ok("compact", *index))
    assert (did["images"], did["dead"]) == (16, 0)
    assert facts(ok("verify", *index))["images"] == 16
    assert facts(ok("remove", "--missing", *index))["removed"] == 0


def test_remove_takes_a_list_on_stdin_and_removes_nothing_for_an_id_that_is_unknown(fewvit, ok, place, monkeypatch):
    index = ("--index", place / "index")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hens/000.jpg\nhens/001.jpg\n"))
    assert facts(ok("remove", "-", *index))["removed"] == 2
    code, _, err = fewvit("index", "remove", "hens/002.jpg", "hens/000.jpg", *index)
    assert (code, "no image hens/000.jpg" in err) == (3, True)
    assert facts(ok("info", *index))["images"] == 15
    assert fewvit("index", "remove", *index)[0] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert fewvit("index", "remove", "-", *index)[0] == 3


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("--class", "hens"), "oxen"),
        (("--folder", "oxen/00"), "hens"),
        (("--class", "oxen", "--folder", "hens", "--folder", "oxen/00"), None),
        (("oxen/000.jpg", "--class", "hens"), "oxen/000 is gone too"),
    ],
)
def test_classes_and_folders_are_removed_whole(ok, fewvit, place, words, left):
    index = ("--index", place / "index")
    code, out, err = fewvit("index", "remove", *words, *index, "--format", "json")
    opened = OpenIndex.open(place / "index")
    ids = opened.ids(opened.live)
    if left is None:  # no ox is in the folder of the hens: then nothing is removed
        assert (code, out, len(ids)) == (3, "", 17)
        assert "no image of this index is of class oxen and one whose id begins with 'hens'" in err
        return
    hens, oxen = [f"hens/{i:03d}.jpg" for i in range(7)], [f"oxen/{i:03d}.jpg" for i in range(10)]
    assert ids == {"oxen": oxen, "hens": hens}.get(left, oxen[1:])
    assert facts(json.loads(out))["removed"] == 17 - len(ids)


def test_what_is_missing_may_be_removed_of_a_class_alone(ok, place):
    ok("build", *MODEL, "--data", place / "images", "--index", place / "own")
    for name in ("hens/001.jpg", "oxen/003.jpg", "oxen/004.jpg"):
        (place / "images" / name).unlink()
    assert facts(ok("remove", "--missing", "--class", "oxen", "--index", place / "own"))["removed"] == 2
    opened = OpenIndex.open(place / "own")
    assert opened.rows_of(["hens/001.jpg", "oxen/003.jpg", "oxen/005.jpg"]).tolist() == [1, -1, 12]


def test_a_class_of_which_no_image_is_left_is_said_to_have_none(fewvit, ok, place):
    index = ("--index", place / "index")
    ok("remove", "--class", "hens", *index)
    words = ("index", "search", "--like", "oxen/001.jpg", *index, "--class", "hens", "--class", "oxen")
    code, out, err = fewvit(*words)
    assert (code, out.count("oxen/")) == (0, 20)
    assert err == "class hens has no images in this index any more\n"
    code, _, err = fewvit("index", "remove", "--class", "hens", *index)
    assert (code, "no image of this index is of class hens" in err) == (3, True)
    ok("compact", *index)
    assert fewvit(*words)[0] == 2  # now it is no class of the index


def test_a_promise_that_is_not_kept_stands_in_the_result_however_quiet_the_command_is(fewvit, ok, tmp_path):
    source_of(random_rows(3, 997)).given.save(tmp_path / "a.npz")
    build = ("index", "build", "--data", tmp_path / "a.npz", "--index", tmp_path / "i", "--kind", "hnsw", "-q")
    code, table, err = fewvit(*build, "--recall", "1")
    assert (code, err) == (0, "")
    rows = dict(line.split() for line in table.splitlines())
    assert (rows["recall_wanted"], rows["recall_reached"]) == ("1.0", "False")
    assert facts(ok("info", "--index", tmp_path / "i"))["recall_reached"] is False
    code, table, _ = fewvit(*build, "--recall", "0.5")
    assert (code, "recall_reached" in table, "recall_wanted" in table) == (0, False, False)


def test_where_the_whole_source_is_gone_its_images_are_not_taken_out(fewvit, ok, place):
    ok("build", *MODEL, "--data", place / "images", "--index", place / "own")
    (place / "images").rename(place / "elsewhere")
    code, _, err = fewvit("index", "remove", "--missing", "--index", place / "own")
    assert code == 3
    assert str(place / "images") in err
    assert facts(ok("info", "--index", place / "own"))["images"] == 17


def test_an_image_as_the_query_of_an_index_of_features_needs_a_backbone(fewvit, place):
    features, index = place / "x.npz", place / "of_features"
    assert fewvit("extract", *MODEL, "--data", place / "images", "--out", features)[0] == 0
    assert fewvit("index", "build", "--data", features, "--index", index)[0] == 0
    words = ("index", "search", "--index", index, place / "images" / "hens" / "001.jpg", "--k", 1, "--format", "json")
    code, _, err = fewvit(*words)
    assert code == 2
    assert "--backbone fewvit_tiny" in err
    code, out, _ = fewvit(*words, *MODEL)
    assert (code, json.loads(out)["rows"][0]["id"]) == (0, "hens/001.jpg")


def test_a_search_that_finds_nothing_says_so(fewvit, place):
    code, out, err = fewvit(
        "index", "search", "--index", place / "index", "--like", "hens/001.jpg", "--folder", "./hens"
    )
    assert (code, out.strip()) == (0, "")
    assert "nothing found" in err


def test_a_query_of_zeros_is_told(fewvit, place, tmp_path):
    FeatureSet(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), ["a", "b", "c"], ["x", "y"]).save(
        tmp_path / "bank.npz"
    )
    queries = FeatureSet(np.array([[0, 1, 0], [0, 0, 0]], np.float32), np.array([0, 1]), ["one", "nothing"], ["x", "y"])
    queries.save(tmp_path / "q.npz")
    fewvit("index", "build", "--data", tmp_path / "bank.npz", "--index", tmp_path / "i")
    code, out, err = fewvit("index", "search", tmp_path / "q.npz", "--index", tmp_path / "i", "--format", "json")
    assert code == 0
    assert "1 query of zeros (nothing): such a row has no direction" in err
    assert [row["score"] for row in json.loads(out)["rows"]] == [1, 0, 0, 0, 0, 0]


def test_verify_names_the_images_that_are_missing_or_changed(fewvit, ok, place):
    ok("build", *MODEL, "--data", place / "images", "--index", place / "own")
    (place / "images" / "hens" / "001.jpg").unlink()
    (place / "images" / "oxen" / "003.jpg").write_bytes(jpeg(93))
    code, _, err = fewvit("index", "verify", "--images", "--index", place / "own")
    assert code == 0
    assert err.splitlines() == ["missing: hens/001.jpg", "changed: oxen/003.jpg"]


def test_an_archive_is_no_folder_of_files_that_are_missing(ok, made, tmp_path):
    shutil.make_archive(str(tmp_path / "zipped"), "zip", made / "images")
    ok("build", *MODEL, "--data", tmp_path / "zipped.zip", "--index", tmp_path / "i")
    rows = ok("search", "--like", "hens/001.jpg", "--index", tmp_path / "i")["rows"]
    assert not any("file" in row for row in rows)
    assert facts(ok("remove", "--missing", "--index", tmp_path / "i"))["removed"] == 0


def test_an_index_of_features_takes_features(ok, fewvit, tmp_path):
    source_of(random_rows(1, 41)).given.save(tmp_path / "a.npz")
    source_of(random_rows(2, 3, "new/")).given.save(tmp_path / "b.npz")
    index = ("--index", tmp_path / "i")
    assert facts(ok("build", "--data", tmp_path / "a.npz", *index))["images"] == 41
    assert facts(ok("add", "--data", tmp_path / "b.npz", *index))["added"] == 3
    rows = ok("search", tmp_path / "b.npz", *index, "--k", 1)["rows"]
    assert [row["id"] for row in rows] == ["new/000", "new/001", "new/002"]
    code, _, err = fewvit("index", "search", tmp_path / "a.npz", tmp_path / "b.npz", *index)
    assert (code, "goes by itself" in err) == (2, True)


def test_a_flipped_bit_ends_every_reader_with_4_and_the_file(fewvit, place):
    file = next((place / "index/data").glob("*.ids"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for words in (
        ("verify",),
        ("search", "--like", "hens/000.jpg"),
        ("remove", "hens/000.jpg"),
        ("add", "--data", place / "images"),
    ):
        code, out, err = fewvit("index", *words, "--index", place / "index")
        assert (code, out) == (4, ""), words
        assert file.name in err


def test_an_index_of_a_newer_fewvit_ends_with_4(fewvit, place):
    import hashlib

    [manifest] = (place / "index/manifests").iterdir()
    data = manifest.read_bytes().replace(b'"min_reader": 1', b'"min_reader": 99')
    manifest.write_bytes(data)
    name = f"manifests/{manifest.name}"
    (place / "index/CURRENT").write_text(_current(name, hashlib.sha256(data).hexdigest()))
    code, _, err = fewvit("index", "info", "--index", place / "index")
    assert (code, "Update fewvit" in err) == (4, True)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_names_that_are_no_utf_8_and_names_with_markup_go_through_every_verb(ok, place, monkeypatch):
    names = ["caf\udce9.jpg", "<img src=x>.jpg", "two\nlines.jpg", "e\u0301.jpg", "\u00e9.jpg"]
    for seed, name in enumerate(names):
        (place / "images/hens" / name).write_bytes(jpeg(600 + seed))
    index = ("--index", place / "index")
    ok("build", *MODEL, "--data", place / "images", *index)
    rows = ok("search", *(word for name in names for word in ("--like", f"hens/{name}")), "--k", 1, *index)["rows"]
    assert [row["id"] for row in rows] == [f"hens/{name}" for name in names]
    assert not any("file" in row for row in rows)

    def on_stdin(prefix: str) -> None:
        lines = "".join(f"{prefix}{name}\n" for name in names if "\n" not in name)
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(lines)), "utf-8")
        )  # strict, as a terminal's

    on_stdin(f"{place}/images/hens/")
    rows = ok("search", "-", "--k", 1, "--device", "cpu", *index)["rows"]
    assert [row["id"] for row in rows] == [f"hens/{name}" for name in names if "\n" not in name]
    on_stdin("hens/")
    assert facts(ok("remove", "-", *index))["removed"] == 4


@pytest.mark.parametrize("verb", ["", "build", "add", "remove", "compact", "search", "info", "verify"])
def test_every_verb_has_help(fewvit, verb):
    code, out, _ = fewvit("index", *([verb] if verb else []), "--help")
    assert code == 0
    assert ("--index" in out) if verb else all(name in out for name in ("build", "search", "verify"))
