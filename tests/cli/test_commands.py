"""The command line from inside the process: exit codes, what stands on stdout and stderr, and that help is complete."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import socket
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from fewvit.backbones import Architecture
from fewvit.features import FeatureSet
from fewvit_cli import main as cli

from made_images import folder_of, jpeg, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    folder_of(root / "train", {"cat": 5, "dog": 7, "owl": 3})
    folder_of(root / "val", {"cat": 2, "dog": 3, "owl": 2}, first_seed=100)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWVIT_WEIGHTS_DIR", raising=False)


def features_file(path, labels, classes, *, seed=0, fingerprint="", dim=11):
    rng = np.random.default_rng(seed)
    labels = np.array(labels)
    features = rng.normal(size=(len(labels), dim)).astype(np.float32) + 5 * np.eye(dim, dtype=np.float32)[labels % dim]
    FeatureSet(features, labels, [f"{path.stem}/{i}" for i in range(len(labels))], classes, fingerprint).save(path)
    return path


# ---- results


def test_knn_on_images_prints_one_json_object_with_the_contract_s_keys(fewvit, weights, images):
    code, out, err = fewvit("knn", "--backbone", weights, "--data", images, "--k", "3,1", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["schema"], result["task"]) == ("fewvit.result/1", "knn")
    assert [(r["k"], r["metric"]) for r in result["rows"]] == [(1, "top1"), (1, "top5"), (3, "top1"), (3, "top5")]
    assert {"dataset", "backbone", "method", "temperature", "value", "n_train", "n_test"} <= set(result["rows"][0])
    assert (result["rows"][0]["n_train"], result["rows"][0]["n_test"]) == (15, 7)
    assert len(result["run"]["weights_sha256"]) == 64
    assert result["run"]["protocol"] == "dino/1"


def test_knn_from_images_equals_knn_from_their_feature_files(fewvit, weights, images, tmp_path):
    for part in ("train", "val"):
        assert fewvit("extract", "-m", weights, "--data", images / part, "--out", tmp_path / f"{part}.npz")[0] == 0
    files = json.loads(
        fewvit(
            "knn", "--train", tmp_path / "train.npz", "--test", tmp_path / "val.npz", "--k", "1,3", "--format", "json"
        )[1]
    )
    folders = json.loads(fewvit("knn", "-m", weights, "--data", images, "--k", "1,3", "--format", "json")[1])
    mixed = json.loads(
        fewvit(
            "knn",
            "-m",
            weights,
            "--train",
            tmp_path / "train.npz",
            "--test",
            images / "val",
            "--k",
            "1,3",
            "--format",
            "json",
        )[1]
    )
    assert (
        [r["value"] for r in files["rows"]]
        == [r["value"] for r in folders["rows"]]
        == [r["value"] for r in mixed["rows"]]
    )


def test_extract_writes_the_four_arrays_and_a_row_that_counts(fewvit, weights, images, tmp_path):
    code, out, _ = fewvit(
        "extract", "-m", weights, "--data", images / "val", "--out", tmp_path / "v.npz", "--format", "json"
    )
    assert code == 0
    archive = np.load(tmp_path / "v.npz")
    assert archive["features"].dtype == np.float32
    assert archive["features"].shape == (7, 64)
    assert archive["labels"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert archive["ids"].tolist()[:3] == ["cat/000.jpg", "cat/001.jpg", "dog/000.jpg"]
    assert archive["classes"].tolist() == ["cat", "dog", "owl"]
    assert json.loads(out)["rows"][0]["value"] == 7


def test_csv_is_a_table_with_a_header(fewvit, tmp_path):
    bank = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"])
    code, out, _ = fewvit("knn", "--train", bank, "--leave-one-out", "--k", "3", "--format", "csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert {"dataset", "backbone", "method", "metric", "value"} <= set(table[0])
    assert [row["metric"] for row in table] == ["top1", "top5"]


def test_random_weights_are_said_in_every_row_and_in_the_table(fewvit, images):
    words = ("knn", "-m", "dino_vitt16", "--weights", "random", "--data", images, "--img-size", "32", "--k", "1")
    rows = json.loads(fewvit(*words, "--format", "json")[1])["rows"]
    assert all(row["weights"] == "random" for row in rows)
    assert "random" in fewvit(*words)[1]


def test_layers_each_gives_one_row_per_block(fewvit, weights, images):
    code, out, _ = fewvit("knn", "-m", weights, "--data", images, "--k", "1", "--layers", "each", "--format", "json")
    assert code == 0
    assert [(r["layer"], r["metric"]) for r in json.loads(out)["rows"]] == [
        (1, "top1"),
        (1, "top5"),
        (2, "top1"),
        (2, "top5"),
    ]


def test_several_backbones_carry_their_weights_digest_in_each_row(fewvit, weights, images, tmp_path):
    other = tiny_weights(tmp_path / "other.pth", seed=6)
    rows = json.loads(fewvit("knn", "-m", f"{weights},{other}", "--data", images, "--k", "1", "--format", "json")[1])[
        "rows"
    ]
    assert [row["backbone"] for row in rows] == ["tiny.pth"] * 2 + ["other.pth"] * 2
    assert len({row["weights_sha256"] for row in rows}) == 2


def test_the_papers_flag_names_work_but_are_not_shown(fewvit, tmp_path):
    bank = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"])
    new = fewvit("knn", "--train", bank, "--leave-one-out", "--k", "3", "--format", "csv")
    assert fewvit("knn", "--train", bank, "--leave-one-out", "--nb-knn", "3", "--format", "csv") == new
    assert "--nb-knn" not in fewvit("knn", "--help")[1]


def test_a_config_file_sets_defaults_and_the_command_line_wins(fewvit, tmp_path):
    bank = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"])
    (tmp_path / "c.toml").write_text(f'train = "{bank}"\nleave-one-out = true\nk = [3, 5]\nformat = "csv"\n')
    code, out, err = fewvit("knn", "--config", tmp_path / "c.toml")
    assert code == 0, err
    assert [row["k"] for row in csv.DictReader(io.StringIO(out))] == ["3", "3", "5", "5"]
    assert [
        row["k"] for row in csv.DictReader(io.StringIO(fewvit("knn", "--config", tmp_path / "c.toml", "--k", "1")[1]))
    ] == ["1", "1"]
    (tmp_path / "d.toml").write_text("tempreature = 1\n")
    code, _, err = fewvit("knn", "--config", tmp_path / "d.toml")
    assert code == 2
    assert "temperature" in err


def test_out_also_keeps_the_result_in_a_file(fewvit, tmp_path):
    bank = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"])
    out = fewvit(
        "knn", "--train", bank, "--leave-one-out", "--k", "3", "--format", "json", "--out", tmp_path / "r.json"
    )[1]
    assert (tmp_path / "r.json").read_text() == out


def test_skipped_images_are_named_and_recorded_beside_the_output(fewvit, weights, images, tmp_path):
    import shutil

    shutil.copytree(images / "val", tmp_path / "v")
    (tmp_path / "v/cat/bad.jpg").write_bytes(jpeg(1)[:200])
    code, _, err = fewvit(
        "extract", "-m", weights, "--data", tmp_path / "v", "--out", tmp_path / "v.npz", "--max-bad", "1"
    )
    assert code == 0
    assert "skipped cat/bad.jpg: " in err
    record = json.loads((tmp_path / "v.skipped.jsonl").read_text())
    assert (record["id"], record["class"]) == ("cat/bad.jpg", "cat")
    code, _, err = fewvit("knn", "-m", weights, "--train", images / "train", "--test", tmp_path / "v", "--k", "1")
    assert code == 3
    code, out, err = fewvit(
        "knn",
        "-m",
        weights,
        "--train",
        images / "train",
        "--test",
        tmp_path / "v",
        "--k",
        "1",
        "--max-bad",
        "1",
        "--format",
        "json",
    )
    assert code == 0
    assert json.loads(out)["run"]["skipped"] == 1
    assert "accuracy is over the remaining images" in err


def test_grey_that_may_have_twelve_bits_is_told_and_counted(fewvit, weights, tmp_path):
    folder = folder_of(tmp_path / "v", {"cat": 2, "dog": 3})
    Image.fromarray(np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)).save(folder / "cat/dim.png")
    told = "1 image of 16-bit grey has no value over 4095"
    for _ in range(2):  # the second time from the cache
        code, out, err = fewvit("extract", "-m", weights, "--data", folder, "--format", "json")
        assert code == 0
        assert err.count(told) == 1
        assert json.loads(out)["run"]["like_twelve_bit"] == 1
    code, _, err = fewvit("index", "build", "-m", weights, "--data", folder, "--index", tmp_path / "i")
    assert code == 0
    assert err.count(told) == 1


def test_heic_in_a_folder_is_an_image_that_its_extra_reads(fewvit, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    folder = folder_of(tmp_path / "v", {"cat": 2, "dog": 3})
    (folder / "cat/IMG_1.HEIC").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(99))
    code, _, err = fewvit("knn", "--train", folder, "--test", folder, "-m", weights, "--k", 1)
    assert code == 3
    assert "IMG_1.HEIC (HEIC: not read without pillow-heif; pip install 'fewvit[heic]'" in err


def test_a_skipped_image_of_two_sets_tells_its_side(fewvit, weights, images, tmp_path):
    import shutil

    shutil.copytree(images, tmp_path / "both")
    for part in ("train", "val"):
        (tmp_path / "both" / part / "cat/bad.jpg").write_bytes(b"hi\n")
    words = ("--data", tmp_path / "both", "--k", "1", "--max-bad", "1", "--out", tmp_path / "r.json")
    code, _, err = fewvit("knn", "-m", weights, *words)
    assert code == 0, err
    for side in ("train", "test"):
        assert f"skipped {side} image cat/bad.jpg: not an image" in err
    assert r"starts with 'hi\n'" in err


def test_the_number_of_skipped_images_stands_in_every_row_and_in_the_table(fewvit, weights, images, tmp_path):
    import shutil

    shutil.copytree(images / "val", tmp_path / "v")
    for name in ("cat/bad.jpg", "dog/bad.jpg"):
        (tmp_path / "v" / name).write_bytes(jpeg(1)[:200])
    words = ("-m", weights, "--train", images / "train", "--test", tmp_path / "v", "--max-bad", "2")
    for task in (("knn", "--k", "1,3"), ("lowshot", "--shots", "1", "--classifier", "centroid")):
        rows = json.loads(fewvit(*task, *words, "--format", "json")[1])["rows"]
        assert {row["skipped"] for row in rows} == {2}
        table = fewvit(*task, *words)[1].splitlines()
        place = table[0].split().index("skipped")
        assert {line.split()[place] for line in table[1:]} == {"2"}
        clean = fewvit(*task, "-m", weights, "--data", images, "--format", "csv")[1]
        assert "skipped" not in clean


def test_rows_of_several_backbones_have_the_same_columns_even_if_one_skipped_nothing(monkeypatch):
    from fewvit.digests import DigestMemory
    from fewvit.evaluate import inputs
    from fewvit.evaluate.inputs import Backbones, FeatureReader, Inputs, measured
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.extraction.work import Report, Work
    from fewvit.models.resolve import resolve
    from fewvit.models.spec import Access
    from fewvit.sources import FeatureSource, Sources

    def inputs_of(name: str, seconds: float, skipped: list[dict[str, str]]) -> Inputs:
        spec = dataclasses.replace(resolve("dino_vits16", Access(Path()), DigestMemory(), weights="random"), name=name)
        report = Report(skipped=skipped)
        made = FeatureSet(np.zeros((3, 5), np.float32), np.zeros(3, np.int64), ["a", "b", "c"], ["x"], report=report)
        return Inputs(Sources(FeatureSource("x.npz", made)), settle(spec, FeatureOptions()), made, None, seconds)

    names = ["one", "two"]
    reader = FeatureReader(Backbones(names, Access(None)), FeatureOptions(), None, Work())
    sets = [inputs_of(name, seconds=3.0, skipped=[{"id": "d"}] * i) for i, name in enumerate(names)]
    told = []
    rows, run = measured(
        reader,
        iter(sets),
        lambda i, name: ([{"value": 7}], {"seconds": {"fit": 2}, "note": i.backbone}),
        told.append,
        11,
    )
    assert [(row["backbone"], row["value"], row["skipped"]) for row in rows] == [("one", 7, 0), ("two", 7, 1)]
    assert {name: facts["note"] for name, facts in run["backbones"].items()} == {"one": "one", "two": "two"}
    assert run["backbones"]["one"]["seconds"] == {"extract": 3, "fit": 2}
    assert (run["seed"], told) == (11, [[], [{"id": "d"}]])
    assert inputs.measured is measured


def test_a_backbone_that_features_make_superfluous_is_told_if_it_was_named(fewvit, weights, images, tmp_path):
    a, b = (
        features_file(tmp_path / f"{name}.npz", [0, 1, 2] * 7, ["x", "y", "z"], seed=i) for i, name in enumerate("ab")
    )
    one, two = ("--data", a), ("--train", a, "--test", b)
    for words in (("knn", *two, "--k", "1"), ("episodes", *one, "--ways", "2", "--queries", "2"), ("extract", *one)):
        code, _, err = fewvit(*words, "-m", weights)
        assert code == 0, err
        assert [line for line in err.splitlines() if "is not used" in line] == [
            f"--backbone {weights} is not used: features come from {a if words[0] != 'knn' else f'{a} and {b}'}"
        ]
        assert "is not used" not in fewvit(*words)[2]
    named = fewvit("knn", *two, "--k", "1", "-m", "dino_vits16")[2]  # also the one that is taken where none is named
    assert "--backbone dino_vits16 is not used" in named
    told = fewvit("knn", *two, "--k", "1", "--heads", "6", "--grid", "2x8", "--mean", "0.5,0.5,0.5")[2]
    assert "--heads 6 and --grid 2x8 and --mean 0.5,0.5,0.5 are not used: features come from" in told
    assert "is not used" not in fewvit("knn", "-m", weights, "--data", images, "--k", "1")[2]
    readout = fewvit("knn", *two, "--k", "1", "--pool", "mean", "--layers", "4", "--img-size", "64", "--decode", "pil")[
        2
    ]
    assert (
        f"--pool mean and --layers 4 and --img-size 64 and --decode pil are not used: features come from {a} and {b}"
        in readout
    )
    assert "--pool mean is not used" in fewvit("linear", *two, "--epochs", "1", "--pool", "mean")[2]


def test_a_file_of_a_backbone_for_small_images_tells_its_own_size_unless_one_is_asked_for(
    fewvit, weights, images, tmp_path
):
    small = tiny_weights(tmp_path / "small.pth", Architecture(width=64, depth=1, heads=1, patch=16, grid=2))
    one = images / "val/dog/001.jpg"
    err = fewvit("extract", "-m", small, "--data", one)[2]
    assert err.count("small.pth was trained at 32 px") == 1
    assert "--img-size 32" in err
    for words in ((small, "--img-size", "224"), (small, "--img-size", "32"), (weights,)):
        code, _, err = fewvit("extract", "-m", *words, "--data", one)
        assert code == 0, err
        assert "was trained at" not in err


def test_every_choice_of_how_a_source_is_listed_is_an_option_of_the_same_name_and_default():
    from fewvit.datasets import Listing
    from fewvit_cli.inputs import listing
    from fewvit_cli.shared import Listed

    assert listing(Listed()) == Listing()
    chosen = [field.name for field in dataclasses.fields(Listing)]
    of_commands = {"label_flag", "read_besides"}  # that list a table twice, and not a user's choice
    assert [field.name for field in dataclasses.fields(Listed)] == [name for name in chosen if name not in of_commands]


def test_columns_of_a_table_are_named_by_options_and_what_is_unread_is_told(fewvit, weights, images, tmp_path):
    first = sorted(images.rglob("*.jpg"))[0]
    (tmp_path / "t.csv").write_text(f"photo,species,note\n{first},hen,x\n")
    out = tmp_path / "x.npz"
    code, _, err = fewvit(
        *("extract", "--backbone", weights, "--data", tmp_path / "t.csv", "--out", out),
        *("--path-column", "photo", "--label-column", "species"),
    )
    assert code == 0, err
    features = FeatureSet.load(out)
    assert (list(features.ids), list(features.classes), features.labels.tolist()) == ([str(first)], ["hen"], [0])
    assert "t: column left unread: note\n" in err


def test_one_image_is_a_source(fewvit, weights, images, tmp_path):
    code, _, err = fewvit("extract", "-m", weights, "--data", images / "val/dog/001.jpg", "--out", tmp_path / "one.npz")
    assert code == 0, err
    assert fewvit("extract", "-m", weights, "--data", images / "val", "--out", tmp_path / "all.npz")[0] == 0
    one, whole = FeatureSet.load(tmp_path / "one.npz"), FeatureSet.load(tmp_path / "all.npz")
    assert (one.ids, one.labels.tolist()) == (["001.jpg"], [-1])
    assert one.features[0].tobytes() == whole.features[whole.ids.index("dog/001.jpg")].tobytes()


# ---- listings


def test_a_backbone_s_facts_are_for_people_and_json_holds_the_table_s_row(fewvit):
    code, out, _ = fewvit("backbones", "info", "msn_vits16")
    lines = [line.rstrip("\n") for line in out.splitlines()]
    assert code == 0
    assert not any(mark in out for mark in "{}[]")
    assert all(line.strip() for line in lines)
    assert not any(line in ("file", "note") or line.endswith(("timm", ":")) for line in lines)
    at = lines.index("published")
    assert lines[at + 1 :] == [
        "  1 % of the labels   67.2 %",
        "  linear probe        76.9 %",
        "  1 image per class   47.1 ± 0.1 %",
        "  2 images per class  55.8 ± 0.6 %",
        "  5 images per class  62.8 ± 0.3 %",
    ]
    assert max(map(len, lines)) <= 160  # a terminal wraps what is longer than it
    assert {"model", "reading", "weights"} <= set(lines)
    assert any(line.split() == ["commercial", "not", "allowed", "by", "the", "licence"] for line in lines)
    [row] = json.loads(fewvit("backbones", "info", "msn_vits16", "--format", "json")[1])["rows"]
    assert (row["commercial"], row["gated"], row["pool"], row["interpolation"]) == ("no", "no", "cls", "bilinear")
    assert row["published"]["lowshot"] == {"1": "47.1 ± 0.1", "2": "55.8 ± 0.6", "5": "62.8 ± 0.3"}
    assert (row["note"], row["architecture"]["timm"]) == ("", "")
    code, out, _ = fewvit("backbones", "info", "dino_vitt16")  # nothing was published
    assert code == 0
    assert "published\n" not in out


def listed(fewvit, *words):
    code, out, err = fewvit("backbones", "list", "--format", "json", *words)
    assert code == 0, err
    return json.loads(out)["rows"]


def test_the_list_is_picked_by_family_licence_commerce_and_size(fewvit):
    everything = {row["backbone"]: row for row in listed(fewvit)}
    assert {"backbone", "width", "depth", "patch", "license", "knn", "linear", "1-shot", "note"} <= set(
        everything["dino_vits16"]
    )
    assert {row["backbone"] for row in listed(fewvit, "--family", "msn")} == {
        "msn_vits16",
        "msn_vitb16",
        "msn_vitl16",
        "msn_vitb4",
        "msn_vitl7",
    }
    free = {row["backbone"] for row in listed(fewvit, "--commercial")}
    assert {"dino_vits16", "siglip2_vitb16", "fewvit_tiny"} <= free
    assert not {"msn_vits16", "mae_vitb16", "eupe_vits16", "aimv2_vitl14"} & free  # no, and unknown
    assert {row["family"] for row in listed(fewvit, "--license", "cc-by-nc-4.0")} >= {"mae", "msn", "ijepa"}
    small = {row["backbone"] for row in listed(fewvit, "dino_", "--max-params", "21.7M")}
    assert small == {"dino_vits16", "dino_vits8", "dino_vits8_300ep", "dino_vits16_gldv2", "dino_vitt16"}
    assert everything["dino_vits16"]["parameters"] == 21_665_664


@pytest.mark.parametrize(
    ("by", "key", "sign"), [("knn", "knn", -1), ("linear", "linear", -1), ("params", "parameters", 1)]
)
def test_the_list_is_sorted_best_or_smallest_first_and_rows_without_the_number_are_last(fewvit, by, key, sign):
    values = [row[key] for row in listed(fewvit, "--sort", by)]
    known = [value for value in values if value is not None]
    assert values == [*known, *[None] * (len(values) - len(known))]
    assert known == sorted(known, key=lambda value: sign * value)
    assert len(known) > 10


def test_the_list_is_sorted_by_name(fewvit):
    names = [row["backbone"] for row in listed(fewvit, "--sort", "name")]
    assert names == sorted(names)
    assert names != [row["backbone"] for row in listed(fewvit)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--family", "dinno"), "Did you mean dino"),
        (("--license", "aphace-2.0"), "Did you mean Apache-2.0"),
        (("--max-params", "10Q"), "100M"),
        (("--max-params", "0M"), "100M"),
        (("--sort", "size"), "knn, linear, 1-shot, 2-shot, 5-shot, 16-shot, params, name"),
    ],
)
def test_a_choice_of_backbones_that_is_none_is_refused(fewvit, words, said):
    code, out, err = fewvit("backbones", "list", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_the_list_imports_neither_torch_nor_numpy(python):
    done = python(
        "import sys; from fewvit_cli.main import run; run(['backbones', 'list', '--format', 'csv']); "
        "print(sorted({'torch', 'timm', 'numpy', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr.strip() == "[]"
    assert len(done.stdout.splitlines()) > 50


def test_backbones_beside_each_other_are_marked_where_they_differ(fewvit):
    code, out, err = fewvit("backbones", "compare", "dino_vits16", "msn_vits16", "--format", "json")
    assert code == 0, err
    rows = {row["fact"]: row for row in json.loads(out)["rows"]}
    assert rows["width"] == {"differs": False, "fact": "width", "dino_vits16": 384, "msn_vits16": 384}
    assert rows["commercial"] == {"differs": True, "fact": "commercial", "dino_vits16": "yes", "msn_vits16": "no"}
    assert rows["published knn"]["msn_vits16"] is None
    assert rows["published lowshot 1"]["dino_vits16"] == "38.9 ± 0.4"
    table = {
        line[:24].lstrip("* ").strip(): line[0]
        for line in fewvit("backbones", "compare", "dino_vits16", "msn_vits16")[1].splitlines()
    }
    assert (table["width"], table["commercial"]) == (" ", "*")
    code, out, err = fewvit("backbones", "compare", "dino_vits16", "msn_vits61")
    assert (code, out) == (2, "")
    assert "msn_vits16" in err
    assert fewvit("backbones", "compare", "dino_vits16")[0] == 2


def test_a_model_of_timm_and_a_file_have_a_card_too(fewvit, weights):
    code, out, err = fewvit("backbones", "info", "timm:vit_pe_core_tiny_patch16_384.fb", "--offline")
    assert code == 0, err
    assert "own attention pool" in out
    code, out, err = fewvit("backbones", "info", "timm:vit_pe_cor_tiny_patch16_384.fb", "--offline")
    assert (code, out) == (2, "")
    assert "vit_pe_core_tiny_patch16_384.fb" in err
    code, out, err = fewvit("backbones", "info", weights, "--format", "json")
    assert code == 0, err
    [row] = json.loads(out)["rows"]
    assert (row["family"], row["file"], row["architecture"]["width"]) == ("dino", str(weights), 64)


def test_the_cache_tells_protocol_images_and_size_of_each_store_and_the_total(fewvit, weights, images):
    for words in (("knn", "--k", "1", "--data", images), ("extract", "--protocol", "msn/1", "--data", images / "val")):
        assert fewvit(*words, "-m", weights)[0] == 0
    rows = json.loads(fewvit("cache", "info", "--format", "json")[1])["rows"]
    assert sorted((row["protocol"], row["images"]) for row in rows) == [("dino/1", 22), ("msn/1", 7)]
    assert all(row["megabytes"] > 0 for row in rows)
    table = fewvit("cache", "info")[1].splitlines()
    assert {"protocol", "images", "megabytes"} <= set(table[0].split())
    assert table[-1].startswith("total of 2 stores")
    images_in_all, megabytes = table[-1].split()[-2:]
    assert (images_in_all, float(megabytes)) == ("29", pytest.approx(sum(row["megabytes"] for row in rows)))
    assert "total" not in fewvit("cache", "info", "--format", "csv")[1]


# ---- errors


def cases(weights, images, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/only").mkdir(parents=True)
    (tmp_path / "one/only/a.jpg").write_bytes(jpeg(3))
    (tmp_path / "one/only/b.jpg").write_bytes(jpeg(4))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    (tmp_path / "junk.pth").write_bytes(b"\x80\x02junk")
    a = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"])
    narrow = features_file(tmp_path / "narrow.npz", [0, 1] * 3, ["x", "y"], dim=5)
    strange = features_file(tmp_path / "strange.npz", [0, 1] * 3, ["x", "z"])
    one = features_file(tmp_path / "of_one.npz", [0, 1] * 3, ["x", "y"], fingerprint="1" * 64)
    two = features_file(tmp_path / "of_two.npz", [0, 1] * 3, ["x", "y"], fingerprint="2" * 64)
    np.savez(
        tmp_path / "nan.npz",
        features=np.array([[1, np.nan]], np.float32),
        labels=np.array([0]),
        ids=np.array(["i7"]),
        classes=np.array(["x"]),
    )
    (tmp_path / "semi.csv").write_text("path;label\n1.jpg;a\n")
    (tmp_path / "head.csv").write_text("path,label\n")
    model = ("-m", weights)
    return [
        (2, ("knn", "-m", "DINO_VITS16", "--data", images), "Did you mean dino_vits16"),
        (2, ("lowshot", "--train", a, "--test", a, "--shots", "2", "--classifier", "knn", "--set", "knn.k=0"), "k = 0"),
        (
            2,
            ("lowshot", "--train", a, "--test", a, "--shots", "2", "--classifier", "logistic", "--lambd", "0"),
            "--lambd 0",
        ),
        (3, ("extract", *model, "--data", tmp_path / "semi.csv"), "separated by semicolons"),
        (3, ("extract", *model, "--data", tmp_path / "head.csv"), "no rows"),
        (3, ("knn", "--train", a, "--test", a, "--shots", "50"), "2 classes have fewer than 50 images: x (7), y (7)"),
        (
            3,
            ("extract", *model, "--data", images / "val", "--cache-dir", tmp_path / "junk.npz/cache"),
            "junk.npz/cache",
        ),
        (2, ("nonsense",), "unknown command"),
        (2, ("knn", "--bogus"), "--bogus"),
        (2, ("knn", "-m", "dino_vitb61", "--data", images), "dino_vitb16"),
        (2, ("knn", *model), "--data"),
        (2, ("knn", *model, "--data", images, "--k", "99"), "99"),
        (2, ("knn", *model, "--data", images, "--k", "0"), "0"),
        (2, ("knn", *model, "--data", images, "--k", "many"), "many"),
        (2, ("knn", *model, "--data", images, "--temperature", "0"), "temperature"),
        (2, ("knn", *model, "--data", images, "--temperature", "nan"), "--temperature nan: not finite"),
        (
            2,
            ("lowshot", "--train", a, "--test", a, "--classifier", "knn", "--set", "temperature=inf"),
            "temperature=inf: not a finite",
        ),
        (2, ("backbones", "info", "hf:fewvit/none", "--offline"), "fewvit is offline"),
        (2, ("knn", *model, "--data", images, "--img-size", "100"), "112"),
        (2, ("knn", *model, "--data", images, "--protocol", "dino/7"), "dino/1"),
        (2, ("knn", *model, "--data", images, "--pool", "max"), "cls"),
        (2, ("knn", *model, "--data", images, "--layers", "3"), "2 blocks"),
        (2, ("knn", *model, "--data", images, "--precision", "fp8"), "bf16"),
        (2, ("knn", *model, "--data", images, "--format", "yaml"), "json"),
        (2, ("knn", *model, "--data", images, "--max-bad", "few"), "few"),
        (2, ("knn", *model, "--data", images, "--device", "cuda"), "cuda"),
        (2, ("knn", *model, "--train", images / "train"), "test"),
        (2, ("knn", "-m", "dino_vits16", "--offline", "--data", images), "dino_deitsmall16_pretrain.pth"),
        (2, ("knn", "-m", "dino_vitt16", "--data", images), "no published weights"),
        (2, ("knn", *model, "--checkpoint-key", "best", "--data", images), "teacher"),
        (2, ("extract", *model, "--data", images / "val", "--out", tmp_path / "x.csv"), ".npz"),
        (3, ("knn", *model, "--data", tmp_path / "nowhere"), "nowhere"),
        (3, ("extract", *model, "--data", tmp_path / "empty"), "empty"),
        (3, ("extract", *model, "--data", images), "train"),
        (3, ("knn", *model, "--train", tmp_path / "one", "--test", tmp_path / "one", "--k", "1"), "one class"),
        (3, ("knn", "--train", a, "--test", strange), "z"),
        (3, ("knn", "--train", a, "--test", tmp_path / "junk.npz"), "junk.npz"),
        (3, ("knn", "--train", a, "--test", tmp_path / "gone.npz"), "gone.npz"),
        (3, ("extract", "-m", tmp_path / "gone.pth", "--data", images / "val"), "gone.pth"),
        (4, ("extract", "-m", tmp_path / "junk.pth", "--data", images / "val"), "junk.pth"),
        (4, ("extract", "-m", "dino_vits16", "--weights", weights, "--data", images / "val"), "tiny.pth"),
        (4, ("knn", "--train", a, "--test", narrow), "columns"),
        (4, ("knn", "--train", one, "--test", two), "backbone"),
        (5, ("knn", "--train", tmp_path / "nan.npz", "--leave-one-out"), "i7"),
    ]


def test_each_wrong_input_has_its_exit_code_and_a_short_message_that_names_it(
    fewvit, weights, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a socket was opened"))
    for code, words, named in cases(weights, images, tmp_path):
        got, out, err = fewvit(*words)
        assert (got, out) == (code, ""), (words, got, err)
        message = err[err.rindex("fewvit: ") :]
        assert named in message, (words, message)
        assert message.strip().count("\n") <= 1, (words, message)
        assert "Traceback" not in err


def test_weights_with_a_nan_are_refused_by_name(fewvit, images, tmp_path, weights):
    import torch

    state = torch.load(weights, weights_only=True)
    state["teacher"]["blocks.1.mlp.fc1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    code, _, err = fewvit("extract", "-m", tmp_path / "nan.pth", "--data", images / "val")
    assert code == 4
    assert "blocks.1.mlp.fc1.bias" in err


def test_non_commercial_weights_are_not_downloaded_without_consent(fewvit, images, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a socket was opened"))
    code, _, err = fewvit("knn", "-m", "msn_vits16", "--data", images)
    assert code == 2
    assert "--accept-license cc-by-nc-4.0" in err


@pytest.mark.parametrize(("error", "code"), [(cli.Terminated, 143), (KeyboardInterrupt, 130)])
def test_a_run_that_is_stopped_before_its_folder_is_there_keeps_nothing_and_says_so(
    fewvit, images, tmp_path, monkeypatch, error, code
):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("fewvit.pretrain.run.run_pretrain", stop)
    words = ("pretrain", "mae", "--data", images / "train", "--preset", "small/32")
    for out in (("--out", tmp_path / "run"), ("-o", tmp_path / "run"), (f"--out={tmp_path / 'run'}",)):
        found, _, err = fewvit(*words, *out)
        assert found == code
        assert "nothing was begun yet" in err
        assert "kept" not in err
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text("{}")
    assert "what was done is kept" in fewvit(*words, "--out", tmp_path / "run")[2]


def test_without_a_cache_nothing_is_kept_of_what_is_stopped_and_it_says_so(fewvit, images, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fewvit.evaluate.inputs.open_sources", stop)
    for words, said in (([], "what was done is kept"), (["--no-cache"], "nothing was kept")):
        code, _, err = fewvit("knn", "--weights", "random", "--data", images, *words)
        assert (code, said in err) == (130, True), err


def test_debug_shows_the_traceback(fewvit, tmp_path):
    assert (
        "Traceback"
        in fewvit("extract", "--debug", "-m", "dino_vitt16", "--weights", "random", "--data", tmp_path / "nowhere")[2]
    )


def test_an_unforeseen_fault_is_one_line_and_exit_1(fewvit, monkeypatch):
    monkeypatch.setattr("fewvit.extraction.catalogue.variant_rows", lambda *_: 1 / 0)
    code, out, err = fewvit("backbones", "list")
    assert (code, out) == (1, "")
    assert err.startswith("fewvit: internal error: ZeroDivisionError")
    assert "--debug" in err


# ---- help


def parameters_of(command, path=()):
    """Every (path, parameter) below a command."""
    for parameter in command.params:
        yield path, parameter
    for name in getattr(command, "commands", {}):
        yield from parameters_of(command.commands[name], (*path, name))


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_and_option_has_help(name):
    command = cli.LazyCommands.get_command(typing.cast(typing.Any, None), None, name)
    assert command.help.splitlines()[0] == cli.COMMANDS[name]
    for path, parameter in parameters_of(command):
        assert getattr(parameter, "hidden", False) or parameter.name == "help" or parameter.help, (
            name,
            path,
            parameter.name,
        )
    for sub in getattr(command, "commands", {}).values():
        assert sub.help, (name, sub.name)


def test_every_file_of_the_command_line_that_is_a_command_is_listed():
    import pathlib

    folder = pathlib.Path(cli.__file__).parent
    with_app = {path.stem for path in folder.glob("*.py") if "\napp = " in path.read_text()}
    of_groups = {name for name in with_app if name.partition("_")[0] in cli.COMMANDS and "_" in name}  # inspect_heads
    assert with_app - {"main", *of_groups} == set(cli.COMMANDS)


def test_help_and_usage_errors_import_nothing_heavy(tmp_path):
    import subprocess
    import sys

    script = (
        "import sys; from fewvit_cli.main import run\n"
        "for words in (['--help'], ['knn', '--bogus'], ['knn', '-m', 'dino_vitb61', '--data', 'x']): run(words)\n"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy', 'faiss', 'sklearn', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_a_warm_knn_imports_neither_torch_nor_timm_nor_torchvision(weights, images):
    import subprocess
    import sys
    import time

    time.sleep(0.15)  # files younger than a tenth of a second are read again
    words = ["knn", "-m", str(weights), "--data", str(images), "--k", "1"]
    assert cli.run(words) == 0
    script = (
        f"import sys; from fewvit_cli.main import run\nassert run({words!r}) == 0\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_typer_is_the_only_parser(capsys):
    assert isinstance(cli.app, typer.Typer)
    assert cli.run(["--version"]) == 0
    from fewvit import __version__

    assert capsys.readouterr().out.strip() == __version__
