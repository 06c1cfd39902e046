"""The way every evaluation takes: sources of images or features in, feature sets out, with a manifest of how they came about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset, Listing
from ..digests import DigestMemory
from ..errors import DataError, UsageError, counted, printable
from ..extraction.cache import Cache
from ..extraction.extract import extract
from ..extraction.pipeline import FeatureOptions, Pipeline, other_token, oversized, settle
from ..extraction.protocols import protocol_of
from ..extraction.work import Report, Work, describe
from ..features import FeatureSet, align, require_one_fingerprint
from ..models.resolve import resolve
from ..models.spec import Access
from ..results import manifest
from ..sources import open_dataset, open_pair, require_one_way, told
from .subsets import Listed


@dataclass(frozen=True)
class Sources:
    """Where images or features come from: `data` alone, or `train` and `test`."""

    data: str | None = None
    train: str | None = None
    test: str | None = None
    listing: Listing = field(default_factory=Listing)


@dataclass(frozen=True)
class Backbones:
    """Which backbones are asked, and how their weights are got."""

    names: Sequence[str]
    access: Access
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0
    asked: bool = False  # the user named them; what is not needed is then said


@dataclass
class Inputs:
    """Feature sets of one backbone; `test` is None where a command needs one set."""

    backbone: str
    train: FeatureSet
    test: FeatureSet | None
    pipeline: Pipeline | None  # None: features were given
    facts: dict[str, Any]
    skipped: list[dict[str, str]]
    datasets: tuple[Dataset, Dataset] | None = None  # the images of both sides, where both are images

    @property
    def protocol(self) -> str:
        """The name of the preset that made the features; empty where features were given."""
        return str(self.facts.get("protocol") or "")

    @property
    def known_protocol(self) -> str:
        """The preset whose classifiers fit these features: of given ones what their file says, or their backbone's family; else empty."""
        return self.protocol or self.train.protocol or protocol_of(self.train.backbone)

    @property
    def labels(self) -> dict[str, Any]:
        """Columns that every row of these inputs carries."""
        columns: dict[str, Any] = {"dataset": (self.test or self.train).name, "backbone": self.backbone}
        given = [side.weights for side in (self.train, self.test) if side is not None]
        if (self.pipeline is not None and self.pipeline.spec.is_random) or "random" in given:
            columns["weights"] = "random"
        if self.skipped:
            columns["skipped"] = len(self.skipped)
        return columns


Check = Callable[[Listed], None]  # of the names of images, before features are extracted


def is_features(source: str | None) -> bool:
    """Whether a source is a features file."""
    return source is not None and source.endswith(".npz")


