"""Where cells run: here one after another, or in several processes of this machine. Ray is in `on_ray`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from .cells import Cell
from .workshop import How, Outcome, Workshop

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
    """Several processes of this machine. Features are made by this one first, so that they find them in the cache."""

    def __init__(self, shop: Workshop, jobs: int):
        self._shop = shop
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(shop.how,))

    def run(self, cells: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """As they come."""
        make_features(self._shop, [cell for cell, _ in cells])
        futures: dict[Future[Outcome], int] = {
            self._pool.submit(_perform, cell, runs): place for place, (cell, runs) in enumerate(cells)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """End the processes; cells that wait are not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def make_features(shop: Workshop, cells: Sequence[Cell]) -> None:
    """Fill the cache for cells of one backbone and data. An error is left to the cells, which meet it again."""
    from ..errors import FewvitError
    from .methods import evaluation_of

    reader = shop.reader(cells[0].backbone, cells[0].seed)
    for task in sorted({evaluation_of(cell).task for cell in cells}):
        try:
            sources = shop.opened(cells[0].data, reader)
            reader.inputs(sources, reader.pipeline(task) if sources.have_images else None)
        except FewvitError:
            return


# ---- in a process


_shop: list[Workshop] = []  # of this process


def _start(how: How) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _shop.append(workshop_of(how, lambda line: None))


def workshop_of(how: How, notify: Callable[[str], None]) -> Workshop:
    """A workshop that asks nobody: licences were accepted where the sweep was started."""
    from ..models.spec import Access

    return Workshop(how, Access(how.cache_dir, how.offline, tuple(how.accept)), notify)


def _perform(cell: Cell, runs: Path) -> Outcome:
    return _shop[0].perform(cell, runs)
