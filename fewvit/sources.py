"""Where evaluations begin: a source, images or features, answers one question, `features(pipeline)`, in its own way.

One file because opening what a user named, its two kinds and their pairing are one story, read from below to above.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from .datasets import Dataset, Listing, open_dataset, select
from .datasets.published import pair_of
from .digests import DigestMemory
from .errors import DataError, UsageError, are, from_os_error, printable, some
from .extraction.cache import Cache
from .extraction.extract import extract
from .extraction.pipeline import Pipeline
from .extraction.shards import Part
from .extraction.work import Work
from .features import FeatureSet, require_one_backbone, require_one_fingerprint
from .labels import Listed, Marking, align, require_labels, with_images
from .spellings import public_set, splits_among

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Extractor:
    """What turns images into features: the cache, how the work is done, and the known digests of files."""

    cache: Cache | None
    work: Work
    memory: DigestMemory

    def features(self, pipeline: Pipeline, dataset: Dataset) -> FeatureSet:
        """Features of a data set, with the report of their extraction. Raises as `extract`."""
        return extract(pipeline, dataset, self.cache, self.work, memory=self.memory)


class Source(Listed, Protocol):
    """Images or features. Names and classes are known before any image is read."""

    @property
    def name(self) -> str:
        """The name of the data set, for result rows."""

    @property
    def place(self) -> str:
        """The source as the user wrote it."""

    @property
    def images(self) -> Dataset | None:
        """The data set; None where features were given."""

    def fingerprint(self, pipeline: Pipeline | None) -> str:
        """That of the features that `features` gives for this pipeline; empty: unknown."""

    def features(self, pipeline: Pipeline | None) -> FeatureSet:
        """One row per image.

        Features that were given are what they are; `pipeline` may be None where no source has images.
        """

    @property
    def known_classes(self) -> Sequence[str]:
        """Names of the classes that can be learnt from it."""

    def numbered_as(self, train: Source) -> Source:
        """The source with its labels renumbered to the classes of `train`.

        Raises DataError as `labels.align`, for every class that cannot be learnt from `train`.
        """


@dataclass(frozen=True)
class ImageSource:
    """A data set whose features are computed, or found in the cache."""

    place: str
    images: Dataset
    extractor: Extractor

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.images.name

    @property
    def ids(self) -> Sequence[str]:
        """N ids of the data set."""
        return self.images.ids

    @property
    def labels(self) -> np.ndarray:
        """Places in `classes` (N,) int64, -1 = unlabelled."""
        return self.images.labels

    @property
    def classes(self) -> Sequence[str]:
        """C class names."""
        return self.images.classes

    @property
    def marking(self) -> Marking | None:
        """How predictions for its images are marked."""
        return self.images.marking

    def fingerprint(self, pipeline: Pipeline | None) -> str:
        """The pipeline's: it decides what the features will be. Raises TypeError for none."""
        return _required(pipeline).fingerprint

    def features(self, pipeline: Pipeline | None) -> FeatureSet:
        """One row per image that can be decoded, computed or from the cache.

        Raises as `extract`, TypeError for no pipeline.
        """
        return self.extractor.features(_required(pipeline), self.images)

    def sliced(self, part: Part) -> ImageSource:
        """A part of its images. Of the whole, not of the part, so many may be undecodable as are allowed."""
        total = len(self.images)
        work = replace(self.extractor.work, part_of=total)
        images = select(self.images, part.rows(total))
        return replace(self, images=images, extractor=replace(self.extractor, work=work))

    @property
    def known_classes(self) -> Sequence[str]:
        """Every class of the data set; where that was allowed, also one without images."""
        return self.images.classes

    def numbered_as(self, train: Source) -> ImageSource:
        """The images with labels that count the classes of `train`. Raises DataError as `labels.align`."""
        return replace(self, images=align(train, self.images, train.known_classes))


