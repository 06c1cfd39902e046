"""Output files: none replaces what is read or what another program wrote; a command's own earlier one is replaced."""

from __future__ import annotations

import json
import os
import socket

import numpy as np
import pytest

from fewvit.features import FeatureSet

from made_images import folder_of, jpeg, tiny_weights


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def sets(tmp_path):
    """Feature files of three classes, `train.npz` and `test.npz`."""
    random = np.random.default_rng(5)
    for name, per_class in (("train", 7), ("test", 5)):
        labels = np.repeat(np.arange(3), per_class)
        rows = (3 * np.eye(11)[labels] + random.normal(size=(len(labels), 11))).astype(np.float32)
        FeatureSet(rows, labels, [f"{name}/{i}" for i in range(len(labels))], ["x", "y", "z"]).save(
            tmp_path / f"{name}.npz"
        )
    return tmp_path


@pytest.fixture
def here(sets, monkeypatch):
    """The folder of the feature files, also a bundle, as the working folder."""
    monkeypatch.chdir(sets)
    return sets


PAIR = ("--train", "train.npz", "--test", "test.npz")
LOWSHOT = ("lowshot", *PAIR, "--shots", "1", "--trials", "1", "--classifier", "centroid", "--no-calibration")


def state(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }


def assert_refused(fewvit, folder, words, *named):
    before = state(folder)
    code, out, err = fewvit(*words)
    assert (code, out) == (2, ""), (words, err)
    assert err.count("\n") <= 2
    for name in named:
        assert name in err, (words, err)
    assert state(folder) == before


@pytest.mark.parametrize(
    "flag", ["--out", "--save-split", "--save-predictions", "--save-per-class", "--save-confusion"]
)
@pytest.mark.parametrize("source", ["--train", "--test"])
def test_no_output_of_lowshot_replaces_the_features_it_reads(fewvit, here, flag, source):
    file = f"{source.removeprefix('--')}.npz"
    assert_refused(fewvit, here, (*LOWSHOT, flag, file), f"{flag} {file} would replace {source} {file}")


def test_an_input_is_known_under_every_name_it_has(fewvit, here):
    os.link("train.npz", "hard.csv")
    os.symlink("train.npz", "soft.csv")
    (here / "sub").mkdir()
    for name in ("hard.csv", "soft.csv", "sub/../train.npz", here / "train.npz"):
        assert_refused(fewvit, here, ("knn", *PAIR, "--k", "1", "--out", name), "--out", "--train train.npz")


def test_every_kind_of_input_is_safe_from_every_command(fewvit, here):
    assert fewvit("fit", "--data", "train.npz", "--classifier", "centroid", "--out", "b.fewvit")[0] == 0
    assert fewvit(*LOWSHOT, "--save-split", "s.csv")[0] == 0
    weights = tiny_weights(here / "tiny.pth")
    (here / "one.jpg").write_bytes(jpeg(3))
    (here / "names.txt").write_text("x\ny\n")
    (here / "c.toml").write_text("k = [1]\n")
    (here / "run").mkdir()
    for words, named in [
        (("knn", "--train", "train.npz", "--leave-one-out", "-o", "train.npz"), "--train"),
        (("knn", *PAIR, "--config", "c.toml", "-o", "c.toml"), "--config"),
        (("knn", "-m", f"dino_vits16,{weights}", "--data", "x", "-o", weights), "--backbone"),
        (("lowshot", *PAIR, "--subset", "s.csv", "--save-split", "s.csv"), "--subset"),
        (("episodes", "--data", "test.npz", "--classes", "names.txt", "-o", "names.txt"), "--classes"),
        (("episodes", "--data", "test.npz", "-o", "test.npz"), "--data"),
        (("extract", "--data", "test.npz", "-o", "test.npz"), "--data"),
        (("fit", "--data", "train.npz", "--out", "train.npz"), "--data"),
        (("predict", "b.fewvit", "one.jpg", "-o", "one.jpg"), "SRC"),
        (("predict", "b.fewvit", "test.npz", "-o", "b.fewvit"), "BUNDLE"),
        (("predict", "b.fewvit", "test.npz", "--weights", weights, "-o", weights), "--weights"),
        (("backbones", "export", "run", "--out", "run"), "RUN"),
        (("finetune", "-m", "run", "--data", "x", "--out", "run", "--overwrite"), "--backbone"),
        (("pretrain", "mae", "--init", "run", "--data", "x", "--out", "run"), "--init"),
    ]:
        assert_refused(fewvit, here, words, f"would replace {named} ")


