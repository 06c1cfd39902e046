"""The way every evaluation takes: sources of images or features in, feature sets out, with a manifest of how they came about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import Cache
from ..datasets import Dataset, Listing, open_dataset, open_pair
from ..digests import DigestMemory
from ..errors import DataError, UsageError
from ..extract import Report, Work, describe, extract
from ..features import FeatureSet, align
from ..pipeline import FeatureOptions, Pipeline, settle
from ..specs import Access, resolve


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


@dataclass
class Inputs:
    """Feature sets of one backbone; `test` is None where a command needs one set."""

    backbone: str
    train: FeatureSet
    test: FeatureSet | None
    pipeline: Pipeline | None  # None: features were given
    facts: dict[str, Any]
    skipped: list[dict[str, str]]

    @property
    def protocol(self) -> str:
        """The name of the preset that made the features; empty where features were given."""
        return str(self.facts.get("protocol") or "")

    @property
    def labels(self) -> dict[str, Any]:
        """Columns that every row of these inputs carries."""
        columns: dict[str, Any] = {"dataset": (self.test or self.train).name, "backbone": self.backbone}
        if (self.pipeline is not None and self.pipeline.spec.is_random) or self.train.weights == "random":
            columns["weights"] = "random"
        return columns


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

    def one(self, source: str, listing: Listing) -> Iterator[Inputs]:
        """The features of one source, for each backbone in turn."""
        if is_features(source):
            features = FeatureSet.load(source)
            yield Inputs(features.backbone or "features", features, None, None, {"fingerprint": features.fingerprint}, [])
            return
        dataset = self._told(open_dataset(source, listing))  # before weights are fetched for what is not there
        for pipeline in list(self._pipelines()):
            yield self._extracted(pipeline, dataset, None)

    def pair(self, sources: Sources) -> Iterator[Inputs]:
        """Train and test features, for each backbone in turn; either side may be a features file."""
        given = [is_features(side) for side in (sources.train, sources.test)]
        if is_features(sources.data):
            raise UsageError("--data takes folders with train and test parts; give feature files with --train and --test")
        if all(given):
            train, test = self._load(str(sources.train)), self._load(str(sources.test))
            yield Inputs(train.backbone or "features", train, align(train, test), None, {"fingerprint": train.fingerprint}, [])
            return
        if any(given):
            yield from self._mixed(sources)
            return
        train_set, test_set = open_pair(sources.data, sources.train, sources.test, sources.listing)
        self._told(train_set)
        self._told(test_set)
        for pipeline in list(self._pipelines()):  # after the data: nothing is fetched for what is not there
            yield self._extracted(pipeline, train_set, test_set)

    def _mixed(self, sources: Sources) -> Iterator[Inputs]:
        """One side images, the other a features file, which must be of the same pipeline."""
        if sources.train is None or sources.test is None:
            raise UsageError("give both --train and --test", fix="Either may be images or a features file.")
        file, images = (sources.train, sources.test) if is_features(sources.train) else (sources.test, sources.train)
        loaded, dataset = self._load(file), self._told(open_dataset(images, sources.listing))
        for pipeline in list(self._pipelines()):
            inputs = self._extracted(pipeline, dataset, None)
            train, test = (loaded, inputs.train) if file == sources.train else (inputs.train, loaded)
            yield Inputs(inputs.backbone, train, align(train, test), pipeline, inputs.facts, inputs.skipped)

    def _pipelines(self) -> Iterator[Pipeline]:
        b = self.backbones
        for name in b.names:
            spec = resolve(name, b.access, self.memory, weights=b.weights, checkpoint_key=b.checkpoint_key, family=b.family, seed=b.seed)
            yield settle(spec, self.options)

    def _load(self, source: str) -> FeatureSet:
        features = FeatureSet.load(source)
        if not features.fingerprint:
            self.say(f"{source} carries no fingerprint, so nothing shows that its features belong to the other side's backbone")
        return features

    def _told(self, dataset: Dataset) -> Dataset:
        for reason, count in dataset.left_out.items():
            self.say(f"{dataset.name}: {count} left out ({reason})")
        for note in dataset.notes:
            self.say(f"{dataset.name}: {note}")
        return dataset

    def _extracted(self, pipeline: Pipeline, train: Dataset, test: Dataset | None) -> Inputs:
        started = time.perf_counter()
        sets, reports = [], []
        for dataset in (train, test) if test is not None else (train,):
            features, report = extract(pipeline, dataset, self.cache, self.work, memory=self.memory)
            sets.append(features)
            reports.append(report)
        facts = {**pipeline.facts, "seconds": {"extract": round(time.perf_counter() - started, 3)}, **_sum(reports)}
        aligned = align(sets[0], sets[1]) if test is not None else None
        return Inputs(pipeline.spec.name, sets[0], aligned, pipeline, facts, [s for report in reports for s in report.skipped])


def _sum(reports: Sequence[Report]) -> dict[str, Any]:
    """One description for train and test together."""
    whole = Report()
    for report in reports:
        for name in ("images", "computed", "cached", "differing", "seconds", "waiting", "modelling"):
            setattr(whole, name, getattr(whole, name) + getattr(report, name))
        whole.skipped += report.skipped
    return describe(whole)


def require_source(source: str | None, flag: str = "--data") -> str:
    """The source, or UsageError naming the flag; a path that is not there is a DataError here, before any backbone is opened."""
    if not source:
        raise UsageError(f"no images: give {flag} SRC")
    if is_features(source) and not Path(source).exists():
        raise DataError("no such file", file=source)
    return source


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
    """The rows that have a label. Raises DataError if none has one."""
    known = np.flatnonzero(features.labels >= 0)
    if len(known) == 0:
        raise DataError(
            f"the {side} images have no labels",
            fix="Give class folders, a table with a label column, or a features file with labels.",
        )
    if len(known) < len(features):
        say(f"{len(features) - len(known)} unlabelled {side} images are left out")
        return features.select(known)
    return features


def require_classes(train: FeatureSet) -> None:
    """Raise DataError unless there are two classes to tell apart."""
    present = np.unique(train.labels)
    if len(present) < 2:
        raise DataError(f"the train images are all of one class ({train.classes[present[0]]!r}): there is nothing to tell apart")
