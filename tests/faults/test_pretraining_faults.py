"""Pretraining through the command line under real faults.

Kill -9 between steps and within a save, signals, full disk, other arguments, several processes.
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
from pathlib import Path

import pytest

from made_images import folder_of

# a method's smallest recipe, small enough for a test
TINY = """
import dataclasses, sys
from fewvit.backbones import Architecture
from fewvit.plugins import find
from fewvit_cli.main import run
if len(sys.argv) > 2:
    kind = find("methods", sys.argv[2])
    small = kind.presets["small/32"]
    changes = {"architecture": dataclasses.replace(small.architecture, width=64, depth=2, heads=1), "drop_path": 0.2}
    if sys.argv[2] == "dino":
        changes |= {"outputs": 64, "hidden": 32, "bottleneck": 16}
    kind.presets = {**kind.presets, "test/tiny": dataclasses.replace(small, **changes)}
"""
RUN = TINY + "code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"
# the process dies while the tensors of the second checkpoint are being written
KILLED_IN_SAVE = (
    TINY
    + """
import os, signal
import fewvit.training.state as state
replacing, saves = state.replacing, []
import contextlib
@contextlib.contextmanager
def dying(path):
    with replacing(path) as handle:
        saves.append(path)
        if len(saves) == 2:
            handle.write(b"half")
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        yield handle
state.replacing = dying
"""
    + "code = run(sys.argv[1:]); sys.exit(code)"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("images"), {"a": 13, "b": 11})


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("judges"), {"a": 5, "b": 7}, first_seed=900)


def start(
    method: str, images: Path, out: Path, *more: object, code: str = RUN, limit: int | None = None
) -> subprocess.Popen[str]:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [
        "pretrain",
        method,
        "--data",
        images,
        "--preset",
        "test/tiny",
        "--epochs",
        3,
        "-b",
        4,
        "--save-every",
        2,
        "--out",
        out,
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FEWVIT_CACHE_DIR": str(out.parent / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=small_files if limit else None,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def digest(run: Path) -> str:
    return hashlib.sha256((run / "encoder.safetensors").read_bytes()).hexdigest()


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(images, judges, tmp_path_factory):
    """A DINO run of 18 steps that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, stdout, err = finish(start("dino", images, out, "--monitor", judges, "--format", "json"))
    assert code == 0, err
    return out, json.loads(stdout)


def test_a_run_killed_twice_and_within_a_save_ends_with_the_same_bits(whole, images, judges, tmp_path):
    out = tmp_path / "run"
    process = start("dino", images, out, "--monitor", judges, "--format", "json", code=KILLED_IN_SAVE)
    assert finish(process)[0] == -signal.SIGKILL
    assert [p.name for p in sorted((out / "checkpoints").glob("step-*.json"))] == ["step-000000002.json"]
    for step in (7, 13):
        process = start("dino", images, out, "--monitor", judges, "--format", "json")
        wait_for(lambda step=step: _saved(out) >= step - 1, process)
        process.kill()
        finish(process)
    code, stdout, err = finish(start("dino", images, out, "--monitor", judges, "--format", "json"))
    assert code == 0, err
    assert digest(out) == digest(whole[0])
    rows = [[row["value"] for row in result["rows"]] for result in (json.loads(stdout), whole[1])]
    assert rows[0] == rows[1]
    logs = [
        [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in _log(run).splitlines()]
        for run in (out, whole[0])
    ]
    assert logs[0] == logs[1]
    assert not list((out / "checkpoints").glob("*.tmp"))


def _log(run: Path) -> str:
    return (run / "log.jsonl").read_text()