def test_a_file_of_another_kind_is_not_replaced(fewvit, here):
    folder_of(here / "images", {"cat": 2, "dog": 2})
    (here / "table.csv").write_text("path,label\n1.jpg,cat\n")
    (here / "notes.json").write_text('{"mine": 1}')
    (here / "text.txt").write_text("by hand")
    np.savez(here / "other.npz", weights=np.arange(3))
    (here / "pipe").mkdir()
    os.mkfifo(here / "fifo.json")
    assert fewvit(*LOWSHOT, "--save-split", "s.csv", "-o", "r.csv")[0] == 0
    for file in ("table.csv", "notes.json", "text.txt", "other.npz", "test.npz", "s.csv", "images/cat/000.jpg"):
        assert_refused(
            fewvit, here, ("knn", "--train", "train.npz", "--leave-one-out", "-o", file), file, "not a result"
        )
    for file in ("table.csv", "r.csv", "test.npz", "images/cat/000.jpg"):
        assert_refused(fewvit, here, (*LOWSHOT, "--save-split", file), file)
        assert_refused(fewvit, here, ("fit", "--data", "train.npz", "--out", file), file, "not a bundle")
    for flag in ("--save-predictions", "--save-per-class", "--save-confusion"):
        assert_refused(fewvit, here, (*LOWSHOT, flag, "s.csv"), "s.csv")
    assert_refused(fewvit, here, ("extract", "--data", "train.npz", "--out", "other.npz"), "other.npz", "not features")
    assert_refused(fewvit, here, ("linear", *PAIR, "--out", "s.csv"), "s.csv")
    assert_refused(fewvit, here, ("finetune", "--data", "images", "--out", "s.csv"), "s.csv", "not a run")
    for words in (
        ("knn", *PAIR, "-o"),
        ("fit", "--data", "train.npz", "--out"),
        ("extract", "--data", "train.npz", "--out"),
    ):
        assert_refused(fewvit, here, (*words, "pipe"), "is a folder")
    before = os.stat("fifo.json")
    code, _, err = fewvit("knn", *PAIR, "-o", "fifo.json")
    assert (code, "no regular file" in err) == (2, True)
    assert os.path.samestat(before, os.stat("fifo.json"))


def test_two_outputs_have_two_names(fewvit, here):
    assert_refused(fewvit, here, (*LOWSHOT, "--save-split", "s.csv", "-o", here / "s.csv"), "--save-split", "--out")


def test_refusals_come_before_the_work(fewvit, here, monkeypatch):
    monkeypatch.setattr(FeatureSet, "load", lambda *a: pytest.fail("the features were read"))
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a socket was opened"))
    assert_refused(fewvit, here, ("knn", *PAIR, "-o", "train.npz"), "--train")
    assert_refused(
        fewvit, here, ("knn", "--train", "train.npz", "--test", "gone.npz", "-o", "test.npz"), "not a result"
    )


def test_every_command_replaces_what_it_wrote_before(fewvit, here):
    pytest.importorskip("pyarrow")
    assert fewvit("fit", "--data", "train.npz", "--classifier", "centroid", "--out", "b.fewvit")[0] == 0
    saves = [
        word
        for name in ("split", "per-class", "confusion", "predictions")
        for word in (f"--save-{name}", f"{name}.csv")
    ]
    for words, written in [
        ((*LOWSHOT, "-o", "r.json", *saves), ["r.json", *saves[1::2]]),
        ((*LOWSHOT, "--save-predictions", "p.parquet", "-o", "r.csv"), ["p.parquet", "r.csv"]),
        (("knn", *PAIR, "--k", "1", "-o", "k.txt"), ["k.txt"]),
        (
            ("episodes", "--data", "train.npz", "--ways", "2", "--queries", "2", "--episodes", "7", "-o", "e.CSV"),
            ["e.CSV"],
        ),
        (("extract", "--data", "train.npz", "-o", "x.npz"), ["x.npz"]),
        (("fit", "--data", "train.npz", "--classifier", "centroid", "--out", "c.fewvit"), ["c.fewvit"]),
        (("fit", "--add", "--data", "test.npz", "--out", "c.fewvit"), []),
        (("predict", "b.fewvit", "test.npz", "-o", "l.csv"), ["l.csv"]),
        (("predict", "b.fewvit", "test.npz", "-o", "l.json"), ["l.json"]),
    ]:
        for _ in range(2):
            code, _, err = fewvit(*words)
            assert code == 0, (words, err)
            for file in written:
                assert os.stat(file).st_mtime_ns != 3, (words, file)
                os.utime(file, ns=(3, 3))


