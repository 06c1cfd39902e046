"""Low-shot evaluation: classifiers fitted on a few labelled images per class, over trials.

Source: Assran et al. 2022, section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones import IMAGENET, family_of
from ..classifiers import traits_of
from ..errors import UsageError, counted, printable
from ..features import FeatureSet, warn_of_shared_rows
from ..labels import labelled, require_classes
from ..results import Facts, Row
from ..sources import Given
from ..splits import dependence, mean_of_draws
from .details import Details, Keep, keep_nothing
from .evaluation import CALIBRATED
from .explain.explanation import explain_lowshot
from .explain.subject import reads_as_published, subject_of
from .inputs import FeatureReader, Found, Inputs, by_layer, measured
from .knn import check_reduction
from .lowshot_cells import Cell, Tuner, cells_of
from .lowshot_options import LowShotOptions, by_shots, check_options, require_splits, splits_of
from .pairs import with_comparisons
from .predictions import Predicted, save_confusion, save_per_class, save_predictions
from .subsets import save_splits


def run_lowshot(
    reader: FeatureReader,
    given: Given,
    options: LowShotOptions,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
    tuner_of: Callable[[Inputs], Tuner] | None = None,
    keep: Keep | None = None,
    *,
    explain: bool = False,
) -> Found:
    """Rows of every backbone, layer, classifier, number of shots and trial, their means, and the run's manifest.

    `tuner_of` gives what trains last blocks on the images behind the features, where that was asked for. `keep` gets
    what was predicted for each image. `explain`: the manifest also has what may make the numbers differ from the
    published ones.
    """

    check_options(options)
    check_reduction(options.reduction, explain=explain)
    if options.reduction and tuner_of is not None:
        raise UsageError("last-block trains on images, and --pca and --whiten are of features", fix="Leave one away.")
    notify = once(notify)  # not again for every layer and backbone
    predicted: list[Predicted] = []

    def measure(inputs: Inputs, name: str) -> Found:
        tuner = tuner_of(inputs) if tuner_of is not None else None
        methods = [*options.settings, *([tuner.name] if tuner is not None else [])]
        if inputs.pipeline is not None and (advice := inputs.pipeline.spec.advice("lowshot", methods=methods)):
            notify(advice)
        started = time.perf_counter()
        rows: list[Row] = []
        notes: Facts = {}
        reduced: Facts = {}
        for extra, whole_train, whole_test in by_layer(inputs):
            train, test, reduced = options.reduction.of(whole_train, whole_test, notify)
            protocol = options.protocol or inputs.known_protocol
            where = {**({"backbone": printable(name)} if name else {}), **extra}
            wanted = explain or keep is not None or bool(name) or any(_files(options))
            found, notes, new = _evaluate(train, _required(test), options, protocol, notify, tuner, where, wanted)
            predicted.extend(new)
            shown = found if options.reduction else _with_published(found, inputs, options)
            rows += [{**extra, **row} for row in shown]
        facts: Facts = {**notes, **reduced, "seconds": {"fit": round(time.perf_counter() - started, 3)}}
        if explain:  # of the last block, where each was measured
            subject = subject_of(inputs, train, test, found, new, "lowshot")
            facts["explain"] = explain_lowshot(subject, options, notes["classifiers"])
        return rows, facts

    sources = reader.pair(given)
    require_splits(sources.train, options)
    found = measured(reader, sources, measure, report_skipped, options.seed, "lowshot")
    _save(predicted, options, notify)
    (keep or keep_nothing)(Details(predicted))
    several = len({one.which.get("backbone") for one in predicted}) > 1
    return with_comparisons(found, predicted, notify, options.seed) if several else found


def evaluate_lowshot(
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str = "",
    notify: Callable[[str], None] = lambda line: None,
    *,
    tuner: Tuner | None = None,
) -> Found:
    """Result rows (without the columns that name data and backbone) and the classifiers' facts for the manifest.

    Test labels are read by the metrics alone: every hyper-parameter comes from the protocol, the user, or
    cross-validation inside the labelled rows. `tuner` is what trains last blocks on the images behind the rows.
    """
    wanted = any(_files(options))
    rows, notes, predicted = _evaluate(train, test, options, protocol, once(notify), tuner, {}, wanted)
    _save(predicted, options, notify)
    return rows, notes


def _evaluate(
    train: FeatureSet,
    test: FeatureSet,
    options: LowShotOptions,
    protocol: str,
    notify: Callable[[str], None],
    tuner: Tuner | None,
    where: Mapping[str, Any],
    wanted: bool,
) -> tuple[list[Row], Facts, list[Predicted]]:
    """As `evaluate_lowshot`, and where they are wanted the predictions, under columns `where` of backbone and layer."""
    train, test = labelled(train, "train", notify), labelled(test, "test", notify)
    require_classes(train)
    train.require_finite()
    test.require_finite()
    warn_of_shared_rows(train, test, notify)
    splits = splits_of(train, options, notify)
    for split in splits:
        low, high, classes = split.per_class(train.labels)
        counts = str(low) if low == high else f"{low} to {high}"
        notify(
            f"{split.name}, trial {split.trial}: {counted(len(split.train), 'image')}, {counts} of each of "
            f"{counted(classes, 'class', 'classes')}"
        )
    for alike in by_shots(splits):
        if wrong := dependence(alike):
            notify(wrong)
    if options.save_split is not None:
        save_splits(options.save_split, splits, train)
        notify(f"wrote {options.save_split}")
    rows: list[Row] = []
    chosen: Facts = {}
    predicted: list[Predicted] = []
    for cells in cells_of(train, test, splits, options, protocol, notify, tuner):
        if wanted:  # they take memory
            predicted += [_predicted(cell, test, where) for cell in cells]
        rows += _rows(cells, test)
        chosen |= _facts(cells)
    return rows, {"classifiers": chosen}, predicted


def once(notify: Callable[[str], None]) -> Callable[[str], None]:
    """A `notify` that passes each line on once only."""
    passed: set[str] = set()

    def first(line: str) -> None:
        if line not in passed:
            passed.add(line)
            notify(line)

    return first


def _required(test: FeatureSet | None) -> FeatureSet:
    if test is None:
        raise UsageError(
            "low-shot evaluation needs test images", fix="Give --train and --test, or --data with train/ and val/."
        )
    return test


def _rows(cells: Sequence[Cell], test: FeatureSet) -> Iterator[Row]:
    """Every trial, then the mean with its interval; for each metric."""
    metrics = [cell.evaluation.metrics(test) for cell in cells]
    for name in metrics[0]:
        for cell, values in zip(cells, metrics, strict=True):
            told = _told(name, [cell])
            yield {**_columns(cell, test), "trial": cell.split.trial, "metric": name, "value": values[name], **told}
        mean = mean_of_draws([values[name] for values in metrics], [cell.split for cell in cells])
        yield {**_columns(cells[0], test), "trial": "mean", "metric": name, **mean, **_told(name, cells)}


def _told(metric: str, cells: Sequence[Cell]) -> Row:
    """Beside a calibration error, whether the confidences it is of were calibrated; in all trials, of a mean."""
    if metric != "ece":
        return {}
    return {"calibrated": next((cell.calibrated for cell in cells if cell.calibrated != CALIBRATED), CALIBRATED)}


def _columns(cell: Cell, test: FeatureSet) -> Row:
    columns: Row = {
        "method": cell.method,
        "shots": cell.split.shots,
        "n_train": len(cell.split.train),
        "n_test": len(test),
    }
    if traits_of(cell.estimator).transductive:
        columns["transductive"] = True
    return columns


def _facts(cells: Sequence[Cell]) -> Facts:
    """What was chosen, for the manifest: calibration temperature, and the classifier's own facts."""
    chosen: Facts = {}
    for cell in cells:
        facts = {name: value if isinstance(value, str) else float(value) for name, value in cell.facts.items()}
        chosen[f"{cell.method}, {cell.split.name}, trial {cell.split.trial}"] = {
            "temperature": round(cell.temperature, 4),
            **facts,
        }
    return chosen


