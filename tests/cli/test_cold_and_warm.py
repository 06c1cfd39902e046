"""What a command gives is the same bytes whatever the cache held before: nothing, all, or a half, in whatever order."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from made_images import folder_of, tiny_weights

TRAIN, TEST = {"a": 7, "b": 5, "c": 11}, {"a": 5, "b": 7, "c": 3}
# command -> its words, and the files in OUT whose bytes count
COMMANDS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "knn": (("knn", "--k", "1,3,5"), ()),
    "lowshot": (("lowshot", "--shots", "1,2", "--trials", 2, "--classifier", "logistic,knn"), ()),
    "linear": (
        ("linear", "--epochs", 2, "--out", "OUT/run"),
        ("run/head.safetensors",),
    ),
    "finetune": (
        ("finetune", "--shots", 2, "--epochs", 1, "--set", "lr=1e-3", "--mode", "last-block", "--out", "OUT/run"),
        ("run/adapter.safetensors", "run/head.safetensors"),
    ),
    "fit": (("fit", "--out", "OUT/b.fewvit"), ("b.fewvit",)),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two sets of images, a backbone, and tables of the images in the opposite order, and of every second one."""
    root = tmp_path_factory.mktemp("cold-and-warm")
    folder_of(root / "images/train", TRAIN)
    folder_of(root / "images/val", TEST, first_seed=300)
    tiny_weights(root / "tiny.pth")
    for part in ("train", "val"):
        paths = sorted((root / "images" / part).glob("*/*.jpg"))
        lines = [f"{path},{path.parent.name}" for path in paths]
        for name, chosen in {"reversed": lines[::-1], "half": lines[::2]}.items():
            (root / f"{part}_{name}.csv").write_text("\n".join(["path,label", *chosen]) + "\n")
    return root


@pytest.fixture
def outcome(fewvit, place, tmp_path):
    """Runs one of COMMANDS: its rows, and the digests of the files that it writes."""
    numbers = iter(range(100))

    def run(
        command: str, cache: Path, *more: object, pair: tuple = ("--data", place / "images")
    ) -> tuple[list[dict], dict[str, str]]:
        words, files = COMMANDS[command]
        out = tmp_path / f"out{next(numbers)}"
        out.mkdir()
        given = [str(word).replace("OUT", str(out)) for word in words]
        given += ["--data", place / "images/train"] if command == "fit" else pair
        how = ("--backbone", place / "tiny.pth", "--img-size", 32, "--device", "cpu", "--cache-dir", cache)
        code, stdout, err = fewvit(*given, *how, "--format", "json", *more)
        assert code == 0, err
        return json.loads(stdout)["rows"], {f: hashlib.sha256((out / f).read_bytes()).hexdigest() for f in files}

    return run


@pytest.fixture
def extract(fewvit, place, tmp_path):
    """Fills a cache with the features that a table names."""

    def run(cache: Path, which: str, *more: object) -> None:
        for part in ("train", "val"):
            words = ("extract", "--data", place / f"{part}_{which}.csv", "--out", tmp_path / "x.npz", *more)
            code, _, err = fewvit(
                *words, "--backbone", place / "tiny.pth", "--img-size", 32, "--device", "cpu", "--cache-dir", cache
            )
            assert code == 0, err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cache_changes_no_byte_whatever_it_held(command, outcome, extract, tmp_path):
    cold = outcome(command, tmp_path / "cold")
    assert outcome(command, tmp_path / "cold") == cold  # warm now
    extract(tmp_path / "half", "half", "--batch-size", 3)
    assert outcome(command, tmp_path / "half") == cold
    extract(tmp_path / "reversed", "reversed", "--batch-size", 5, "--workers", 1)
    assert outcome(command, tmp_path / "reversed") == cold


@pytest.mark.parametrize("command", ["knn", "lowshot", "fit"])  # of the others it is the batch of a training
def test_nor_does_the_size_of_a_batch(command, outcome, tmp_path):
    assert outcome(command, tmp_path / "three", "--batch-size", 3) == outcome(command, tmp_path / "many")


@pytest.mark.parametrize("command", ["knn", "lowshot", "linear", "finetune"])
def test_nor_does_the_order_in_which_test_images_are_listed(command, outcome, place, tmp_path):
    def values(name: str) -> tuple[list, dict[str, str]]:
        rows, files = outcome(
            command, tmp_path / "cache", "--train", place / "images/train", "--test", place / name, pair=()
        )
        return [(row["method"], row.get("shots"), row["metric"], row["value"]) for row in rows], files

    assert values("val_reversed.csv") == values("images/val")


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["avx2", "default"])
@pytest.mark.parametrize("threads", [1, 2])
def test_that_holds_with_the_kernels_that_another_cpu_would_take(kernels, threads):
    forced = {
        "avx2": {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
        },
        "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
    }[kernels]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **forced, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
