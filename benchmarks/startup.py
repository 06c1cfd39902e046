"""How long a command takes before it works: help, usage errors, and `fewvit knn` on a warm cache.

And what it imports on the way.

Every timing is a process of its own. The peer is what an evaluation script of the official kind imports before it reads
its first argument: torch, torchvision and timm. The warm cache holds 20,000 images: files of one pixel each, listed and
recognised by their identity like any others, with random features stored under their digests; so the listing, the
digest memory, the store with its checks, the search and the vote are all in the time, and no image is decoded.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Claim, Outcome, main, round_robin

WHAT = "seconds from the command line to the answer"
EAGER = "imports of an official script: torch, torchvision, timm"
WARM = "fewvit knn, warm cache"
COMMANDS = {
    "fewvit --help": (0, ["--help"]),
    "fewvit knn --help": (0, ["knn", "--help"]),
    "misspelt command": (2, ["knnn"]),
    "misspelt backbone": (2, ["knn", "--backbone", "dino_vits61", "--data", "."]),
    "misspelt option": (2, ["knn", "--bakbone", "dino_vits16"]),
    "bad value": (2, ["knn", "--temperature", "warm", "--data", "."]),
}
_CLASSES, _WIDTH, _SHARD = 100, 384, 4096
_REPORT = """
import sys
from fewvit_cli.main import run
code = run(sys.argv[1:])
heavy = ("torch", "torchvision", "timm", "faiss", "sklearn", "PIL", "scipy")
sys.stderr.write("imported " + ",".join(m for m in heavy if m in sys.modules) + "\\n")
sys.exit(code)
"""


def fewvit(arguments: Sequence[str], expected: int) -> None:
    """Run the console script; raise if it ends with another exit code."""
    _run([str(Path(sys.executable).with_name("fewvit")), *arguments], expected)


def imported(arguments: Sequence[str]) -> str:
    """Which of the large packages a command has imported by its end, with commas."""
    ended = subprocess.run([sys.executable, "-c", _REPORT, *arguments], capture_output=True, text=True)
    return ended.stderr.rsplit("imported ", 1)[-1].strip()


def _run(command: Sequence[str], expected: int) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if ended.returncode != expected:
        raise SystemExit(
            f"{' '.join(command)} ended with {ended.returncode} instead of {expected}: {ended.stderr[-500:]}"
        )


def warm_cache(folder: Path, count: int) -> list[str]:
    """Write `count` images for train and for test and fill a cache with random features for them.

    Returns the arguments of `fewvit knn` on it.
    """
    from fewvit.datasets import open_dataset
    from fewvit.extraction.cache import Cache
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.models.resolve import resolve
    from fewvit.models.spec import Access

    cache = Cache(folder / "cache")
    memory = cache.digests()
    spec = resolve("dino_vits16", Access(cache.folder, offline=True), memory, weights="random")
    store = cache.store(settle(spec, FeatureOptions(device="cpu")).key)
    centres = np.random.default_rng(0).normal(size=(_CLASSES, _WIDTH))
    for part, first in (("train", 0), ("test", count)):
        for i in range(count):
            path = folder / part / f"class{i % _CLASSES:03d}" / f"{i:06d}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P6 1 1 255\n" + (first + i).to_bytes(3, "big"))
        time.sleep(0.2)  # a digest is remembered only of files that have been left alone for a moment
        dataset = open_dataset(str(folder / part))
        digests = [hashlib.sha256(dataset.read(i)).digest() for i in range(count)]
        features = np.random.default_rng(first + 1).normal(size=(count, _WIDTH)) * 3 + centres[dataset.labels]
        for start in range(0, count, _SHARD):
            rows = slice(start, start + _SHARD)
            store.put(digests[rows], [0] * len(digests[rows]), features[rows].astype(np.float32))
        for i, digest in enumerate(digests):
            memory.put(dataset.identity(i), digest)
        memory.save()
    sources = ["--train", str(folder / "train"), "--test", str(folder / "test"), "--cache-dir", str(cache.folder)]
    return ["knn", *sources, "--weights", "random", "--device", "cpu", "--format", "json"]


def measure(quick: bool) -> Outcome:
    count, rounds = (500, 2) if quick else (10_000, 7)
    with tempfile.TemporaryDirectory() as name:
        knn = warm_cache(Path(name), count)
        runs: dict[str, Any] = {
            label: lambda _, a=a, code=code: fewvit(a, code) for label, (code, a) in COMMANDS.items()
        }
        runs[WARM] = lambda _: fewvit(knn, 0)
        runs[EAGER] = lambda _: _run([sys.executable, "-c", "import argparse, torch, torchvision, timm"], 0)
        timing = round_robin(runs, [None], rounds)
        packages = {label: imported(a) for label, (_, a) in COMMANDS.items()} | {WARM: imported(knn)}
    slowest = max(COMMANDS, key=timing.median)
    claims = [
        Claim("`fewvit --help`", "the clock", timing.median("fewvit --help"), "s", "<= 0.25"),
        Claim(f"The slowest usage error or help ({slowest})", "the clock", timing.median(slowest), "s", "<= 0.25"),
        Claim(f"`fewvit knn`, warm cache, {count} x {count} x {_WIDTH}", "the clock", timing.median(WARM), "s", "<= 5"),
        Claim(
            "Heavy packages it imports (timm, torchvision)",
            "none",
            float(len({"timm", "torchvision"} & set(packages[WARM].split(",")))),
            "",
            "<= 0",
        ),
        Claim("`fewvit --help`", "the imports of an official script", timing.ratio("fewvit --help", EAGER), "x"),
    ]
    return Outcome(
        claims,
        [{**row, "imports": packages.get(row["variant"], "")} for row in timing.rows(EAGER)],
        {"images": f"{count} + {count}", "rounds": rounds},
    )


if __name__ == "__main__":
    main("startup", WHAT, measure)
