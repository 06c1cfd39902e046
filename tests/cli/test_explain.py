"""`--explain`: the result stays what it is; what may make it differ stands on stderr and in the manifest."""

from __future__ import annotations

import json

import pytest

from made_images import folder_of, tiny_weights


@pytest.fixture
def words(tmp_path):
    folder_of(tmp_path / "images/train", {"cat": 5, "dog": 3})
    folder_of(tmp_path / "images/val", {"cat": 1, "dog": 2}, first_seed=7)  # its first is a dog of train/
    return ("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", tmp_path / "images", "--img-size", "32")


def found(rows, what):
    return next(row for row in rows if row["check"] == what)


@pytest.mark.parametrize("command", [("knn", "--k", "1,3"), ("lowshot", "--shots", "1", "--classifier", "logistic")])
@pytest.mark.parametrize("format_", ["table", "csv"])
def test_the_result_on_stdout_is_the_same(command, format_, fewvit, words):
    _, plain, before = fewvit(*command, *words, "--format", format_)
    code, explained, err = fewvit(*command, *words, "--format", format_, "--explain")
    assert code == 0, err
    assert explained == plain
    assert "Why the number" not in before
    assert "Why the number may differ from the published one:\n" in err
    assert max(map(len, err.partition("Why the number")[2].splitlines())) <= 100


def test_what_was_asked_for_is_told_under_quiet_too_and_nothing_else(fewvit, words):
    code, _, err = fewvit("knn", "--k", "1,3", *words, "--explain", "--quiet")
    assert code == 0
    assert err.startswith("Why the number may differ from the published one:\n")
    assert err.rstrip().splitlines()[-1].endswith("-v says what the others mean")


@pytest.mark.slow
def test_where_nothing_is_published_no_published_side_is_claimed_and_each_number_of_shots_has_its_value(fewvit):
    words = ("--backbone", "fewvit_tiny", "--data", "digits", "--shots", "1,2", "--trials", "1")
    code, out, err = fewvit("lowshot", *words, "--classifier", "centroid,ridge", "--explain", "--format", "json")
    assert code == 0, err
    value = json.loads(out)
    rows = {row["check"]: row for row in value["run"]["explain"]}
    for name in ("classifier", "labelled images", "lists", "top-1, 1-shot", "top-1, 2-shot"):
        assert (rows[name]["published"], rows[name]["verdict"]) == (None, "unknown"), name
    for shots in (1, 2):
        best = max(
            (row for row in value["rows"] if (row["shots"], row["trial"], row["metric"]) == (shots, "mean", "top1")),
            key=lambda row: row["value"],
        )
        assert rows[f"top-1, {shots}-shot"]["here"] == f"{best['value']:.2f} by {best['method']}"


def test_the_manifest_has_every_check_of_a_run_on_images(fewvit, words):
    code, out, err = fewvit("knn", *words, "--k", "1,3", "--explain", "--format", "json")
    assert code == 0, err
    rows = json.loads(out)["run"]["explain"]
    assert all(set(row) == {"check", "here", "published", "verdict", "meaning"} for row in rows)
    assert (found(rows, "protocol")["here"], found(rows, "image size")["here"]) == ("dino/1", "32x32")
    assert found(rows, "trunk")["here"] == "30 of 30 tensors filled"
    assert (found(rows, "training images")["here"], found(rows, "test images")["here"]) == (8, 3)
    assert found(rows, "duplicates")["here"] == "1 of 3, by bytes"
    assert found(rows, "k")["here"] == "1, 3"
    assert "explain" not in json.loads(fewvit("knn", *words, "--k", "1,3", "--format", "json")[1])["run"]


def test_each_of_several_backbones_has_its_own_explanation(fewvit, words, tmp_path):
    names = f"{words[1]},{tiny_weights(tmp_path / 'other.pth', seed=7)}"
    code, out, err = fewvit("knn", "-m", names, *words[2:], "--k", "1", "--explain", "--format", "json")
    assert code == 0, err
    backbones = json.loads(out)["run"]["backbones"]
    digests = {found(facts["explain"], "weights")["here"] for facts in backbones.values()}
    assert len(digests) == len(backbones) == 2
    assert all(f"published one, {name}:" in err.replace("\n", "") for name in backbones)


def test_of_features_what_their_file_does_not_say_is_unknown(fewvit, files):
    for command in (("knn", "--k", "3"), ("lowshot", "--shots", "2", "--trials", "1")):
        code, out, err = fewvit(*command, *files, "--explain", "--format", "json")
        assert code == 0, err
        rows = json.loads(out)["run"]["explain"]
        assert [found(rows, what)["verdict"] for what in ("weights", "protocol")] == ["unknown", "unknown"]
        assert (found(rows, "classes")["here"], found(rows, "test images")["here"]) == (5, 35)
        assert not any(row["check"] == "pool" for row in rows)


def test_a_set_that_is_judged_by_itself_says_so(fewvit, words):
    alone = (*words[:2], "--train", words[3] / "train", *words[4:])
    code, out, err = fewvit("knn", *alone, "--leave-one-out", "--k", "1", "--explain", "--format", "json")
    assert code == 0, err
    assert found(json.loads(out)["run"]["explain"], "test images")["here"] == "8, each by the others"


def test_of_each_layer_the_last_one_is_explained(fewvit, words):
    code, out, err = fewvit("knn", *words, "--layers", "each", "--k", "1", "--explain", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    last = [row["value"] for row in result["rows"] if row["layer"] == 2 and row["metric"] == "top1"]
    rows = result["run"]["explain"]
    assert found(rows, "layers")["here"] == "each of 2"
    assert found(rows, "top-1")["here"] == f"{last[0]:.2f} at k = 1"
