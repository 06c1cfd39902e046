"""Episodes: N-way K-shot tasks drawn from one set, or Omniglot's published runs, and the mean accuracy over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ..calibration import Estimator
from ..classifiers import traits_of
from ..cpu import in_threads
from ..datasets import Listing
from ..errors import DataError, NumericalError, UsageError, counted, printable
from ..features import FeatureSet
from ..labels import labelled
from ..metrics import mean_and_interval
from ..plugins import find
from ..results import Row
from .details import Details, EpisodeScores, Keep, keep_nothing
from .episode_draws import Episodes, draw_episodes, read_classes, read_runs, require_runs
from .inputs import FeatureReader, Found, Inputs, by_layer, measured
from .transduction import below_start, nearest_mean

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_BYTES = 4 << 20  # features of the episodes that are computed at once stay in the CPU's cache


@dataclass(frozen=True)
class EpisodeOptions:
    """What is drawn and measured."""

    ways: int = 5  # classes of an episode
    shots: Sequence[int] = (1,)  # support images per class
    queries: int = 15  # images per class to be classified
    episodes: int = 600
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"centroid": {}})  # classifier -> options
    classes: str | None = None  # file of class names, one per line, words about it may follow; None: all classes
    runs: str | None = None  # folder or zip of Omniglot's one-shot runs, which say themselves what an episode is
    seed: int = 0


def run_episodes(
    reader: FeatureReader,
    source: str,
    listing: Listing,
    options: EpisodeOptions,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
    keep: Keep = keep_nothing,
) -> Found:
    """Rows of every backbone, layer, number of shots and classifier, and the run's manifest, as `fewvit episodes` has.

    `keep` as for `evaluate_episodes`. Raises as `evaluate_episodes`, and DataError for runs that cannot be read.
    """
    check_options(options)
    if options.runs is not None:
        require_runs(options.runs)

    def measure(inputs: Inputs, name: str) -> Found:
        started = time.perf_counter()
        rows = [
            {**extra, **row}
            for extra, features, _ in by_layer(inputs)
            for row in evaluate_episodes(features, options, notify, keep)
        ]
        return rows, {"seconds": {"episodes": round(time.perf_counter() - started, 3)}}

    sources = reader.one(source, listing, unlabelled=options.runs is not None)
    if options.runs is not None:
        read_runs(options.runs, sources.train.ids)  # before any image is read
    return measured(reader, sources, measure, report_skipped, options.seed)


def evaluate_episodes(
    features: FeatureSet,
    options: EpisodeOptions,
    notify: Callable[[str], None] = lambda line: None,
    keep: Keep = keep_nothing,
) -> list[Row]:
    """Result rows (without the columns that name data and backbone): one mean for each number of shots and classifier.

    `keep` gets the accuracy in each episode. Raises UsageError for options that cannot be, DataError for too few
    classes or images and for unlabelled ones, NumericalError for features that are not finite.
    """
    check_options(options)
    features.require_finite()
    estimators = {method: find("classifiers", method)(**settings) for method, settings in options.settings.items()}
    rows = []
    for episodes in _episodes(features, options, notify):
        start: np.ndarray | None = None  # of the transductive ones
        for method, estimator in estimators.items():
            found = accuracies(features.features, episodes, estimator, method)
            if traits_of(estimator).transductive:
                start = accuracies(features.features, episodes, nearest_mean(), "centroid") if start is None else start
                if line := below_start(method, found, start, episodes.shown):
                    notify(line)
            keep(Details(episodes=[EpisodeScores({"method": method, **episodes.shape}, found)]))
            summary = mean_and_interval(found.tolist())
            rows.append(
                {
                    "method": method,
                    **episodes.shape,
                    "metric": "accuracy",
                    "trial": "mean",
                    "value": summary.pop("mean"),
                    **summary,
                    "episodes": len(episodes),
                    **({"transductive": True} if traits_of(estimator).transductive else {}),
                }
            )
    return rows


def check_options(options: EpisodeOptions) -> None:
    """Raise UsageError for numbers that make no episode, and for classifiers that do not work on features."""
    for name, value, least in (
        ("ways", options.ways, 2),
        ("queries", options.queries, 1),
        ("episodes", options.episodes, 1),
    ):
        if value < least:
            raise UsageError(f"--{name} {value}: an evaluation needs at least {least}")
    if not options.shots or min(options.shots) < 1:
        raise UsageError("--shots: every class of an episode needs at least one labelled image")
    for method, given in options.settings.items():
        traits_of(find("classifiers", method)).ready(given)
        if traits_of(find("classifiers", method)).needs != "features":
            raise UsageError(f"{method} works on tokens; episodes are drawn from features, one row per image")


def _episodes(features: FeatureSet, options: EpisodeOptions, notify: Callable[[str], None]) -> Iterator[Episodes]:
    """The runs, or the episodes for each number of shots."""
    if options.runs is not None:
        yield read_runs(options.runs, features.ids)
        return
    members = _members(features, options, notify)
    for shots in dict.fromkeys(options.shots):
        _require_images(members, features.classes, options, shots)
        yield draw_episodes(
            list(members.values()), options.ways, shots, options.queries, options.episodes, options.seed
        )


def _members(features: FeatureSet, options: EpisodeOptions, notify: Callable[[str], None]) -> dict[int, np.ndarray]:
    """The rows of each class that has images and is asked for."""
    wanted = np.unique(labelled(features, "", notify).labels)
    if options.classes is not None:
        wanted = np.unique(read_classes(options.classes, {features.classes[c]: int(c) for c in wanted}))
    return {int(c): np.flatnonzero(features.labels == c) for c in wanted}


def _require_images(
    members: Mapping[int, np.ndarray], classes: Sequence[str], options: EpisodeOptions, shots: int
) -> None:
    if len(members) < options.ways:
        raise DataError(
            f"{counted(len(members), 'class', 'classes')} cannot make episodes of {options.ways}",
            fix=f"Ask for --ways {len(members)}." if len(members) > 1 else "Give images of two classes at least.",
        )
    needed = shots + options.queries
    small = {c: len(rows) for c, rows in members.items() if len(rows) < needed}
    if small:
        least = min(small, key=lambda c: small[c])
        raise DataError(
            f"{len(small)} of {counted(len(members), 'class', 'classes')} {'has' if len(small) == 1 else 'have'} "
            f"fewer than {shots} + {options.queries} images; the smallest, {printable(classes[least])}, has "
            f"{small[least]}",
            fix="Ask for fewer --shots or --queries, or name the larger classes in --classes FILE.",
        )


def accuracies(features: np.ndarray, episodes: Episodes, estimator: Estimator, method: str) -> np.ndarray:
    """Percent (E,) of each episode's queries that the classifier gets right."""
    rows = episodes.support.shape[1] + episodes.queries.shape[1]
    size = max(1, _BLOCK_BYTES // (4 * rows * features.shape[1]))
    blocks = [_part(episodes, slice(start, start + size)) for start in range(0, len(episodes), size)]
    if traits_of(estimator).batched:
        with _one_torch_thread():
            found = list(
                in_threads(lambda block: _predict_batch(features, block, cast(_Batched, estimator), method), blocks)
            )
    else:
        found = [_predict_each(features, block, estimator, method) for block in blocks]
    return 100.0 * (np.concatenate(found) == episodes.query_labels).mean(axis=1)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """While threads take a block of episodes each, torch does not split a block's small steps among threads of its own.

    Such threads wait for each other at every step: 600 episodes took 2.5 s so and 0.2 s on one thread, on two cores
    with other work.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _part(episodes: Episodes, part: slice) -> Episodes:
    e = episodes
    return Episodes(e.support[part], e.support_labels[part], e.queries[part], e.query_labels[part], e.ways)


class _Batched(Protocol):
    """A classifier that takes many episodes at once, as its traits say."""

    def probabilities(self, support: Tensor, labels: Tensor, queries: Tensor, n_classes: int) -> Tensor:
        """Class probabilities (E, q, n_classes) of support (E, n, D) with labels (E, n), and queries (E, q, D)."""


def _predict_batch(features: np.ndarray, episodes: Episodes, estimator: _Batched, method: str) -> np.ndarray:
    """Predicted labels (E, q), all episodes at once; the first class on a tie."""
    import torch

    support, labels, queries = map(
        torch.from_numpy, (features[episodes.support], episodes.support_labels, features[episodes.queries])
    )
    shares = estimator.probabilities(support, labels, queries, episodes.ways).numpy()
    if not np.isfinite(shares).all():
        raise NumericalError(f"{method} gives probabilities that are NaN or Inf")
    return shares.argmax(axis=2)


def _predict_each(features: np.ndarray, episodes: Episodes, estimator: Estimator, method: str) -> np.ndarray:
    """Predicted labels (E, q), one fit after another."""
    try:
        return np.stack(
            [
                estimator.fit(features[support], labels).predict(features[queries])
                for support, labels, queries in zip(
                    episodes.support, episodes.support_labels, episodes.queries, strict=True
                )
            ]
        )
    except ValueError as error:  # an option that does not suit so small a support
        raise UsageError(f"{method}: {error}", fix=f"Change its options with --set {method}.NAME=VALUE.") from error
