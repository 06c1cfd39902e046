"""Runs of every trainer, killed between any two files that they write: all that they end with is an undisturbed run's.

Everyday a kill is an exception that nothing catches, in this process; the slow test kills processes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fewvit.files
from fewvit_cli.main import run

from comparison.differences import FROM_CACHE
from made_runs import TINY_RECIPE, TRAINERS, place_of_runs, with_tiny_recipe, words_for

SLOW_KILLS = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return place_of_runs(tmp_path_factory.mktemp("place"))


@pytest.fixture(autouse=True)
def _no_run(place):
    """Each test begins its own run."""
    shutil.rmtree(place / "run", ignore_errors=True)


@pytest.fixture
def tiny(monkeypatch, place):
    with_tiny_recipe(monkeypatch)
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(place / "cache"))


def outcome(folder: Path) -> dict[str, Any]:
    """Every file of a run: its bytes, of JSON its text without what it says of the work that was left to do."""
    return {str(path.relative_to(folder)): _lasting(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _lasting(path: Path) -> object:
    if path.suffix == ".jsonl":
        return [json.dumps(_without_effort(json.loads(line))) for line in path.read_text().splitlines()]
    return json.dumps(_without_effort(json.loads(path.read_text()))) if path.suffix == ".json" else path.read_bytes()


def _without_effort(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_effort(one) for name, one in value.items() if name not in (*FROM_CACHE, "result_sha256")}
    return [_without_effort(one) for one in value] if isinstance(value, list) else value


class Killed(BaseException):
    """What nobody catches."""


def counting(place: Path, last: int | None = None) -> tuple[Callable[[Path], None], list[str]]:
    """Stands for `fsync_folder`, which ends each replacement of a file; after the `last` one of the run it kills."""
    committed: list[str] = []

    def committing(folder: Path) -> None:
        if folder.is_relative_to(place / "run"):
            committed.append(folder.name)
            if len(committed) == last:
                raise Killed

    return committing, committed


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_killed_after_any_of_its_last_files_ends_with_the_files_of_an_undisturbed_one(
    trainer, place, tiny, monkeypatch, capsys
):
    """Each run is at the same place, as its bundle and its result name it."""
    words = [*words_for(trainer, place), "--format", "json"]
    committing, committed = counting(place)
    with monkeypatch.context() as patch:
        patch.setattr(fewvit.files, "fsync_folder", committing)
        assert run(words) == 0, capsys.readouterr().err
    wanted, shown = outcome(place / "run"), json.loads(capsys.readouterr().out)
    assert shown["rows"]
    shutil.rmtree(place / "run")
    moments = list(range(len(committed) - 4, len(committed)))  # the first is the last checkpoint, or part of it
    if trainer == "finetune":  # and when the search's outcome is written
        moments.append(len(committed) - committed[::-1].index("0"))
    for number in moments:
        committing, _ = counting(place, number)
        with monkeypatch.context() as patch:
            patch.setattr(fewvit.files, "fsync_folder", committing)
            with pytest.raises(Killed):
                run(words)
        assert not (place / "run/result.json").exists()
        for folder in (place / "run", place / "run/checkpoints"):  # of a file that a kill interrupted
            folder.mkdir(exist_ok=True)
            (folder / ".some.file.0f.tmp").write_bytes(b"half")
        capsys.readouterr()
        assert run(words) == 0, capsys.readouterr().err
        assert json.loads(capsys.readouterr().out)["rows"] == shown["rows"]
        assert outcome(place / "run") == wanted, f"killed after file {number} of {len(committed)}"
        shutil.rmtree(place / "run")


def start(place: Path, words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FEWVIT_CACHE_DIR": str(place / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", TINY_RECIPE, *words], text=True, env=environment, **pipes)


def begun(place: Path, process: subprocess.Popen[str]) -> bool:
    """Wait until the process has begun the run or found it again."""
    end = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < end:
        if (place / "run/contents.json").exists():
            return True
        time.sleep(0.002)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_thirty_runs_killed_at_random_end_with_the_files_of_an_undisturbed_one(trainer, place):
    """Kills are spread evenly from when a run is begun to when it ends."""
    words = [*words_for(trainer, place), "--format", "json"]
    process = start(place, words)
    assert begun(place, process)
    since = time.monotonic()
    shown, err = process.communicate(timeout=300)
    lasts = time.monotonic() - since
    assert process.returncode == 0, err
    wanted = outcome(place / "run")
    shutil.rmtree(place / "run")
    chance, ended = random.Random(11), []
    for _ in range(SLOW_KILLS):
        process = start(place, words)
        assert begun(place, process)
        time.sleep(chance.uniform(0, lasts))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ended.append((place / "run/result.json").exists())
        process = start(place, words)
        again, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert json.loads(again)["rows"] == json.loads(shown)["rows"]
        assert outcome(place / "run") == wanted
        shutil.rmtree(place / "run")
    assert sum(ended) < SLOW_KILLS / 2, "most kills came too late to disturb anything"
