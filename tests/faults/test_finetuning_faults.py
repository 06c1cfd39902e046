"""Fine-tuning through the command line under real faults.

Kill -9 in the search, in a save and in the last training, signals, a full disk, several processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from made_images import folder_of, tiny_weights

RUN = "import sys; from fewvit_cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"
# the process dies while the tensors of the third checkpoint are being written
KILLED_IN_SAVE = (
    """
import contextlib, os, signal
import fewvit.training.state as state
replacing, saves = state.replacing, []
@contextlib.contextmanager
def dying(path):
    with replacing(path) as handle:
        saves.append(path)
        if len(saves) == 3:
            handle.write(b"half")
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        yield handle
state.replacing = dying
"""
    + RUN
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    folder_of(root / "images/train", {"a": 5, "b": 6, "c": 5})
    folder_of(root / "images/val", {"a": 4, "b": 3}, first_seed=500)
    tiny_weights(root / "tiny.pth")
    return root


def words_for(place: Path, out: Path, *more: object) -> list[str]:
    words = [
        "finetune",
        "--backbone",
        place / "tiny.pth",
        "--data",
        place / "images",
        "--mode",
        "lora",
        "--img-size",
        32,
        "--shots",
        5,
    ]
    return [
        str(w)
        for w in [
            *words,
            "--epochs",
            3,
            "-b",
            4,
            "--save-every",
            2,
            "--out",
            out,
            "--format",
            "json",
            "--set",
            "drop_path=0.2",
            *more,
        ]
    ]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FEWVIT_CACHE_DIR": str(place / "cache")}


def start(place: Path, out: Path, *more: object, code: str = RUN, limit: int | None = None) -> subprocess.Popen[str]:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", code, *words_for(place, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
        preexec_fn=small_files if limit else None,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)


def outcome(run: Path) -> dict[str, object]:
    """Everything that a run came to, but for the time it took."""
    digests = {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest()
        for name in ("adapter.safetensors", "head.safetensors")
    }
    result = json.loads((run / "result.json").read_text())
    logs = {str(p.relative_to(run)): records(p) for p in sorted(run.rglob("log.jsonl"))}
    curves = [json.loads(p.read_text()) for p in sorted(run.rglob("outcome.json"))]
    values = [(row["method"], row["metric"], row["value"]) for row in result["rows"]]
    return {**digests, "values": values, "chosen": result["run"]["chosen"], "logs": logs, "curves": curves}


def records(log: Path) -> list[dict]:
    return [
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in log.read_text().splitlines()
    ]


def saved(folder: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*.json")), default=0)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A run that nothing disturbs: three searches of nine steps and the last training."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = finish(start(place, out))
    assert code == 0, err
    return out


@pytest.mark.slow
def test_a_run_killed_in_the_search_in_a_save_and_at_the_end_comes_to_the_same_bits(whole, place, tmp_path):
    out = tmp_path / "run"
    assert finish(start(place, out, code=KILLED_IN_SAVE))[0] == -signal.SIGKILL
    assert saved(out / "search/0") == 4
    moments = (
        lambda: saved(out / "search/1") >= 2,
        lambda: (out / "search/1/outcome.json").exists(),
        lambda: saved(out) >= 2,
    )
    for moment in moments:
        process = start(place, out)
        wait_for(moment, process)
        process.kill()
        finish(process)
        assert not (out / "result.json").exists()
    code, _, err = finish(start(place, out))
    assert code == 0, err
    assert outcome(out) == outcome(whole)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_decoding_threads_changes_no_bit(whole, place, tmp_path, workers):
    code, _, err = finish(start(place, tmp_path / "run", "-j", workers, "--save-every", 100))
    assert code == 0, err
    assert outcome(tmp_path / "run") == outcome(whole)


def test_sigterm_in_the_search_saves_and_names_the_command_that_goes_on(whole, place, tmp_path):
    for attempt in range(5):  # on a busy machine the signal may come just before the training or just after it
        out = tmp_path / f"run{attempt}"
        process = start(place, out, "--save-every", 1000)
        wait_for((out / "search/1/log.jsonl").exists, process)
        process.send_signal(signal.SIGTERM)
        code, stdout, err = finish(process)
        assert (code, stdout) == (143, ""), err
        if "fewvit finetune" in err.splitlines()[-1] and saved(out / "search/1") > 0:
            break
    assert "fewvit finetune" in err.splitlines()[-1]
    assert str(out) in err.splitlines()[-1]
    assert saved(out / "search/1") > 0
    code, _, err = finish(start(place, out))
    assert code == 0, err
    assert outcome(out) == outcome(whole)


@pytest.mark.slow
def test_a_full_disk_while_saving_ends_with_6_and_the_run_goes_on_afterwards(whole, place, tmp_path):
    out = tmp_path / "run"
    assert finish(start(place, out, "--no-cache", code=KILLED_IN_SAVE))[0] == -signal.SIGKILL
    size = max(p.stat().st_size for p in (out / "search/0/checkpoints").glob("*.safetensors"))
    code, _, err = finish(start(place, out, limit=size // 2))
    assert code == 6, err
    assert "disk full" in err
    assert saved(out / "search/0") == 4
    code, _, err = finish(start(place, out))
    assert code == 0, err
    assert outcome(out) == outcome(whole)


def in_two_processes(place: Path, out: Path, script: Path) -> subprocess.Popen[str]:
    script.write_text(RUN)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.Popen(
        [*launch, *words_for(place, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_killed_together_come_to_the_bits_of_two_undisturbed_ones_and_nearly_to_those_of_one(
    whole, place, tmp_path
):
    import torch
    from safetensors.torch import load_file

    two = tmp_path / "two"
    code, stdout, err = finish(in_two_processes(place, two, tmp_path / "run.py"))
    assert code == 0, err[-3000:]
    assert json.loads(stdout)["task"] == "finetune"  # one process speaks
    out = tmp_path / "run"
    process = in_two_processes(place, out, tmp_path / "run.py")
    wait_for(lambda: saved(out / "search/1") >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    code, _, err = finish(in_two_processes(place, out, tmp_path / "run.py"))
    assert code == 0, err[-3000:]
    assert outcome(out) == outcome(two)
    for name in ("adapter.safetensors", "head.safetensors"):
        expected, found = load_file(whole / name), load_file(two / name)
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=2e-3, rtol=1e-2, msg=f"{name} {key}")
