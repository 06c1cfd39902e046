"""Runs pytest again and again, each time in a fork of one process that has imported torch and its like already.

    python tests/warm_pytest.py

A line on stdin is a request in JSON: `words`, what stands after `pytest`, and `limit`, seconds. A line on stdout
answers it: `survived` when all tests pass, `killed` when one fails, `hung` after the limit. The tests run in the
current folder. Starting an interpreter and importing torch takes longer than most modules' tests; fewvit itself is
imported by each fork.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time

HEAVY = (
    *("torch", "torchvision.transforms.functional", "timm.models.vision_transformer"),
    *("sklearn.linear_model", "scipy.stats", "faiss", "PIL.Image", "pytest"),
)


def tested(words: list[str]) -> int:
    """In the fork: pytest's exit code, its output and that of its children thrown away."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    import pytest

    return int(pytest.main(["-W", "ignore:Module already imported", *words]))  # a plug-in that a package imports


def outcome(words: list[str], limit: float) -> str:
    """What the tests say; nothing that they started goes on after them."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = tested(words)
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    found = 0
    while not found and time.monotonic() < end:
        time.sleep(0.02)
        found, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not found:
        os.waitpid(child, 0)
        return "hung"
    return "killed" if status else "survived"


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        print(outcome(request["words"], request["limit"]), flush=True)


if __name__ == "__main__":
    main()
