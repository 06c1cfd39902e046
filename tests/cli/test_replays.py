"""A finished run gives its result again: the same text in every format, and nothing that was changed since."""

from __future__ import annotations

import json
import shutil

import pytest

from made_runs import TRAINERS, place_of_runs, with_tiny_recipe, words_for


@pytest.fixture(scope="module", params=TRAINERS)
def finished(request, tmp_path_factory):
    """A run's place, and the words that make it, or print it again."""
    place = place_of_runs(tmp_path_factory.mktemp(request.param))
    words = words_for(request.param, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWVIT_CACHE_DIR", str(place / "cache"))
        with_tiny_recipe(patch)
        yield place, words


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_finished_run_prints_what_it_printed_at_its_end(fewvit, finished, form):
    _, words = finished
    code, first, err = fewvit(*words, "--format", form, "--overwrite")
    assert code == 0, err
    code, again, told = fewvit(*words, "--format", form)
    assert (code, again) == (0, first), told
    assert not told or told.splitlines()[-1] in err  # what a table has no room for stands on stderr


@pytest.mark.parametrize("ending", ["md", "tex", "csv"])
def test_the_report_of_a_run_is_that_of_what_it_printed(fewvit, finished, ending, tmp_path):
    place, words = finished
    code, printed, err = fewvit(*words, "--format", "json")
    assert code == 0, err
    (tmp_path / "printed.json").write_text(printed)
    for name, source in (("run", place / "run"), ("printed", tmp_path / "printed.json")):
        code, _, err = fewvit("report", source, "--out", tmp_path / f"{name}.{ending}")
        assert code == 0, err
    assert (tmp_path / f"run.{ending}").read_text() == (tmp_path / f"printed.{ending}").read_text()


def test_a_result_that_was_edited_is_refused_wherever_it_is_read_and_comes_back_when_it_is_deleted(
    fewvit, finished, tmp_path
):
    place, words = finished
    code, first, err = fewvit(*words, "--format", "json")
    assert code == 0, err
    file = place / "run/result.json"
    stored = json.loads(file.read_text())
    stored["rows"][0]["value"] = 900.0
    file.write_text(json.dumps(stored, indent=1))
    for again in (words, ("report", file)):
        code, _, err = fewvit(*again)
        assert (code, f"{file}: the result of this run is not what was written" in err) == (4, True), err
        assert "Delete it" in err
    code, _, err = fewvit("report", place / "run")
    assert (code != 0, "is not what was written" in err) == (True, True), err
    file.unlink()
    code, again, err = fewvit(*words, "--format", "json")
    assert (code, json.loads(again)["rows"]) == (0, json.loads(first)["rows"]), err


def test_a_result_of_an_older_version_is_given_again_with_a_line_that_says_so(fewvit, finished):
    place, words = finished
    code, first, err = fewvit(*words, "--format", "json")
    assert (code, "older version" in err) == (0, False), err
    file = place / "run/result.json"
    before = file.read_bytes()
    stored = json.loads(before)
    assert len(stored.pop("result_sha256")) == 64
    file.write_text(json.dumps(stored, indent=1, sort_keys=True))
    code, again, err = fewvit(*words, "--format", "json")
    assert (code, json.loads(again)) == (0, json.loads(first)), err
    assert [line for line in err.splitlines() if "older version" in line] == [
        f"{file}: this result is of an older version, without a digest: a change to it would not be noticed"
    ]
    file.write_bytes(before)
    shutil.rmtree(place / "run")
