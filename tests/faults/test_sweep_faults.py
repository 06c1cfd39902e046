"""A sweep under kill -9 and on a full disk: finished cells stay, and the table is an undisturbed run's."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SWEEP = [sys.executable, "-c", "import sys; from fewvit_cli.main import main; main()", "sweep"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(7, 29))
    sides = {}
    for name, each in (("train", 31), ("test", 13)):
        labels = np.repeat(np.arange(7), each)
        rows = (centres[labels] + rng.normal(size=(len(labels), 29))).astype(np.float32)
        sides[name] = tmp_path / f"{name}.npz"
        np.savez(
            sides[name],
            features=rows,
            labels=labels,
            ids=[f"{name}/{i}" for i in range(len(labels))],
            classes=list("abcdefg"),
        )
    path = tmp_path / "s.toml"
    path.write_text(
        f"data = [{{train = {json.dumps(str(sides['train']))}, test = {json.dumps(str(sides['test']))}}}]\n"
        'methods = ["knn", "centroid", "ridge", "lowshot.knn", {name = "episodes.centroid", queries = 5}]\n'
        "shots = [1, 2, 3, 5, 7]\ntrials = 3\nepisodes = 50\n"
    )
    return path


def table(config: Path, out: Path) -> str:
    return subprocess.run(
        [*SWEEP, str(config), "--out", str(out), "--format", "csv", "-q"], check=True, capture_output=True, text=True
    ).stdout


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


def killed(config: Path, out: Path, kills: int, seed: int) -> list[int]:
    """Kill a sweep so often, each time a random moment after it kept another cell; how many were kept each time."""
    chance, kept = random.Random(seed), []
    for _ in range(kills):
        before = stamps(out) if out.exists() else {}
        process = subprocess.Popen([*SWEEP, str(config), "--out", str(out), "-q"], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while (
            process.poll() is None
            and time.monotonic() < until
            and (not out.exists() or len(stamps(out)) <= len(before))
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = stamps(out)
        assert before.items() <= after.items(), "a finished cell was touched"
        kept.append(len(after))
    return kept


def require_same(config: Path, tmp_path: Path, kills: int, seed: int) -> None:
    kept = killed(config, tmp_path / "killed", kills, seed)
    assert sorted(kept) == kept
    assert kept[0] < 21, "nothing was left to be resumed"
    before = stamps(tmp_path / "killed")
    resumed = table(config, tmp_path / "killed")
    assert before.items() <= stamps(tmp_path / "killed").items()
    assert resumed == table(config, tmp_path / "undisturbed")
    assert not list((tmp_path / "killed").glob("runs/*"))


def test_a_sweep_killed_and_resumed_gives_the_undisturbed_table(config, tmp_path):
    require_same(config, tmp_path, 1, 3)


@pytest.mark.slow
def test_a_sweep_killed_ten_times_gives_the_undisturbed_table(config, tmp_path):
    require_same(config, tmp_path, 10, 7)


@pytest.mark.slow
def test_a_full_disk_ends_with_6_and_loses_no_cell(config, tmp_path):
    """The size of a file is limited to what the rows of a cell fit in and the scores of 60,000 episodes do not."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    out = tmp_path / "sweep"
    config.write_text(config.read_text().replace('"knn", ', "").replace(", 2, 3, 5, 7", ""))
    table(config, out)
    before = stamps(out)
    config.write_text(config.read_text().replace("episodes = 50", "episodes = 60000"))
    ended = subprocess.run(
        [*SWEEP, str(config), "--out", str(out), "-q"], preexec_fn=limited, capture_output=True, text=True
    )
    assert ended.returncode == 6, ended.stderr
    assert "disk full while writing" in ended.stderr
    assert before.items() <= stamps(out).items()
    assert not list(out.rglob(".*.tmp"))
    config.write_text(config.read_text().replace("episodes = 60000", "episodes = 50"))
    assert table(config, out) == table(config, tmp_path / "other")
