"""A sweep beside the same evaluations as single commands, what it costs beyond its cells, and planning.

All features are cached before anything is timed. The peer's way is what a user does without sweeps: one command for
each cell, spelled by the sweep's own plan, each a process of its own; both ways decide the same numbers. What a sweep
costs beyond its cells is measured in one process, from the plan to the table, with every cell's own time taken from
its file. Planning is that of ten thousand cells of a hundred backbones.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "36 low-shot cells of digits by fewvit_tiny on cached features"
BACKBONES = (
    "fewvit_tiny",
    {"name": "fewvit_tiny", "pool": "mean"},
    {"name": "fewvit_tiny", "pool": "cls+mean"},
    {"name": "fewvit_tiny", "layers": 4},
)
METHODS, SHOTS = ("logistic", "centroid", "ridge"), (1, 2, 5)
SWEEP, COMMANDS = "fewvit sweep", "a command for each cell"


def run(*words: str) -> None:
    """A command line, as a process of its own."""
    subprocess.run([sys.executable, "-m", "fewvit_cli.main", *words], check=True, stdout=subprocess.DEVNULL)


def config(backbones: int, shots: tuple[int, ...]) -> str:
    """A configuration as TOML."""
    names = ", ".join(map(_toml, BACKBONES[:backbones]))
    return f'backbones = [{names}]\ndata = ["digits"]\nmethods = {json.dumps(list(METHODS))}\nshots = {list(shots)}\n'


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def planning(cells: int) -> float:
    """Seconds of planning so many cells, without imports."""
    from fewvit.extraction.cache import default_cache_dir
    from fewvit.models.spec import Access
    from fewvit.sweep.config import settled
    from fewvit.sweep.plan import make_plan
    from fewvit.sweep.workshop import How, Workshop

    backbones = [{"name": "fewvit_tiny", "weights": "random", "label": f"b{i}"} for i in range(100)]
    methods = ["knn", "centroid", "logistic", "ridge", "lowshot.knn"]
    shots = list(range(1, 1 + (cells // 100 - 1) // 4 + 1))
    flags = {"backbones": backbones, "data": ["digits"], "methods": methods, "shots": shots}
    settled({}, {**flags, "backbones": backbones[:1]})  # imports what the methods need
    began = time.perf_counter()
    shop = Workshop(How(default_cache_dir()), Access(default_cache_dir(), offline=True), lambda line: None)
    plan = make_plan(settled({}, flags), shop)
    facts = [one.facts for one in plan.planned]
    took = time.perf_counter() - began
    if len(facts) < cells:
        raise SystemExit(f"{len(facts)} cells were planned, not {cells}")
    return took


def overhead(file: Path, out: Path) -> float:
    """Seconds of a warm sweep in this process beyond those of its cells, in percent of these."""
    from fewvit.extraction.cache import default_cache_dir
    from fewvit.models.spec import Access
    from fewvit.sweep import How, Request, carry_out
    from fewvit.sweep.config import read_config, settled

    asked, access = settled(read_config(file), {}), Access(default_cache_dir(), offline=True)
    began = time.perf_counter()
    ended = carry_out(Request(asked, out), How(default_cache_dir(), offline=True), access, lambda line: None)
    took = time.perf_counter() - began
    if ended is None or ended.failed:
        raise SystemExit("a cell failed")
    own = float(ended.run["seconds"]["cells"])
    return 100 * (took - own) / own


def measure(quick: bool) -> Outcome:
    backbones, shots, rounds, planned = (1, (1, 5), 1, 1000) if quick else (4, SHOTS, 3, 10_000)
    with tempfile.TemporaryDirectory() as name:
        before = os.environ.get("FEWVIT_CACHE_DIR")
        os.environ["FEWVIT_CACHE_DIR"] = f"{name}/cache"
        try:
            file, number = Path(name) / "s.toml", itertools.count()
            file.write_text(config(backbones, shots))
            first = Path(name) / "first"
            run("sweep", str(file), "--out", str(first), "-q")  # which fills the cache
            commands = [cell["command"] for cell in json.loads((first / "sweep.json").read_text())["cells"]]
            variants: dict[str, Callable[[Any], Any]] = {
                SWEEP: lambda _: run("sweep", str(file), "--out", f"{name}/{next(number)}", "-q"),
                COMMANDS: lambda _: [run(*shlex.split(one)[1:], "-q") for one in commands],
            }
            timing = round_robin(variants, [None], rounds)
            overhead(file, Path(name) / "warm")  # imports and tables are there from now on
            beyond = min(overhead(file, Path(name) / f"warm{i}") for i in range(rounds))
            seconds = planning(planned)
        finally:
            if before is None:
                del os.environ["FEWVIT_CACHE_DIR"]
            else:
                os.environ["FEWVIT_CACHE_DIR"] = before
    claims = [
        Claim(f"{len(commands)} low-shot cells", COMMANDS, timing.ratio(SWEEP, COMMANDS), "x", ">= 3"),
        Claim("A warm sweep beyond its cells' own time", "its cells", round(beyond, 2), "%", "<= 5"),
        Claim(f"Planning {planned} cells", "nothing", round(seconds, 2), "s", "<= 2"),
    ]
    return Outcome(claims, timing.rows(COMMANDS), {"cells": len(commands), "threads": cores()})


if __name__ == "__main__":
    main("sweep", WHAT, measure)
