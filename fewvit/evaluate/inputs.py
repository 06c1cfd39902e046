"""What an evaluation works on: backbones, one after another, and the features and manifest that each gives."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..datasets import Listing
from ..digests import DigestMemory
from ..errors import UsageError, counted
from ..extraction.cache import Cache
from ..extraction.notes import notes
from ..extraction.pipeline import FeatureOptions, Pipeline, settle
from ..extraction.protocols import protocol_of
from ..extraction.recipe import Recipe
from ..extraction.shards import Part
from ..extraction.work import Report, Work, describe, doubts, whole
from ..features import FeatureSet
from ..models.resolve import is_path, resolve
from ..models.spec import Access, BackboneSpec
from ..models.told import NOTHING, Told, shown
from ..results import Facts, Row, manifest
from ..sources import Extractor, Given, Notify, Sources, open_source, open_sources


@dataclass(frozen=True)
class Backbones:
    """Which backbones are asked, and how their weights are got."""

    names: Sequence[str]
    access: Access
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0
    asked: bool = False  # the user named them: then a line says where they are not needed
    told: Told = NOTHING  # of bare files

    def recipe(self, pipeline: Pipeline) -> Recipe:
        """How the first backbone's features are made again: it as it was asked for, every request spelled out."""
        name, weights = self.names[0], self.weights
        return Recipe(
            backbone=os.path.abspath(name) if is_path(name) else name,
            weights=os.path.abspath(weights) if weights not in (None, "random") else weights,
            checkpoint_key=self.checkpoint_key,
            family=self.family,
            seed=self.seed,
            options=FeatureOptions(
                pipeline.protocol.name,
                pipeline.pool,
                pipeline.layers_asked,
                "x".join(map(str, pipeline.preprocess.crop)) if pipeline.size else str(pipeline.preprocess.longest),
                pipeline.precision,
                pipeline.decode,
                reading=pipeline.preprocess.of_retrieval,
            ),
            key=pipeline.key,
            weights_sha256=pipeline.spec.weights_sha256,
            license=pipeline.spec.license,
            told=pipeline.spec.told.facts or None,
        )


