"""Extraction under real faults: kill -9, SIGTERM, Ctrl-C, a full disk, damaged shards, several writers."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_images import TINY, folder_of, tiny_weights

RUN = """
import sys
import fewvit.extraction.extract
from fewvit_cli.main import run
fewvit.extraction.extract._SHARD_BYTES = 256 * 4 * WIDTH  # a shard every 256 images
code = run(sys.argv[1:])
sys.stdout.flush()
sys.exit(code)
""".replace("WIDTH", str(TINY.width))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough images for ten shards."""
    return folder_of(tmp_path_factory.mktemp("many"), {"a": 700, "b": 1100, "c": 631})


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("few"), {"a": 29, "b": 17})


def start(cache: Path, *words: object, limit: int | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "FEWVIT_CACHE_DIR": str(cache)}

    def as_at_a_terminal() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a shell lets what it starts in the background ignore Ctrl-C, and children inherit that
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=as_at_a_terminal,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=240)
    return process.returncode, err


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shards(cache: Path) -> set[str]:
    return {p.name for p in cache.glob("features/*/*.rows")}


def kill_and_repeat(weights: Path, many: Path, tmp_path: Path, kills: int, seed: int) -> None:
    clean, broken = tmp_path / "clean", tmp_path / "broken"
    assert finish(start(clean, "extract", "-m", weights, "--data", many, "--out", tmp_path / "clean.npz"))[0] == 0
    rng, killed = random.Random(seed), 0
    words = ("extract", "-m", weights, "--data", many, "--out", tmp_path / "broken.npz")
    while killed < kills:
        process, before = start(broken, *words), len(shards(broken))
        patience = time.monotonic() + rng.uniform(0.5, 6.0)
        while process.poll() is None and time.monotonic() < patience:
            if len(shards(broken)) > before and rng.random() < 0.5:
                break  # right after a commit
            time.sleep(rng.uniform(0.005, 0.05))
        if process.poll() is not None:
            finish(process)
            import shutil

            shutil.rmtree(broken)  # it was done before the blow fell: begin anew
            (tmp_path / "broken.npz").unlink()
            continue
        process.send_signal(signal.SIGKILL)
        finish(process)
        assert not (tmp_path / "broken.npz").exists()
        killed += 1
    assert finish(start(broken, *words))[0] == 0
    assert digest(tmp_path / "broken.npz") == digest(tmp_path / "clean.npz")
    assert shards(broken) == shards(clean)


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_bytes_of_an_uninterrupted_one(weights, many, tmp_path):
    kill_and_repeat(weights, many, tmp_path, kills=2, seed=7)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_bytes_of_an_uninterrupted_one(weights, many, tmp_path):
    kill_and_repeat(weights, many, tmp_path, kills=10, seed=11)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interruption_keeps_the_work_and_has_its_exit_code(weights, many, tmp_path, sent, code):
    words = ("extract", "-m", weights, "--data", many, "--batch-size", "8")
    process = start(tmp_path, *words)
    while not shards(tmp_path) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(sent)
    got, err = finish(process)
    assert got == code, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert 1 <= len(shards(tmp_path)) < 10


def test_a_full_disk_is_exit_6_and_the_work_goes_on_when_there_is_space(weights, few, tmp_path):
    words = ("extract", "-m", weights, "--data", few, "--out", tmp_path / "x.npz")
    code, err = finish(start(tmp_path / "cache", *words, limit=2048))  # no file may grow above 2 kB
    assert code == 6, err
    assert "disk full" in err
    assert not (tmp_path / "x.npz").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert finish(start(tmp_path / "cache", *words))[0] == 0


def test_a_damaged_shard_is_refused_with_exit_4(weights, few, tmp_path):
    words = ("extract", "-m", weights, "--data", few)
    assert finish(start(tmp_path, *words))[0] == 0
    victim = next(tmp_path.glob("features/*/*.npy"))
    data = bytearray(victim.read_bytes())
    data[-5] ^= 4
    victim.write_bytes(data)
    code, err = finish(start(tmp_path, *words))
    assert code == 4, err
    assert victim.name in err
    assert "--no-cache" in err


def test_three_processes_filling_one_cache_all_succeed_with_the_same_bytes(weights, few, tmp_path):
    processes = [
        start(tmp_path / "cache", "extract", "-m", weights, "--data", few, "--out", tmp_path / f"{i}.npz")
        for i in range(3)
    ]
    assert [finish(process)[0] for process in processes] == [0, 0, 0]
    assert len({digest(tmp_path / f"{i}.npz") for i in range(3)}) == 1


def test_an_unwritable_cache_folder_is_said(weights, few, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, err = finish(start(blocked / "cache", "extract", "-m", weights, "--data", few))
    assert code in (2, 3, 6), err
    assert "file" in err
    assert "Traceback" not in err