def _predicted(cell: Cell, test: FeatureSet, where: Mapping[str, Any]) -> Predicted:
    which = {**where, "method": cell.method, "shots": cell.split.shots, "trial": cell.split.trial}
    return Predicted.of(which, test, cell.evaluation.predictions, cell.evaluation.confidence)


def _files(options: LowShotOptions) -> tuple[Path | None, Path | None, Path | None]:
    return options.save_predictions, options.save_per_class, options.save_confusion


def _save(predicted: Sequence[Predicted], options: LowShotOptions, notify: Callable[[str], None]) -> None:
    """Write the files asked for, each one table of all classifiers and trials, and name them."""
    for path, save in zip(_files(options), (save_predictions, save_per_class, save_confusion), strict=True):
        if path is not None:
            save(path, predicted)
            notify(f"wrote {path}")


def _with_published(rows: Sequence[Row], inputs: Inputs, options: LowShotOptions) -> Iterator[Row]:
    """Beside measured means, the paper's numbers: for its own weights, read as they were, with the published lists.

    And on ImageNet-1k.
    """
    published: Mapping[Any, Any] = {}
    official = bool(options.subsets) and rows and IMAGENET.is_tested_on(rows[0]["n_test"], len(inputs.train.classes))
    if official and inputs.pipeline is not None and not inputs.pipeline.spec.is_random:
        known = inputs.pipeline.spec.info.get("published", {})
        if not known or not reads_as_published(inputs.pipeline, "lowshot"):
            known = {}
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
