"""A sweep from its plan to its table: what is finished is left alone, what fails stops nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, FewvitError, counted, in_one_line, printable
from ..results import Facts, Row, manifest
from .estimate import duration
from .evaluations.evaluation import Stopped
from .folder import FinishedCell, SweepFolder, digest_of
from .launchers import Launcher
from .plan import Group, Plan, Planned
from .workshop import Outcome, Workshop

Notify = Callable[[str], None]
ONLY = ("failed", "missing")  # what --only may ask for


@dataclass
class Ended:
    """How a sweep ended."""

    rows: list[Row] = field(default_factory=list)
    run: Facts = field(default_factory=dict)
    finished: int = 0
    planned: int = 0
    failed: list[tuple[str, str, int]] = field(default_factory=list)  # what failed, why, exit code
    left_alone: int = 0  # cells that failed before and were not to be tried
    stopped: int | None = None  # the signal that ended it

    @property
    def exit_code(self) -> int:
        """Of the first cell that failed."""
        return self.failed[0][2] if self.failed else 0

    @property
    def summary(self) -> list[str]:
        """What is to be told at the end of cells without a result."""
        lines = []
        if self.failed:
            lines.append(
                f"{len(self.failed)} of {counted(self.planned, 'cell')} failed, as said above; the same command tries "
                f"{'it' if len(self.failed) == 1 else 'them'} again"
            )
        if self.left_alone:
            alone = counted(self.left_alone, "cell that failed before was", "cells that failed before were")
            lines.append(f"{alone} left alone; --only failed runs {'it' if self.left_alone == 1 else 'them'}")
        return lines


class Store:
    """What a folder holds: finished cells by what they ask and of which images, and those that failed."""

    def __init__(self, folder: SweepFolder, notify: Notify):
        self.folder = folder
        self._finished: dict[str, dict[str, FinishedCell]] = {}
        for cell in folder.finished():
            if isinstance(cell, DataError):
                notify(f"{printable(cell.file)}: {cell.what}, so it is measured again")
                continue
            self._finished.setdefault(cell.request, {})[cell.contents] = cell
        self.failed = {one.request for one in folder.failed()}

    def __contains__(self, request: str) -> bool:
        """Whether a cell was ever finished, of whatever images."""
        return request in self._finished

    def state(self, planned: Planned) -> str:
        """How a cell stands, as far as is known before its images are looked at; one of `STATES`."""
        if planned.request in self:
            return "finished"
        return "failed" if planned.error is not None or planned.request in self.failed else "missing"

    def get(self, request: str, contents: str) -> FinishedCell | None:
        """The finished cell of these images."""
        return self._finished.get(request, {}).get(contents)

    def others(self, request: str, contents: str) -> int:
        """How many finished cells are of other images."""
        return sum(one != contents for one in self._finished.get(request, {}))

    def keep(self, planned: Planned, outcome: Outcome) -> None:
        """Write a cell that has a result."""
        if outcome.result is None:
            raise TypeError("a cell without a result is not kept")
        facts = planned.facts
        facts = {**facts, "data": {**facts["data"], "contents": outcome.contents}, "seconds": outcome.seconds}
        name = digest_of({"request": planned.request, "contents": outcome.contents})
        cell = self.folder.write_cell(name, facts, outcome.result, outcome.details)
        self._finished.setdefault(planned.request, {})[outcome.contents] = cell


class _Pace:
    """How long what is left will take, by the cells since the first one, whose time is mostly that of imports."""

    def __init__(self) -> None:
        self._began, self._cells = 0.0, 0

    def count(self) -> None:
        """Another cell is done."""
        if self._cells == 0:
            self._began = time.perf_counter()
        self._cells += 1

    def ahead(self, left: int) -> str:
        """For a message; empty where nothing is known yet."""
        if self._cells < 2:
            return ""
        return f", about {duration(left * (time.perf_counter() - self._began) / (self._cells - 1))}"


class Sweep:
    """One run over a plan; `only` as in `ONLY`, or None for all that is not finished."""

    def __init__(
        self, plan: Plan, store: Store, shop: Workshop, launcher: Launcher, notify: Notify, only: str | None = None
    ):
        self._plan, self._store, self._shop, self._launcher = plan, store, shop, launcher
        self._notify, self._only = notify, only
        self._ended = Ended(planned=len(plan.planned))
        self._told: set[str] = set()
        self._left = 0  # cells that are still to be measured
        self._pace = _Pace()

    def run(self) -> Ended:
        """Measure what is missing, group by group."""
        ended, began = self._ended, time.perf_counter()
        self._left = sum(len(self._ahead(group)) for group in self._plan.groups)
        if self._only == "missing":
            ended.left_alone = sum(
                self._store.state(one) == "failed" for one in self._plan.planned if one.error is None
            )
        try:
            for group in self._plan.groups:
                self._run(group)
        except Stopped as stopped:
            ended.stopped = stopped.signal
        finally:
            self._launcher.close()
        found = [(group.data.shown, cell) for group in self._plan.groups for cell in self._finished(group)]
        cells = [cell for _, cell in found]
        ended.rows = _told_apart([(data, {"task": cell.task, **row}) for data, cell in found for row in cell.rows])
        ended.finished = len(cells)
        ended.run = manifest(
            cells={"planned": ended.planned, "finished": len(cells), "failed": len(ended.failed)},
            seed=self._plan.config.seed,
            seconds={
                "sweep": round(time.perf_counter() - began, 3),
                "cells": round(sum(cell.seconds for cell in cells), 3),
            },
        )
        return ended

    def _run(self, group: Group) -> None:
        wanted = [one for one in group.planned if self._is_wanted(one)]
        for one in wanted:
            if one.error is not None:
                self._fail(one, str(one.error), one.error.exit_code)
        todo = self._unfinished(group, [one for one in wanted if one.error is None])
        self._left += len(todo) - len(self._ahead(group))
        if not todo:
            return
        done: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="keep") as writer:  # the next cell need not wait for the disk
            for place, outcome in self._launcher.run([(one.cell, self._runs(one)) for one in todo]):
                if done is not None:
                    done.result()
                done = writer.submit(self._take, todo[place], outcome)
            if done is not None:
                done.result()

    def _ahead(self, group: Group) -> list[Planned]:
        """What is to be measured of a group, as far as is known before its images are looked at."""
        unfinished = (one for one in group.planned if one.error is None and one.request not in self._store)
        return [one for one in unfinished if self._is_wanted(one)]

    def _is_wanted(self, planned: Planned) -> bool:
        has_failed = planned.request in self._store.failed
        return self._only is None or has_failed == (self._only == "failed")

    def _unfinished(self, group: Group, planned: Sequence[Planned]) -> list[Planned]:
        """Those without a result of these very images, which are looked at where any result is there."""
        if not any(one.request in self._store for one in planned):
            return list(planned)
        contents = self._contents(group)
        if contents is None:
            return list(planned)
        others = sum(self._store.others(one.request, contents) for one in planned)
        if others:
            line = f"{group.data.shown}: {counted(others, 'cell is', 'cells are')} of other images under these names"
            self._say(line + "; kept, and told apart")
        return [one for one in planned if self._store.get(one.request, contents) is None]

    def _contents(self, group: Group) -> str | None:
        """The digest of the group's images; None where they cannot be listed, which its cells will tell."""
        try:
            return self._shop.contents(group.data, self._shop.reader(group.backbone, self._plan.config.seed))
        except FewvitError:
            return None

    def _take(self, planned: Planned, outcome: Outcome) -> None:
        """Keep what a cell came to, and say so."""
        for note in outcome.notes:
            self._say(note)
        if outcome.stopped is not None:
            raise Stopped(outcome.stopped)
        self._left -= 1
        self._pace.count()
        if outcome.result is None:
            self._fail(planned, outcome.error, outcome.exit_code)
            return
        self._store.keep(planned, outcome)
        shutil.rmtree(self._runs(planned), ignore_errors=True)
        self._notify(self._line(planned, outcome.seconds, outcome.result.rows))

    def _line(self, planned: Planned, seconds: float, rows: Sequence[Mapping[str, Any]]) -> str:
        ahead = f"; {self._left} left{self._pace.ahead(self._left)}" if self._left else ""
        done = f"[{self._ended.planned - self._left}/{self._ended.planned}] {planned.cell.shown}: {_headline(rows)}"
        return f"{done} ({seconds:.2f} s){ahead}"

    def _fail(self, planned: Planned, error: str, exit_code: int) -> None:
        self._ended.failed.append((planned.cell.shown, error, exit_code))
        self._store.folder.write_failed(planned.facts, error, exit_code)
        same = next((shown for shown, text, _ in self._ended.failed[:-1] if text == error), None)
        self._notify(f"failed: {planned.cell.shown}: {in_one_line(error) if same is None else f'as {same}'}")

    def _say(self, line: str) -> None:
        """A note of a cell, once whatever cell it comes from."""
        if line not in self._told:
            self._told.add(line)
            self._notify(line)

    def _runs(self, planned: Planned) -> Path:
        return self._store.folder.path / "runs" / planned.request

    def _finished(self, group: Group) -> list[FinishedCell]:
        """The finished cells of a group's images, in the plan's order."""
        if not any(one.request in self._store for one in group.planned):
            return []
        contents = self._contents(group)
        found = [self._store.get(one.request, contents) for one in group.planned] if contents is not None else []
        return [cell for cell in found if cell is not None]


def _told_apart(rows: Sequence[tuple[str, Row]]) -> list[Row]:
    """Rows, each given with what the sweep calls its data: by that name where rows of several data have one name."""
    called: dict[object, set[str]] = {}
    for data, row in rows:
        called.setdefault(row.get("dataset"), set()).add(data)
    return [{**row, "dataset": data} if len(called[row.get("dataset")]) > 1 else row for data, row in rows]


def _headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """The first metric: its mean over trials, or its best value."""
    means = [row for row in rows if row.get("trial") in ("mean", None)] or list(rows)
    first = [row for row in means if row["metric"] == means[0]["metric"]]
    best = max(first, key=lambda row: row["value"])
    return f"{best['metric']} {best['value']:.2f}" + (f" ± {best['std']:.2f}" if best.get("std") is not None else "")
