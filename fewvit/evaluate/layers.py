"""Accuracy of each block, by class token and patch mean: which one a few labels should be fitted on.

All blocks come from one forward pass of each image, and from the cache after it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..backbones import TEMPERATURE
from ..errors import UsageError
from ..extraction.notes import TOKENS
from ..extraction.pipeline import FeatureOptions, Pipeline, settle
from ..features import FeatureSet
from ..models.pools import EACH_TOKEN, has_class_token
from ..results import Facts, Row
from ..sources import Given
from .inputs import FeatureReader, Found, Inputs, by_layer, measured
from .knn import KNNOptions, evaluate_knn
from .lowshot import evaluate_lowshot, once
from .lowshot_options import LowShotOptions, require_splits, splits_of

CHOICES = ("test", "train")
K, SHOTS, TRIALS = 20, 5, 5
# what the rows are of that no test image had a part in, by their method
ON_TRAIN = {"knn": "train, leave-one-out", "logistic": "train, held out"}
_CAUTION = (
    "a block that was chosen by its accuracy on the test images has seen them: its number is too high for new ones. "
    "--choose-on train chooses on the train images alone"
)

_TOKENS = ("cls", "mean")  # that a block has


@dataclass(frozen=True)
class LayerOptions:
    """What is measured of each block, and what the best one is chosen on."""

    k: int = K  # neighbours; fewer where the bank has fewer
    shots: int = SHOTS  # labelled images per class of the logistic regression
    trials: int = TRIALS  # draws of them
    choose_on: str = "test"  # or train: each image's k-NN among the others, and fits judged on what was not drawn
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Choice:
    """The best block by one measure."""

    by: str  # knn or logistic
    on: str  # test or train
    layer: int
    pool: str
    value: float  # percent, of what it was chosen by
    test: float  # percent on the test images; the same where it was chosen by them
    last: float  # percent there of the last block's token that the protocol reads
    last_pool: str

    @property
    def facts(self) -> Facts:
        """For a result's manifest."""
        return {**dataclasses.asdict(self), "over_last": self.test - self.last}


def check_options(options: LayerOptions) -> None:
    """Raise UsageError for what nothing can be measured by."""
    if options.choose_on not in CHOICES:
        raise UsageError(f"--choose-on {options.choose_on!r} is not one of {', '.join(CHOICES)}")
    for flag, value in (("--k", options.k), ("--shots", options.shots), ("--trials", options.trials)):
        if value < 1:
            raise UsageError(f"{flag} {value} measures nothing; ask for one or more")


