"""What a low-shot evaluation is asked for, and the splits that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..classifiers import traits_of
from ..errors import UsageError
from ..extraction.principal import AS_THEY_ARE, Reduction
from ..labels import Listed
from ..plugins import find
from ..splits import Split, n_per_class, percent_per_class
from .subsets import read_splits

CLASSIFIERS = ("logistic", "knn", "centroid")
SHOTS = (1, 2, 5)


@dataclass(frozen=True)
class LowShotOptions:
    """What is measured, and what is kept of it."""

    shots: Sequence[int] = SHOTS
    percents: Sequence[float] = ()
    trials: int = 3
    subsets: Sequence[str] = ()  # files; they take the place of drawn splits
    # classifier -> options
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {name: {} for name in CLASSIFIERS})
    lambd: float | None = None  # of the logistic regression; None: the protocol's
    protocol: str = ""  # whose logistic regression; empty: that of the features
    allow_fewer: bool = False
    calibrate: bool = True
    device: str = "auto"
    seed: int = 0
    reduction: Reduction = AS_THEY_ARE  # of the features, found in all train features, whose labels it does not need
    save_split: Path | None = None
    save_predictions: Path | None = None
    save_per_class: Path | None = None
    save_confusion: Path | None = None


def check_options(options: LowShotOptions) -> None:
    """Raise UsageError for a lambda that no classifier has a use for, or that is none; what `Traits.ready` raises."""
    for method, given in options.settings.items():
        traits_of(find("classifiers", method)).ready(given)
    if options.lambd is None:
        return
    if not any(traits_of(find("classifiers", method)).penalty for method in options.settings):
        raise UsageError(
            "--lambd is the penalty of the logistic regression, which is not among the classifiers",
            fix="Leave --lambd away.",
        )
    if not 0 < options.lambd < float("inf"):
        raise UsageError(f"--lambd {options.lambd:g}: the penalty must be a number above zero")


@dataclass(frozen=True)
class _Names:
    """Images of which nothing is known yet but their names and classes."""

    ids: Sequence[str]
    labels: np.ndarray  # (N,)
    classes: Sequence[str]
    marking: None = None


def require_splits(images: Listed, options: LowShotOptions) -> None:
    """Raise, before any image is read, where the splits that are asked for cannot be drawn from the labelled images."""
    rows = np.flatnonzero(images.labels >= 0).tolist()
    splits_of(
        _Names([images.ids[row] for row in rows], images.labels[rows], images.classes), options, lambda line: None
    )


def splits_of(train: Listed, options: LowShotOptions, notify: Callable[[str], None]) -> list[Split]:
    """The labelled rows of each trial that the options ask for: read from files, or drawn from the labels of `train`.

    Raises UsageError for options that ask for nothing, and as `read_splits`, `n_per_class` and `percent_per_class`.
    """
    if options.subsets:
        return read_splits(options.subsets, train, allow_fewer=options.allow_fewer, notify=notify)
    splits: list[Split] = []
    if options.shots:
        splits += n_per_class(
            train.labels, train.classes, options.shots, options.trials, options.seed, allow_fewer=options.allow_fewer
        )
    if options.percents:
        splits += percent_per_class(train.labels, train.classes, options.percents, options.trials, options.seed)
    if not splits:
        raise UsageError("nothing to measure: give --shots, --percent or --subset")
    return splits


def by_shots(splits: Sequence[Split]) -> list[list[Split]]:
    """The trials of each number of shots, in the order of the first."""
    groups: dict[int | str, list[Split]] = {}
    for split in splits:
        groups.setdefault(split.shots, []).append(split)
    return list(groups.values())