class FeatureReader:
    """Opens sources and extracts their features, one backbone after another, over one cache."""

    def __init__(
        self,
        backbones: Backbones,
        options: FeatureOptions,
        cache: Cache | None,
        work: Work,
        *,
        rehash: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        if backbones.weights is not None and len(backbones.names) > 1 and backbones.weights != "random":
            raise UsageError("--weights FILE goes with one backbone, not with a list of them")
        self.backbones, self.options, self.cache, self.work, self.say = backbones, options, cache, work, say
        self.memory = cache.digests(rehash=rehash) if cache is not None else DigestMemory()

    def one(self, source: str, listing: Listing, *, unlabelled: bool = False, check: Check = lambda images: None) -> Iterator[Inputs]:
        """The features of one source, for each backbone in turn. `unlabelled`: no label is looked at, so a features file may lack them.

        `check` gets the names of the images before anything is extracted, and raises where they will not do.
        """
        if is_features(source):
            features = FeatureSet.load(source, unlabelled=unlabelled)
            check(features)
            self._say_unused(source)
            yield Inputs(features.backbone or "features", features, None, None, {"fingerprint": features.fingerprint}, [])
            return
        dataset = self.told(open_dataset(source, listing))  # before weights are fetched for what is not there
        check(dataset)
        for pipeline in list(self.pipelines()):
            yield self.extracted(pipeline, dataset, None)

    def pair(self, sources: Sources, task: str = "", check: Check = lambda images: None) -> Iterator[Inputs]:
        """Train and test features, for each backbone in turn; either side may be a features file. `task` as in `pipeline.settle`.

        `check` gets the names of the train images before anything is extracted, and raises where they will not do.
        """
        require_one_way(sources.data, sources.train, sources.test)
        given = [is_features(side) for side in (sources.train, sources.test)]
        if is_features(sources.data):
            raise UsageError("--data takes folders with train and test parts; give feature files with --train and --test")
        if all(given):
            train, test = self._load(str(sources.train)), self._load(str(sources.test))
            self._say_unused(f"{sources.train} and {sources.test}")
            aligned = align(train, test)
            require_taught(train, test)
            check(train)
            yield Inputs(train.backbone or "features", train, aligned, None, {"fingerprint": train.fingerprint}, [])
            return
        if any(given):
            yield from self._mixed(sources, task, check)
            return
        train_set, test_set = open_pair(sources.data, sources.train, sources.test, sources.listing)
        self.told(train_set)
        self.told(test_set)
        check(train_set)
        for pipeline in list(self.pipelines(task)):  # after the data: nothing is fetched for what is not there
            yield self.extracted(pipeline, train_set, test_set)

    def _mixed(self, sources: Sources, task: str, check: Check) -> Iterator[Inputs]:
        """One side images, the other a features file, which must be of the same pipeline."""
        if sources.train is None or sources.test is None:
            raise UsageError("give both --train and --test", fix="Either may be images or a features file.")
        file, images = (sources.train, sources.test) if is_features(sources.train) else (sources.test, sources.train)
        loaded, dataset = self._load(file), self.told(open_dataset(images, sources.listing))
        known, asked = (loaded, dataset) if file == sources.train else (dataset, loaded)
        require_taught(known, asked)
        check(known)
        for pipeline in list(self.pipelines(task)):
            marks = (loaded.fingerprint, pipeline.fingerprint)
            require_one_fingerprint(*(marks if known is loaded else marks[::-1]))
            inputs = self.extracted(pipeline, dataset, None)
            train, test = (loaded, inputs.train) if file == sources.train else (inputs.train, loaded)
            yield Inputs(inputs.backbone, train, align(train, test), pipeline, inputs.facts, inputs.skipped)

    def pipelines(self, task: str = "") -> Iterator[Pipeline]:
        """How each backbone makes its features; weights are got here."""
        b = self.backbones
        for name in b.names:
            spec = resolve(name, b.access, self.memory, weights=b.weights, checkpoint_key=b.checkpoint_key, family=b.family, seed=b.seed)
            pipeline = settle(spec, self.options, task)
            for note in (oversized(pipeline, self.options), other_token(pipeline, self.options)):
                if note:
                    self.say(note)
            yield pipeline

    def _load(self, source: str) -> FeatureSet:
        features = FeatureSet.load(source)
        if not features.fingerprint:
            self.say(f"{source} carries no fingerprint, so nothing shows that its features belong to the other side's backbone")
        return features

    def _say_unused(self, files: str) -> None:
        """Say what was asked of the backbone that has nothing to do: the sources hold features already."""
        asked = {
            "--backbone": ",".join(self.backbones.names) if self.backbones.asked else None,
            "--pool": self.options.pool,
            "--layers": self.options.layers,
            "--img-size": self.options.img_size,
            "--decode": self.options.decode if self.options.decode != FeatureOptions.decode else None,
        }
        named = [f"{name} {value}" for name, value in asked.items() if value]
        if named:
            self.say(f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} not used: features come from {files}")

    def told(self, dataset: Dataset) -> Dataset:
        """The data set, after what a user should know of its listing was said."""
        return told(dataset, self.say)

    def extracted(self, pipeline: Pipeline, train: Dataset, test: Dataset | None) -> Inputs:
        """The features of one backbone for one set or two."""
        started = time.perf_counter()
        sets: list[FeatureSet] = []
        reports: list[Report] = []
        for dataset in (train, test) if test is not None else (train,):
            features, report = extract(pipeline, dataset, self.cache, self.work, memory=self.memory)
            if test is not None:
                side = "test" if sets else "train"
                report.skipped = [{**record, "side": side} for record in report.skipped]  # ids may be in both
            sets.append(features)
            reports.append(report)
        facts = {**pipeline.facts, "seconds": {"extract": round(time.perf_counter() - started, 3)}, **_sum(reports)}
        aligned = align(sets[0], sets[1]) if test is not None else None
        images = (train, test) if test is not None else None
        return Inputs(pipeline.spec.name, sets[0], aligned, pipeline, facts, [s for report in reports for s in report.skipped], images)


def _sum(reports: Sequence[Report]) -> dict[str, Any]:
    """One description for train and test together."""
    whole = Report()
    for report in reports:
        for name in ("images", "computed", "cached", "differing", "starting", "seconds", "waiting", "modelling"):
            setattr(whole, name, getattr(whole, name) + getattr(report, name))
        whole.skipped += report.skipped
    return describe(whole)


def require_taught(train: Listed, test: Listed) -> None:
    """Raise DataError for test images of classes that have no train image; without any label on one side there is nothing to compare."""
    taught = {train.classes[c] for c in np.unique(train.labels[train.labels >= 0])}
    asked = [test.classes[c] for c in np.unique(test.labels[test.labels >= 0])]
    unknown = [printable(name) for name in asked if name not in taught]
    if taught and unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise DataError(
            f"{counted(len(unknown), 'class of the test set is', 'classes of the test set are')} not in the training set: {shown}",
            fix=f"It has images of {counted(len(taught), 'class', 'classes')}; names must agree letter by letter.",
        )


def require_source(source: str | None, flag: str = "--data") -> str:
    """The source, or UsageError naming the flag; a path that is not there is a DataError here, before any backbone is opened."""
    if not source:
        raise UsageError(f"no images: give {flag} SRC")
    if is_features(source) and not Path(source).exists():
        raise DataError("no such file", file=source)
    return source


Found = tuple[list[dict[str, Any]], dict[str, Any]]  # result rows, and facts for the run's manifest


def measured(
    reader: FeatureReader,
    sets: Iterator[Inputs],
    measure: Callable[[Inputs, str], Found],
    skips: Callable[[list[dict[str, str]]], None],
    seed: int,
) -> Found:
    """Rows of every backbone, with the columns that name data and backbone, and the run's manifest.

    `measure` gives the rows of one backbone, without these columns, and what the manifest should tell; `seconds` in it join those of the
    extraction. Its second argument is the backbone's name where there are several, else empty.
    """
    names = reader.backbones.names
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for inputs in sets:
        skips(inputs.skipped)
        several = len(names) > 1 and inputs.pipeline is not None
        columns = {**inputs.labels, **({"weights_sha256": inputs.facts["weights_sha256"]} if several else {})}
        found, facts = measure(inputs, inputs.backbone if several else "")
        rows += [{**columns, **row} for row in found]
        seconds = {**inputs.facts.get("seconds", {}), **facts.get("seconds", {})}
        runs.append({**inputs.facts, **facts, **({"seconds": seconds} if seconds else {})})
    if any("skipped" in row for row in rows):  # of one backbone: then every row has the column
        rows = [{**row, "skipped": row.get("skipped", 0)} for row in rows]
    shared = runs[0] if len(runs) == 1 else {"backbones": dict(zip(names, runs, strict=True))}
    return rows, manifest(**shared, seed=seed)


def by_layer(inputs: Inputs) -> Iterator[tuple[dict[str, Any], FeatureSet, FeatureSet | None]]:
    """The sets as they are, or with `--layers each` one pair per block, oldest first."""
    if inputs.pipeline is None or not inputs.pipeline.each:
        yield {}, inputs.train, inputs.test
        return
    layers = inputs.pipeline.layers
    width = inputs.train.features.shape[1] // layers
    for layer in range(layers):
        columns = slice(layer * width, (layer + 1) * width)
        yield {"layer": layer + 1}, _columns(inputs.train, columns), _columns(inputs.test, columns) if inputs.test is not None else None


def _columns(features: FeatureSet, columns: slice) -> FeatureSet:
    return dataclasses.replace(features, features=features.features[:, columns])


def labelled(features: FeatureSet, side: str, say: Callable[[str], None]) -> FeatureSet:
    """The rows that have a label. `side` is train, test, or empty where there is one set. Raises DataError if none has a label."""
    known = np.flatnonzero(features.labels >= 0)
    images = f"{side} images".lstrip()
    if len(known) == 0:
        raise DataError(
            f"the {images} have no labels",
            fix="Give class folders, a table with a label column, or a features file with labels.",
        )
    if len(known) < len(features):
        say(f"{counted(len(features) - len(known), f'unlabelled {images[:-1]} is', f'unlabelled {images} are')} left out")
        return features.select(known)
    return features


def require_classes(features: FeatureSet, side: str = "train") -> None:
    """Raise DataError unless there are two classes to tell apart."""
    present = np.unique(features.labels)
    if len(present) < 2:
        images = f"{side} images".lstrip()
        raise DataError(f"the {images} are all of one class ({features.classes[present[0]]!r}): there is nothing to tell apart")


def unfit(who: str, error: ValueError) -> UsageError:
    """The error of a classifier whose options do not suit the images that it was to be fitted on."""
    fix = "Change an option of the classifier with --set name=value, or give more images."
    return UsageError(f"{who}: {str(error).splitlines()[0]}", fix=fix)