def run_layers(
    reader: FeatureReader,
    given: Given,
    options: LayerOptions,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Found:
    """Rows of every backbone, block, token and method, and the run's manifest, whose `choices` are the best blocks.

    Raises UsageError for features from files, which are of one block, and for models without blocks.
    """
    check_options(options)
    pool = reader.options.pool or EACH_TOKEN
    if reader.options.layers not in (None, "each") or pool not in (EACH_TOKEN, *_TOKENS):
        raise UsageError(
            "`layers` measures each block, by its class token and its mean patch token",
            fix="Leave --layers away, and --pool, or give --pool cls or mean.",
        )
    reader.options = dataclasses.replace(reader.options, layers="each", pool=pool)
    sources = reader.pair(given)
    if sources.train.images is None or sources.test is None or sources.test.images is None:
        raise UsageError("features of a file are of one block", fix="Give images on both sides.")
    require_splits(sources.train, _lowshot(options))
    notify = once(notify)  # not again for every block

    def measure(inputs: Inputs, name: str) -> Found:
        started = time.perf_counter()
        rows = list(_rows(inputs, options, notify))
        chosen = _choices(rows, inputs, options)
        for line in told(chosen, name, options):
            notify(line)
        facts: Facts = {
            "choices": [one.facts for one in chosen],
            "seconds": {"fit": round(time.perf_counter() - started, 3)},
        }
        return rows, facts

    return measured(reader, sources, measure, report_skipped, options.seed, "lowshot")


def _rows(inputs: Inputs, options: LayerOptions, notify: Callable[[str], None]) -> Iterator[Row]:
    for where, train, test in by_layer(inputs):
        if test is None or inputs.pipeline is None:
            continue
        extra = {"pool": inputs.pipeline.pool, **where}
        k = min(options.k, int((train.labels >= 0).sum()))
        for row in [*_knn(train, test, k, options, notify), *_knn(train, None, k, options, notify)]:
            yield {**extra, **row}
        yield from ({**extra, **row} for row in _logistic(train, test, inputs.known_protocol, options, notify))
        held = _held_out(train, options) if options.choose_on == "train" else None
        if held is not None:
            for row in _logistic(train, held, inputs.known_protocol, options, notify):
                yield {**extra, **row, "judged_on": ON_TRAIN["logistic"]}


def _knn(
    train: FeatureSet, test: FeatureSet | None, k: int, options: LayerOptions, notify: Callable[[str], None]
) -> Iterator[Row]:
    """The top-1 of k-NN on the test images; without them that of each train image, where the choice is by those."""
    if test is None and options.choose_on != "train":
        return
    alone = test is None
    asked = KNNOptions((max(1, k - 1) if alone else k,), (TEMPERATURE,), alone, device=options.device)
    for row in evaluate_knn(train, test, asked, notify)[0]:
        if row["metric"] == "top1":
            yield {**row, **({"judged_on": ON_TRAIN["knn"]} if alone else {})}


def _logistic(
    train: FeatureSet, test: FeatureSet, protocol: str, options: LayerOptions, notify: Callable[[str], None]
) -> Iterator[Row]:
    """The top-1 of every draw, and their mean."""
    rows, _ = evaluate_lowshot(train, test, _lowshot(options), protocol, notify)
    yield from (row for row in rows if row["metric"] == "top1")


def _held_out(train: FeatureSet, options: LayerOptions) -> FeatureSet | None:
    """The train images that have a label and are in none of the draws; None where they are not of two classes."""
    labelled_rows = np.flatnonzero(train.labels >= 0)
    known = train.select(labelled_rows)  # the draws number these
    drawn = [split.train for split in splits_of(known, _lowshot(options), lambda line: None)]
    rest = np.setdiff1d(np.arange(len(known)), np.concatenate(drawn))
    return known.select(rest) if len(np.unique(known.labels[rest])) > 1 else None


def _lowshot(options: LayerOptions) -> LowShotOptions:
    return LowShotOptions(
        shots=(options.shots,),
        trials=options.trials,
        settings={"logistic": {}},
        calibrate=False,
        device=options.device,
        seed=options.seed,
    )


def _choices(rows: Sequence[Row], inputs: Inputs, options: LayerOptions) -> list[Choice]:
    """The best block by k-NN and by logistic regression; the later one on a tie.

    Chosen on the train images each is by its own measure there; by k-NN where no image is left beside the draws.
    """
    if inputs.pipeline is None:
        return []
    usual = usual_token(inputs.pipeline)
    on_test = {method: _means(rows, method) for method in ("knn", "logistic")}
    found = []
    for method, values in on_test.items():
        judged = values
        if options.choose_on == "train":
            judged = _means(rows, method, ON_TRAIN[method]) or _means(rows, "knn", ON_TRAIN["knn"])
        layer, pool = max(judged, key=lambda place: (judged[place], place[0]))
        pools = {known for _, known in values}
        last_pool = usual if usual in pools else next(iter(pools))
        last = values[max(known for known, _ in values), last_pool]
        chosen = judged[layer, pool], values[layer, pool]
        found.append(Choice(method, options.choose_on, layer, pool, *chosen, last, last_pool))
    return found


def _means(rows: Sequence[Row], method: str, judged_on: str | None = None) -> dict[tuple[int, str], float]:
    """(block, token) -> percent."""
    return {
        (row["layer"], row["pool"]): row["value"]
        for row in rows
        if row["method"] == method and row.get("judged_on") == judged_on and row.get("trial", "mean") == "mean"
    }


def usual_token(pipeline: Pipeline) -> str:
    """Which of the two tokens the protocol reads of the last block; the class token, if there is one, where neither."""
    own = settle(pipeline.spec, FeatureOptions(pipeline.protocol.name, device=pipeline.device)).pool
    return (
        own
        if own in _TOKENS
        else "cls"
        if has_class_token(pipeline.spec.architecture, pipeline.spec.tokens)
        else "mean"
    )


def told(chosen: Sequence[Choice], name: str, options: LayerOptions) -> Iterator[str]:
    """Which blocks are best, by how much over the last, and what that number is worth; a line each."""
    of = f"{name}: " if name else ""
    for one in chosen:
        how = f"{options.k}-NN" if one.by == "knn" else f"{options.shots}-shot logistic regression"
        apart = one.test - one.last
        than = f"{'over' if apart >= 0 else 'below'} the last block's {TOKENS[one.last_pool]} ({one.last:.2f} %)"
        lead = f"{abs(apart):.2f} points {than}"
        block = f"the {TOKENS[one.pool]} of block {one.layer}"
        if one.on == "train":
            yield f"{of}chosen on the train images, {block}: {one.test:.2f} % by {how}, {lead}"
        else:
            yield f"{of}best by {how} on the test images: {block}, {one.test:.2f} %, {lead}"
    if any(one.on == "test" for one in chosen):
        yield _CAUTION
