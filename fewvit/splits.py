"""Which rows are labelled: seeded subsets of a labelled set, nested in shots and disjoint across trials. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import DataError, UsageError, counted, printable
from .metrics import mean_and_interval
from .seeds import generator

BLOCK = 5  # images per class and trial that are set aside, so that 1, 2 and 5 shots of one trial are nested


@dataclass(frozen=True)
class Split:
    """The labelled rows of one trial."""

    train: np.ndarray  # (n,) int64 rows of the training set: the first image of each class, then the second of each, …
    shots: int | str  # images per class; a name such as `1%` where they differ
    trial: int = 0
    seed: int = 0
    test: np.ndarray | None = None  # (m,) int64 rows of the test set; None: all of it

    @property
    def name(self) -> str:
        """How many labels: `5 shots`, `1%`."""
        return f"{self.shots} {'shot' if self.shots == 1 else 'shots'}" if isinstance(self.shots, int) else self.shots

    def per_class(self, labels: np.ndarray) -> tuple[int, int, int]:
        """(smallest, largest) number of images per class that has any, and the number of such classes."""
        counts = np.unique(labels[self.train], return_counts=True)[1]
        return int(counts.min()), int(counts.max()), len(counts)


def n_per_class(
    labels: np.ndarray,
    classes: Sequence[str],
    shots: Sequence[int],
    trials: int,
    seed: int,
    *,
    allow_fewer: bool = False,
) -> list[Split]:
    """Splits of `shots` images per class, for each of `trials` trials.

    Within a trial the smaller set is part of the larger one. Trials share no image while a class has enough: trial t
    takes block t, of max(5, largest shots) images, of one permutation per class; a block that does not fit is drawn
    afresh. The permutation depends on the seed and the class's name alone, so other classes change nothing. Raises
    UsageError for less than one shot or trial, DataError listing the classes that have fewer images, unless
    `allow_fewer` keeps what they have.
    """
    if not shots or min(shots) < 1 or trials < 1:
        raise UsageError(
            f"{counted(min(shots, default=0), 'image')} per class in {counted(trials, 'trial')}: nothing to learn "
            "from; ask for one or more"
        )
    sets = _by_class(labels)
    short = {classes[c]: len(rows) for c, rows in sets.items() if len(rows) < max(shots)}
    if short and not allow_fewer:
        raise _too_few(short, max(shots), "Ask for fewer shots, or keep what there is with --allow-fewer.")
    shots = list(dict.fromkeys(shots))  # asked for twice it would count as further trials
    block = max(BLOCK, *shots)
    drawn = {
        trial: {c: _block(rows, classes[c], block, trial, seed) for c, rows in sets.items()} for trial in range(trials)
    }
    return [
        Split(_interleaved([rows[:n] for rows in drawn[trial].values()]), n, trial, seed)
        for n in shots
        for trial in range(trials)
    ]


def percent_per_class(
    labels: np.ndarray, classes: Sequence[str], percents: Sequence[float], trials: int, seed: int
) -> list[Split]:
    """Splits of a percentage of each class, rounded, at least one image; nested and disjoint as `n_per_class`'s."""
    if not percents or not all(0 < percent <= 100 for percent in percents) or trials < 1:
        raise UsageError("--percent takes numbers above 0 and up to 100")
    sets = _by_class(labels)
    splits = []
    for percent in {f"{percent:g}": percent for percent in percents}.values():
        for trial in range(trials):
            wanted = {c: max(1, round(len(rows) * percent / 100)) for c, rows in sets.items()}
            largest = {c: max(1, round(len(rows) * max(percents) / 100)) for c, rows in sets.items()}
            drawn = [_block(rows, classes[c], largest[c], trial, seed)[: wanted[c]] for c, rows in sets.items()]
            splits.append(Split(_interleaved(drawn), f"{percent:g}%", trial, seed))
    return splits


def _by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> its rows, ascending; rows without a label (-1) are left out."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if len(order) == 0:
        raise DataError("no row has a label, so there is nothing to choose shots from")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return {int(labels[part[0]]): part for part in parts}


def _block(rows: np.ndarray, name: str, length: int, trial: int, seed: int) -> np.ndarray:
    """Block `trial` of the class's permutation, or where it does not fit the first rows of a permutation of its own."""
    if (trial + 1) * length <= len(rows) or trial == 0:
        return generator("split", seed, name).permutation(rows)[trial * length : (trial + 1) * length]
    return generator("split", seed, name, trial).permutation(rows)[:length]