@dataclass(frozen=True)
class FeatureSource:
    """Features that were made before, read from a file."""

    place: str
    given: FeatureSet
    images: None = None

    @property
    def name(self) -> str:
        """The name of the set that the file holds."""
        return self.given.name

    @property
    def ids(self) -> Sequence[str]:
        """N ids."""
        return self.given.ids

    @property
    def labels(self) -> np.ndarray:
        """Places in `classes` (N,) int64, -1 = unlabelled."""
        return self.given.labels

    @property
    def classes(self) -> Sequence[str]:
        """C class names."""
        return self.given.classes

    @property
    def marking(self) -> Marking | None:
        """How predictions for its images are marked."""
        return self.given.marking

    def fingerprint(self, pipeline: Pipeline | None) -> str:
        """The file's, whatever the pipeline; empty where it carries none."""
        return self.given.fingerprint

    def features(self, pipeline: Pipeline | None) -> FeatureSet:
        """The features (N, D) as they were read, whatever the pipeline."""
        return self.given

    @property
    def known_classes(self) -> Sequence[str]:
        """The classes that a labelled row is of: the file may name more."""
        return with_images(self.given)

    def numbered_as(self, train: Source) -> FeatureSource:
        """The features with labels that count the classes of `train`. Raises DataError as `labels.align`."""
        return replace(self, given=align(train, self.given, train.known_classes))


def _required(pipeline: Pipeline | None) -> Pipeline:
    if pipeline is None:
        raise TypeError("images become features by a pipeline, and none was given")
    return pipeline


@dataclass(frozen=True)
class Sources:
    """One source, or one to learn from and one to be tested on, whose labels count the classes of the first."""

    train: Source
    test: Source | None = None

    @property
    def sides(self) -> tuple[Source, ...]:
        """The source to learn from, and the one to be tested on where there is one."""
        return (self.train,) if self.test is None else (self.train, self.test)

    @property
    def have_images(self) -> bool:
        """Whether a backbone is needed to answer."""
        return any(side.images is not None for side in self.sides)

    @property
    def datasets(self) -> tuple[Dataset, ...] | None:
        """The images of every side; None where features were given on one."""
        found = tuple(side.images for side in self.sides if side.images is not None)
        return found if len(found) == len(self.sides) else None

    def features(self, pipeline: Pipeline | None) -> tuple[FeatureSet, FeatureSet | None]:
        """The features of both sides.

        Raises FingerprintMismatch where they are not of one backbone: before any image is read if that is known.
        """
        if self.test is None:
            return self.train.features(pipeline), None
        require_one_fingerprint(*(side.fingerprint(pipeline) for side in (self.train, self.test)))
        train, test = self.train.features(pipeline), self.test.features(pipeline)
        require_one_backbone(train, test)
        return train, test


# ---- from what a user wrote


