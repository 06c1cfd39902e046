"""k-NN evaluation: every k and temperature from one search. Sources: dino `eval_knn.py`, dinov2 `eval/knn.py`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..backbones import IMAGENET, KS, TEMPERATURE
from ..errors import UsageError, counted, printable
from ..extraction.principal import AS_THEY_ARE, Reduction
from ..features import FeatureSet, require_one_backbone, warn_of_shared_rows
from ..labels import align, labelled, require_classes
from ..metrics import rank_of_accepted, top_k_accuracy
from ..neighbors import Bank, Neighbors
from ..results import Facts, Row
from ..sources import Given, Sources
from ..splits import Split, dependence, dinov2_subset, mean_of_draws
from ..vote import check_temperature, votes_at
from .details import Details, Keep, both, keep_nothing
from .evaluation import accepted_classes, answers_among, of_answers
from .explain.explanation import explain_knn
from .explain.subject import reads_as_published, subject_of
from .inputs import FeatureReader, Found, Inputs, by_layer, measured
from .pairs import with_comparisons
from .predictions import Predicted

_TABLE_BYTES = 1 << 20  # votes of one block of queries stay in the CPU's cache


@dataclass(frozen=True)
class KNNOptions:
    """What is measured."""

    ks: Sequence[int] | None = None  # None or empty: the protocol's, without those above the bank's size
    temperatures: Sequence[float] = (TEMPERATURE,)
    leave_one_out: bool = False
    shots: Sequence[
        int
    ] = ()  # images per class in the bank; empty: all. k is then DINOv2's: those not above n, and n itself
    trials: int = 1
    device: str = "auto"
    reduction: Reduction = AS_THEY_ARE  # of the features, found in the train features alone


@dataclass(frozen=True)
class Score:
    """One measurement."""

    k: int
    temperature: float
    top1: float  # percent
    top5: float  # percent
    predictions: np.ndarray = field(compare=False)  # (Q,) the class with most votes, the lower one on a tie
    probabilities: np.ndarray = field(compare=False)  # (Q,) its share of all votes


def evaluate_knn(
    train: FeatureSet,
    test: FeatureSet | None,
    options: KNNOptions,
    notify: Callable[[str], None] = lambda line: None,
    keep: Keep = keep_nothing,
) -> tuple[list[Row], float]:
    """Result rows (without the columns that name data and backbone) and the seconds of search and vote.

    `keep` gets what was predicted for each image, under the columns of its row.
    Raises UsageError for a k above the bank's size and for options that exclude each other, DataError for unlabelled or
    one-class data and for test classes that train has not.
    """
    _check(options, test)
    train = labelled(train, "train", notify)
    if test is not None:
        warn_of_shared_rows(train, test, notify)
        require_one_backbone(train, test)
    test = train if test is None else align(train, labelled(test, "test", notify))
    require_classes(train)
    started = time.perf_counter()
    rows = (
        list(_few_shot_rows(train, test, options, notify, keep))
        if options.shots
        else list(_rows(train, test, options, notify, keep))
    )
    return rows, time.perf_counter() - started


def _check(options: KNNOptions, test: FeatureSet | None) -> None:
    for temperature in options.temperatures:
        check_temperature(temperature)
    if test is None and not options.leave_one_out:
        raise UsageError(
            "there is no test set", fix="Give --test, or --leave-one-out to classify each image by the others."
        )
    if options.leave_one_out and test is not None:
        raise UsageError("--leave-one-out evaluates one set on itself, so there can be no test set")
    if options.leave_one_out and options.shots:
        raise UsageError(
            "--shots needs a test set: with --leave-one-out the drawn images would be evaluated on themselves"
        )
    if options.trials != 1 and not options.shots:
        raise UsageError("--trials goes with --shots: without it there is one bank, and nothing to draw")
    if options.shots and options.trials < 1:
        raise UsageError(f"{counted(options.trials, 'trial measures', 'trials measure')} nothing; ask for one or more")


def _ks(options: KNNOptions, bank: int, notify: Callable[[str], None]) -> list[int]:
    """The k to measure with a bank of this size."""
    if options.ks:
        too_large = [k for k in options.ks if not 1 <= k <= bank]
        if too_large:
            raise UsageError(
                f"k = {too_large[0]} does not fit a bank of {counted(bank, 'image')}",
                fix=f"Choose k between 1 and {bank}.",
            )
        return sorted(set(options.ks))
    left_out = [k for k in KS if k > bank]
    if left_out:
        notify(f"k = {', '.join(map(str, left_out))} left out: the bank has {counted(bank, 'image')}")
    return [k for k in KS if k <= bank] or [bank]


def _rows(
    train: FeatureSet, test: FeatureSet, options: KNNOptions, notify: Callable[[str], None], keep: Keep
) -> Iterator[Row]:
    alone = options.leave_one_out
    ks = _ks(options, len(train) - alone, notify)
    scores = score_knn(train, test, ks, options.temperatures, leave_one_out=alone, device=options.device)
    keep(Details([_predicted(score, test) for score in scores]))
    for score in scores:
        for metric in ("top1", "top5"):
            yield {
                "method": "knn",
                "k": score.k,
                "temperature": score.temperature,
                "metric": metric,
                "value": getattr(score, metric),
                "n_train": len(train) - alone,
                "n_test": len(test),
            }


def _predicted(score: Score, test: FeatureSet, **which: int) -> Predicted:
    columns = {"method": "knn", "k": score.k, "temperature": score.temperature, **which}
    return Predicted.of(columns, test, score.predictions, score.probabilities)


def _few_shot_rows(
    train: FeatureSet, test: FeatureSet, options: KNNOptions, notify: Callable[[str], None], keep: Keep
) -> Iterator[Row]:
    """Each trial, then its mean: DINOv2's n-per-class times tries, with k in {10, 20, 100, 200, n} up to n."""
    for n in options.shots:
        ks = sorted({k for k in (*(options.ks or KS), n) if k <= n})
        values: dict[tuple[int, float, str], list[float]] = {}
        splits = [
            Split(dinov2_subset(train.labels, n, trial, train.classes), n, trial) for trial in range(options.trials)
        ]
        if wrong := dependence(splits):
            notify(wrong)
        for trial, split in enumerate(splits):
            bank = train.select(split.train)
            scores = score_knn(bank, test, ks, options.temperatures, device=options.device)
            keep(Details([_predicted(score, test, shots=n, trial=trial) for score in scores]))
            for score in scores:
                for metric in ("top1", "top5"):
                    values.setdefault((score.k, score.temperature, metric), []).append(getattr(score, metric))
                    yield {
                        **_few(score.k, score.temperature, n, metric, len(bank), len(test)),
                        "trial": trial,
                        "value": getattr(score, metric),
                    }
        for (k, temperature, metric), sample in values.items():
            mean = mean_of_draws(sample, splits)
            yield {**_few(k, temperature, n, metric, len(bank), len(test)), "trial": "mean", **mean}


