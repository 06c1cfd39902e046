"""Training steps on a CPU with malloc as glibc sets it, and with freed memory kept in the process.

Measured are time, page faults and resident memory.

Each way has a process of its own, since the setting cannot be taken back; they take turns.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fewvit import cpu
from fewvit.training import loop

from . import linear_grid, pretrain
from .measure import Claim, Outcome, cores, main, round_robin, worker

WHAT = "Freed memory kept in the process: training steps on a CPU"
AS_IT_COMES, KEPT = "glibc's own settings", "fewvit, freed memory kept"


def stepper(what: str, keep: bool, quick: bool) -> Callable[[], tuple[float, float]]:
    """A function that takes some training steps and returns page faults per step and the most memory so far in MiB."""
    torch.set_num_threads(1 if quick else cores())
    if not keep:
        loop.keep_freed_memory = lambda: False  # type: ignore[assignment]
    one, times = grid(what.split()[-1], quick) if what.startswith("linear") else network(*what.split(), quick)

    def work() -> tuple[float, float]:
        before = faults()
        one()
        return (faults() - before) / times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    return work


def grid(precision: str, quick: bool) -> tuple[Callable[[], Any], int]:
    """32 steps of 26 linear heads."""
    widths, classes, batch = ((64, 128), 10, 32) if quick else ((384, 768), 100, 256)
    data, times = linear_grid.batches(max(widths), classes, batch), 4
    run = linear_grid.counted(linear_grid.ours(linear_grid.heads_of(widths, classes, batch, precision), batch), times)
    return lambda: run(data), times * len(data)


def network(method: str, precision: str, quick: bool) -> tuple[Callable[[], Any], int]:
    """Two steps of pretraining."""
    step = pretrain.counted(
        pretrain.stepper(method, 4 if quick else 32, pretrain.OURS_BF16 if precision == "bf16" else pretrain.OURS)
    )
    return lambda: [step(None) for _ in range(2)], 2


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def tell(told: dict[str, tuple[float, float]], name: str, work: Callable[[], tuple[float, float]], _: Any) -> None:
    """Keep what the latest turn returned."""
    told[name] = work()


def measure(quick: bool) -> Outcome:
    claims, rows = [], []
    for what in (
        "linear heads fp32",
        "linear heads bf16",
        "mae fp32",
        "mae bf16",
        "msn fp32",
        "dino fp32",
        "dino bf16",
    ):
        told: dict[str, tuple[float, float]] = {}
        with worker(stepper, what, False, quick) as plain, worker(stepper, what, True, quick) as kept:
            variants = {name: partial(tell, told, name, work) for name, work in ((AS_IT_COMES, plain), (KEPT, kept))}
            timing = round_robin(variants, [None], 2 if quick else 9)
        for row in timing.rows(AS_IT_COMES, step=what):
            per_step, most = told[row["variant"]]
            rows.append({**row, "faults_per_step": round(per_step), "peak_mib": round(most)})
        claims.append(
            Claim(f"Training step, {what}, freed memory kept", AS_IT_COMES, timing.ratio(KEPT, AS_IT_COMES), "x")
        )
    return Outcome(claims, rows, {"threads": 1 if quick else cores(), "glibc": os.confstr("CS_GNU_LIBC_VERSION")})


if __name__ == "__main__":
    if not cpu.keep_freed_memory():
        sys.exit("This machine's C library has no such setting, or it is set by hand.")
    main("freed_memory", WHAT, measure)
