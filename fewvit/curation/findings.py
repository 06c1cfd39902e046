"""What may be wrong with a set of pictures: one table of checks, and the findings that single pictures give."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Dataset
from ..datasets._listing import BROKEN
from ..errors import counted
from ..labels import Listed
from .looking import Look

TINY, HUGE, LONG = 32, 25_000_000, 4.0  # shorter side in pixels; pixels; longer side over the shorter one
FEW = 5  # images of a class: what five shots take

# check -> what to do about it, in the order in which they are told
CHECKS = {
    "bad file": "repair or remove them: commands stop at them, or leave them out with --max-bad",
    "leak, exact": "the same picture is to be learnt from and tested on: remove it from one of the sets",
    "leak, near": "nearly the same picture in both sets: look, and remove it from one of them",
    "two labels, exact": "one picture has two labels: keep the right one, remove the other",
    "two labels, near": "nearly one picture has two labels: look which one is right",
    "label error": "look at them: the pictures that are most like them are of another class",
    "copy, exact": "keep one of each: copies count twice, and straddle a split",
    "copy, near": "look, and keep one of each; `fewvit data split --group-column` keeps them together",
    "empty class": "fill or remove it; --allow-empty-class keeps it",
    "small class": "more images, or fewer shots: what is measured of it is chance",
    "unknown class": "the other set has classes that this one has not: they cannot be learnt; commands stop at them",
    "no label": "label them, or leave them out: they are no part of any accuracy",
    "other format": "harmless to fewvit, which goes by the content; rename them for other programs",
    "blank": "remove them: every pixel is of one colour",
    "tiny": f"shorter side below {TINY} pixels: enlarged, they say little",
    "huge": f"over {HUGE // 1_000_000} megapixels: slow to read; smaller copies give the same features",
    "long": f"longer side over {LONG:g} times the shorter: the centre crop shows a part of it; crop them yourself",
    "turned": "--decode fast turns them upright, --decode pil does not: the two give other features",
    "alpha": "--decode fast puts white under it, --decode pil drops it: the two give other features",
    "16 bit": "--decode fast scales it to 8 bits, --decode pil cuts it off: save such pictures with 8 bits",
    "CMYK": "converted without a colour profile: colours may be off; save them as RGB",
    "animated": "the first frame is taken, the others are not looked at",
}
LEAKS = ("leak, exact", "leak, near")
STRICT = ("bad file", *LEAKS)  # what --strict does not pass
NEED_LABELS = ("two labels, exact", "two labels, near", "label error", "empty class", "small class", "no label")

_OF_NAME = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **{f".{name.lower()}": name for name in ("PNG", "WEBP", "BMP", "GIF", "AVIF")},
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    check: str  # of CHECKS
    id: str  # of a picture, or a class
    reason: str
    other: str = ""  # the picture that it is a copy of, or the class that it may be of
    of_against: bool = False  # `id` is of the other set
    row: int | None = None  # of the picture that `id` is
    other_row: int | None = None  # and of `other`: always of the first set


def of_pictures(ids: Sequence[str], looks: Sequence[Look]) -> Iterator[Finding]:
    """What each picture shows by itself; nothing where there are no looks, but features alone."""
    for row, (name, one) in enumerate(zip(ids if looks else (), looks, strict=True)):
        if one.reason:
            yield Finding("bad file", name, one.reason, row=row)
        for check, reason in _odd(name, one):
            yield Finding(check, name, reason, row=row)


def of_lost(images: Dataset | None) -> Iterator[Finding]:
    """Links of a folder that lead nowhere, or to themselves: pictures that are lost, and no rows of the set."""
    for name in images.examples.get(BROKEN, ()) if images is not None else ():
        yield Finding("bad file", name, BROKEN)


def _odd(name: str, one: Look) -> Iterator[tuple[str, str]]:
    """(check, reason) of what is odd about a picture; of a bad one only its name's fault."""
    facts = one.facts
    expected = _OF_NAME.get(os.path.splitext(name)[1].lower(), facts.format)
    if facts.format and facts.format != expected:
        yield "other format", f"{facts.format}, named as {expected}"
    if one.reason or not facts.width:
        return
    size, short, long = f"{facts.width} x {facts.height} pixels", *sorted((facts.width, facts.height))
    if one.blank:
        yield "blank", f"{size} of one colour"
    if short < TINY:
        yield "tiny", size
    if short * long > HUGE:
        yield "huge", size
    if long > LONG * short:
        yield "long", size
    if facts.orientation != 1:
        yield "turned", f"EXIF orientation {facts.orientation}"
    if facts.has_alpha:
        yield "alpha", f"mode {facts.mode}"
    if facts.mode == "I;16":
        yield "16 bit", "grey of more than 8 bits"
    if facts.mode == "CMYK":
        yield "CMYK", "mode CMYK"
    if facts.is_animated:
        yield "animated", f"{facts.format} with several frames"


def of_classes(images: Listed, fewest: int = FEW) -> Iterator[Finding]:
    """What the labels show: classes without images, with few, and images without a label."""
    counts = class_counts(images)
    for name, count in zip(images.classes, counts.tolist(), strict=True):
        if count == 0:
            yield Finding("empty class", name, "no image")
        elif count < fewest:
            yield Finding("small class", name, counted(count, "image"))
    if counts.any():  # where nothing is labelled, nothing is missing
        for row in np.flatnonzero(images.labels < 0).tolist():
            yield Finding("no label", images.ids[row], "no label", row=row)


def of_unknown_classes(images: Listed, against: Listed) -> Iterator[Finding]:
    """Classes that labelled images of the other set have and this set has none of."""
    known = {name for name, count in zip(images.classes, class_counts(images).tolist(), strict=True) if count}
    if not known:
        return
    for name, count in zip(against.classes, class_counts(against).tolist(), strict=True):
        if count and name not in known:
            yield Finding("unknown class", name, counted(count, "image"), of_against=True)


def class_counts(images: Listed) -> np.ndarray:
    """How many images each class has (C,) int64."""
    labels = np.asarray(images.labels)
    return np.bincount(labels[labels >= 0], minlength=len(images.classes))


def effective_classes(counts: np.ndarray) -> float:
    """How many equally large classes are as varied as these: exp of the entropy of their shares; 0 of none.

    Source: Hill 1973, the number of order 1.
    """
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def most_common(values: Sequence[str]) -> list[tuple[str, int]]:
    """Each value and how often it is there, the most frequent first, then by name."""
    return sorted(Counter(values).items(), key=lambda one: (-one[1], one[0]))
