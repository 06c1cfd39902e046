"""All benchmarks in turn, each in a process of its own, then the table.

`python -m benchmarks.run_all [--quick] [NAME ...]`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from .measure import here
from .table import missed_here, table

NAMES = (
    "startup",
    "decode",
    "cache",
    "page",
    "report",
    "sweep",
    "views",
    "episodes",
    "pretrain",
    "finetune",
    "linear_grid",
    "freed_memory",
    "knn",
    "duplicates",
    "data_check",
    "inspection",
    "logistic",
    "pipeline",
    "forward",
    "index",
)  # the quick ones first


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_all", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these, of {', '.join(NAMES)}")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything runs; the results stay as they are"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or NAMES:
        started = time.monotonic()
        print(f"==== {name}", flush=True)
        ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])])
        print(f"==== {name} ended with {ended.returncode} after {time.monotonic() - started:.0f} s\n", flush=True)
        failed += [name] if ended.returncode else []
    if not options.quick:
        print(table())
        missed = missed_here(here().name)
        print("\n".join(["", f"Goals that fail on this kind of machine ({here().name}): {len(missed)}", *missed]))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
