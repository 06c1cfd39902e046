"""What `fewvit mieb` does: the scores of the image embedding benchmark MIEB, on a user's own images or features.

Source: Xiao et al. 2025, MIEB: Massive Image Embedding Benchmark; settings as in mteb 2.26.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..errors import DataError, UnknownName, UsageError, counted
from ..features import FeatureSet, warn_of_shared_rows
from ..labels import labelled, refuse_marking, require_classes
from ..results import Facts, Row
from ..sources import Given, Sources
from ..splits import Split, dependence, mean_of_draws, mieb_draws
from .inputs import FeatureReader, Found, Inputs, by_layer, measured
from .mieb_probe import Probe, convergence_gap, fit_probes
from .mieb_unsupervised import clustering_scores, retrieval_scores

PROTOCOL = "mieb/1"
TASKS = ("probe", "clustering", "retrieval")
Notify = Callable[[str], None]


def run_mieb(
    reader: FeatureReader,
    given: Given,
    tasks: Sequence[str],
    notify: Notify,
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Found:
    """Rows of every backbone, layer, task and measure, and the run's manifest.

    Without the probe only the test set is read. Raises UnknownName for a task that is none, UsageError for no task.
    """
    check_tasks(tasks)

    def measure(inputs: Inputs, name: str) -> Found:
        started = time.perf_counter()
        rows: list[Row] = []
        facts: Facts = {}
        for extra, first, second in by_layer(inputs):
            train, test = (first, second) if second is not None else (None, first)
            found, facts = evaluate_mieb(train, test, tasks, notify, device=reader.options.device)
            rows += [{**extra, **row} for row in found]
        return rows, {**facts, "seconds": {"score": round(time.perf_counter() - started, 3)}}

    sources = reader.pair(given) if "probe" in tasks else _test_alone(reader, given)
    return measured(reader, sources, measure, report_skipped, reader.backbones.seed)


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise UnknownName for a task that MIEB's scores are not made for here, UsageError for none at all."""
    if not tasks:
        raise UsageError("no task", fix=f"Give --tasks {','.join(TASKS)}, or some of them.")
    for task in tasks:
        if task not in TASKS:
            raise UnknownName("task", task, TASKS)


def evaluate_mieb(
    train: FeatureSet | None,
    test: FeatureSet,
    tasks: Sequence[str] = TASKS,
    notify: Notify = lambda line: None,
    *,
    device: str = "auto",
) -> Found:
    """Result rows of each task, in the order of TASKS, and facts for the manifest.

    `train` is the probe's alone, and its row order decides what is drawn (see `mieb_draws`). Metrics have mteb's names
    and are percent. Raises DataError for sets without labels or with too few classes, NumericalError for NaN.
    """
    check_tasks(tasks)
    refuse_marking(test, "MIEB")
    test = labelled(test, "test", notify)
    test.require_finite()
    rows: list[Row] = []
    facts: Facts = {"evaluation": PROTOCOL}
    if "probe" in tasks:
        if train is None:
            raise UsageError("the probe needs images to learn from", fix="Give --train SRC, or leave the probe away.")
        probes = _probes(labelled(train, "train", notify), test, notify)
        rows += _probe_rows(probes, len(test))
        facts["probe"] = [
            {"draw": p.split.trial, "iterations": int(np.max(p.estimator.n_iter_)), "converged": p.converged}
            for p in probes
        ]
    if "clustering" in tasks:
        require_classes(test, "test")
        rows += _rows("clustering", clustering_scores(test), {"n_test": len(test)})
    if "retrieval" in tasks:
        if len(test) < 2:
            raise DataError("one test image has no other to be compared with")
        scores, asked = retrieval_scores(test, device=device)
        left_out = {"left_out": len(test) - asked} if asked < len(test) else {}
        rows += _rows("retrieval", scores, {"n_test": len(test), "n_queries": asked, **left_out})
    return rows, facts


def _test_alone(reader: FeatureReader, given: Given) -> Sources:
    """The test set by itself: `--test`, or the part of `--data` that is one."""
    alone = given.test is not None and given.data is None
    name, notes = (str(given.test), []) if alone else given.sides()[1:]
    for note in notes:
        reader.notify(note)
    return reader.one(name, given.listing)


def _probes(train: FeatureSet, test: FeatureSet, notify: Notify) -> list[Probe]:
    """The five fitted draws, after lines on what was drawn and before one on how far from converged they are."""
    require_classes(train)
    train.require_finite()
    warn_of_shared_rows(train, test, notify)
    splits = mieb_draws(train.labels)
    notify(_drawn(splits[0], train))
    if wrong := dependence(splits):
        notify(wrong)
    probes = fit_probes(train, test, splits)
    if gap := convergence_gap(probes, train, test):
        notify(gap)
    return probes


def _drawn(split: Split, train: FeatureSet) -> str:
    """What a draw is, and how many classes have fewer images than MIEB wants."""
    counts = np.unique(train.labels, return_counts=True)[1]
    short = int((counts < int(split.shots)).sum())
    few = counted(short, "class has fewer and gives", "classes have fewer and give") + " all of them"
    return (
        f"probe: {counted(len(split.train), 'image')} a draw, {split.shots} of each of "
        f"{counted(len(counts), 'class', 'classes')}{f'; {few}' if short else ''}"
    )


def _probe_rows(probes: Sequence[Probe], n_test: int) -> Iterator[Row]:
    """Every draw, then the mean with its interval; for each metric."""
    splits = [probe.split for probe in probes]
    shared = {"method": "probe", "shots": splits[0].shots, "n_train": len(splits[0].train), "n_test": n_test}
    for name in probes[0].scores:
        values = [probe.scores[name] for probe in probes]
        for split, value in zip(splits, values, strict=True):
            yield {**shared, "trial": split.trial, "metric": name, "value": value}
        yield {**shared, "trial": "mean", "metric": name, **mean_of_draws(values, splits)}


def _rows(method: str, scores: Mapping[str, float], columns: Row) -> Iterator[Row]:
    for name, value in scores.items():
        yield {"method": method, "metric": name, "value": value, **columns}
