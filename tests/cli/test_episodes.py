"""`fewvit episodes`, from inside the process."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fewvit.evaluate import episodes
from fewvit.features import FeatureSet
from fewvit_cli import main as cli

from made_images import folder_of, tiny_weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWVIT_WEIGHTS_DIR", raising=False)


@pytest.fixture
def fewvit(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run(["episodes", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def features(tmp_path):
    """Seven classes of 13 images each."""
    stream = np.random.default_rng(3)
    labels = np.repeat(np.arange(7), 13)
    rows = (0.7 * stream.standard_normal((7, 11))[labels] + stream.standard_normal((91, 11))).astype(np.float32)
    FeatureSet(rows, labels, [f"i/{i}" for i in range(91)], [f"c{c}" for c in range(7)], "print").save(
        tmp_path / "set.npz"
    )
    return tmp_path / "set.npz"


def test_the_result_has_the_contract_s_keys_and_the_same_seed_gives_the_same(fewvit, features):
    words = (
        "--data",
        features,
        "--ways",
        3,
        "--shots",
        "1,5",
        "--queries",
        7,
        "--episodes",
        31,
        "--classifier",
        "centroid,pt-map",
    )
    code, out, err = fewvit(*words, "--seed", 1, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["schema"], result["task"], result["run"]["seed"]) == ("fewvit.result/1", "episodes", 1)
    assert [(r["shots"], r["method"], r.get("transductive")) for r in result["rows"]] == [
        (1, "centroid", None),
        (1, "pt_map", True),
        (5, "centroid", None),
        (5, "pt_map", True),
    ]
    for row in result["rows"]:
        assert (row["dataset"], row["backbone"], row["metric"], row["trial"]) == ("set", "features", "accuracy", "mean")
        assert (row["ways"], row["queries"], row["episodes"]) == (3, 7, 31)
        assert row["ci95"][0] < row["value"] < row["ci95"][1]
    assert json.loads(fewvit(*words, "--seed", 1, "--format", "json")[1])["rows"] == result["rows"]
    assert json.loads(fewvit(*words, "--seed", 2, "--format", "json")[1])["rows"] != result["rows"]


def test_the_seconds_of_the_episodes_go_from_the_features_to_the_last_row(fewvit, features, monkeypatch):
    now = iter([10.25, 17.3734])
    monkeypatch.setattr(episodes, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    words = ("--ways", 3, "--queries", 7, "--episodes", 5, "--format", "json")
    code, out, err = fewvit("--data", features, *words)
    assert code == 0, err
    assert json.loads(out)["run"]["seconds"] == {"episodes": 7.123}


def test_csv_spells_the_interval_in_two_columns(fewvit, features):
    code, out, _ = fewvit("--data", features, "--ways", 3, "--queries", 7, "--episodes", 31, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert float(row["ci95_low"]) < float(row["value"]) < float(row["ci95_high"])


def test_options_of_a_classifier_are_set_by_name(fewvit, features):
    words = ("--data", features, "--ways", 3, "--queries", 7, "--episodes", 31, "--format", "json")
    settings = ("metric=euclidean", "laplacian-shot.lambd=0", "laplacian-shot.rectify=false")
    nearest = fewvit(
        *words, "--classifier", "centroid,laplacian-shot", *(word for one in settings for word in ("--set", one))
    )
    rows = json.loads(nearest[1])["rows"]
    assert rows[0]["value"] == rows[1]["value"]  # without agreement it is the nearest mean
    assert fewvit(*words, "--set", "metric=dot")[0] == 2
    assert fewvit(*words, "--set", "nonsense=1")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--ways", 11, "--queries", 7), 3, "7 classes cannot make episodes of 11"),
        (("--shots", 7, "--queries", 7), 3, "7 of 7 classes have fewer than 7 + 7 images; the smallest, c0, has 13"),
        (("--queries", 7, "--classifier", "knn", "--set", "knn.k=20"), 2, "--set knn."),
        (("--classifier", "nonsense"), 2, "unknown classifier 'nonsense'"),
        (("--shots", "x"), 2, "--shots"),
        (("--ways", 1), 2, "--ways"),
        (("--omniglot-runs", "here", "--ways", 3), 2, "--omniglot-runs"),
        (("--classes", "missing.txt"), 3, "missing.txt"),
    ],
)
def test_bad_input_ends_with_its_exit_code_and_a_reason(fewvit, features, words, code, told):
    ended, out, err = fewvit("--data", features, *words)
    assert (ended, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_features_with_nan_end_with_5_and_no_data_with_2(fewvit, features, tmp_path):
    with np.load(features) as archive:
        arrays = dict(archive)
    arrays["features"][5, 3] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    assert fewvit("--data", tmp_path / "nan.npz")[0] == 5
    code, _, err = fewvit()
    assert code == 2
    assert "--data" in err


def test_the_classifiers_are_listed(fewvit):
    code, out, _ = fewvit("--classifier", "list", "--format", "csv")
    rows = {row["classifier"]: row["transductive"] for row in csv.DictReader(io.StringIO(out))}
    assert code == 0
    assert {"centroid": "no", "pt_map": "yes", "knn": "no"}.items() <= rows.items()


def test_images_of_one_folder_make_episodes_one_row_per_block(fewvit, tmp_path):
    folder_of(tmp_path / "images", {"cat": 5, "dog": 7, "owl": 5})
    weights = tiny_weights(tmp_path / "tiny.pth")
    words = (
        "-m",
        weights,
        "--data",
        tmp_path / "images",
        "--ways",
        3,
        "--queries",
        3,
        "--episodes",
        7,
        "--format",
        "json",
    )
    code, out, err = fewvit(*words, "--layers", "each")
    assert code == 0, err
    assert [row["layer"] for row in json.loads(out)["rows"]] == [1, 2]
    (tmp_path / "two.txt").write_text("cat\nowl\n")
    assert fewvit(*words, "--classes", tmp_path / "two.txt")[0] == 3


def test_omniglot_s_runs_are_read_from_images_and_from_their_features(fewvit, tmp_path):
    for run in ("run01", "run02"):
        for part in ("test/item", "training/class"):
            for i in (1, 2, 3):
                (tmp_path / "runs" / run / part).parent.mkdir(parents=True, exist_ok=True)
                strokes = np.random.default_rng([i, run == "run02"]).integers(0, 2, (105, 105), dtype=np.uint8)
                Image.fromarray(255 * strokes).convert("1").save(tmp_path / "runs" / run / f"{part}0{i}.png")
        lines = [f"{run}/test/item0{i}.png {run}/training/class0{i}.png" for i in (1, 2, 3)]
        (tmp_path / "runs" / run / "class_labels.txt").write_text("\n".join(lines))
    weights = tiny_weights(tmp_path / "tiny.pth")
    code, out, err = fewvit("-m", weights, "--omniglot-runs", tmp_path / "runs", "--format", "json")
    assert code == 0, err
    [row] = json.loads(out)["rows"]
    assert (row["value"], row["ways"], row["shots"], row["queries"], row["episodes"]) == (100, 3, 1, 1, 2)
    assert (
        cli.run(["extract", "-m", str(weights), "--data", str(tmp_path / "runs"), "--out", str(tmp_path / "runs.npz")])
        == 0
    )
    code, out, err = fewvit("--data", tmp_path / "runs.npz", "--omniglot-runs", tmp_path / "runs", "--format", "csv")
    assert code == 0, err
    assert "100.0" in out


def test_runs_that_name_other_images_are_refused_before_any_is_read(fewvit, tmp_path, monkeypatch):
    from fewvit import sources

    def never(*words, **more):
        raise AssertionError("images were extracted before the runs were looked at")

    monkeypatch.setattr(sources, "extract", never)
    folder_of(tmp_path / "runs/run01/training", {"class": 2})
    (tmp_path / "runs/run01/class_labels.txt").write_text("run01/test/item01.png run01/training/class01.png\n")
    code, out, err = fewvit("-m", tiny_weights(tmp_path / "tiny.pth"), "--omniglot-runs", tmp_path / "runs")
    assert (code, out) == (3, ""), err
    assert "class01.png is not among the images" in err


def test_a_folder_without_runs_is_told_to_have_none_and_runs_exclude_other_images(fewvit, tmp_path):
    for part in ("train", "val"):
        folder_of(tmp_path / "images" / part, {"cat": 2, "dog": 2})
    weights = tiny_weights(tmp_path / "tiny.pth")
    code, out, err = fewvit("-m", weights, "--omniglot-runs", tmp_path / "images")
    assert (code, out) == (3, "")
    assert "holds no run of Omniglot's" in err
    assert "train" not in err
    code, out, err = fewvit("-m", weights, "--omniglot-runs", tmp_path / "images", "--data", tmp_path / "images/train")
    assert (code, out) == (2, "")
    assert "excludes --data" in err
    code, out, err = fewvit("-m", weights, "--omniglot-runs", tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert "no such file" in err
