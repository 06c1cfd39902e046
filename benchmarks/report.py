"""A report of ten thousand rows: how long the page takes, and how large it is.

The folder holds cells as a sweep writes them, each with the predictions of its draws. Every round starts the command
anew, as a user does, and the clock runs from start to end of its process.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "`fewvit report` of 10,000 rows to one page"
_BACKBONES, _DATASETS, _METHODS, _SHOTS, _TRIALS, _METRICS = 12, 7, 3, (1, 2, 5, 10, 20), 3, ("top1", "top5")
_IMAGES, _CLASSES = 500, 10
PAGE, TABLE = "report --out report.html", "report --out report.csv"


def made(folder: Path, rows: int) -> int:
    """Write a sweep of about so many rows; how many they are."""
    from fewvit.evaluate.details import Details
    from fewvit.evaluate.predictions import Predicted
    from fewvit.results import Result
    from fewvit.sweep.folder import SweepFolder, digest_of

    random, written, cells = np.random.default_rng(0), 0, []
    ids, classes = [f"class/{i:05d}.jpg" for i in range(_IMAGES)], [f"class {c}" for c in range(_CLASSES)]
    labels = random.integers(0, _CLASSES, _IMAGES)
    grid = np.ndindex(_BACKBONES, _DATASETS, _METHODS, len(_SHOTS))
    for backbone, dataset, method, at in grid:
        if written >= rows:
            break
        which = {"method": f"method{method}", "shots": _SHOTS[at]}
        cell: dict[str, Any] = {
            "evaluation": "lowshot",
            **which,
            "backbone": {"label": f"backbone_{backbone:02d}", "name": f"backbone_{backbone:02d}"},
            "data": {"label": f"data{dataset}", "data": f"/nowhere/{dataset}"},
            "command": f"fewvit lowshot --backbone backbone_{backbone:02d} --data /nowhere/{dataset}",
            "seed": 0,
        }
        cell["request"] = digest_of(cell)
        cells.append(cell)
        named = {"dataset": f"data{dataset}", "backbone": f"backbone_{backbone:02d}"}
        result = [
            {**named, **which, "trial": trial, "metric": metric, "value": float(value), "n_test": _IMAGES}
            for metric in _METRICS
            for trial, value in zip((*range(_TRIALS), "mean"), random.uniform(20, 95, _TRIALS + 1), strict=True)
        ]
        result = [{**row, **({"std": 1.0, "ci95": [1.0, 99.0]} if row["trial"] == "mean" else {})} for row in result]
        guesses = np.where(random.random((_TRIALS, _IMAGES)) < 0.7, labels, random.integers(0, _CLASSES, _IMAGES))
        draws = [
            Predicted({**which, "trial": trial}, ids, labels, guesses[trial], random.random(_IMAGES), classes)
            for trial in range(_TRIALS)
        ]
        contents = hashlib.sha256(cell["data"]["label"].encode()).hexdigest()
        whole = {**cell, "data": {**cell["data"], "contents": contents}, "seconds": float(random.uniform(1, 99))}
        facts = {"protocol": "dino/1", "parameters": 10_000_000 * (1 + backbone), "seed": 0}
        SweepFolder(folder).write_cell(cell["request"], whole, Result("lowshot", result, facts), Details(draws))
        written += len(result)
    SweepFolder(folder).write_plan({}, cells)
    return written


def run(folder: Path, name: str) -> None:
    """The command, as a process of its own."""
    words = [sys.executable, "-m", "fewvit_cli.main", "report", str(folder), "--out", str(folder.parent / name), "-q"]
    subprocess.run(words, check=True)


def measure(quick: bool) -> Outcome:
    wanted, rounds = (1_000, 2) if quick else (10_000, 5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sweep"
        rows = made(folder, wanted)
        variants = {PAGE: lambda _: run(folder, "report.html"), TABLE: lambda _: run(folder, "report.csv")}
        timing = round_robin(variants, [None], rounds)
        page = folder.parent / "report.html"
        megabytes = page.stat().st_size / 1e6
    claims = [
        Claim(f"{rows} rows, the page", "nothing", timing.median(PAGE), "s", "<= 5"),
        Claim(f"{rows} rows, the page", "nothing", round(megabytes, 2), "MB", "<= 5"),
    ]
    return Outcome(claims, timing.rows(TABLE), {"rows": rows, "threads": cores()})


if __name__ == "__main__":
    main("report", WHAT, measure)
