#!/usr/bin/env python3
"""Whether two checkouts of fewvit give the same features, cached files and results, byte for byte.

    python tests/compare_checkouts.py OLD [NEW] [--quick] [--only GROUP,...] [--strict] [--work DIR]

OLD and NEW are git revisions, or folders; NEW is the working tree if not given. Each command of comparison/commands.txt
runs offline, in a process of its own, on inputs that are made from seeds:

  old   by the OLD checkout, from an empty cache
  new   by the NEW checkout, from an empty cache: exit code, stdout and every file written must equal those of `old`
  fed   by the NEW checkout, on a copy of all that `old` left. Nothing may be computed again, so the keys of the cache
        hold; runs that were cut short must end with the same bytes; finished ones must be known as finished

Equal means byte by byte, but for what comparison/differences.py names and why. What successful commands say on stderr,
and the prose of help, may become other words: that is shown in brackets, and counts with --strict only; what failing
commands say always counts. Prints a table; exits 1 on any difference that counts, and then keeps its folder.

`old` and `new` run beside each other, each on half of the cores; with --in-turn each has all of them, one after the
other. --work DIR keeps what OLD gave, so that the next comparison with the same OLD does not run it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from comparison.commands import Command, chosen
from comparison.differences import Verdict, compare, computed_again, remembered, without_counts, without_volatile
from comparison.inputs import write_inputs
from comparison.lanes import Lane, Outcome, checkout, cut_short, source_digest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWVIT_SHARED") or ROOT.parent / "shared")


def make_inputs(work: Path) -> None:
    """Write the inputs, unless they are there."""
    whole = work / "inputs.whole"
    if not whole.exists():
        shutil.rmtree(work / "inputs", ignore_errors=True)
        (work / "inputs").mkdir(parents=True)
        write_inputs(work / "inputs", SHARED)
        whole.touch()
        time.sleep(0.2)  # fewvit remembers no digest of a file that is younger than 0.1 s


def share_cores(*, in_turn: bool) -> tuple[set[int], set[int]]:
    """The cores of `old` and of `new`: equally many, as results may hang on the number of threads."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    half = len(cores) // 2
    return (set(cores), set(cores)) if in_turn or not half else (set(cores[:half]), set(cores[half : 2 * half]))


def run_old(old: Lane, commands: Sequence[Command]) -> None:
    """Run the old checkout, or recall what it did in an earlier comparison in this folder."""
    memory = old.work / "old.json"
    names = [command.name for command in commands]
    key = [source_digest(old.source), own_digest(), len(old.cores), names]
    if memory.exists():
        stored = json.loads(memory.read_text())
        if stored["key"] == key:
            old.outcomes = {name: Outcome(**facts) for name, facts in stored["outcomes"].items()}
            return
    memory.unlink(missing_ok=True)
    old.prepare()
    old.run(commands)
    outcomes = {name: asdict(outcome) for name, outcome in old.outcomes.items()}
    memory.write_text(json.dumps({"key": key, "outcomes": outcomes}))


def own_digest() -> str:
    """sha256 of the files that decide what is run, and on which inputs."""
    files = [
        Path(__file__).with_name("comparison") / name for name in ("commands.txt", "inputs.py", "lanes.py", "serve.py")
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def run_all(commands: Sequence[Command], old: Lane, new: Lane, fed: Lane, *, in_turn: bool) -> None:
    """Run the three lanes: `old` and then `fed`, beside `new` or before it."""

    def old_and_fed() -> None:
        run_old(old, commands)
        fed.prepare(like=old)
        for command in commands:
            if command.run_folder:
                cut_short(fed.folder / command.run_folder)
        fed.run([command for command in commands if command.feeds])

    def from_nothing() -> None:
        new.prepare()
        new.run(commands)

    with ThreadPoolExecutor(1 if in_turn else 2) as pool:
        for task in [pool.submit(old_and_fed), pool.submit(from_nothing)]:
            task.result()


def compare_all(commands: Sequence[Command], old: Lane, new: Lane, fed: Lane) -> list[tuple[Command, Verdict]]:
    """A verdict per command, over `new` and `fed`."""
    found = []
    known = {name for outcome in old.outcomes.values() for name in outcome.files}
    for command in commands:
        verdict = compare(command, old, new, without_volatile)
        if command.feeds:
            again = compare(command, old, fed, without_counts)
            differences = again.differences + computed_again(command, fed.outcomes[command.name], known)
            verdict.differences += [f"on the old cache: {text}" for text in differences]  # notes: there is less to say
        found.append((command, verdict))
    if remembered(old) != remembered(new):
        found[-1][1].differences.append("cache/digests, over all commands: other records of the inputs")
    return found


def show(found: Sequence[tuple[Command, Verdict]], lanes: Sequence[Lane], *, strict: bool) -> int:
    """Print a line per command and what differs; how many commands do."""
    differing = 0
    print(f"{'command':32}  {'exit':>4}  " + "  ".join(f"{lane.name:>6}" for lane in lanes) + "  (CPU seconds)")
    for command, verdict in found:
        differs = bool(verdict.differences or (strict and verdict.notes))
        differing += differs
        outcomes = [lane.outcomes.get(command.name) for lane in lanes]
        times = [" " * 6 if outcome is None else f"{outcome.seconds:6.1f}" for outcome in outcomes]
        code = lanes[0].outcomes[command.name].code
        print(f"{command.name:32}  {code:4}  {'  '.join(times)}  {'DIFFERS' if differs else 'equal'}")
        for text in verdict.differences:
            print(f"    {text}")
        for text in verdict.notes:
            print(f"    ({text})")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="git revision or folder")
    parser.add_argument("new", metavar="NEW", nargs="?", default=str(ROOT), help="the same; default: the working tree")
    parser.add_argument("--quick", action="store_true", help="only the commands that are marked for it")
    parser.add_argument("--only", metavar="GROUP,...", default="", help="only the commands of these groups")
    parser.add_argument("--strict", action="store_true", help="other words on stderr and in help count too")
    parser.add_argument("--in-turn", action="store_true", help="each checkout on all cores, one after the other")
    parser.add_argument("--work", metavar="DIR", type=Path, help="work here, and keep what OLD gave for the next time")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    options = parser.parse_args()
    groups = options.only.split(",") if options.only else ()
    try:
        commands = chosen(quick=options.quick, groups=groups, has_shared=SHARED.is_dir())
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{command.name:32}  fewvit {shlex.join(command.words)}" for command in commands))
        return 0
    started = time.perf_counter()
    work = (options.work or Path(tempfile.mkdtemp(prefix="fewvit-compare-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    first, second = (checkout(getattr(options, side), ROOT, work / "checkouts" / side) for side in ("old", "new"))
    make_inputs(work)
    for_old, for_new = share_cores(in_turn=options.in_turn)
    old = Lane("old", work, first, for_old)
    new = Lane("new", work, second, for_new)
    fed = Lane("fed", work, second, for_old)
    run_all(commands, old, new, fed, in_turn=options.in_turn)
    differing = show(compare_all(commands, old, new, fed), [old, new, fed], strict=options.strict)
    files = len({name for outcome in old.outcomes.values() for name in outcome.files})
    told = f"{differing} differ; all is in {work}" if differing else "all equal"
    print(f"{len(commands)} commands, {files} files, {time.perf_counter() - started:.0f} s: {told}")
    if not differing and options.work is None:
        shutil.rmtree(work)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
