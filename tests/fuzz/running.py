"""Many damaged inputs, in processes that may hang, die or run out of memory without ending the whole."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .judging import MEMORY, SECONDS, Format, Judge

TESTS = Path(__file__).resolve().parents[1]
FORMATS = sorted(path.stem for path in (Path(__file__).parent / "formats").glob("[a-z]*.py"))
AT_ONCE = 2
_SILENT = 6 * SECONDS  # seconds without a word, after which a worker is taken to hang where no signal reaches it


def format_of(name: str) -> Format:
    """The kind of file of `formats/<name>.py`."""
    module = importlib.import_module(f"{__package__}.formats.{name}")
    found: Format = module.FORMAT
    return found


def share_of(name: str) -> int:
    """How many inputs it gets beside the others: a module may say that its own are slow, or worth more."""
    module = importlib.import_module(f"{__package__}.formats.{name}")
    return int(getattr(module, "SHARE", 10))


@dataclass
class Report:
    """What came of the inputs of one format."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    faults: list[tuple[int, str]] = field(default_factory=list)  # number and what is wrong

    def lines(self, seed: int) -> Iterator[str]:
        """The verdict, and each fault with what makes it again."""
        yield f"{self.name}: {self.inputs} inputs, {len(self.faults)} faults, {self.seconds:.0f} s"
        kinds = Counter(what.split(": ")[0] for _, what in self.faults)
        for kind, count in kinds.most_common():
            number, what = next(one for one in self.faults if one[1].split(": ")[0] == kind)
            yield f"  {count} x {what}\n    PYTHONPATH=tests python -m fuzz {self.name} --seed {seed} --only {number}"


def main(argv: Sequence[str]) -> int:
    """The exit code: 1 where there is any fault."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("formats", nargs="*", choices=[*FORMATS, []], default=[], metavar="FORMAT")
    parser.add_argument("--count", type=int, default=10_000, help="inputs of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input, of one format")
    parser.add_argument("--from", dest="first", type=int, help=argparse.SUPPRESS)  # of a worker
    parser.add_argument("--to", dest="last", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    names = given.formats or FORMATS
    if given.only is not None:
        return _once(names[0], given.seed, given.only)
    if given.first is not None:
        return _work(names[0], given.seed, given.first, given.last)
    shares = {name: share_of(name) for name in names}
    counts = {name: -(-given.count * share // sum(shares.values())) for name, share in shares.items()}
    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = [pool.submit(fuzz, name, given.seed, counts[name]) for name in names]
        for report in reports:
            print("\n".join(report.result().lines(given.seed)), flush=True)
    faults = sum(len(one.result().faults) for one in reports)
    print(f"{sum(one.result().inputs for one in reports)} inputs, {faults} faults, {time.perf_counter() - start:.0f} s")
    return 1 if faults else 0


def fuzz(name: str, seed: int, count: int) -> Report:
    """So many inputs of a format, in a worker that is started again after each that it did not survive."""
    report, start, at = Report(name), time.perf_counter(), 0
    while at < count:
        at = _worker(report, seed, at, count)
    report.inputs, report.seconds = count, time.perf_counter() - start
    return report


def _worker(report: Report, seed: int, first: int, last: int) -> int:
    """Have a worker judge inputs; the number of the next one that is to be judged."""
    command = [sys.executable, "-m", "fuzz", report.name, "--seed", str(seed)]
    command += ["--from", str(first), "--to", str(last)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=TESTS.parent, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_hand_on, args=(process, lines), daemon=True).start()
        at, why = first, ""
        while True:
            try:
                line = lines.get(timeout=_SILENT)
            except queue.Empty:
                process.kill()
                why = f"hangs for more than {_SILENT} s"
                break
            if line is None:
                break
            at, what = json.loads(line)
            if what:
                report.faults.append((at, what))
            at += 1
        process.wait()
        if at < last:
            log.seek(0)
            said = log.read()[-2000:].decode("utf-8", "replace")
            report.faults.append((at, why or f"ends the process with {process.returncode}: {said}"))
            at += 1
            if at - 1 == first and not why and process.returncode == 1:  # it never began
                raise RuntimeError(said)
    return at


def _hand_on(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


def _work(name: str, seed: int, first: int, last: int) -> int:
    """Judge inputs, and write a line about each."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no verdict
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ["FEWVIT_CACHE_DIR"] = f"{folder}/cache"
        judge = Judge(format_of(name), Path(folder).resolve() / name)
        _limit_memory()
        for number in range(first, last):
            out.write(json.dumps([number, judge.fault(judge.mutant(seed, number))]) + "\n")
            out.flush()
    return 0


def _limit_memory() -> None:
    """Let this process have `MEMORY` more than it has by now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _once(name: str, seed: int, number: int) -> int:
    """Judge one input in this process, and keep it."""
    kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-{number}-")).resolve()
    os.environ["FEWVIT_CACHE_DIR"] = str(kept / "cache")
    judge = Judge(format_of(name), kept / name)
    mutant = judge.mutant(seed, number)
    for path, data in mutant.files.items():
        place = kept / "damaged" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            place.write_bytes(data)
    fault = judge.fault(mutant, trace=True)
    print(f"{name} {number}: {mutant.how}, in {kept / 'damaged'}\n{fault or 'no fault'}")
    return 1 if fault else 0