@dataclass(frozen=True)
class Inputs:
    """What one backbone makes of the sources; `test` is None where a command needs one set."""

    sources: Sources
    pipeline: Pipeline | None  # None: features were given on every side
    train: FeatureSet
    test: FeatureSet | None
    seconds: float  # that both sides took

    @property
    def backbone(self) -> str:
        """Its name, for result rows; `features` where that is not known."""
        return self.pipeline.spec.name if self.pipeline is not None else self.train.backbone or "features"

    @property
    def sides(self) -> tuple[FeatureSet, ...]:
        """The features of the train set, and of the test set where there is one."""
        return (self.train,) if self.test is None else (self.train, self.test)

    @property
    def facts(self) -> Facts:
        """What the run's manifest says of the features."""
        if self.pipeline is None:
            return {"fingerprint": self.train.fingerprint}
        reports = [side.report for side in self.sides if side.report is not None]
        return {**self.pipeline.facts, "seconds": {"extract": round(self.seconds, 3)}, **describe(whole(reports))}

    def done_before(self, over: Callable[[int, Report | None], Report | None], seconds: float) -> Inputs:
        """With the work that was done for them before: `over` adds it to the report of a side, from 0."""
        sides = [dataclasses.replace(side, report=over(number, side.report)) for number, side in enumerate(self.sides)]
        test = None if self.test is None else sides[1]
        return dataclasses.replace(self, train=sides[0], test=test, seconds=self.seconds + seconds)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Images that could not be decoded; of two sides each says which, since one id may be in both."""
        found = zip(("train", "test"), self.sides, strict=False)
        return [
            {**record, "side": name} if self.test is not None else record
            for name, side in found
            for record in (side.report.skipped if side.report is not None else [])
        ]

    @property
    def protocol(self) -> str:
        """The name of the preset that made the features; empty where features were given."""
        return self.pipeline.protocol.name if self.pipeline is not None else ""

    @property
    def known_protocol(self) -> str:
        """The preset whose classifiers fit these features; empty where it is unknown.

        Of given features it is the one that their file names, or else that of their backbone's family.
        """
        return self.protocol or self.train.protocol or protocol_of(self.train.backbone)

    @property
    def labels(self) -> Row:
        """Columns that every row of these inputs carries."""
        columns: Row = {"dataset": (self.test or self.train).name, "backbone": self.backbone}
        if (self.pipeline is not None and self.pipeline.spec.is_random) or any(
            side.weights == "random" for side in self.sides
        ):
            columns["weights"] = "random"
        if self.skipped:
            columns["skipped"] = len(self.skipped)
        return columns


class FeatureReader:
    """Opens sources, and gives what one backbone after another makes of them."""

    def __init__(
        self,
        backbones: Backbones,
        options: FeatureOptions,
        cache: Cache | None,
        work: Work,
        *,
        rehash: bool = False,
        notify: Notify = lambda line: None,
        process: Part | None = None,
    ):
        """`process`: the part of this one of the processes that torchrun started, where they are to share the images.

        The first alone gets features then, and LeftToTheFirst is raised in the others. Raises UsageError.
        """
        if process is not None and cache is None:
            raise UsageError(
                "the processes of torchrun share features in the cache, and --no-cache leaves none",
                fix="Leave --no-cache away, give --cache-dir a folder of its own, or run the command without torchrun.",
            )
        if backbones.weights is not None and len(backbones.names) > 1 and backbones.weights != "random":
            raise UsageError("--weights FILE goes with one backbone, not with a list of them")
        self.backbones, self.options, self.notify, self.process = backbones, options, notify, process
        memory = cache.digests(rehash=rehash) if cache is not None else DigestMemory()
        self.extractor = Extractor(cache, work, memory)

    def one(self, source: str, listing: Listing, *, unlabelled: bool = False) -> Sources:
        """A source by itself. `unlabelled`: no label is looked at, so a features file may lack them."""
        return Sources(open_source(source, listing, self.extractor, self.notify, unlabelled=unlabelled))

    def pair(self, given: Given) -> Sources:
        """A source to learn from and one to be tested on, images or features, under one numbering of classes."""
        return open_sources(given, self.extractor, self.notify)

    def each(self, sources: Sources, task: str = "") -> Iterator[Inputs]:
        """What each backbone in turn makes of the sources; without images no backbone is asked.

        `task` as in `pipeline.settle`.
        """
        if not sources.have_images:
            self._say_unused(sources)
            yield self.inputs(sources, None)
            return
        self._refuse_default_beside_features(sources)
        pipelines = list(self.pipelines(task))  # all are settled before any image is read
        if self.process is not None:
            yield from self._shared(sources, pipelines, self.process)
            return
        for pipeline in pipelines:
            yield self.inputs(sources, pipeline)

    def _shared(self, sources: Sources, pipelines: Sequence[Pipeline], process: Part) -> Iterator[Inputs]:
        """As one process, from what the processes of torchrun put into the cache."""
        from .sharing import share

        shared = share(sources, pipelines, process)
        self.extractor.memory.refresh()
        for pipeline, done in zip(pipelines, shared, strict=True):
            inputs = self.inputs(sources, pipeline)
            again = sum(side.report.computed for side in inputs.sides if side.report is not None)
            if again:
                self.notify(
                    f"{counted(again, 'image')} had to be computed again: the processes do not share one --cache-dir"
                )
            yield inputs.done_before(done.over, done.seconds)

    def _refuse_default_beside_features(self, sources: Sources) -> None:
        """Raise UsageError where nobody named the backbone that a features file beside the images was made with."""
        for side in sources.sides:
            made_with = side.features(None).backbone if side.images is None else ""
            if made_with and not self.backbones.asked and made_with not in self.backbones.names:
                raise UsageError(
                    f"the features were made with {made_with}, and the images beside them need the same backbone",
                    file=side.place,
                    fix=f"Give --backbone {made_with}.",
                )

    def inputs(self, sources: Sources, pipeline: Pipeline | None) -> Inputs:
        """What one pipeline makes of the sources."""
        started = time.perf_counter()
        train, test = sources.features(pipeline)
        found = Inputs(sources, pipeline, train, test, time.perf_counter() - started)
        for side in found.sides:
            for doubt in doubts(side.name, side.report.like_twelve_bit if side.report is not None else 0):
                self.notify(doubt)
        return found

    def pipelines(self, task: str = "") -> Iterator[Pipeline]:
        """How each backbone makes its features; weights are got here."""
        for name in self.backbones.names:
            pipeline = settle(self.spec(name), self.options, task)
            for note in notes(pipeline, self.options):
                self.notify(note)
            yield pipeline

    def spec(self, name: str) -> BackboneSpec:
        """The backbone behind a name, under the options given. Raises as `resolve`."""
        b = self.backbones
        return resolve(
            name,
            b.access,
            self.extractor.memory,
            weights=b.weights,
            checkpoint_key=b.checkpoint_key,
            family=b.family,
            seed=b.seed,
            told=replace(b.told, protocol=self.options.protocol, pool=self.options.pool),
        )

    def _say_unused(self, sources: Sources) -> None:
        """Say which options of the backbone change nothing: the sources hold features already."""
        asked = {
            "--backbone": ",".join(self.backbones.names) if self.backbones.asked else None,
            **{f"--{name}": shown(value) for name, value in self.backbones.told.facts.items()},
            "--pool": self.options.pool,
            "--layers": self.options.layers,
            "--img-size": self.options.img_size,
            "--decode": self.options.decode if self.options.decode != FeatureOptions.decode else None,
        }
        named = [f"{name} {value}" for name, value in asked.items() if value]
        if named:
            files = " and ".join(side.place for side in sources.sides)
            self.notify(
                f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} not used: features come from {files}"
            )


Found = tuple[list[Row], Facts]  # result rows, and facts for the run's manifest


def measured(
    reader: FeatureReader,
    sets: Sources | Iterator[Inputs],
    measure: Callable[[Inputs, str], Found],
    report_skipped: Callable[[list[dict[str, str]]], None],
    seed: int,
    task: str = "",
) -> Found:
    """Rows of every backbone, with the columns that name data and backbone, and the run's manifest.

    `sets` are the sources, or what each backbone makes of them where a command has a way of its own. `measure` gives
    the rows of one backbone, without these columns, and what the manifest should say; `seconds` in it join those of
    the extraction. Its second argument is the backbone's name where there are several, else empty.
    """
    names = reader.backbones.names
    rows: list[Row] = []
    runs: list[Row] = []
    told = _told_apart(names)
    for place, inputs in enumerate(reader.each(sets, task) if isinstance(sets, Sources) else sets):
        report_skipped(inputs.skipped)
        several = len(names) > 1 and inputs.pipeline is not None
        of_features = inputs.facts
        columns = {**inputs.labels, **({"weights_sha256": of_features["weights_sha256"]} if several else {})}
        found, facts = measure(inputs, told.get(place, inputs.backbone) if several else "")
        rows += [{**columns, **row} for row in found]
        seconds = {**of_features.get("seconds", {}), **facts.get("seconds", {})}
        runs.append({**of_features, **facts, **({"seconds": seconds} if seconds else {})})
    if any("skipped" in row for row in rows):  # of one backbone: then every row has the column
        rows = [{**row, "skipped": row.get("skipped", 0)} for row in rows]
    shared = runs[0] if len(runs) == 1 else {"backbones": dict(zip(names, runs, strict=True))}
    return rows, manifest(**shared, seed=seed)


def _told_apart(names: Sequence[str]) -> dict[int, str]:
    """Place -> what a backbone is called in full, of those whose files bear one name in two folders."""
    short = [os.path.basename(name) for name in names]
    return {place: name for place, name in enumerate(names) if short.count(short[place]) > 1}


def by_layer(inputs: Inputs) -> Iterator[tuple[Row, FeatureSet, FeatureSet | None]]:
    """The sets as they are, or with `--layers each` one pair per block, oldest first, and kind of token."""
    if inputs.pipeline is None or not inputs.pipeline.each:
        yield {}, inputs.train, inputs.test
        return
    layers, pools = inputs.pipeline.layers, inputs.pipeline.pool.split(",")
    width = inputs.train.features.shape[1] // (layers * len(pools))
    for layer, (place, pool) in itertools.product(range(layers), enumerate(pools)):
        columns = slice((place * layers + layer) * width, (place * layers + layer + 1) * width)
        yield (
            {"layer": layer + 1, **({"pool": pool} if len(pools) > 1 else {})},
            _columns(inputs.train, columns),
            _columns(inputs.test, columns) if inputs.test is not None else None,
        )


def _columns(features: FeatureSet, columns: slice) -> FeatureSet:
    return dataclasses.replace(features, features=features.features[:, columns])


def unfit(who: str, error: ValueError) -> UsageError:
    """The error of a classifier whose options do not suit the images that it was to be fitted on."""
    fix = "Change an option of the classifier with --set name=value, or give more images."
    return UsageError(f"{who}: {str(error).splitlines()[0]}", fix=fix)
