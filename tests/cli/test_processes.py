"""Under torchrun a command's processes share the work, and the first alone speaks, writes, and says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fewvit.evaluate.sharing import Shared
from fewvit.extraction.work import Report
from fewvit.runs.processes import process_count, process_number
from fewvit_cli import main as cli

from made_images import folder_of, tiny_weights

PAIR = {"train": {"c3": 7, "c7": 5}, "val": {"c3": 2, "c7": 3}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """17 images of two classes, in two sets."""
    root = tmp_path_factory.mktemp("images")
    for number, (name, classes) in enumerate(PAIR.items()):
        folder_of(root / name, classes, first_seed=100 * number)
    return root


@pytest.fixture
def torchrun(tmp_path):
    """Runs a command in two processes of torchrun: what each of them and torchrun said and gave."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "fewvit"]
        own = {"OMP_NUM_THREADS": "1", "FEWVIT_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.run(
            [*launch, *map(str, words)], capture_output=True, text=True, timeout=280, env={**os.environ, **own}
        )

    return run


def as_process(monkeypatch, number: int, count: int = 2) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("RANK", str(number))


# ---- which process this is


def test_a_process_without_torchruns_variables_is_alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (process_number(), process_count()) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")  # a number of processes without this one's is another program's
    assert (process_number(), process_count()) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    assert (process_number(), process_count()) == (2, 3)


# ---- what does not work in several


@pytest.mark.parametrize("words", [("cache", "info"), ("fit", "--data", "x"), ("sweep", "x.toml"), ("index", "info")])
def test_what_several_processes_cannot_share_is_refused_by_the_first_and_the_others_are_silent(
    words, monkeypatch, capsys
):
    as_process(monkeypatch, 0)
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == (
        "",
        f"fewvit: torchrun started 2 processes, and `fewvit {words[0]}` works in one",
    )
    as_process(monkeypatch, 1)
    assert cli.run(words) == 0  # torchrun would end the first one before it has spoken
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [(("knn", "--nope"), 2), (("knn", "--data", "nowhere"), 3), (("knm",), 2), (("knn", "--k", "x"), 2)],
)
def test_what_is_wrong_with_the_command_the_first_process_alone_says(words, code, monkeypatch, capsys):
    as_process(monkeypatch, 0)
    assert cli.run(words) == code
    assert capsys.readouterr().err.startswith("fewvit: ")
    as_process(monkeypatch, 1)
    assert cli.run(words) == 0
    assert capsys.readouterr() == ("", "")


def test_processes_without_a_cache_have_no_place_to_share_features(images, weights, monkeypatch, capsys):
    as_process(monkeypatch, 0)
    assert cli.run(["knn", "--data", str(images), "-m", str(weights), "--no-cache"]) == 2
    assert "--no-cache" in capsys.readouterr().err


def test_the_first_process_reports_the_work_of_all():
    parts = Report(computed=11, seconds=3.0, waiting=2.0, modelling=1.0)
    found = Report(images=17, cached=17, seconds=0.5)
    both = Shared([parts], 3.5).over(0, found)
    assert (both.images, both.computed, both.cached, both.seconds) == (17, 11, 6, 3.5)


# ---- torchrun itself


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["rows"]  # one object


def test_knn_shares_the_images_and_the_first_process_alone_prints_and_writes(
    torchrun, images, weights, tmp_path, fewvit
):
    words = ("knn", "--data", images, "-m", weights, "--img-size", 32, "--k", "1,3", "--format", "json")
    done = torchrun(*words, "--out", tmp_path / "two.json")
    code, out, _ = fewvit(*words, "--cache-dir", tmp_path / "other")
    assert (code, rows_of(done)) == (0, json.loads(out)["rows"])
    run = json.loads(done.stdout)["run"]
    assert (run["images"], run["computed"], run["cached"]) == (17, 17, 0)
    assert done.stderr.count("wrote ") == 1
    assert json.loads((tmp_path / "two.json").read_text())["rows"] == rows_of(done)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["lowshot", "episodes"])
def test_evaluations_share_the_images(command, torchrun, images, weights, tmp_path, fewvit):
    own = {
        "lowshot": ("--data", images, "--shots", 1, "--save-split", tmp_path / "split.csv"),
        "episodes": ("--data", images / "train", "--ways", 2, "--shots", 1, "--queries", 2, "--episodes", 11),
    }[command]
    words = (command, *own, "-m", weights, "--img-size", 32, "--format", "json")
    done = torchrun(*words)
    _, out, _ = fewvit(*words, "--cache-dir", tmp_path / "other")
    assert rows_of(done) == json.loads(out)["rows"]


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_is_said_once_whichever_process_has_it(torchrun, images, weights, tmp_path):
    folder_of(tmp_path / "set" / "train", {"c3": 5, "c7": 5})
    folder_of(tmp_path / "set" / "val", {"c3": 2, "c7": 2}, first_seed=50)
    (tmp_path / "set" / "train" / "c7" / "004.jpg").write_bytes(b"no image")  # of the second process
    done = torchrun("knn", "--data", tmp_path / "set", "-m", weights, "--img-size", 32)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("fewvit: ")] == [
        line for line in done.stderr.splitlines() if "1 of 10 images" in line
    ]
    assert done.stderr.count("1 of 10 images") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["linear", "pretrain", "finetune"])
def test_what_trains_prints_its_result_once_and_again_from_the_finished_run(
    command, torchrun, images, weights, tmp_path
):
    own = {
        "linear": ("--data", images, "-m", weights, "--img-size", 32, "--epochs", 2, "--batch-size", 4),
        "pretrain": ("mae", "--data", images / "train", "--preset", "small/32", "--epochs", 1, "--batch-size", 4),
        "finetune": ("--data", images, "-m", weights, "--img-size", 32, "--shots", 2, "--epochs", 1, "--allow-fewer"),
    }[command]
    words = (command, *own, "--out", tmp_path / "run", "--device", "cpu", "--format", "json")
    first, again = rows_of(torchrun(*words)), rows_of(torchrun(*words))
    assert first == again != []


@pytest.mark.slow
def test_a_run_that_the_first_process_refuses_is_refused_once(torchrun, images, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not a run")
    words = ("pretrain", "mae", "--data", images / "train", "--preset", "small/32", "--batch-size", 4)
    done = torchrun(*words, "--out", tmp_path / "run", "--device", "cpu")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("fewvit: ")] == [
        f"fewvit: {tmp_path / 'run'}: this folder holds other things than a run"
    ]