def _few(k: int, temperature: float, shots: int, metric: str, n_train: int, n_test: int) -> Row:
    return {
        "method": "knn",
        "k": k,
        "temperature": temperature,
        "shots": shots,
        "metric": metric,
        "n_train": n_train,
        "n_test": n_test,
    }


def score_knn(
    train: FeatureSet,
    test: FeatureSet,
    ks: Sequence[int],
    temperatures: Sequence[float],
    *,
    leave_one_out: bool = False,
    device: str = "auto",
) -> list[Score]:
    """Top-1 and top-5 in percent for each temperature and k, from one search for the largest k, chunk by chunk."""
    bank = Bank(train.features, device=device)
    n_classes = len(train.classes)
    accepted, answers = accepted_classes(test), answers_among(np.arange(n_classes), test)
    settings = [(t, k) for t in temperatures for k in ks]
    ranks: dict[tuple[float, int], list[np.ndarray]] = {one: [] for one in settings}
    best: dict[tuple[float, int], list[np.ndarray]] = {one: [] for one in settings}
    shares: dict[tuple[float, int], list[np.ndarray]] = {one: [] for one in settings}
    for part, neighbors in bank.chunks(test.features, max(ks), exclude=np.arange(len(test)) if leave_one_out else None):
        for block, few in _blocks(neighbors, max(64, _TABLE_BYTES // (8 * n_classes))):
            targets = accepted[part][block]
            for temperature in temperatures:
                for k, of_all in votes_at(few, train.labels, n_classes, temperature, ks):
                    votes = of_answers(of_all, answers, -1.0)  # so that none of the others comes first
                    ranks[temperature, k].append(rank_of_accepted(votes, targets))
                    first = votes.argmax(axis=1)
                    best[temperature, k].append(first)
                    shares[temperature, k].append(_share_of(votes, first))
    scores = []
    for temperature, k in settings:
        rank, first, share = (np.concatenate(parts[temperature, k]) for parts in (ranks, best, shares))
        top1, top5 = top_k_accuracy(rank, 1), top_k_accuracy(rank, min(5, k))
        scores.append(Score(k, temperature, top1, top5, first, share))
    return scores


def _share_of(votes: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The share (Q,) of the first class (Q,) in all votes (Q, C) that count; 0 where there is none."""
    own, total = votes[np.arange(len(first)), first], votes.sum(axis=1, where=votes > 0)
    found: np.ndarray = own / np.where(total > 0, total, 1)
    return found


def _blocks(neighbors: Neighbors, size: int) -> Iterator[tuple[slice, Neighbors]]:
    """The neighbours of `size` queries after another."""
    for start in range(0, len(neighbors.rows), size):
        part = slice(start, start + size)
        yield part, Neighbors(neighbors.rows[part], neighbors.scores[part])


def run_knn(
    reader: FeatureReader,
    given: Given,
    options: KNNOptions,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
    keep: Keep = keep_nothing,
    *,
    explain: bool = False,
) -> Found:
    """Rows of every backbone, and the run's manifest: what `fewvit knn` prints; `keep` as for `evaluate_knn`.

    `explain`: the manifest also has what may make the number differ from the published one. Of several backbones it
    has `comparisons`, as `pairs.compared`.
    """
    check_reduction(options.reduction, explain=explain, leave_one_out=options.leave_one_out)
    predicted: list[Predicted] = []  # where there are several backbones

    def measure(inputs: Inputs, name: str) -> Found:
        if inputs.pipeline is not None and (advice := inputs.pipeline.spec.advice("knn", pool=inputs.pipeline.pool)):
            notify(advice)
        if inputs.skipped:
            notify(f"accuracy is over the remaining images: {counted(len(inputs.skipped), 'was', 'were')} left out")
        rows: list[Row] = []
        seconds = 0.0

        def note(part: Details, extra: Row) -> None:
            where = {"backbone": printable(name), **extra}
            predicted.extend(replace(one, which={**where, **one.which}) for one in part.predicted)

        reduced: Facts = {}
        for extra, whole_train, whole_test in by_layer(inputs):
            train, test, reduced = options.reduction.of(whole_train, whole_test, notify)
            details: list[Details] = []
            told = both(keep, functools.partial(note, extra=extra)) if name else keep
            found, took = evaluate_knn(train, test, options, notify, both(told, details.append) if explain else told)
            seconds += took
            shown = found if options.reduction else _with_published(found, inputs)
            rows += [{**extra, **row} for row in shown]
        facts: Facts = {**reduced, "seconds": {"search": round(seconds, 3)}}
        if explain:  # of the last block, where each was measured
            of_last = [one for part in details for one in part.predicted]
            facts["explain"] = explain_knn(subject_of(inputs, train, test, found, of_last))
        return rows, facts

    sources = open_evaluated(reader, given, options.leave_one_out)
    rows_and_facts = measured(reader, sources, measure, report_skipped, reader.backbones.seed)
    return with_comparisons(rows_and_facts, predicted, notify, reader.backbones.seed)


def _with_published(rows: Sequence[Row], inputs: Inputs) -> Iterator[Row]:
    """Beside top-1, the published number: of its own weights, read as it was, on ImageNet-1k with all training images.

    It stands at the k that the protocol says the number is of; where it says none, beside the best of those measured.
    """
    pipeline = inputs.pipeline
    official = bool(rows) and IMAGENET.is_tested_on(rows[0]["n_test"], len(inputs.train.classes))
    if not official or pipeline is None or pipeline.spec.is_random or pipeline.each:
        yield from rows
        return
    if "knn" not in pipeline.spec.published or not reads_as_published(pipeline):
        yield from rows
        return
    top1 = [row for row in rows if row["metric"] == "top1" and "shots" not in row]
    k = pipeline.protocol.published_k or max(top1, key=lambda row: row["value"], default={"k": 0})["k"]
    for row in rows:
        is_it = row["k"] == k and row["temperature"] == TEMPERATURE and row["metric"] == "top1" and "shots" not in row
        yield {**row, "published": pipeline.spec.published["knn"]} if is_it else row


def check_reduction(reduction: Reduction, *, explain: bool = False, leave_one_out: bool = False) -> None:
    """Raise UsageError for what principal axes do not go with."""
    if reduction and leave_one_out:
        raise UsageError(
            "--pca and --whiten are fitted on train images alone, and with --leave-one-out each is a test image, too",
            fix="Give --train and --test, or leave --pca and --whiten away.",
        )
    if reduction and explain:
        raise UsageError(
            "--explain compares with published numbers, which are of features without --pca and --whiten",
            fix="Leave --explain away, or --pca and --whiten.",
        )


def open_evaluated(reader: FeatureReader, given: Given, leave_one_out: bool) -> Sources:
    """A bank and a test set, or one set whose images are judged by one another. Raises UsageError for the other."""
    return _alone(reader, given) if leave_one_out else reader.pair(given)


def _alone(reader: FeatureReader, given: Given) -> Sources:
    """The one source whose images are classified by one another."""
    if given.test is not None or (given.data is None) == (given.train is None):
        raise UsageError("--leave-one-out evaluates one set: give it in --data or --train, and no --test")
    return reader.one(str(given.data or given.train), given.listing)
