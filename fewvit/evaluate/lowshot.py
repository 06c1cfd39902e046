"""Low-shot evaluation: classifiers fitted on a few labelled images per class, over trials. Source: Assran et al. 2022, section 4.1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backbones import ClassifierPreset, family_of
from ..calibration import cross_validated_temperature
from ..classifiers import traits_of
from ..errors import UsageError, counted, printable
from ..extraction.protocols import find_protocol, protocols
from ..features import FeatureSet, shared_rows
from ..labels import Listed, labelled, require_classes
from ..metrics import mean_and_interval
from ..options import options_of
from ..plugins import find
from ..sources import Given
from ..splits import Split, dependence, identical, n_per_class, percent_per_class
from .inputs import FeatureReader, Found, Inputs, by_layer, measured, unfit
from .judge import Verdict, judge
from .predictions import Judged, save_confusion, save_per_class, save_predictions
from .subsets import read_splits, save_splits

CLASSIFIERS = ("logistic", "knn", "centroid")
SHOTS = (1, 2, 5)
_CALIBRATION_TOL = 1e-3  # of the fits that choose a temperature only
_IMAGENET_TEST = 50_000


@dataclass(frozen=True)
class LowShotOptions:
    """What is measured, and what is kept of it."""

    shots: Sequence[int] = SHOTS
    percents: Sequence[float] = ()
    trials: int = 3
    subsets: Sequence[str] = ()  # files; they take the place of drawn splits
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {name: {} for name in CLASSIFIERS})  # classifier -> options
    lambd: float | None = None  # of the logistic regression; None: the protocol's
    protocol: str = ""  # whose logistic regression; empty: that of the features
    allow_fewer: bool = False
    calibrate: bool = True
    device: str = "auto"
    seed: int = 0
    save_split: Path | None = None
    save_predictions: Path | None = None
    save_per_class: Path | None = None
    save_confusion: Path | None = None


@dataclass(frozen=True)
class Tuned:
    """What training on one split came to."""

    estimator: Any  # on the features below
    test: FeatureSet  # the test images as the tuned network sees them
    temperature: float
    why: str  # which hyper-parameters, and how they were chosen


class Tuner(Protocol):
    """What trains on the images behind the features; `finetune.last_block` is one."""

    @property
    def name(self) -> str:
        """What result rows call it, as they call a classifier."""

    def fit(self, splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> Iterator[Tuned]:
        """What came out for each split of the rows of `train`."""


@dataclass(frozen=True)
class _Cell:
    """One classifier on one split of one set of features."""

    method: str
    split: Split
    estimator: Any
    verdict: Verdict
    temperature: float
    facts: Mapping[str, Any]  # for the manifest: what was chosen, and why


def run_lowshot(
    reader: FeatureReader,
    given: Given,
    options: LowShotOptions,
    say: Callable[[str], None],
    skips: Callable[[list[dict[str, str]]], None],
    tuner_of: Callable[[Inputs], Tuner] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of every backbone, layer, classifier, number of shots and trial, their means, and the run's manifest.

    `tuner_of` gives what trains last blocks on the images behind the features, where that was asked for.
    """

    _check(options)
    say = _once(say)  # not again for every layer and backbone
    judged: list[Judged] = []

    def measure(inputs: Inputs, name: str) -> Found:
        tuner = tuner_of(inputs) if tuner_of is not None else None
        methods = [*options.settings, *([tuner.name] if tuner is not None else [])]
        if inputs.pipeline is not None and (advice := inputs.pipeline.spec.advice("lowshot", methods=methods)):
            say(advice)
        started = time.perf_counter()
        rows: list[dict[str, Any]] = []
        notes: dict[str, Any] = {}
        for extra, train, test in by_layer(inputs):
            protocol = options.protocol or inputs.known_protocol
            where = {**({"backbone": printable(name)} if name else {}), **extra}
            found, notes, said = _evaluate(train, _required(test), options, protocol, say, tuner, where)
            judged.extend(said)
            rows += [{**extra, **row} for row in _with_published(found, inputs, options)]
        return rows, {**notes, "seconds": {"fit": round(time.perf_counter() - started, 3)}}

    sources = reader.pair(given)
    _require_splits(sources.train, options)
    found = measured(reader, sources, measure, skips, options.seed, "lowshot")
    _save(judged, options, say)
    return found


