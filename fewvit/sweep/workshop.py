"""Where cells are run: readers, sources and features that cells share, and one cell's way from asked to found.

A workshop lives in one process, here or on another machine; what goes in (`How`, `Cell`) and comes out (`Outcome`) can
be sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..datasets import Listing
from ..digests import DigestMemory, content_digest
from ..errors import FewvitError, from_os_error, is_out_of_memory
from ..evaluate.details import Details
from ..evaluate.inputs import Backbones, FeatureReader, Inputs
from ..extraction.cache import Cache
from ..extraction.pipeline import Pipeline, settle
from ..extraction.work import Progress, Work
from ..models.spec import Access
from ..results import Result, Row
from ..sources import Given, Source, Sources, open_source
from .cells import Cell
from .evaluations.evaluation import Stopped, Surroundings
from .methods import evaluation_of
from .settings import BackboneSetting, DataSetting

Notify = Callable[[str], None]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class How:
    """How cells are run; nothing here changes a number."""

    cache_dir: Path
    no_cache: bool = False
    offline: bool = False
    accept: Sequence[str] = ()
    batch_size: int | None = None
    workers: int | None = None
    max_bad: str = "0"
    max_pixels: int = Work.max_pixels
    device: str = "auto"
    rehash: bool = False
    listing: Listing = field(default_factory=Listing)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    result: Result | None  # None: see `error`
    details: Details
    contents: str  # digest of the bytes that were learnt from and tested on
    seconds: float  # without the making of features
    notes: Sequence[str]
    error: str = ""
    exit_code: int = 0
    stopped: int | None = None  # the signal that ended a training


def failed(cell: Cell, error: str, exit_code: int) -> Outcome:
    """A cell without a result."""
    return Outcome(cell, None, Details(), "", 0.0, (), error, exit_code)


class Workshop:
    """What cells of one process share. Features of the last backbone and data are held, older ones are let go."""

    def __init__(self, how: How, access: Access, notify: Notify, progress: Callable[[Progress], None] | None = None):
        self.how, self.access, self.notify, self.progress = how, access, notify, progress
        self.cache = None if how.no_cache else Cache(how.cache_dir)
        self.memory = self.cache.digests(rehash=how.rehash) if self.cache is not None else DigestMemory()
        self._sources: dict[Key, Sources] = {}
        self._readers: dict[BackboneSetting | None, SharedReader] = {}
        self._contents: dict[DataSetting, str] = {}

    def reader(self, backbone: BackboneSetting | None, seed: int) -> SharedReader:
        """What makes features under a setting."""
        if backbone not in self._readers:
            self._readers.clear()  # their features go with them
            self._readers[backbone] = SharedReader(backbone, seed, self)
        return self._readers[backbone]

    def sources(self, key: Key, opened: Callable[[], Sources]) -> Sources:
        """Sources are listed once, and what is to be told of them is told once."""
        if key not in self._sources:
            self._sources[key] = opened()
        return self._sources[key]

    def given(self, data: DataSetting) -> Given:
        """A data setting as commands are given it."""
        return Given(data.data, data.train, data.test, self.how.listing)

    def opened(self, data: DataSetting, reader: SharedReader) -> Sources:
        """Both sides. Raises as `open_sources`."""
        return reader.pair(self.given(data))

    def listing(self, data: DataSetting, reader: SharedReader) -> dict[str, Any]:
        """What is known of the data before any image is read: for the name of what is asked."""
        sides = self.opened(data, reader).sides
        return {"names": [side.name for side in sides], "digests": [self._listing(side) for side in sides]}

    def _listing(self, side: Source) -> str:
        return side.images.digest if side.images is not None else self.memory.digest_of(Path(side.place))

    def contents(self, data: DataSetting, reader: SharedReader) -> str:
        """The digest of all bytes of both sides; files whose digests are remembered are not read again."""
        if data not in self._contents:
            digests = [
                content_digest(side.images, self.memory)
                if side.images is not None
                else self.memory.digest_of(Path(side.place))
                for side in self.opened(data, reader).sides
            ]
            self._contents[data] = hashlib.sha256("".join(digests).encode()).hexdigest()
        return self._contents[data]

    def perform(self, cell: Cell, runs: Path) -> Outcome:
        """Run one cell. A fault of its own ends it alone; an interruption ends everything."""
        notes: list[str] = []
        reader = self.reader(cell.backbone, cell.seed)
        reader.listener = notes.append
        around = Surroundings(self.given(cell.data), runs, notes.append, self.how.workers)
        contents, began, made = "", time.perf_counter(), reader.seconds
        try:
            result, details = evaluation_of(cell).run(cell, reader, around)
            contents = self.contents(cell.data, reader)
        except Stopped as stopped:
            return Outcome(cell, None, Details(), "", 0.0, notes, "stopped", 128 + stopped.signal, stopped.signal)
        except Exception as error:
            text, code = _told(error)
            return Outcome(cell, None, Details(), contents, 0.0, notes, text, code)
        seconds = time.perf_counter() - began - (reader.seconds - made)
        return Outcome(
            cell, _labelled(cell, result), _labelled_details(cell, details), contents, round(seconds, 4), notes
        )


class SharedReader(FeatureReader):
    """A reader whose cells share sources and features."""

    def __init__(self, backbone: BackboneSetting | None, seed: int, shop: Workshop):
        how, setting = shop.how, backbone or BackboneSetting("dino_vits16")
        backbones = Backbones(
            [setting.name],
            shop.access,
            setting.weights,
            setting.checkpoint_key,
            setting.family,
            seed,
            asked=backbone is not None,
            told=setting.told,
        )
        work = Work(how.batch_size, how.workers, how.max_bad, how.max_pixels, shop.progress)
        super().__init__(backbones, setting.options(how.device), None, work, notify=self._tell)
        self.extractor = dataclasses.replace(self.extractor, cache=shop.cache, memory=shop.memory)
        self.listener: Notify = shop.notify
        self.seconds = 0.0  # that the making of features took so far
        self._shop = shop
        self._made: dict[Key, Inputs | FewvitError] = {}
        self._settled: dict[str, Pipeline | FewvitError] = {}

    def _tell(self, line: str) -> None:
        self.listener(line)

    def one(self, source: str, listing: Listing, *, unlabelled: bool = False) -> Sources:
        """A source by itself, listed once."""

        def opened() -> Sources:
            return Sources(open_source(source, listing, self.extractor, self.notify, unlabelled=unlabelled))

        return self._shop.sources((source, unlabelled), opened)

    def pair(self, given: Given) -> Sources:
        """Both sides, listed once."""
        return self._shop.sources(given.names, lambda: super(SharedReader, self).pair(given))

    def pipeline(self, task: str) -> Pipeline:
        """How features are made for a task; weights are got here, once. Raises as `settle` and `resolve`."""
        if task not in self._settled:
            try:
                self._settled[task] = settle(self.spec(self.backbones.names[0]), self.options, task)
            except FewvitError as error:
                self._settled[task] = error
        return _or_raise(self._settled[task])

    def inputs(self, sources: Sources, pipeline: Pipeline | None) -> Inputs:
        """What a pipeline makes of the sources: once, an error too."""
        key = (id(sources), pipeline.fingerprint if pipeline is not None else "")
        if key not in self._made:
            for old in [one for one in self._made if one[0] != id(sources)]:
                del self._made[old]
            began = time.perf_counter()
            try:
                self._made[key] = super().inputs(sources, pipeline)
            except FewvitError as error:
                self._made[key] = error
            self.seconds += time.perf_counter() - began
        return _or_raise(self._made[key])


def _or_raise(found: Any) -> Any:
    if isinstance(found, FewvitError):
        raise found
    return found


def _told(error: Exception) -> tuple[str, int]:
    """An error in the words of the command line, and its exit code."""
    if isinstance(error, FewvitError):
        return str(error), error.exit_code
    if is_out_of_memory(error):
        return "out of memory; try a smaller --batch-size", 6
    if isinstance(error, OSError):
        known = from_os_error(error, "running this cell")
        return str(known), known.exit_code
    first = str(error).splitlines()[0] if str(error) else ""
    return f"internal error: {type(error).__name__}: {first}; please report it, with the command", 1


def _labelled(cell: Cell, result: Result) -> Result:
    """The result under the names that the sweep gives backbone, data and method."""
    names: Row = {"backbone": cell.backbone.shown} if cell.backbone is not None else {}
    if cell.data.label:
        names["dataset"] = cell.data.label
    if cell.method.label:
        names["method"] = cell.method.label
    weights = result.run.get("weights_sha256")
    more: Row = {"weights_sha256": weights} if weights and cell.backbone is not None else {}
    return Result(result.task, [{**row, **names, **more} for row in result.rows], result.run)


def _labelled_details(cell: Cell, details: Details) -> Details:
    """What stands behind the rows under the name that they give the method, by which reports find it."""
    if not cell.method.label:
        return details
    names = {"method": cell.method.label}
    return Details(
        [dataclasses.replace(one, which={**one.which, **names}) for one in details.predicted],
        [dataclasses.replace(one, which={**one.which, **names}) for one in details.episodes],
    )