def _saved(run: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*.json")), default=0)


def test_a_finished_run_answers_from_its_result_and_other_arguments_are_refused_with_the_difference(
    whole, images, judges
):
    out, result = whole
    before = digest(out)
    code, stdout, _ = finish(start("dino", images, out, "--monitor", judges, "--format", "json", "-j", 1))
    assert (code, json.loads(stdout)) == (0, result)
    code, _, err = finish(start("dino", images, out, "--monitor", judges, "--set", "lr=0.5"))
    assert code == 2
    assert "recipe.lr: 0.001 -> 0.5" in err
    code, _, err = finish(start("mae", images, out, "--monitor", judges))
    assert code == 2
    assert "dino -> mae" in err
    assert digest(out) == before


def test_the_number_of_decoding_threads_changes_no_bit(whole, images, judges, tmp_path):
    code, _, err = finish(start("dino", images, tmp_path / "run", "--monitor", judges, "-j", 3, "--save-every", 50))
    assert code == 0, err
    assert digest(tmp_path / "run") == digest(whole[0])


def test_images_added_to_the_data_are_noticed(whole, images, judges, tmp_path):
    other = folder_of(tmp_path / "more", {"a": 13, "b": 11, "c": 1})
    code, _, err = finish(start("dino", other, whole[0], "--monitor", judges))
    assert code == 2
    assert "data.images: 24 -> 25" in err


def test_sigterm_saves_and_names_the_command_that_goes_on(whole, images, judges, tmp_path):
    out = tmp_path / "run"
    process = start("dino", images, out, "--monitor", judges, "--save-every", 1000)
    wait_for(lambda: (out / "log.jsonl").exists(), process)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143, err
    assert "--out" in err.splitlines()[-1]
    assert "fewvit pretrain dino" in err.splitlines()[-1]
    assert len(list((out / "checkpoints").glob("step-*.json"))) == 1
    code, _, err = finish(start("dino", images, out, "--monitor", judges))
    assert code == 0, err
    assert digest(out) == digest(whole[0])


def test_a_full_disk_while_saving_keeps_the_older_checkpoint_and_ends_with_6(images, tmp_path):
    out = tmp_path / "run"
    code, _, err = finish(start("mae", images, out, "--epochs", 1))
    assert code == 0, err
    size = max(p.stat().st_size for p in (out / "checkpoints").glob("*.safetensors"))
    code, _, err = finish(start("mae", images, tmp_path / "full", "--epochs", 1, limit=size // 2))
    assert code == 6, err
    assert "disk full" in err
    assert not list((tmp_path / "full/checkpoints").glob("step-*"))


def test_a_diverging_run_ends_with_5_and_keeps_its_last_checkpoint(images, tmp_path):
    code, _, err = finish(start("mae", images, tmp_path / "run", "--set", "lr=1e36", "--set", "warmup_epochs=0"))
    assert code == 5, err
    assert "nothing was updated" in err


@pytest.mark.parametrize(
    ("method", "more"),
    [
        pytest.param("dino", (), marks=pytest.mark.slow),
        pytest.param("dino", ("--set", "use_bn_in_head=true"), marks=pytest.mark.slow),
        pytest.param("msn", (), marks=pytest.mark.slow),
        pytest.param("mae", (), marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(method, more, images, tmp_path):
    import torch
    from safetensors.torch import load_file

    one, two = tmp_path / "one", tmp_path / "two"
    code, _, err = finish(start(method, images, one, "--epochs", 1, "--set", "clip=0", *more))
    assert code == 0, err
    script = tmp_path / "tiny.py"
    script.write_text(RUN)
    words = [
        "pretrain",
        method,
        "--data",
        images,
        "--preset",
        "test/tiny",
        "--epochs",
        1,
        "-b",
        4,
        "--save-every",
        2,
        "--set",
        "clip=0",
        *more,
        "--out",
        two,
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            script,
            *map(str, words),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FEWVIT_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = load_file(one / "encoder.safetensors"), load_file(two / "encoder.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if name.endswith(
            "attn.qkv.bias"
        ):  # a third of its gradient is mathematically zero; Adam makes steps of the rounding
            continue
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-3, msg=name)
