"""Runs command lines of one checkout, each in a process of its own, without importing the large packages for each.

    python -P serve.py CHECKOUT CORE,...

For each line of stdin, a JSON list of the words after `fewvit`, it answers a JSON list of exit code and CPU seconds;
what the command printed is then in .stdout and .stderr of the current folder. PYTHONPATH must lead to the checkout's
fewvit and fewvit_cli.

The large packages are imported once, before a process is forked for each command: that saves seconds per command. No
thread runs by then, and fewvit itself is imported by each command anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

LARGE = (
    "PIL.Image",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.linear_model",
    "timm",
    "torch",
    "torchvision",
    "typer",
)  # not faiss, whose kernels fewvit chooses as it imports it
TIMEOUT_S = 900  # of one command
NOT_THE_CHECKOUT = 111  # exit code of a command that imported another fewvit


def serve(source: Path, cores: list[int]) -> None:
    """Answer until stdin ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before torch is imported, which then has as many threads
    for name in LARGE:
        importlib.import_module(name)
    gc.freeze()  # memory that no child's collector touches stays shared
    answers = os.fdopen(os.dup(1), "w")
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(source, json.loads(line))
        code, seconds = wait(child, time.monotonic() + TIMEOUT_S)
        if code == NOT_THE_CHECKOUT:
            sys.exit(Path(".stderr").read_text())
        print(json.dumps([code, seconds]), file=answers, flush=True)


def wait(child: int, until: float) -> tuple[int, float]:
    """The exit code of a process and its CPU seconds; when its time is over it is killed, and the code is -9."""
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def become(source: Path, words: list[str]) -> None:
    """Turn this process into one command, its output in two files of the lane's folder; does not return."""
    for descriptor, name in ((1, ".stdout"), (2, ".stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    import fewvit

    if Path(fewvit.__file__ or "").resolve().parents[1] != source:
        print(f"{fewvit.__file__} was imported instead of {source}/fewvit", file=sys.stderr)
        sys.exit(NOT_THE_CHECKOUT)
    from fewvit_cli.main import main

    sys.argv = ["fewvit", *words]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)  # taking the packages down costs more than most commands


if __name__ == "__main__":
    serve(Path(sys.argv[1]), [int(core) for core in sys.argv[2].split(",")])