def test_an_empty_file_may_be_replaced(fewvit, here):
    (here / "new.json").touch()
    assert fewvit("knn", *PAIR, "--k", "1", "-o", "new.json")[0] == 0
    assert json.loads((here / "new.json").read_text())["task"] == "knn"


@pytest.mark.parametrize("name", ["r.json", "r.csv", "r.txt"])
def test_a_written_result_is_told_unless_quiet(fewvit, here, name):
    assert f"wrote {name}\n" in fewvit("knn", *PAIR, "--k", "1", "-o", name)[2]
    assert fewvit("knn", *PAIR, "--k", "1", "-o", name, "-q")[2] == ""
    assert (here / name).read_text().startswith("dataset," if name == "r.csv" else "{")


# ---- help


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("knn",), "write the result here"),
        (("extract",), "Write the features here"),
        (("fit",), "Write the bundle here"),
        (("predict",), "write the predictions here"),
        (("pretrain",), "Folder of the run"),
        (("finetune",), "Folder of the run"),
        (("linear",), "with --head a file"),
        (("backbones", "export"), "in the official layout"),
    ],
)
def test_each_command_says_what_its_own_out_is(fewvit, words, says):
    code, out, _ = fewvit(*words, "--help")
    assert code == 0
    assert says in " ".join(out.split())


@pytest.mark.parametrize("words", [("doctor",), ("cache", "info"), ("backbones", "list")])
def test_a_command_that_writes_no_file_takes_no_out(fewvit, words, tmp_path):
    code, _, err = fewvit(*words, "--out", tmp_path / "x.json")
    assert (code, list(tmp_path.glob("x*"))) == (2, [])
    assert "--out" in err


@pytest.mark.parametrize(
    ("name", "own"), [("knn", "--leave-one-out"), ("lowshot", "--shots"), ("episodes", "--ways"), ("fit", "--add")]
)
def test_a_command_s_own_options_come_before_those_that_many_share(fewvit, name, own):
    out = fewvit(name, "--help")[1]
    at = [out.index(f" {flag} ") for flag in (own, "--backbone", "--device", "--workers")]
    assert at == sorted(at)


# ---- tables


def test_the_table_of_one_row_of_episodes_says_how_sure_it_is_and_what_was_asked(fewvit, here):
    out = fewvit("episodes", "--data", "train.npz", "--ways", "2", "--queries", "2", "--episodes", "7")[1]
    header, line = (text.split() for text in out.splitlines())
    row = dict(zip(header, line, strict=True))
    assert {"value", "std", "ci95_low", "ci95_high"} <= set(row)
    assert (row["method"], row["ways"], row["shots"], row["queries"], row["episodes"]) == (
        "centroid",
        "2",
        "1",
        "2",
        "7",
    )
    assert all(len(row[name].partition(".")[2]) == 2 for name in ("value", "std", "ci95_low", "ci95_high"))


def test_what_every_row_shares_and_a_table_has_no_room_for_is_one_line_on_stderr(fewvit, here):
    (here / "train.npz").rename(here / f"{'t' * 90}.npz")
    words = ("knn", "--train", f"{'t' * 90}.npz", "--leave-one-out", "--k", "1,3")
    _, out, err = fewvit(*words)
    assert f"dataset {'t' * 90}\n" in err.replace("backbone features, ", "")
    assert max(map(len, out.splitlines())) <= 100
    assert out.split()[:2] != ["dataset", "backbone"]
    assert fewvit(*words, "-q")[1:] == (out, "")
