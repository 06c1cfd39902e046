"""What every benchmark shares: timing in rounds, memory, the machine's record and the result file.

Variants run in one process and take turns, item by item and round after round. A ratio is the median over the rounds of
peer's seconds / ours: a machine that is slow for a while is slow for both sides of the same round.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from fewvit.cpu import cores

from .kinds import RESULTS, kind_of

SETTINGS = (
    "OPENBLAS_CORETYPE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_ENABLE_INSTRUCTIONS",
)
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "faiss-gpu",
    "faiss-cpu",
    "openvino",
    "scikit-learn",
    "numpy",
    "pillow",
    "simplejpeg",
    "cyanure",
    "easyfsl",
    "typer",
)
_UNITS = {"avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}  # flag of Linux -> what records call it
T = TypeVar("T")


# ---- seconds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds of each variant, by round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, variant: str) -> float:
        return statistics.median(self.seconds[variant])

    def ratio(self, variant: str, peer: str) -> float:
        """How many times faster than `peer`: the median of the rounds' ratios."""
        return statistics.median(
            theirs / ours for theirs, ours in zip(self.seconds[peer], self.seconds[variant], strict=True)
        )

    def rows(self, peer: str, count: int | None = None, **columns: Any) -> list[dict[str, Any]]:
        """One row per variant: seconds, ratio to `peer`, and images (or queries), `count` of them, per second."""
        rows = []
        for variant, seconds in self.seconds.items():
            speed = {"per_second": rounded(count / min(seconds))} if count else {}
            times = {
                "median_s": rounded(self.median(variant)),
                "min_s": rounded(min(seconds)),
                "ratio": rounded(self.ratio(variant, peer)),
            }
            rows.append({**columns, "variant": variant, **times, **speed})
        return rows


def round_robin(
    variants: Mapping[str, Callable[[Any], Any]], items: Sequence[Any], rounds: int, *, warm_up: bool = True
) -> Timing:
    """Time every variant on every item, once per round; a round's seconds are summed over the items.

    The variants take turns item by item, each time another one first, so that a disturbance hits all of them.
    `warm_up`: each runs once on the first item before, untimed.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names if warm_up else ():
        variants[name](items[0])
    turn = 0
    for _ in range(rounds):
        spent = dict.fromkeys(names, 0.0)
        gc.collect()
        for item in items:
            for name in names[turn:] + names[:turn]:
                started = time.perf_counter()
                variants[name](item)
                spent[name] += time.perf_counter() - started
            turn = (turn + 1) % len(names)
        for name in names:
            seconds[name].append(spent[name])
    return Timing(seconds)


# ---- memory --------------------------------------------------------------------------------------------------------


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a module-level function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def worker(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """A process that keeps what `prepare(*arguments)` returns and calls it when told.

    For libraries as they are when fewvit is not there.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_prepare, prepare, arguments).result()
        yield lambda: pool.submit(_work).result()


_prepared: list[Callable[[], Any]] = []


def _prepare(prepare: Callable[..., Callable[[], Any]], arguments: Sequence[Any]) -> None:
    _prepared[:] = [prepare(*arguments)]


def _work() -> Any:
    return _prepared[0]()


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes by which this process's resident memory grew, at its highest, during `work` (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


# ---- results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One number of the table in README.md of this folder, beside the goal that was set before it was measured."""

    what: str
    against: str
    value: float
    unit: str  # x, s, MiB, ...
    goal: str = ""  # ">= 2.4", "<= 0.01"; empty: none was set

    @property
    def met(self) -> bool | None:
        if not self.goal:
            return None
        relation, bound = self.goal.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


@dataclass(frozen=True)
class Outcome:
    """What one script measured."""

    claims: Sequence[Claim]
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def main(name: str, what: str, measure: Callable[[bool], Outcome]) -> None:
    """Run one benchmark from the command line.

    Print its rows and claims, and replace results/KIND/NAME.json unless it was a quick run.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=what)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes and few rounds: to see that it runs; nothing is written without --out",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of NAME.json; default {RESULTS.relative_to(RESULTS.parents[1])}/KIND, KIND of this machine",
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    outcome = measure(options.quick)
    show(outcome)
    folder = options.out or (None if options.quick else here())
    if folder is not None:
        write(folder / f"{name}.json", name, what, outcome, quick=options.quick, load=load)


def write(path: Path, name: str, what: str, outcome: Outcome, *, quick: bool, load: float) -> None:
    """Replace a result file.

    It names no host and no path: the CPU's model, its cores and memory, the system and the versions say enough.
    """
    from fewvit.files import write_json

    claims = [{**asdict(claim), "value": rounded(claim.value), "met": claim.met} for claim in outcome.claims]
    about = {
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "quick": quick,
        "load_before": round(load, 2),
    }
    write_json(
        path,
        {
            "name": name,
            "what": what,
            "claims": claims,
            "rows": list(outcome.rows),
            "facts": dict(outcome.facts),
            **about,
        },
    )


def show(outcome: Outcome) -> None:
    """The outcome on stdout: rows as a table, then facts, then each claim with its goal."""
    columns = list({column: None for row in outcome.rows for column in row})
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in outcome.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for key, value in outcome.facts.items():
        print(f"{key}: {value}")
    for claim in outcome.claims:
        verdict = {None: "", True: f"  (goal {claim.goal}: met)", False: f"  (goal {claim.goal}: MISSED)"}[claim.met]
        print(f"{claim.what}, against {claim.against}: {rounded(claim.value)} {claim.unit}{verdict}")


def machine() -> dict[str, Any]:
    """What the numbers depend on, without a name of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = {"gpu": name} if (name := _gpu()) else {}
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(memory / 2**30),
        "os": f"{platform.system()} {platform.machine()}",
        **gpu,
        **({"settings": settings} if settings else {}),
    }


def here() -> Path:
    """Where results of this kind of machine stand."""
    return RESULTS / kind_of(_cpu())


def versions() -> dict[str, str]:
    """Versions of Python and of every package that takes part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def _cpu() -> str:
    """Model, and the family and model numbers that tell apart what hypervisors call by one name."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    facts = {key.strip(): value.strip() for key, value in fields.items()}
    flags = facts.get("flags", "").split()
    units = "".join(f", {name}" for flag, name in _UNITS.items() if flag in flags)
    name, family, model = (
        facts.get("model name", platform.machine()),
        facts.get("cpu family", "?"),
        facts.get("model", "?"),
    )
    return f"{name} (family {family}, model {model}{units})"


def _gpu() -> str | None:
    import sys

    torch = sys.modules.get("torch")  # a script that needs no torch does not pay for it
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
