"""Cells on a Ray cluster. Each is a task that does what it does anywhere; the driver alone writes the sweep's folder.

Nodes share the cache, the images and the sweep's folder, at the same paths, and each has fewvit installed. Features are
made first, in parts of the list of images, on all nodes at once. A task whose node dies is run again on another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, UsageError, refuse_out_of_memory
from ..extraction.shards import Part
from .cells import Cell
from .launchers import KILLED, Task, make_features, perform, workshop_of
from .workshop import How, Outcome, Workshop, failed

_RETRIES = 3  # of a task whose node or process dies
_ANSWER_S = 10.0  # seconds in which a cluster must accept a connection
_PART = 64  # images that are worth a task of their own


class OnRay:
    """The nodes of a cluster. Raises MissingExtra without ray, UsageError where no cluster answers."""

    def __init__(self, shop: Workshop, address: str | None = None):
        self._ray = _installed()
        self._shop = shop
        self._how = dataclasses.replace(shop.how, cache_dir=Path(os.path.abspath(shop.how.cache_dir)))
        threads = _threads()
        self._connected = contextlib.ExitStack()
        # Ray's threads tell of dead nodes on stdout, which holds the result alone
        self._connected.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            _connect(self._ray, address, threads)
        except BaseException:
            self._connected.close()
            raise
        self._connected.callback(self._ray.shutdown)
        cpus = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        # a task takes the cores that it computes with, but no more than the smallest node has
        each = min([threads, *(one for one in cpus if one > 0)])
        self._slots = sum(one // each for one in cpus) or 1
        asked: dict[str, Any] = {"num_cpus": each, "max_retries": _RETRIES, "scheduling_strategy": "SPREAD"}
        if shop.how.device != "cpu" and self._ray.cluster_resources().get("GPU", 0) > 0:
            asked["num_gpus"] = 1
        self._perform = self._ray.remote(**asked)(perform)
        self._make_part = self._ray.remote(**asked)(_make_part)

    def run(self, cells: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """As they come."""
        self._make_features([cell for cell, _ in cells])
        places = {
            self._perform.remote(self._how, cell, Path(os.path.abspath(runs))): place
            for place, (cell, runs) in enumerate(cells)
        }
        try:
            while places:
                (done,), _ = self._ray.wait(list(places), num_returns=1)
                place = places.pop(done)
                yield place, self._outcome(done, cells[place][0])
        finally:
            for left in places if self._ray.is_initialized() else ():
                self._ray.cancel(left, force=True)

    def close(self) -> None:
        """Leave the cluster; tasks that are left end with it."""
        self._connected.close()

    def _make_features(self, cells: Sequence[Cell]) -> None:
        """Parts of the images of both sides on all nodes; what a part lacks in the end its cells make, or tell."""
        cell = cells[0]
        count = max(1, min(self._slots, self._images(cell) // _PART))
        parts = [self._make_part.remote(self._how, cells, Part(number + 1, count)) for number in range(count)]
        for part in parts:
            try:
                self._ray.get(part)
            except self._ray.exceptions.RayError:
                continue
        self._shop.memory.refresh()

    def _images(self, cell: Cell) -> int:
        sides = self._shop.opened(cell.data, self._shop.reader(cell.backbone, cell.seed)).sides
        return max(len(side.images) if side.images is not None else 0 for side in sides)

    def _outcome(self, done: Any, cell: Cell) -> Outcome:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError):
            return failed(cell, KILLED, 6)
        except errors.RayError as error:
            return failed(cell, f"Ray cannot run it: {_last_line(error)}", 6)


def _make_part(how: How, cells: Sequence[Cell], part: Part) -> None:
    make_features(workshop_of(how, cells[0]), cells, part)


def _installed() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("--launcher ray needs Ray", fix="Install it: pip install 'fewvit[ray]'") from error
    return ray


def _threads() -> int:
    """How many threads compute here; so many do in every task, as the last digits of a sum may hang on it."""
    from ..models.products import settle_threads

    return settle_threads()


def _connect(ray: Any, address: str | None, threads: int) -> None:
    """Raises UsageError where no cluster answers."""
    import logging

    if address is not None:
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless asked for
    # Ray would set as many threads as a task takes cores, here and there different ones
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    ours = signal.getsignal(signal.SIGTERM)  # Ray takes it
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        refuse_out_of_memory(error, "starting Ray")
        raise _no_cluster(address, _last_line(error)) from error
    finally:
        if signal.getsignal(signal.SIGTERM) is not ours:
            signal.signal(signal.SIGTERM, ours)


def _require_answer(address: str) -> None:
    """Raise UsageError where nobody listens: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # such as `auto`, or ray://HOST:PORT, which Ray understands
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str | None, why: str) -> UsageError:
    where = f" at {address}" if address is not None else ""
    fix = "Start one with `ray start --head`, and give --ray-address HOST:PORT."
    return UsageError(f"no Ray cluster answers{where}: {why}", fix=fix)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