def _interleaved(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The first of every part, then the second of every part that has one, and so on."""
    place = np.concatenate([np.arange(len(part)) for part in parts])
    return np.concatenate(parts)[np.argsort(place, kind="stable")]


def _too_few(short: dict[str, int], wanted: int, fix: str) -> DataError:
    shown = ", ".join(f"{printable(name)} ({count})" for name, count in list(short.items())[:5])
    have = counted(len(short), "class has", "classes have")
    return DataError(f"{have} fewer than {counted(wanted, 'image')}: {shown}{' …' if len(short) > 5 else ''}", fix=fix)


def disjoint(splits: Sequence[Split]) -> int:
    """How many of the splits, taken in their order, share no row with one that was taken before."""
    taken: set[int] = set()
    count = 0
    for rows in (set(split.train.tolist()) for split in splits):
        if taken.isdisjoint(rows):
            taken |= rows
            count += 1
    return count


def identical(splits: Sequence[Split]) -> bool:
    """Whether there are several splits and all have the same rows, in whatever order."""
    return len(splits) > 1 and len({frozenset(split.train.tolist()) for split in splits}) == 1


def dependence(splits: Sequence[Split]) -> str | None:
    """What is wrong with the interval of these trials if they are no independent draws; None if they are."""
    if identical(splits):
        return f"{splits[0].name}: the {len(splits)} trials have the same labelled images, so there is no interval"
    alone = disjoint(splits)
    if alone == len(splits):
        return None
    return (
        f"{splits[0].name}: trials share labelled images, only {alone} of the {len(splits)} are disjoint: the "
        "interval is too narrow"
    )


def dinov2_subset(labels: np.ndarray, shots: int, trial: int, classes: Sequence[str] = ()) -> np.ndarray:
    """Row numbers of DINOv2's n-per-class subset: classes ascending, in each the first `shots` of a random permutation.

    The generator is torch's, seeded with the trial, as in DINOv2's k-NN evaluation: its published few-shot numbers
    depend on that stream. Unlabelled rows (-1) are left out. Raises UsageError for less than one shot, DataError naming
    the classes that have fewer images, by their number if no `classes` are given.
    """
    if shots < 1:
        raise UsageError(f"{shots} images per class are nothing to learn from; ask for one or more")
    import torch

    stream = torch.Generator().manual_seed(trial)
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(present) == 0:
        raise DataError("no row has a label, so there is nothing to choose shots from")
    short = {
        classes[c] if len(classes) else f"class {c}": n
        for c, n in zip(present, counts.tolist(), strict=True)
        if n < shots
    }
    if short:
        raise _too_few(short, shots, "Ask for fewer shots.")
    chosen = [
        np.flatnonzero(labels == c)[torch.randperm(n, generator=stream)[:shots].numpy()]
        for c, n in zip(present, counts.tolist(), strict=True)
    ]
    return np.concatenate(chosen)


def mieb_draws(labels: np.ndarray, shots: int = 16, draws: int = 5, seed: int = 42) -> list[Split]:
    """The draws of MIEB's linear probe: their rows depend on the labels' order alone, and stand in the order drawn.

    The list of all rows is shuffled for each draw as the one before left it, by a generator that begins anew with the
    same seed; a draw is the first `shots` of each class in it. A class with fewer gives all it has; unlabelled rows
    (-1) are left out. Source: Xiao et al. 2025, and mteb 2.26, whose defaults these are. Raises DataError where no row
    has a label.
    """
    order = np.flatnonzero(labels >= 0)
    if len(order) == 0:
        raise DataError("no row has a label, so there is nothing to choose shots from")
    splits = []
    for draw in range(draws):
        np.random.RandomState(seed).shuffle(order)
        splits.append(Split(order[_place_in_class(labels[order]) < shots], shots, draw, seed))
    return splits


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """How many entries before each one (n,) are of its class."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - starts
    return place


def mean_of_draws(values: Sequence[float], splits: Sequence[Split]) -> dict[str, float | list[float]]:
    """`value`, the mean over trials, and of two or more `std` and `ci95`, as `mean_and_interval`.

    One draw, repeated, says nothing of others: then there is the mean alone.
    """
    summary = mean_and_interval(values)
    mean = summary.pop("mean")
    return {"value": mean, **({} if identical(splits) else summary)}
