"""Whether the images are those of the published number: how many, of which classes, none on both sides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from ...features import FeatureSet, shared_rows
from .check import DIFFERS, OK, UNKNOWN, Check, compared
from .subject import Subject

_WNID = re.compile(r"n\d{8}")


def data_checks(subject: Subject, *, train_images: bool = True) -> Iterator[Check]:
    """Numbers of images and classes, the order of classes, what was left out, and images on both sides."""
    benchmark, test = subject.benchmark, subject.test
    if train_images:
        yield _training_images(subject)
    if test is None:
        yield Check(
            "test images",
            f"{_labelled(subject.train)}, each by the others",
            benchmark.test,
            DIFFERS,
            "--leave-one-out judges a set by itself; --train and --test, or --data, take two.",
        )
    else:
        yield compared(
            "test images", _labelled(test), benchmark.test, f"Published is {benchmark.name}'s validation set: --test."
        )
    yield compared(
        "classes",
        len(np.unique(subject.train.labels[subject.train.labels >= 0])),
        benchmark.classes,
        "With fewer classes there is less to confuse: --train, or --data.",
    )
    yield class_order(subject.train.classes)
    yield _left_out(subject)
    yield duplicates(subject.train, test)


def _training_images(subject: Subject) -> Check:
    shots = sorted({row["shots"] for row in subject.rows if "shots" in row})
    images, published = _labelled(subject.train), subject.benchmark.train
    meaning = "The bank that neighbours come from: --train, or train/ of --data."
    if not shots:
        return compared("training images", images, published, meaning)
    drawn = ", ".join(map(str, shots))
    return Check("training images", f"{drawn} per class of {images}", published, DIFFERS, f"{meaning} --shots draws.")


def _labelled(features: FeatureSet) -> int:
    return int((features.labels >= 0).sum())


def class_order(classes: Sequence[str]) -> Check:
    """Whether class c is ImageNet's class c: its folders are wnids in sorted order."""
    published, by_name = "wnids, sorted", "Test classes are matched to training classes by name."
    in_order = list(classes) == sorted(classes, key=os.fsencode)
    if classes and all(map(_WNID.fullmatch, classes)):
        here = "wnids, sorted" if in_order else "wnids, not sorted"
        return Check("class order", here, published, OK if in_order else DIFFERS, by_name)
    if misplaced := _sorted_as_text(classes):
        number, name = misplaced
        return Check(
            "class order",
            f"numbers, sorted as text: class {number} is {name!r}",
            published,
            DIFFERS,
            f"{by_name} But a list of labels by number, or a folder layout such as ImageNet-V2's, needs the numbers' "
            "own order: call the folders by wnids, or fill the numbers up with zeros.",
        )
    return Check("class order", "names, not wnids", published, UNKNOWN, f"{by_name} They are none of ImageNet's.")


def _sorted_as_text(classes: Sequence[str]) -> tuple[int, str] | None:
    """The first place whose class, of classes that are all numbers, is another number than in the order of numbers."""
    if not classes or not all(name.isdecimal() for name in classes):
        return None
    numeric = sorted(classes, key=int)
    return next(
        ((c, name) for c, (name, other) in enumerate(zip(classes, numeric, strict=True)) if name != other), None
    )


def _left_out(subject: Subject) -> Check:
    sides = [side for side in (subject.train, subject.test) if side is not None]
    counts = {
        "skipped": len(subject.inputs.skipped),
        "unlabelled": sum(int((side.labels < 0).sum()) for side in sides),
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return compared(
        "left out",
        told or "none",
        "none",
        "Images that cannot be decoded (--max-bad allows them) or that have no label are in no number.",
    )


def duplicates(train: FeatureSet, test: FeatureSet | None) -> Check:
    """Test images that are training images too: by their bytes where these were read, else by equal features.

    With one set alone, images that are in it more than once.
    """
    meaning = "An image on both sides is found by itself: take it out of one of them."
    if test is None:
        keys = train.digests if train.digests is not None else [row.tobytes() for row in train.features]
        found, total, how = len(keys) - len(set(keys)), len(keys), "by bytes" if train.digests else "by features"
    elif train.digests is not None and test.digests is not None:
        known = set(train.digests)
        found, total, how = sum(digest in known for digest in test.digests), len(test), "by bytes"
    elif min(train.features.shape[1], test.features.shape[1]) < 4:
        return Check(
            "duplicates", None, "none", UNKNOWN, "Features of less than four columns are often equal by chance."
        )
    else:
        found, total, how = shared_rows(train, test), len(test), "by equal features"
    if not found:
        return Check("duplicates", "none", "none", OK, f"Looked for {how}. {meaning}")
    return Check("duplicates", f"{found} of {total}, {how}", "none", DIFFERS, meaning)
