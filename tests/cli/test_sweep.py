"""`fewvit sweep` from outside: its numbers are the commands' own, and what is finished stays."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from fewvit.backbones import find_variant
from fewvit.errors import Unobtainable
from fewvit.files import claimed
from fewvit.models.spec import Access
from fewvit.sweep.config import read_config, settled
from fewvit.sweep.plan import make_plan
from fewvit.sweep.workshop import How, Workshop

from made_images import folder_of, tiny_weights


def toml(path: Path, **values: object) -> Path:
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()))
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


@pytest.fixture
def features(files) -> dict[str, Path]:
    return {"train": files[1], "test": files[3]}


@pytest.fixture
def small(features, tmp_path) -> Path:
    """Features, three methods, two numbers of shots: seven cells that need no backbone."""
    return toml(
        tmp_path / "s.toml", data=[features], methods=["knn", "centroid", "logistic"], shots=[1, 3], trials=2, seed=7
    )


def result(fewvit, *words):
    code, out, err = fewvit(*words, "--format", "json")
    return code, json.loads(out) if out else None, err


def cells(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


def bare(rows):
    """Rows without the names that a sweep gives."""
    return [
        {k: v for k, v in row.items() if k not in ("task", "dataset", "backbone", "weights_sha256")} for row in rows
    ]


def test_every_cell_has_the_rows_of_its_command(fewvit, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 7, "b": 5, "c": 6})
    folder_of(data / "val", {"a": 5, "b": 4, "c": 3}, 100)
    weights = tiny_weights(tmp_path / "tiny.pth")
    config = toml(
        tmp_path / "s.toml",
        backbones=[weights, {"name": weights, "pool": "mean", "label": "its mean"}],
        data=[data],
        methods=[
            {"name": "knn", "k": [3, 1], "temperature": 0.1},
            {"name": "logistic", "lambd": 0.5},
            "lowshot.knn",
            {"name": "linear", "epochs": 2, "lr": [0.1, 0.01]},
            {"name": "episodes.centroid", "ways": 2, "queries": 1},
            {"name": "finetune.norm", "epochs": 1},
            "retrieval",
        ],
        shots=[1, 2],
        percent=[50],
        trials=2,
        episodes=11,
        seed=3,
    )
    out = tmp_path / "sweep"
    code, found, err = result(fewvit, "sweep", config, "--out", out)
    assert code == 0, err
    assert "finetune.norm of its mean is left out: fine-tuning reads a backbone in its own way, without pool" in err
    plan = json.loads((out / "sweep.json").read_text())["cells"]
    # knn, linear and retrieval once, two classifiers on three amounts, episodes and fine-tuning on two
    assert len(plan) == 2 * (3 + 2 * 3 + 2) + 2
    stored = {one["cell"]["request"]: one for one in map(json.loads, (p.read_text() for p in out.glob("cells/*.json")))}
    assert len(stored) == len(plan)
    for number, cell in enumerate(plan):
        rows = bare(stored[cell["request"]]["rows"])
        if cell["evaluation"] == "finetune":
            rows = [row for row in rows if row["trial"] == 0]
        words = (
            cell["command"].replace("IDX", str(tmp_path / f"i{number}")).replace("RUN", str(tmp_path / f"r{number}"))
        )
        for command in words.split(" && "):
            code, direct, err = result(fewvit, *shlex.split(command)[1:])
            assert code == 0, err
        wanted = bare(direct["rows"])
        if cell["evaluation"] == "finetune":
            wanted = [{**row, "trial": 0} for row in wanted if row["method"] == "norm"]
        assert rows == wanted, cell["command"]
    assert {row["backbone"] for row in found["rows"]} == {"tiny.pth", "its mean"}
    every = [(stored[one["request"]]["task"], row) for one in plan for row in stored[one["request"]]["rows"]]
    assert [{"task": task, **row} for task, row in every] == found["rows"]
    assert {row["task"] for row in found["rows"] if row["method"] == "knn"} == {"knn", "lowshot"}


def test_a_finished_sweep_touches_nothing_and_says_the_same(fewvit, small, tmp_path):
    out = tmp_path / "sweep"
    code, first, _ = result(fewvit, "sweep", small, "--out", out)
    before = cells(out), (out / "sweep.json").stat().st_mtime_ns
    assert code == 0
    assert len(before[0]) == 7
    code, again, err = result(fewvit, "sweep", small, "--out", out)
    assert code == 0
    assert again["rows"] == first["rows"]
    assert (cells(out), (out / "sweep.json").stat().st_mtime_ns) == before
    assert "7 cells: 0 backbones, 1 data set, 4 methods (knn, lowshot.knn, centroid, logistic); 7 finished" in err


def test_a_plan_alone_computes_nothing(fewvit, small, tmp_path):
    code, out, err = fewvit("sweep", small, "--out", tmp_path / "sweep", "--dry-run", "--format", "csv")
    assert code == 0
    assert [row.split(",", 2)[2] for row in out.splitlines()] == [
        "method,shots,cells,finished,failed,missing",
        "knn,,1,0,0,1",
        *(f'{name},"1,3",2,0,0,2' for name in ("lowshot.knn", "centroid", "logistic")),
    ]
    assert "7 cells: 0 backbones, 1 data set, 4 methods (knn, lowshot.knn, centroid, logistic); 0 finished" in err
    assert not (tmp_path / "sweep").exists()


def test_a_part_of_a_plan_says_which_it_is(fewvit, small, tmp_path):
    code, out, err = fewvit("sweep", small, "--out", tmp_path / "s", "--shard", "2/3", "--dry-run", "--format", "csv")
    assert code == 0
    assert "part 2 of 3: 2 cells: 0 backbones, 1 data set, 2 methods (lowshot.knn, centroid); 0 finished" in err
    assert len(out.splitlines()) == 3
    assert not (tmp_path / "s").exists()


def test_a_plan_of_what_cannot_be_had_ends_in_its_exit_code(fewvit, tmp_path):
    words = ("--backbone", "dino_vits8", "--data", "digits", "--methods", "knn", "--offline", "--out", tmp_path / "s")
    code, _, err = fewvit("sweep", *words, "--dry-run", "--cache-dir", tmp_path / "cache")
    assert code == 2
    [line] = [one for one in err.splitlines() if one.startswith("1 cell cannot be measured: ")]
    assert "\\n" not in line


def test_what_is_left_counts_the_cells_that_are_still_to_be_measured(fewvit, small, tmp_path):
    out = tmp_path / "sweep"
    _, _, err = fewvit("sweep", small, "--out", out)
    told = re.findall(r"^\[(\d+)/7\] .*\)(?:; (\d+) left)?(, about \d+ s)?$", err, re.MULTILINE)
    assert [(done, left) for done, left, _ in told] == [(str(n + 1), str(6 - n) if n < 6 else "") for n in range(7)]
    assert [bool(ahead) for *_, ahead in told] == [False, *(True,) * 5, False]  # the first cell says nothing yet
    for name in sorted(cells(out))[2:5]:
        (out / "cells" / name).unlink()
    _, _, err = fewvit("sweep", small, "--out", out)
    assert [line.split()[0] for line in err.splitlines() if line.startswith("[")] == ["[5/7]", "[6/7]", "[7/7]"]
    assert re.findall(r"; (\d) left", err) == ["2", "1"]


def test_a_longer_sweep_measures_what_is_new(fewvit, small, tmp_path):
    out = tmp_path / "sweep"
    fewvit("sweep", small, "--out", out)
    before = cells(out)
    code, found, err = result(fewvit, "sweep", small, "--out", out, "--shots", "1,2,3")
    assert code == 0, err
    assert {name: time for name, time in cells(out).items() if name in before} == before
    assert len(cells(out)) == 10
    assert [row["shots"] for row in found["rows"] if row["method"] == "centroid" and row["metric"] == "ece"] == [
        shots for shots in (1, 2, 3) for _ in (0, 1, "mean")
    ]


def test_flags_alone_are_a_configuration(fewvit, small, features, tmp_path):
    _, first, _ = result(fewvit, "sweep", small, "--out", tmp_path / "a")
    words = ("--train", features["train"], "--test", features["test"], "--methods", "knn,centroid,logistic")
    code, again, err = result(
        fewvit, "sweep", *words, "--shots", "1,3", "--trials", 2, "--seed", 7, "--out", tmp_path / "b"
    )
    assert code == 0, err
    assert again["rows"] == first["rows"]
    assert cells(tmp_path / "a").keys() == cells(tmp_path / "b").keys()


def test_parts_together_are_the_whole(fewvit, small, tmp_path):
    _, whole, _ = fewvit("sweep", small, "--out", tmp_path / "whole", "--format", "csv")
    parts = []
    for number in (3, 1, 2):
        code, found, err = result(fewvit, "sweep", small, "--out", tmp_path / "parts", "--shard", f"{number}/3")
        assert code == 0, err
        parts.append(len(found["rows"]))
    assert len(cells(tmp_path / "parts")) == 7
    assert cells(tmp_path / "parts").keys() == cells(tmp_path / "whole").keys()
    before = cells(tmp_path / "parts")
    code, out, _ = fewvit("sweep", small, "--out", tmp_path / "parts", "--format", "csv")
    assert out == whole
    assert cells(tmp_path / "parts") == before
    assert sum(parts) == len(list(csv.reader(io.StringIO(whole)))) - 1


def test_one_failed_cell_stops_no_other_and_ends_in_its_exit_code(fewvit, features, tmp_path):
    config = toml(
        tmp_path / "s.toml", data=[features], methods=["centroid", {"name": "knn", "k": 3}], shots=[2, 12], trials=2
    )
    code, found, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 3
    assert "failed: features · train.npz and " in err
    assert "\\n" not in err
    assert err.splitlines()[-1] == "1 of 3 cells failed, as said above; the same command tries it again"
    assert "centroid · 12 shots, 2 trials" in err
    assert len(cells(tmp_path / "sweep")) == 2
    assert {row["shots"] for row in found["rows"] if row["method"] == "centroid"} == {2}
    [failed] = (tmp_path / "sweep" / "failed").glob("*.json")
    assert json.loads(failed.read_text())["exit_code"] == 3

    code, _, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep", "--only", "missing")
    assert (code, "failed:" in err) == (0, False)
    assert "1 cell that failed before was left alone; --only failed runs it" in err
    code, _, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep", "--only", "failed")
    assert code == 3
    assert err.count("failed:") == 1


def test_what_failed_and_then_succeeds_is_no_longer_failed(fewvit, features, tmp_path):
    train = tmp_path / "later.npz"
    shutil.copy(features["train"], train)
    with np.load(train) as file:
        arrays = dict(file)
    np.savez(train, **{**arrays, "features": np.full_like(arrays["features"], np.nan)})
    config = toml(
        tmp_path / "s.toml", data=[{"train": train, "test": features["test"]}], methods=["centroid"], shots=[2]
    )
    code, _, err = fewvit("sweep", config, "--out", tmp_path / "sweep")
    assert code == 5, err
    shutil.copy(features["train"], train)
    code, _, err = fewvit("sweep", config, "--out", tmp_path / "sweep")
    assert code == 0, err
    assert len(cells(tmp_path / "sweep")) == 1


def test_cells_of_changed_images_are_told_apart(fewvit, features, tmp_path):
    config = toml(tmp_path / "s.toml", data=[features], methods=["centroid"], shots=[2])
    _, first, _ = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    before = cells(tmp_path / "sweep")
    with np.load(features["train"]) as file:
        arrays = dict(file)
    original = features["train"].read_bytes()
    np.savez(features["train"], **{**arrays, "features": arrays["features"][::-1]})
    code, second, _ = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0
    assert second["rows"] != first["rows"]
    assert len(cells(tmp_path / "sweep")) == 2
    assert before.items() <= cells(tmp_path / "sweep").items()
    features["train"].write_bytes(original)
    _, third, _ = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert third["rows"] == first["rows"]


def test_images_replaced_under_their_names_make_other_cells(fewvit, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 3, "b": 3})
    folder_of(data / "val", {"a": 3, "b": 3}, 100)
    config = toml(
        tmp_path / "s.toml", backbones=[tiny_weights(tmp_path / "t.pth")], data=[data], methods=["centroid"], shots=[2]
    )
    code, _, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0, err
    folder_of(data / "val", {"a": 3, "b": 3}, 200)
    code, _, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0
    assert "data: 1 cell is of other images under these names; kept, and told apart" in err
    assert len(cells(tmp_path / "sweep")) == 2


def test_a_copied_sweep_goes_on_where_its_data_lie_now(fewvit, small, features, tmp_path):
    fewvit("sweep", small, "--out", tmp_path / "sweep")
    other = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "sweep", other / "sweep")
    for side, path in features.items():
        shutil.copy(path, other / f"{side}.npz")
    config = small.rename(other / "s.toml")
    config.write_text(config.read_text().replace(str(tmp_path), str(other)))
    before = cells(other / "sweep")
    code, _, err = fewvit("sweep", config, "--out", other / "sweep")
    assert code == 0, err
    assert cells(other / "sweep") == before
    assert "7 finished" in err


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.1])
def test_a_damaged_cell_is_measured_again(fewvit, small, tmp_path, kept):
    _, first, _ = result(fewvit, "sweep", small, "--out", tmp_path / "sweep")
    path = sorted((tmp_path / "sweep" / "cells").glob("*.json"))[1]
    whole = path.read_bytes()
    damaged = whole.replace(b'"value": ', b'"value": 1', 1) if kept > 1 else whole[: int(kept * len(whole))]
    path.write_bytes(damaged)
    code, again, err = result(fewvit, "sweep", small, "--out", tmp_path / "sweep")
    assert code == 0
    assert re.search(rf"{path}: .*, so it is measured again", err)
    assert again["rows"] == first["rows"]
    assert path.read_bytes() != damaged


def test_two_sweeps_in_one_folder_are_refused_unless_each_is_a_part(fewvit, small, tmp_path):
    out = tmp_path / "sweep"
    out.mkdir()
    with claimed(out / ".sweep.lock", mode="a"):
        code, _, err = fewvit("sweep", small, "--out", out)
        assert (code, "another sweep is at work in this folder" in err) == (2, True)
    with claimed(out / ".sweep.lock", shared=True, mode="a"), claimed(out / ".shard-1-of-2.lock", mode="a"):
        assert fewvit("sweep", small, "--out", out)[0] == 2
        assert fewvit("sweep", small, "--out", out, "--shard", "1/2")[0] == 2
        assert fewvit("sweep", small, "--out", out, "--shard", "2/2")[0] == 0


def test_a_backbone_that_cannot_be_had_fails_its_cells_alone(fewvit, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    data = tmp_path / "data"
    folder_of(data / "train", {"a": 3, "b": 3})
    folder_of(data / "val", {"a": 2, "b": 2}, 100)
    weights = tiny_weights(tmp_path / "t.pth")
    config = toml(
        tmp_path / "s.toml",
        backbones=["dino_vits8", weights],
        data=[data],
        methods=["centroid"],
        shots=[1, 2],
        trials=1,
    )
    code, found, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep", "--offline")
    assert code == 2
    assert "2 cells cannot be measured: " in err
    assert {row["backbone"] for row in found["rows"]} == {"t.pth"}
    assert len(cells(tmp_path / "sweep")) == 2


_DIGITS = 'backbones = ["fewvit_tiny"]\ndata = ["digits"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backbones = [\n", ["not TOML", "line"]),
        ('data = ["digits"]\n\nmethos = ["knn"]\n', ["unknown key 'methos'", "Did you mean methods?", "line 3"]),
        ('backbones = ["dino_vits61"]\ndata = ["digits"]\nmethods = ["knn"]', ["line 1", "dino_vits16"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = ["logistik"]', ["line 3", "Did you mean logistic"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = ["knn"]\nshots = [0]', ["line 4, shots", "from 1"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = ["knn"]\ntrials = true', ["line 4, trials"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = ["last-block"]\n', ["several evaluations"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = [{name = "knn", j = 3}]', ["option of knn 'j'"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = [{name = "ridge", alpha = "x"}]', ["alpha=x"]),
        ('data = ["digits"]\nmethods = ["knn"]', ["a sweep without backbones"]),
        ('backbones = ["fewvit_tiny", {name = "fewvit_tiny", label = "fewvit_tiny"}]\ndata = ["digits"]\n'
         'methods = ["knn"]', ["two are called 'fewvit_tiny'"]),
        ('backbones = ["fewvit_tiny"]\ndata = ["digits"]\nmethods = ["knn"]\nprotocol = "dino/7"', ["dino/7"]),
        ('backbones = [{name = "fewvit_tiny", pool = "meen"}]\ndata = ["digits"]\nmethods = ["knn"]',
         ["line 1, backbones", "--pool 'meen'"]),
        (_DIGITS + 'methods = ["knn"]\nseed = [1, 2, 3]', ["line 4, seed takes one value, and here are 3"]),
        (_DIGITS + 'methods = ["knn"]\ntrials = []', ["line 4, trials takes one value, and here are 0"]),
        (_DIGITS + 'methods = ["knn"]\npool = ["mean", "cls"]', ["line 4, pool takes one value"]),
        (_DIGITS + 'methods = ["knn"]\nseed = ' + "9" * 5000, ["not TOML"]),
        *((_DIGITS + f'methods = [{{name = "knn", {one}}}]', [one.partition(" ")[0]])
          for one in ("k = 0", "k = 2.7", "k = inf", "k = [5, nan]", "temperature = nan", "temperature = 0")),
        *((_DIGITS + f'methods = [{{name = "linear", {one}}}]', [one.partition(" ")[0]])
          for one in ("epochs = 0", "epochs = -1", "batch_size = 1", 'augment = "yes"')),
        *((_DIGITS + f'shots = [1]\nmethods = [{{name = "finetune.lora", {one}}}]', [one.partition(" ")[0]])
          for one in ('epochs = "x"', "accumulate = 0", "batch_size = true")),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_where_it_stands(fewvit, tmp_path, text, said):
    config = tmp_path / "s.toml"
    config.write_text(text)
    code, out, err = fewvit("sweep", config, "--out", tmp_path / "sweep")
    assert (code, out) == (2, "")
    for words in said:
        assert words in err, err
    assert not (tmp_path / "sweep").exists()


def test_data_that_is_not_there_is_told_with_its_line(fewvit, tmp_path):
    config = toml(tmp_path / "s.toml", backbones=["fewvit_tiny"], data=[tmp_path / "nowhere"], methods=["knn"])
    code, _, err = fewvit("sweep", config, "--out", tmp_path / "sweep")
    assert code == 3
    assert "line 2, data" in err
    assert "nowhere: no such file or folder" in err


@pytest.mark.parametrize("words", [("--shard", "0/2"), ("--shard", "3/2"), ("--shard", "a"), ("--only", "some")])
def test_a_mistyped_flag_is_refused(fewvit, small, tmp_path, words):
    assert fewvit("sweep", small, "--out", tmp_path / "sweep", *words)[0] == 2


def test_shots_that_are_needed_and_not_given_are_told(fewvit, features, tmp_path):
    config = toml(tmp_path / "s.toml", data=[features], methods=["knn", "centroid"])
    code, found, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0
    assert "centroid is left out: it needs shots, and none are given" in err
    assert {row["method"] for row in found["rows"]} == {"knn"}


@pytest.mark.parametrize(("recipe", "cells"), [("msn_table1", 8), ("dino_knn", 4)])
def test_a_paper_s_table_is_planned_by_its_recipe(recipe, cells, tmp_path, monkeypatch):
    """All of its backbones are known and released; its data are made here, one image a class."""
    values = read_config(Path(__file__).resolve().parents[2] / f"recipes/{recipe}.toml")
    folder_of(tmp_path / "imagenet/train", {"n01": 1, "n02": 1})
    folder_of(tmp_path / "imagenet/val", {"n01": 1, "n02": 1}, 50)
    for name in values["subsets"].value if "subsets" in values else []:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("000.jpg\n")
    monkeypatch.chdir(tmp_path)
    config = settled(values, {})
    shop = Workshop(How(tmp_path / "cache"), Access(tmp_path / "cache", offline=True), lambda line: None)
    plan = make_plan(config, shop)
    assert len(plan.planned) == cells
    assert all(isinstance(one.error, Unobtainable) for one in plan.planned)
    assert all({"knn", "lowshot"} & set(find_variant(one.name)[1].published) for one in config.backbones)


def test_published_lists_in_a_sweep_are_those_of_lowshot(fewvit, features, tmp_path):
    for trial in (0, 1):
        code, _, err = fewvit(
            *("lowshot", "--train", features["train"], "--test", features["test"], "--shots", 2, "--trials", 1),
            *("--seed", trial, "--classifier", "centroid", "--save-split", tmp_path / f"{trial}.csv"),
        )
        assert code == 0, err
    lists = [tmp_path / "0.csv", tmp_path / "1.csv"]
    config = toml(tmp_path / "s.toml", data=[features], methods=["centroid"], subsets=lists)
    code, found, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0, err
    [cell] = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    _, direct, _ = result(fewvit, *shlex.split(cell["command"])[1:])
    assert bare(found["rows"]) == bare(direct["rows"])
    assert {row["trial"] for row in found["rows"]} == {0, 1, "mean"}
    before = cells(tmp_path / "sweep")
    lists[1].write_text(lists[0].read_text())
    fewvit("sweep", config, "--out", tmp_path / "sweep")
    assert len(cells(tmp_path / "sweep")) == len(before) + 1


def test_a_report_reads_a_sweep_of_features(fewvit, small, tmp_path):
    """Its cells have no backbone."""
    out = tmp_path / "sweep"
    _, swept, _ = result(fewvit, "sweep", small, "--out", out)
    code, reported, err = result(fewvit, "report", out)
    assert code == 0, err
    assert sorted(row["value"] for row in reported["rows"]) == sorted(row["value"] for row in swept["rows"])


def test_methods_with_labels_are_compared_image_by_image(fewvit, features, tmp_path):
    methods = [
        {"name": "ridge", "alpha": alpha, "label": label} for alpha, label in ((0.1, "ridge a"), (90, "ridge b"))
    ]
    config = toml(tmp_path / "s.toml", data=[features], methods=methods, shots=[1], trials=2)
    assert fewvit("sweep", config, "--out", tmp_path / "sweep")[0] == 0
    code, found, err = result(fewvit, "report", tmp_path / "sweep", "--compare", "ridge a,ridge b")
    assert code == 0, err
    assert [row["resampled"] for row in found["rows"]] == ["draws and images"]
    assert "without their predictions" not in err


def test_a_configuration_may_begin_with_a_byte_order_mark(fewvit, small, tmp_path):
    small.write_bytes(b"\xef\xbb\xbf" + small.read_bytes())
    assert fewvit("sweep", small, "--out", tmp_path / "sweep", "--dry-run")[0] == 0


def test_the_command_of_a_cell_has_every_digit_of_its_numbers(fewvit, features, tmp_path):
    config = toml(
        tmp_path / "s.toml", data=[features], methods=[{"name": "knn", "k": [3], "temperature": 0.0712345678},
        "centroid"], percent=[33.333333333],
    )  # fmt: skip
    assert fewvit("sweep", config, "--out", tmp_path / "sweep")[0] == 0
    commands = [cell["command"] for cell in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]]
    assert "--temperature 0.0712345678" in commands[0]
    assert "--percent 33.333333333" in commands[1]


def test_rows_of_two_data_sets_whose_folders_have_one_name_are_told_apart(fewvit, files, tmp_path):
    sides = {}
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        sides[place] = {"train": tmp_path / place / f"train{place}.npz", "test": tmp_path / place / "test.npz"}
        for side, file in sides[place].items():
            shutil.copy(tmp_path / f"{side}.npz", file)
    config = toml(tmp_path / "s.toml", data=list(sides.values()), methods=["retrieval"])
    code, found, err = result(fewvit, "sweep", config, "--out", tmp_path / "sweep")
    assert code == 0, err
    assert {row["dataset"] for row in found["rows"]} == {"trainone.npz and test.npz", "traintwo.npz and test.npz"}
