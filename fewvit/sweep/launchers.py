"""Where cells run: here one after another, or in several processes of this machine. Ray is in `on_ray`."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from ..extraction.shards import Part
from ..sources import ImageSource
from .cells import Cell
from .workshop import How, Outcome, Workshop, failed

KILLED = "its process was killed again and again; is there too little memory for so many cells at a time?"
Task = tuple[Cell, Path]  # a cell, and a folder for what trains


class Launcher(Protocol):
    """Runs the cells of one group after another."""

    def run(self, cells: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """What became of cells of one backbone and data, as they come: each with its place in the list."""

    def close(self) -> None:
        """End what was started."""


class Here:
    """One cell after another, in this process."""

    def __init__(self, shop: Workshop):
        self._shop = shop

    def run(self, cells: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """In their order."""
        for place, (cell, runs) in enumerate(cells):
            yield place, self._shop.perform(cell, runs)

    def close(self) -> None:
        """Nothing was started."""


class Jobs:
    """Several processes of this machine. Features are made by this one first, so that they find them in the cache.

    When one of them dies (killed, out of memory), all are started anew, and each cell that was under way is run again
    by itself: one that is killed a second time has failed, and stops nothing else.
    """

    def __init__(self, shop: Workshop, jobs: int):
        self._shop, self._jobs = shop, jobs
        self._pool = self._started()

    def run(self, cells: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """As they come."""
        make_features(self._shop, [cell for cell, _ in cells])
        waiting, suspects = deque(range(len(cells))), deque[int]()
        running: dict[Future[Outcome], int] = {}
        while waiting or suspects or running:
            while waiting and len(running) < self._jobs:  # no more than run: when one dies, few are suspects
                place = waiting.popleft()
                running[self._submit(*cells[place])] = place
            if not running:
                place = suspects.popleft()
                yield place, self._alone(*cells[place])
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                place = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(place)
                else:
                    yield place, future.result()

    def close(self) -> None:
        """End the processes; cells that wait are not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, cell: Cell, runs: Path) -> Future[Outcome]:
        try:
            return self._pool.submit(perform, self._shop.how, cell, runs)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._started()
            return self._pool.submit(perform, self._shop.how, cell, runs)

    def _alone(self, cell: Cell, runs: Path) -> Outcome:
        try:
            return self._submit(cell, runs).result()
        except BrokenProcessPool:
            return failed(cell, KILLED, 6)

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._jobs, context, initializer=_start)


def make_features(shop: Workshop, cells: Sequence[Cell], part: Part | None = None) -> None:
    """Fill the cache for cells of one backbone and data, or with a part of the images of each side.

    An error is left to the cells, which meet it again.
    """
    from ..errors import FewvitError
    from .methods import evaluation_of

    reader = shop.reader(cells[0].backbone, cells[0].seed)
    for task in sorted({evaluation_of(cell).task for cell in cells}):
        try:
            sources = shop.opened(cells[0].data, reader)
            pipeline = reader.pipeline(task) if sources.have_images else None
            if part is None:
                reader.inputs(sources, pipeline)
                continue
            for side in sources.sides:
                if isinstance(side, ImageSource):
                    side.sliced(part).features(pipeline)
        except FewvitError:
            return


# ---- in a process


_shops: dict[How, Workshop] = {}  # of this process
_last: dict[How, object] = {}  # what the last cell was about


def workshop_of(how: How, cell: Cell) -> Workshop:
    """This process's workshop, which asks nobody: licences were accepted where the sweep was started.

    When it comes to other data, it learns what other processes have put into the cache since.
    """
    from ..models.spec import Access

    if how not in _shops:
        _shops[how] = Workshop(how, Access(how.cache_dir, how.offline, tuple(how.accept)), lambda line: None)
    elif _last[how] != (cell.backbone, cell.data):
        _shops[how].memory.refresh()
    _last[how] = (cell.backbone, cell.data)
    return _shops[how]


def perform(how: How, cell: Cell, runs: Path) -> Outcome:
    """What became of a cell."""
    return workshop_of(how, cell).perform(cell, runs)


def _start() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
