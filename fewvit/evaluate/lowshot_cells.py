"""One classifier on one split: made as protocol and user want, fitted on the labelled rows, calibrated, evaluated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..backbones import ClassifierPreset
from ..calibration import Estimator, cross_validated_temperature
from ..classifiers import traits_of
from ..extraction.protocols import find_protocol, protocols
from ..features import FeatureSet
from ..metrics import top_k_accuracy
from ..options import options_of
from ..plugins import find
from ..splits import Split
from .evaluation import CALIBRATED, Evaluation, calibration_of, evaluate_estimator
from .inputs import unfit
from .lowshot_options import LowShotOptions, by_shots
from .transduction import below_start, nearest_mean

_CALIBRATION_TOL = 1e-3  # of the fits that choose a temperature only


@dataclass(frozen=True)
class Tuned:
    """The result of training on one split."""

    estimator: Estimator  # on the features below
    test: FeatureSet  # the test images as the tuned network sees them
    temperature: float
    why: str  # which hyper-parameters, and how they were chosen
    calibrated: str = CALIBRATED  # whether the temperature was fitted, as `calibration_of`


class Tuner(Protocol):
    """What trains on the images behind the features; `finetune.last_block` is one."""

    @property
    def name(self) -> str:
        """Its name in result rows, as a classifier has one."""

    def fit(self, splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> Iterator[Tuned]:
        """The result for each split of the rows of `train`, in their order."""


@dataclass(frozen=True)
class Cell:
    """One classifier on one split of one set of features."""

    method: str
    split: Split
    estimator: Estimator
    evaluation: Evaluation
    temperature: float
    calibrated: str  # whether the temperature was fitted, as `calibration_of`
    facts: Mapping[str, Any]  # for the manifest: what was chosen, and why


def cells_of(
    train: FeatureSet,
    test: FeatureSet,
    splits: Sequence[Split],
    options: LowShotOptions,
    protocol: str,
    notify: Callable[[str], None],
    tuner: Tuner | None,
) -> Iterator[list[Cell]]:
    """The trials of each classifier on each number of shots; last those of the tuner."""
    parts = list(by_shots(splits))
    nearest = functools.cache(lambda part: _nearest_mean(parts[part], train, test))
    for method, settings in options.settings.items():
        for part, alike in enumerate(parts):
            cells = _cells(method, settings, alike, train, test, options, protocol)
            if line := traits_of(cells[0].estimator).summary([cell.estimator for cell in cells], alike[0].name):
                notify(line)
            if traits_of(cells[0].estimator).transductive:
                found = np.array([top_k_accuracy(cell.evaluation.rank, 1) for cell in cells])
                if line := below_start(method, found, nearest(part), alike[0].name):
                    notify(line)
            yield cells
    if tuner is not None:
        for alike in parts:
            yield _tuned_cells(tuner, alike, train, test)


def _cells(
    method: str,
    settings: Mapping[str, Any],
    splits: Sequence[Split],
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str,
) -> list[Cell]:
    """The classifier fitted on the labelled rows of each split and evaluated; no fit sees anything of the test set."""
    traits = traits_of(find("classifiers", method))
    makes = [factory(method, settings, len(split.train), split, options, protocol) for split in splits]
    sets = [(train.features[split.train], train.labels[split.train]) for split in splits]
    estimators: list[Any] = [make() for make in makes]  # whose attributes their traits name
    try:
        traits.fit_together(estimators, sets)
    except ValueError as error:
        raise unfit(f"{method} on {splits[0].name}", error) from error
    for estimator, split in zip(estimators, splits, strict=True):
        if traits.penalty and getattr(estimator, traits.penalty) is not None:
            estimator.why_ = _source_of_penalty(method, settings, options, protocol, split)
    cells = []
    for make, (x, y), split, estimator in zip(makes, sets, splits, estimators, strict=True):
        temperature, fits = 1.0, options.calibrate and not traits.transductive
        if fits:
            # the folds depend on the images, not on their order
            by_name = np.argsort([train.ids[row] for row in split.train])
            temperature = _temperature(make, estimator, x[by_name], y[by_name], options.seed)
        facts = {name: getattr(estimator, attribute) for name, attribute in traits.facts.items()}
        cells.append(
            Cell(
                method,
                split,
                estimator,
                evaluate_estimator(estimator, test, temperature),
                temperature,
                calibration_of(y, tried=fits),
                facts,
            )
        )
    return cells


def _nearest_mean(splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> np.ndarray:
    """Percent (trials,) of the test images that the nearest class mean of each split gets right."""
    fitted = [nearest_mean().fit(train.features[one.train], train.labels[one.train]) for one in splits]
    return np.array([100.0 * float((means.predict(test.features) == test.labels).mean()) for means in fitted])


def _source_of_penalty(
    method: str, settings: Mapping[str, Any], options: LowShotOptions, protocol: str, split: Split
) -> str:
    """Where the penalty of a classifier comes from that did not choose it: an option, the protocol, or a default."""
    traits = traits_of(find("classifiers", method))
    if traits.penalty in settings:
        return "given by --set"
    if options.lambd is not None:
        return "given by --lambd"
    known = f"{protocol} has none" if protocol else "the features' protocol is not known"
    return _preset(method, protocol, split.shots).source or f"{traits.default_penalty_of}, since {known}"


def _preset(method: str, protocol: str, shots: int | str) -> ClassifierPreset:
    """What the protocol gives a classifier; nothing where no protocol is known.

    Raises UnknownName for an unknown one where the penalty depends on it.
    """
    name = method.replace("-", "_")
    has_penalty = bool(traits_of(find("classifiers", method)).penalty)
    if not protocol or (not has_penalty and protocol not in protocols()):
        return ClassifierPreset(name)
    return find_protocol(protocol).preset_of(name, shots)


def _tuned_cells(tuner: Tuner, splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> list[Cell]:
    """As `_cells`, with a network of its own for each split; the test images go through these."""
    cells = []
    for split, tuned in zip(splits, tuner.fit(splits, train, test), strict=True):
        evaluation = evaluate_estimator(tuned.estimator, tuned.test, tuned.temperature)
        facts = {"why": tuned.why}
        cells.append(Cell(tuner.name, split, tuned.estimator, evaluation, tuned.temperature, tuned.calibrated, facts))
    return cells


def _temperature(make: Callable[[], Estimator], estimator: Estimator, x: np.ndarray, y: np.ndarray, seed: int) -> float:
    return cross_validated_temperature(lambda: _loosened(make(), estimator), x, y, seed=seed)


def factory(
    method: str, settings: Mapping[str, Any], rows: int, split: Split, options: LowShotOptions, protocol: str
) -> Callable[[], Estimator]:
    """What makes the unfitted classifier: its own defaults, then the protocol's, then the user's."""
    kind = find("classifiers", method)
    takes, penalty = options_of(kind), traits_of(kind).penalty
    values = dict(_preset(method, protocol, split.shots).options)
    if penalty and options.lambd is not None:
        values[penalty] = options.lambd
    if "k" in takes and isinstance(takes["k"].default, int):
        values["k"] = min(takes["k"].default, rows)
    values |= traits_of(kind).suited(rows)
    values |= {name: value for name, value in (("device", options.device), ("seed", options.seed)) if name in takes}
    return lambda: kind(**{**values, **settings})


def _loosened(estimator: Any, fitted: Any) -> Estimator:  # their options are looked up by name
    """The classifier for the folds that choose a temperature: the penalty of all labelled rows, solved less exactly."""
    takes, penalty = options_of(type(estimator)), traits_of(estimator).penalty
    if "k" in takes:
        estimator.set_params(k=max(1, min(estimator.k or fitted.k_, len(fitted.classes_))))
    if "tol" in takes:
        estimator.set_params(tol=max(_CALIBRATION_TOL, estimator.tol))
    if penalty:
        estimator.set_params(**{penalty: getattr(fitted, f"{penalty}_")})
    return estimator
