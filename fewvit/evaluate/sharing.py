"""Extraction for an evaluation under torchrun: each process fills the cache with its part, the first one goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError, NumericalError
from ..extraction.pipeline import Pipeline
from ..extraction.shards import Part
from ..extraction.work import Report
from ..runs.processes import LeftToTheFirst
from ..sources import ImageSource, Source, Sources


@dataclass(frozen=True)
class Shared:
    """What all processes together did for one pipeline."""

    reports: Sequence[Report]  # of each side
    seconds: float

    def over(self, side: int, report: Report | None) -> Report | None:
        """The report of the first process, which found the features in the cache, as of one that computed them."""
        done = self.reports[side]
        if report is None or not done.computed:
            return report
        added = {name: getattr(report, name) + getattr(done, name) for name in ("computed", *_TIMES)}
        return dataclasses.replace(report, cached=max(0, report.cached - done.computed), **added)


_TIMES = ("starting", "seconds", "waiting", "modelling")


def share(sources: Sources, pipelines: Sequence[Pipeline], process: Part) -> list[Shared]:
    """For each pipeline what was done, in the first process, when the cache has the features of all images.

    What is wrong with an image or a feature the first process meets again, and tells. Raises LeftToTheFirst in the
    other ones.
    """
    from ..models.engines import resolve_device
    from ..training.distributed import meeting

    with meeting(resolve_device(pipelines[0].device)) as device:
        shared = [fill(sources, dataclasses.replace(pipeline, device=device), process) for pipeline in pipelines]
    if process.number > 1:
        raise LeftToTheFirst
    return shared


def fill(sources: Sources, pipeline: Pipeline, process: Part) -> Shared:
    """Put this process's part of all images into the cache: in the first one, what all did, when all have."""
    from ..training.distributed import gathered

    started = time.perf_counter()
    reports = gathered([_own_part(side, pipeline, process) for side in sources.sides])
    return Shared([_whole(side) for side in zip(*reports, strict=True)], time.perf_counter() - started)


def _own_part(side: Source, pipeline: Pipeline, process: Part) -> Report:
    with contextlib.suppress(DataError, NumericalError):
        if isinstance(side, ImageSource):
            return side.sliced(process).features(pipeline).report or Report()
    return Report()


def _whole(reports: Sequence[Report]) -> Report:
    """Of parts of one side that were computed at one time: the images of all, the longest times."""
    longest = {name: max(getattr(report, name) for report in reports) for name in _TIMES}
    return Report(computed=sum(report.computed for report in reports), **longest)
