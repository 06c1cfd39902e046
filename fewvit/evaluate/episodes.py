"""Episodes: N-way K-shot tasks drawn from one set, or the published runs of Omniglot, and the mean accuracy over them."""

from __future__ import annotations

import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cpu import in_threads
from ..datasets import Listing
from ..errors import DataError, NumericalError, UsageError, counted, from_os_error, printable
from ..features import FeatureSet
from ..labels import labelled
from ..metrics import mean_and_interval
from ..plugins import find
from ..seeds import generator
from .inputs import FeatureReader, Found, Inputs, by_layer, measured

_BLOCK_BYTES = 4 << 20  # features of the episodes that are computed at once stay in the CPU's cache
_LABELS = "class_labels.txt"  # of each of Omniglot's runs


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


@dataclass(frozen=True)
class Episodes:
    """Row numbers of E episodes of one shape, and their labels 0..ways-1."""

    support: np.ndarray  # (E, n)
    support_labels: np.ndarray  # (E, n)
    queries: np.ndarray  # (E, q)
    query_labels: np.ndarray  # (E, q)
    ways: int

    def __len__(self) -> int:
        return len(self.support)

    @property
    def shape(self) -> dict[str, int]:
        """`ways`, and `shots` and `queries` per class."""
        return {"ways": self.ways, "shots": self.support.shape[1] // self.ways, "queries": self.queries.shape[1] // self.ways}


def run_episodes(
    reader: FeatureReader,
    source: str,
    listing: Listing,
    options: EpisodeOptions,
    say: Callable[[str], None],
    skips: Callable[[list[dict[str, str]]], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of every backbone, layer, number of shots and classifier, and the run's manifest: what `fewvit episodes` prints."""
    check_options(options)
    if options.runs is not None:
        _require_runs(options.runs)

    def measure(inputs: Inputs, name: str) -> Found:
        started = time.perf_counter()
        rows = [{**extra, **row} for extra, features, _ in by_layer(inputs) for row in evaluate_episodes(features, options, say)]
        return rows, {"seconds": {"episodes": round(time.perf_counter() - started, 3)}}

    sources = reader.one(source, listing, unlabelled=options.runs is not None)
    if options.runs is not None:
        read_runs(options.runs, sources.train.ids)  # before any image is read
    return measured(reader, sources, measure, skips, options.seed)


def evaluate_episodes(
    features: FeatureSet, options: EpisodeOptions, say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Result rows (without the columns that name data and backbone): one mean for each number of shots and classifier.

    Raises UsageError for options that cannot be, DataError for too few classes or images and for unlabelled ones, NumericalError
    for features that are not finite.
    """
    check_options(options)
    features.require_finite()
    estimators = {method: find("classifiers", method)(**settings) for method, settings in options.settings.items()}
    rows = []
    for episodes in _episodes(features, options, say):
        for method, estimator in estimators.items():
            summary = mean_and_interval(accuracies(features.features, episodes, estimator, method).tolist())
            rows.append(
                {
                    "method": method,
                    **episodes.shape,
                    "metric": "accuracy",
                    "trial": "mean",
                    "value": summary.pop("mean"),
                    **summary,
                    "episodes": len(episodes),
                    **({"transductive": True} if getattr(estimator, "transductive", False) else {}),
                }
            )
    return rows


def check_options(options: EpisodeOptions) -> None:
    """Raise UsageError for numbers that make no episode, and for classifiers that do not work on features."""
    for name, value, least in (("ways", options.ways, 2), ("queries", options.queries, 1), ("episodes", options.episodes, 1)):
        if value < least:
            raise UsageError(f"--{name} {value}: an evaluation needs at least {least}")
    if not options.shots or min(options.shots) < 1:
        raise UsageError("--shots: every class of an episode needs at least one labelled image")
    for method in options.settings:
        if getattr(find("classifiers", method), "needs", "features") != "features":
            raise UsageError(f"{method} works on tokens; episodes are drawn from features, one row per image")


# ---- which images


def _episodes(features: FeatureSet, options: EpisodeOptions, say: Callable[[str], None]) -> Iterator[Episodes]:
    """The runs, or the episodes for each number of shots."""
    if options.runs is not None:
        yield read_runs(options.runs, features.ids)
        return
    members = _members(features, options, say)
    for shots in dict.fromkeys(options.shots):
        _require_images(members, features.classes, options, shots)
        yield draw_episodes(list(members.values()), options.ways, shots, options.queries, options.episodes, options.seed)


def _members(features: FeatureSet, options: EpisodeOptions, say: Callable[[str], None]) -> dict[int, np.ndarray]:
    """The rows of each class that has images and is asked for."""
    wanted = np.unique(labelled(features, "", say).labels)
    if options.classes is not None:
        wanted = np.unique(read_classes(options.classes, {features.classes[c]: int(c) for c in wanted}))
    return {int(c): np.flatnonzero(features.labels == c) for c in wanted}


def read_classes(file: str, number: Mapping[str, int]) -> list[int]:
    """Numbers of the classes in a text file, one per line: its name, or its name and words about it. Raises DataError for one without a number."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise from_os_error(error, "reading the class names") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not a text file: {error}", file=file) from error
    names = [name if name in number else _first_word(name, number) for line in lines if (name := line.strip())]
    unknown = [name for name in names if name not in number]
    if unknown or not names:
        shown = ", ".join(map(printable, unknown[:5])) + (" …" if len(unknown) > 5 else "")
        what = (
            f"{len(unknown)} of its {counted(len(names), 'class', 'classes')} {'has' if len(unknown) == 1 else 'have'} no images here: {shown}"
            if names
            else "names no class"
        )
        raise DataError(what, file=file, fix="Write one class per line, as the class folders are called.")
    return [number[name] for name in names]


def _first_word(line: str, number: Mapping[str, int]) -> str:
    """The class that a line begins with, as `n01443537 goldfish`; the whole line where its first word is none."""
    word = line.split(maxsplit=1)[0]
    return word if word in number else line


def _require_images(members: Mapping[int, np.ndarray], classes: Sequence[str], options: EpisodeOptions, shots: int) -> None:
    if len(members) < options.ways:
        raise DataError(
            f"{counted(len(members), 'class', 'classes')} cannot make episodes of {options.ways}",
            fix=f"Ask for --ways {max(2, len(members))}.",
        )
    needed = shots + options.queries
    small = {c: len(rows) for c, rows in members.items() if len(rows) < needed}
    if small:
        least = min(small, key=lambda c: small[c])
        raise DataError(
            f"{len(small)} of {counted(len(members), 'class', 'classes')} {'has' if len(small) == 1 else 'have'} fewer than {shots} + {options.queries} images; "
            f"the smallest, {printable(classes[least])}, has {small[least]}",
            fix="Ask for fewer --shots or --queries, or name the larger classes in --classes FILE.",
        )


def draw_episodes(members: Sequence[np.ndarray], ways: int, shots: int, queries: int, count: int, seed: int) -> Episodes:
    """Episodes 0..count-1 of a seed, from the rows of each class; an episode depends on its number and the seed alone.

    Queries are drawn before support, so that the same episode with more shots has the same queries and a support that begins
    with the smaller one.
    """
    drawn = [_draw(members, ways, shots, queries, generator("episode", seed, number)) for number in range(count)]
    labels = [np.tile(np.repeat(np.arange(ways), each), (count, 1)) for each in (shots, queries)]
    support, asked = (np.stack(side) for side in zip(*drawn, strict=True))
    return Episodes(support, labels[0], asked, labels[1], ways)


def _draw(members: Sequence[np.ndarray], ways: int, shots: int, queries: int, stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Support (ways * shots,) and queries (ways * queries,), class after class."""
    shuffled = [stream.permutation(members[c]) for c in stream.choice(len(members), ways, replace=False)]
    support = np.concatenate([rows[queries : queries + shots] for rows in shuffled])
    return support, np.concatenate([rows[:queries] for rows in shuffled])


# ---- Omniglot's runs


def read_runs(source: str, ids: Sequence[str]) -> Episodes:
    """One episode per run of a folder or zip of Omniglot's one-shot runs; every training image is a class of its own.

    Source: Lake et al. 2015: 20 runs of 20-way 1-shot. Lines of `class_labels.txt` read `run01/test/item01.png
    run01/training/class01.png`: a query, and the training image of its class. Raises DataError for a missing picture.
    """
    row = {name: i for i, name in enumerate(ids)}
    runs = [_one_run(*run, row) for run in _label_files(source)]
    if not runs:
        raise _no_runs(source)
    if len({(len(support), len(queries)) for support, queries, _ in runs}) > 1:
        raise DataError("its runs are not all of one shape", file=source)
    support, queries, labels = (np.stack(side) for side in zip(*runs, strict=True))
    ways = support.shape[1]
    return Episodes(support, np.tile(np.arange(ways), (len(runs), 1)), queries, labels, ways)


def _require_runs(source: str) -> None:
    """Raise DataError for what is there and holds no runs, before its images are listed by rules that are not made for runs."""
    if os.path.exists(source) and not any(True for _ in _label_files(source)):
        raise _no_runs(source)


def _no_runs(source: str) -> DataError:
    return DataError(
        f"holds no run of Omniglot's: there is no {_LABELS} in it", file=source, fix="Give the folder or zip of Omniglot's one-shot runs."
    )


def _label_files(source: str) -> Iterator[tuple[str, str]]:
    """(path, text) of each run's list, by path, paths relative to the source."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for name in sorted(name for name in archive.namelist() if name.rpartition("/")[2] == _LABELS):
                    yield name, archive.read(name).decode()
            return
        for file in sorted(Path(source).rglob(_LABELS)):
            yield file.relative_to(source).as_posix(), file.read_text(encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, "reading the runs") from error
    except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"its {_LABELS} cannot be read: {error}", file=source) from error


def _one_run(path: str, text: str, row: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training images (W,) and of the queries (q,), and the queries' places among the training images (q,)."""
    above = path.rpartition("/")[0].rpartition("/")[0]  # the folder that holds run01
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    bad = next((words for words in pairs if len(words) != 2), None)
    if bad is not None or not pairs:
        raise DataError(f"{' '.join(bad or []) or 'an empty file'!r} is not a query and a training image", file=path)
    training = sorted({support for _, support in pairs})
    support = [_row_of(name, above, row, path) for name in training]
    queries = [_row_of(query, above, row, path) for query, _ in pairs]
    return np.array(support), np.array(queries), np.array([training.index(name) for _, name in pairs])


def _row_of(name: str, above: str, row: Mapping[str, int], path: str) -> int:
    """The row of a picture whose id may lack leading folders that hold nothing else."""
    candidate = f"{above}/{name}" if above else name
    while candidate not in row:
        _, slash, candidate = candidate.partition("/")
        if not slash:
            raise DataError(f"the picture {printable(name)} is not among the images", file=path)
    return row[candidate]


# ---- how well they are classified


def accuracies(features: np.ndarray, episodes: Episodes, estimator: Any, method: str) -> np.ndarray:
    """Percent (E,) of each episode's queries that the classifier gets right."""
    rows = episodes.support.shape[1] + episodes.queries.shape[1]
    size = max(1, _BLOCK_BYTES // (4 * rows * features.shape[1]))
    blocks = [_part(episodes, slice(start, start + size)) for start in range(0, len(episodes), size)]
    if hasattr(estimator, "probabilities"):
        with _one_torch_thread():
            found = list(in_threads(lambda block: _predict_batch(features, block, estimator, method), blocks))
    else:
        found = [_predict_each(features, block, estimator, method) for block in blocks]
    return 100.0 * (np.concatenate(found) == episodes.query_labels).mean(axis=1)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """While threads take a block of episodes each, torch does not split a block's small steps among threads of its own.

    Such threads wait for each other at every step: 600 episodes took 2.5 s so and 0.2 s on one thread, on two cores with other work.
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


def _predict_batch(features: np.ndarray, episodes: Episodes, estimator: Any, method: str) -> np.ndarray:
    """Predicted labels (E, q), all episodes at once; the first class on a tie."""
    import torch

    support, labels, queries = map(torch.from_numpy, (features[episodes.support], episodes.support_labels, features[episodes.queries]))
    shares = estimator.probabilities(support, labels, queries, episodes.ways).numpy()
    if not np.isfinite(shares).all():
        raise NumericalError(f"{method} gives probabilities that are NaN or Inf")
    return shares.argmax(axis=2)


def _predict_each(features: np.ndarray, episodes: Episodes, estimator: Any, method: str) -> np.ndarray:
    """Predicted labels (E, q), one fit after another."""
    try:
        return np.stack(
            [
                estimator.fit(features[support], labels).predict(features[queries])
                for support, labels, queries in zip(episodes.support, episodes.support_labels, episodes.queries, strict=True)
            ]
        )
    except ValueError as error:  # an option that does not suit so small a support
        raise UsageError(f"{method}: {error}", fix=f"Change its options with --set {method}.NAME=VALUE.") from error
