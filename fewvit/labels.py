"""Images by name and class, and what every evaluation asks of their labels: one check and one wording each.

NumPy only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from .errors import DataError, UsageError, counted, some

if TYPE_CHECKING:
    from .features import FeatureSet


@dataclass(frozen=True)
class Marking:
    """How predictions for images are marked where their labels do not say it all."""

    # (N, A) int64, the classes of each image that are right, -1 fills; the label is one of them. None: the label alone
    accepted: np.ndarray | None = None
    answers: np.ndarray | None = None  # (K,) int64, ascending: the classes that may be predicted. None: all

    def select(self, rows: np.ndarray | Sequence[int]) -> Marking:
        """That of these rows, in their order."""
        return self if self.accepted is None else replace(self, accepted=self.accepted[rows])

    def renumbered(self, table: np.ndarray) -> Marking:
        """The same classes under other numbers: `table` (C + 1,) has each one's, and -1 at its end."""
        accepted = None if self.accepted is None else table[self.accepted]
        return Marking(accepted, None if self.answers is None else np.sort(table[self.answers]))

    def used(self) -> np.ndarray:
        """The numbers of the classes that it names, ascending."""
        parts = [part.reshape(-1) for part in (self.accepted, self.answers) if part is not None]
        found: np.ndarray = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        return found[found >= 0]


class Listed(Protocol):
    """Images by name and class: a data set, the features of one, or a source of either."""

    @property
    def ids(self) -> Sequence[str]:
        """N ids, paths relative to the source."""

    @property
    def labels(self) -> np.ndarray:
        """Places in `classes` (N,) int64, -1 = unlabelled."""

    @property
    def classes(self) -> Sequence[str]:
        """C class names."""

    @property
    def marking(self) -> Marking | None:
        """How predictions for them are marked; None: a prediction is right where it is the label."""


def marked_labels(images: Listed, predictions: np.ndarray) -> np.ndarray:
    """What each prediction (N,) is compared with: itself where it is one of several right classes, else the label."""
    if images.marking is None or images.marking.accepted is None:
        return images.labels
    hit = (images.marking.accepted == predictions[:, None]).any(axis=1) & (predictions >= 0)
    return np.where(hit, predictions, images.labels)


def refuse_marking(images: Listed, doing: str) -> None:
    """Raise UsageError where predictions for the images are marked in a way that `doing` knows nothing of."""
    if images.marking is not None:
        raise UsageError(
            f"{doing} knows one label for an image and answers of every class, and this set is marked otherwise",
            fix="fewvit knn and lowshot know how.",
        )


_COUNT, _WNID = re.compile(r"\d{1,3}"), re.compile(r"n\d{8}")  # a place in ImageNet's order, and a class's name
_Set = TypeVar("_Set", bound=Listed)


def align(train: Listed, test: _Set, known: Sequence[str] | None = None) -> _Set:
    """`test`, a frozen dataclass, with its labels renumbered to the classes of `train`: equal labels mean equal names.

    Unlabelled images stay unlabelled; classes without test images are fine. `known` are the classes of `train` that can
    be learnt from it, all if not given. Raises DataError as `require_known_classes`.
    """
    require_known_classes(train, test, train.classes if known is None else known)
    if list(train.classes) == list(test.classes):
        return test
    used = used_classes(test)
    number = {name: c for c, name in enumerate(train.classes)}
    table = np.full(len(test.classes) + 1, -1, np.int64)  # the last entry serves label -1
    table[used] = [number[test.classes[c]] for c in used]
    marking = None if test.marking is None else test.marking.renumbered(table)
    return cast(_Set, replace(cast(Any, test), labels=table[test.labels], classes=train.classes, marking=marking))


def used_classes(images: Listed) -> np.ndarray:
    """The numbers of the classes that an image is of, or that a prediction for one may be."""
    of_images = images.labels[images.labels >= 0]
    return np.unique(of_images if images.marking is None else np.concatenate([of_images, images.marking.used()]))


def require_known_classes(train: Listed, test: Listed, known: Sequence[str]) -> None:
    """Raise DataError for test images of a class that is not `known`, and where `train` has no label at all though
    `test` has some.
    """
    used = [test.classes[c] for c in used_classes(test)]
    if used:
        require_labels(train, "train")
    learnable = set(known)
    unknown = [name for name in used if name not in learnable]
    if unknown:
        raise DataError(
            f"{counted(len(unknown), 'class of the test set is', 'classes of the test set are')} not in the training "
            f"set: {some(unknown)}",
            fix=_nameless(train, test)
            or f"The training set has images of {counted(len(known), 'class', 'classes')}; names must agree letter by "
            "letter.",
        )


def with_images(images: Listed) -> list[str]:
    """Names of the classes that a labelled image is of."""
    return [images.classes[c] for c in np.unique(images.labels[images.labels >= 0])]


def _nameless(train: Listed, test: Listed) -> str | None:
    """What to do where one side's classes are bare numbers, as those of a features file without `classes`, and the
    other's are not.
    """
    numeric, of_wnids = (all(map(kind.fullmatch, side.classes)) for kind, side in ((_COUNT, test), (_WNID, train)))
    if numeric and of_wnids and len(test.classes) > 1:
        return (
            "Numbers may be places in ImageNet's order: give imagenet-v2:DIR for the folders of ImageNet-V2, and "
            "imagenet:DIR@val for validation images whose list has numbers."
        )
    numbers = [list(side.classes) == [str(c) for c in range(len(side.classes))] for side in (train, test)]
    if numbers[0] == numbers[1]:
        return None
    side = "training" if numbers[0] else "test"
    return (
        f"The classes of the {side} features are bare numbers, as where a features file has no array `classes`: "
        "give it one with their names."
    )


def require_labels(images: Listed, side: str) -> None:
    """Raise DataError if no image has a label. `side` is train, test, or empty where there is one set."""
    if not (images.labels >= 0).any():
        raise DataError(
            f"the {_images(side)} have no labels",
            fix="Give class folders, a table with a label column, or a features file with labels.",
        )


def labelled(features: FeatureSet, side: str, notify: Callable[[str], None]) -> FeatureSet:
    """The rows that have a label, after a line on how many have none. `side` and errors as in `require_labels`."""
    require_labels(features, side)
    known = np.flatnonzero(features.labels >= 0)
    if len(known) == len(features):
        return features
    images = _images(side)
    notify(
        f"{counted(len(features) - len(known), f'unlabelled {images[:-1]} is', f'unlabelled {images} are')} left out"
    )
    return features.select(known)


def require_classes(images: Listed, side: str = "train") -> None:
    """Raise DataError unless labelled images are of two classes at least, so that there is something to tell apart."""
    present = np.unique(images.labels)
    if len(present) < 2:
        raise DataError(
            f"the {_images(side)} are all of one class ({images.classes[present[0]]!r}): there is nothing to tell apart"
        )


def _images(side: str) -> str:
    return f"{side} images".lstrip()