@dataclass(frozen=True)
class Given:
    """What a command was given: `data` alone, or `train` and `test`; and how folders are listed."""

    data: str | None = None
    train: str | None = None
    test: str | None = None
    listing: Listing = field(default_factory=Listing)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were given."""
        return tuple(name for name in (self.data, self.train, self.test) if name is not None)

    @property
    def has_features(self) -> bool:
        """Whether any of them is a features file."""
        return any(map(is_features, self.names))

    def sides(self) -> tuple[str, str, list[str]]:
        """The sources of the training and the test set, and what a user should know about the choice.

        Raises UsageError unless either `data` or both others are given, DataError for a part of `data` that is missing.
        """
        if self.data is not None and (self.train is not None or self.test is not None):
            raise UsageError(
                "--data excludes --train and --test, and both ways were given",
                fix="Give --data DIR, or --train SRC --test SRC.",
            )
        if self.data is not None:
            return _parts(self.data)
        if self.train is None or self.test is None:
            raise UsageError(
                "two sets are needed: one to learn from, one to be tested on",
                fix="Give --data DIR with train/ and val/ in it, or --train SRC --test SRC.",
            )
        return self.train, self.test, []


def is_features(source: str | None) -> bool:
    """Whether a source is a features file."""
    return source is not None and source.endswith(".npz")


def open_source(
    source: str, listing: Listing, extractor: Extractor, notify: Notify, *, unlabelled: bool = False
) -> Source:
    """The source of that name, after a line for each thing that a user should know of its listing.

    `unlabelled`: a features file may lack labels, and nothing is said of them. Raises DataError for what is missing,
    empty or no source.
    """
    if is_features(source):
        given = FeatureSet.load(source, unlabelled=unlabelled)
        if not unlabelled:
            _say_unlabelled(given.name, given, notify)
        return FeatureSource(source, given)
    return ImageSource(source, announce(open_dataset(source, listing), notify), extractor)


def open_sources(given: Given, extractor: Extractor, notify: Notify) -> Sources:
    """A train and a test source under one numbering of classes.

    Raises UsageError, and DataError as `open_source` and `Source.numbered_as`, and for a side without any label.
    """
    train_name, test_name, notes = given.sides()
    train, test = (open_source(name, given.listing, extractor, notify) for name in (train_name, test_name))
    sources = Sources(train, test.numbered_as(train))
    for name, side in zip(("train", "test"), sources.sides, strict=True):
        require_labels(side, name)
    for note in notes:
        notify(f"{test.name}: {note}")
    for side in sources.sides:
        if side.images is None and not side.fingerprint(None):
            notify(
                f"{side.place} carries no fingerprint, so nothing shows that its features belong to the other side's "
                "backbone"
            )
    return sources


def open_pair(given: Given, notify: Notify = lambda line: None) -> tuple[Dataset, Dataset]:
    """The data sets to learn from and to be tested on, for what needs images on both sides.

    Raises as `open_sources`.
    """
    train, test, notes = given.sides()
    train_set, test_set = (announce(open_dataset(side, given.listing), notify) for side in (train, test))
    for note in notes:
        notify(f"{test_set.name}: {note}")
    return train_set, align(train_set, test_set)


def require_source(source: str | None, flag: str = "--data") -> str:
    """The source. Raises UsageError, naming the flag, for none, and DataError for a features file that is not there.

    To be called before any backbone is opened.
    """
    if not source:
        raise UsageError(f"no images: give {flag} SRC")
    if is_features(source) and not Path(source).exists():
        raise DataError("no such file", file=source)
    return source


def without_repeats(names: Sequence[str], flag: str, notify: Notify) -> list[str]:
    """The names of a list, each once, after a line on those that stand there more than once."""
    found = list(dict.fromkeys(names))
    twice = [name for name in found if list(names).count(name) > 1]
    if twice:
        notify(f"{flag}: {some(twice)} {are(len(twice))} named twice, and taken once")
    return found


def announce(dataset: Dataset, notify: Notify) -> Dataset:
    """The data set, after a line for each thing that a user should know of its listing."""
    for reason, count in dataset.left_out.items():
        names = dataset.examples.get(reason, [])
        notify(f"{dataset.name}: {count} left out ({reason}){_examples(names, count)}")
    for note in dataset.notes:
        notify(f"{dataset.name}: {note}")
    _say_unlabelled(dataset.name, dataset, notify)
    return dataset


def _say_unlabelled(name: str, images: Listed, notify: Notify) -> None:
    """Say how many images are labelled, where not all are; one by itself is asked about and needs no label."""
    labelled, total = int((images.labels >= 0).sum()), len(images.ids)
    if labelled < total > 1:
        notify(f"{name}: {labelled or 'none'} of {total} images {are(labelled or 1)} labelled")


_SHOWN = 3  # names of what was left out, of each reason


def _examples(names: Sequence[str], count: int) -> str:
    """The first names after a colon, with dots where there are more; nothing where none is known."""
    shown = names[:_SHOWN]
    return f": {', '.join(map(printable, shown))}{' …' if len(shown) < count else ''}" if shown else ""


def _parts(data: str) -> tuple[str, str, list[str]]:
    """The sources of the training and the test set in `data`, and what to say about the choice."""
    if is_features(data):
        raise UsageError("--data takes folders with train and test parts; give feature files with --train and --test")
    if data == "digits":
        return "digits/train", "digits/test", []
    if public_set(data) is not None:
        parts = pair_of(data)
        return *parts, [f"learnt from {parts[0]}, tested on {parts[1]}"]
    there = splits_among(data, _sub_folders(data))
    second = there.get("val") or there.get("test")
    if "train" not in there or second is None:
        if not os.path.exists(data):
            raise DataError("no such file or folder", file=data)
        raise DataError(
            "no train/ with val/ or test/ in it",
            file=data,
            fix="Give such a folder or zip archive, or --train SRC --test SRC.",
        )
    notes = []
    if {"val", "test"} <= there.keys():
        notes = [f"tested on {printable(there['val'])}/; {printable(there['test'])}/ was not used"]
    return os.path.join(data, there["train"]), os.path.join(data, second), notes


def _sub_folders(data: str) -> list[str]:
    """The folders in a folder or an archive."""
    from .datasets.archive import top_folders

    if not os.path.isdir(data):
        return top_folders(data)
    try:
        with os.scandir(data) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise from_os_error(error, "listing") from error