def evaluate_lowshot(
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str = "",
    say: Callable[[str], None] = lambda line: None,
    *,
    tuner: Tuner | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Result rows (without the columns that name data and backbone) and what the manifest should tell of the classifiers.

    Test labels are read by the metrics alone: every hyper-parameter comes from the protocol, the user, or cross-validation inside
    the labelled rows. `tuner` is what trains last blocks on the images behind the rows.
    """
    rows, notes, judged = _evaluate(train, test, options, protocol, _once(say), tuner, {})
    _save(judged, options, say)
    return rows, notes


def _evaluate(
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str,
    say: Callable[[str], None],
    tuner: Tuner | None,
    where: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any], list[Judged]]:
    """As `evaluate_lowshot`, and what is to be saved, under the columns `where` that tell backbone and layer apart."""
    train, test = labelled(train, "train", say), labelled(test, "test", say)
    require_classes(train)
    train.require_finite()
    test.require_finite()
    if shared := shared_rows(train, test):
        say(f"{shared} of the {len(test)} test images have exactly the features of a train image: are they the same pictures?")
    splits = _splits(train, options, say)
    for split in splits:
        low, high, classes = split.per_class(train.labels)
        counts = str(low) if low == high else f"{low} to {high}"
        say(
            f"{split.name}, trial {split.trial}: {counted(len(split.train), 'image')}, {counts} of each of {counted(classes, 'class', 'classes')}"
        )
    for alike in _by_shots(splits):
        if wrong := dependence(alike):
            say(wrong)
    if options.save_split is not None:
        save_splits(options.save_split, splits, train)
        say(f"wrote {options.save_split}")
    rows: list[dict[str, Any]] = []
    chosen: dict[str, Any] = {}
    judged: list[Judged] = []
    for cells in _groups(train, test, splits, options, protocol, say, tuner):
        if any(_files(options)):  # they take memory
            judged += [_judged(cell, test, where) for cell in cells]
        rows += _rows(cells, test)
        chosen |= _told(cells)
    return rows, {"classifiers": chosen}, judged


def _groups(
    train: FeatureSet,
    test: FeatureSet,
    splits: Sequence[Split],
    options: LowShotOptions,
    protocol: str,
    say: Callable[[str], None],
    tuner: Tuner | None,
) -> Iterator[list[_Cell]]:
    """The trials of each classifier on each number of shots; last those of the tuner."""
    for method, settings in options.settings.items():
        for alike in _by_shots(splits):
            cells = _cells(method, settings, alike, train, test, options, protocol)
            if line := traits_of(cells[0].estimator).summary([cell.estimator for cell in cells], alike[0].name):
                say(line)
            yield cells
    if tuner is not None:
        for alike in _by_shots(splits):
            yield _tuned_cells(tuner, alike, train, test)


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """The same, but silent at a line that it has said."""
    heard: set[str] = set()

    def first(line: str) -> None:
        if line not in heard:
            heard.add(line)
            say(line)

    return first


def _required(test: FeatureSet | None) -> FeatureSet:
    if test is None:
        raise UsageError("low-shot evaluation needs test images", fix="Give --train and --test, or --data with train/ and val/.")
    return test


def _check(options: LowShotOptions) -> None:
    """Raise UsageError for a lambda that no classifier has a use for, or that is none."""
    if options.lambd is None:
        return
    if not any(traits_of(find("classifiers", method)).penalty for method in options.settings):
        raise UsageError("--lambd is the penalty of the logistic regression, which is not among the classifiers", fix="Leave --lambd away.")
    if not 0 < options.lambd < float("inf"):
        raise UsageError(f"--lambd {options.lambd:g}: the penalty must be a number above zero")


@dataclass(frozen=True)
class _Names:
    """Images of which nothing is known yet but their names and classes."""

    ids: Sequence[str]
    labels: np.ndarray  # (N,)
    classes: Sequence[str]


def _require_splits(images: Listed, options: LowShotOptions) -> None:
    """Raise, before any image is read, where the splits that are asked for cannot be drawn from the labelled images."""
    rows = np.flatnonzero(images.labels >= 0).tolist()
    _splits(_Names([images.ids[row] for row in rows], images.labels[rows], images.classes), options, lambda line: None)


def _splits(train: Listed, options: LowShotOptions, say: Callable[[str], None]) -> list[Split]:
    if options.subsets:
        return read_splits(options.subsets, train, allow_fewer=options.allow_fewer, say=say)
    splits: list[Split] = []
    if options.shots:
        splits += n_per_class(train.labels, train.classes, options.shots, options.trials, options.seed, allow_fewer=options.allow_fewer)
    if options.percents:
        splits += percent_per_class(train.labels, train.classes, options.percents, options.trials, options.seed)
    if not splits:
        raise UsageError("nothing to measure: give --shots, --percent or --subset")
    return splits


def _by_shots(splits: Sequence[Split]) -> list[list[Split]]:
    """The trials of each number of shots, in the order of the first."""
    groups: dict[int | str, list[Split]] = {}
    for split in splits:
        groups.setdefault(split.shots, []).append(split)
    return list(groups.values())


def _cells(
    method: str,
    settings: Mapping[str, Any],
    splits: Sequence[Split],
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str,
) -> list[_Cell]:
    """Fit on the labelled rows of each split, then judge; nothing of the test set but its features is in reach of the fits."""
    traits = traits_of(find("classifiers", method))
    makes = [factory(method, settings, len(split.train), split, options, protocol) for split in splits]
    sets = [(train.features[split.train], train.labels[split.train]) for split in splits]
    estimators = [make() for make in makes]
    try:
        traits.fit_together(estimators, sets)
    except ValueError as error:
        raise unfit(f"{method} on {splits[0].name}", error) from error
    for estimator, split in zip(estimators, splits, strict=True):
        if traits.penalty and getattr(estimator, traits.penalty) is not None:
            estimator.why_ = _source_of_penalty(method, settings, options, protocol, split)
    cells = []
    for make, (x, y), split, estimator in zip(makes, sets, splits, estimators, strict=True):
        temperature = 1.0
        if options.calibrate and not traits.transductive:
            by_name = np.argsort([train.ids[row] for row in split.train])  # the folds hang on the images, not on how they came
            temperature = _temperature(make, estimator, x[by_name], y[by_name], options.seed)
        facts = {name: getattr(estimator, attribute) for name, attribute in traits.facts.items()}
        cells.append(_Cell(method, split, estimator, judge(estimator, test, temperature), temperature, facts))
    return cells


def _source_of_penalty(method: str, settings: Mapping[str, Any], options: LowShotOptions, protocol: str, split: Split) -> str:
    """Where the penalty of a classifier comes from that did not choose its own: who gave it, or whose it is."""
    traits = traits_of(find("classifiers", method))
    if traits.penalty in settings:
        return "given by --set"
    if options.lambd is not None:
        return "given by --lambd"
    known = f"{protocol} has none" if protocol else "the features' protocol is not known"
    return _preset(method, protocol, split.shots).source or f"{traits.default_penalty_of}, since {known}"


def _preset(method: str, protocol: str, shots: int | str) -> ClassifierPreset:
    """What the protocol gives a classifier; nothing where no protocol is known. Raises UnknownName where the penalty hangs on it."""
    name = method.replace("-", "_")
    hangs = bool(traits_of(find("classifiers", method)).penalty)
    if not protocol or (not hangs and protocol not in protocols()):
        return ClassifierPreset(name)
    return find_protocol(protocol).preset_of(name, shots)


def _tuned_cells(tuner: Tuner, splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> list[_Cell]:
    """As `_cells`, with a network of its own for each split; the test images go through these."""
    cells = []
    for split, tuned in zip(splits, tuner.fit(splits, train, test), strict=True):
        verdict = judge(tuned.estimator, tuned.test, tuned.temperature)
        cells.append(_Cell(tuner.name, split, tuned.estimator, verdict, tuned.temperature, {"why": tuned.why}))
    return cells


def _temperature(make: Callable[[], Any], estimator: Any, x: np.ndarray, y: np.ndarray, seed: int) -> float:
    return cross_validated_temperature(lambda: _loosened(make(), estimator), x, y, seed=seed)


def factory(method: str, settings: Mapping[str, Any], rows: int, split: Split, options: LowShotOptions, protocol: str) -> Callable[[], Any]:
    """What makes the unfitted classifier: its own defaults, then the protocol's, then the user's."""
    kind = find("classifiers", method)
    takes, penalty = options_of(kind), traits_of(kind).penalty
    values = dict(_preset(method, protocol, split.shots).options)
    if penalty and options.lambd is not None:
        values[penalty] = options.lambd
    if "k" in takes and "k" not in settings:
        values["k"] = min(takes["k"].default, rows)
    values |= {name: value for name, value in (("device", options.device), ("seed", options.seed)) if name in takes}
    return lambda: kind(**{**values, **settings})


def _loosened(estimator: Any, fitted: Any) -> Any:
    """The classifier for the folds that choose a temperature: its penalty as settled on all labelled rows, solved less exactly."""
    takes, penalty = options_of(type(estimator)), traits_of(estimator).penalty
    if "k" in takes:
        estimator.set_params(k=max(1, min(estimator.k, len(fitted.classes_))))
    if "tol" in takes:
        estimator.set_params(tol=max(_CALIBRATION_TOL, estimator.tol))
    if penalty:
        estimator.set_params(**{penalty: getattr(fitted, f"{penalty}_")})
    return estimator


def _rows(cells: Sequence[_Cell], test: FeatureSet) -> Iterator[dict[str, Any]]:
    """Every trial, then the mean with its interval; for each metric."""
    metrics = [cell.verdict.metrics(test.labels) for cell in cells]
    for name in metrics[0]:
        for cell, values in zip(cells, metrics, strict=True):
            yield {**_columns(cell, test), "trial": cell.split.trial, "metric": name, "value": values[name]}
        summary = mean_and_interval([values[name] for values in metrics])
        mean = summary.pop("mean")
        spread = {} if identical([cell.split for cell in cells]) else summary  # one draw, repeated, says nothing of others
        yield {**_columns(cells[0], test), "trial": "mean", "metric": name, "value": mean, **spread}


def _columns(cell: _Cell, test: FeatureSet) -> dict[str, Any]:
    columns: dict[str, Any] = {"method": cell.method, "shots": cell.split.shots, "n_train": len(cell.split.train), "n_test": len(test)}
    if traits_of(cell.estimator).transductive:
        columns["transductive"] = True
    return columns


def _told(cells: Sequence[_Cell]) -> dict[str, Any]:
    """What was chosen, for the manifest: calibration temperature, and the classifier's own facts."""
    told: dict[str, Any] = {}
    for cell in cells:
        facts = {name: value if isinstance(value, str) else float(value) for name, value in cell.facts.items()}
        told[f"{cell.method}, {cell.split.name}, trial {cell.split.trial}"] = {"temperature": round(cell.temperature, 4), **facts}
    return told


def _judged(cell: _Cell, test: FeatureSet, where: Mapping[str, Any]) -> Judged:
    which = {**where, "method": cell.method, "shots": cell.split.shots, "trial": cell.split.trial}
    return Judged(which, test.ids, test.labels, cell.verdict.predictions, cell.verdict.confidence, test.classes)


def _files(options: LowShotOptions) -> tuple[Path | None, Path | None, Path | None]:
    return options.save_predictions, options.save_per_class, options.save_confusion


def _save(judged: Sequence[Judged], options: LowShotOptions, say: Callable[[str], None]) -> None:
    """Write the files asked for, each one table of all classifiers and trials, and name them."""
    for path, save in zip(_files(options), (save_predictions, save_per_class, save_confusion), strict=True):
        if path is not None:
            save(path, judged)
            say(f"wrote {path}")


def _with_published(rows: Sequence[dict[str, Any]], inputs: Inputs, options: LowShotOptions) -> Iterator[dict[str, Any]]:
    """Beside measured means, the paper's numbers: for its own weights, on ImageNet-1k, with the published lists."""
    published: Mapping[Any, Any] = {}
    official = bool(options.subsets) and rows and rows[0]["n_test"] == _IMAGENET_TEST and len(inputs.train.classes) == 1000
    if official and inputs.pipeline is not None and not inputs.pipeline.spec.is_random:
        known = inputs.pipeline.spec.info.get("published", {})
        published = {**known.get("lowshot", {}), **({"1percent": known["1%"]} if "1%" in known else {})}
    for row in rows:
        beside = row["trial"] == "mean" and row["metric"] == "top1" and row["shots"] in published
        beside = beside and row["method"] == _published_method(inputs, row["shots"])
        yield {**row, "published": printable(str(published[row["shots"]]))} if beside else row


def _published_method(inputs: Inputs, shots: int | str) -> str:
    """What the paper's number was measured with, as the backbone's family knows."""
    if inputs.pipeline is None:
        return ""
    spec = inputs.pipeline.spec
    return family_of(spec.family).lowshot_method(spec.architecture, shots)
