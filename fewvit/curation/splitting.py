"""A set in parts: of every class the same shares, groups that stay together, and shots that are nested.

What is drawn depends on the seed and on the classes' names and images alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..errors import DataError, UsageError, counted, printable, some
from ..labels import Listed, refuse_marking
from ..seeds import generator
from ..splits import n_per_class

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a part: it becomes a part of a file's name
_SHARE = re.compile(r"\d+/\d+|(\d+\.?\d*|\.\d+)(e-?\d{1,3})?", re.ASCII | re.IGNORECASE)  # no exponent fills memory


@dataclass(frozen=True)
class Parts:
    """Which part each image is in, and what the shots are drawn from."""

    names: Sequence[str]
    of: np.ndarray  # (N,) int64 places in `names`
    shots: np.ndarray  # (N,) int64: the smallest number of shots that has the image; 0: none has

    def rows(self, part: int) -> np.ndarray:
        """The rows (n,) of a part, rising."""
        return np.flatnonzero(self.of == part)


def shares_of(text: str) -> dict[str, Fraction]:
    """`train=0.8,val=0.2` as shares that add up to 1 exactly. Raises UsageError for any other text."""
    shares: dict[str, Fraction] = {}
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        try:
            share = Fraction(value if _SHARE.fullmatch(value) else 0)
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if not equals or not _NAME.fullmatch(name) or not 0 < share <= 1 or not float(share) or name in shares:
            raise UsageError(
                f"--parts {text!r}: {word.strip()!r} is no new NAME=SHARE, with a share above 0 and up to 1",
                fix="Write it as train=0.8,val=0.1,test=0.1; names have letters, digits, - and _.",
            )
        shares[name] = share
    total = sum(shares.values())
    if total != 1:
        near = f"a little {'more' if total > 1 else 'less'} than 1" if f"{float(total):g}" == "1" else ""
        raise UsageError(f"--parts {text!r}: the shares add up to {near or f'{float(total):g}, not to 1'}")
    return shares


def largest_remainder(total: int, shares: Sequence[Fraction]) -> list[int]:
    """`total` in whole numbers by shares that add up to 1: rounded down, and the rest by the largest remainders.

    Equal remainders: the earlier part first. Source: Hamilton's method of apportionment.
    """
    exact = [total * share for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda at: (counts[at] - exact[at], at))
    for at in order[: total - sum(counts)]:
        counts[at] += 1
    return counts


def split_set(
    images: Listed,
    shares: Mapping[str, Fraction],
    seed: int,
    *,
    groups: np.ndarray | None = None,
    shots: Sequence[int] = (),
    allow_fewer: bool = False,
) -> Parts:
    """The parts of a set. `groups` (N,) int64: images of one number stay together, those of -1 are alone.

    Without groups each class is parted by `largest_remainder`; with them as nearly as whole groups allow. `shots` per
    class are drawn from the first part, as `splits.n_per_class` draws them: 1 is among 2, 2 among 5. Raises DataError
    for a class of which a part has no image, or the first part too few, unless `allow_fewer`; UsageError for a set
    whose predictions are marked otherwise than by one label.
    """
    refuse_marking(images, "a table of parts")
    labels, fractions, names = np.asarray(images.labels), list(shares.values()), list(shares)
    if groups is None:
        of = _stratified(labels, images.classes, fractions, seed)
    else:
        _require_groups(groups, names)
        of = _grouped(labels, len(images.classes), _numbered(groups), fractions, seed)
    if not allow_fewer:
        _require_every_class(labels, images.classes, of, names, together=groups is not None)
    drawn = np.zeros(len(labels), np.int64)
    if shots:
        first = np.flatnonzero(of == 0)
        wanted = sorted(set(shots), reverse=True)
        for split in n_per_class(labels[first], images.classes, wanted, 1, seed, allow_fewer=allow_fewer):
            drawn[first[split.train]] = split.shots  # the largest number first, the smaller ones written over it
    return Parts(names, of, drawn)


def _stratified(labels: np.ndarray, classes: Sequence[str], shares: Sequence[Fraction], seed: int) -> np.ndarray:
    of = np.zeros(len(labels), np.int64)
    for c in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == c)
        key = (classes[c],) if c >= 0 else ()  # unlabelled ones are parted by themselves
        counts = largest_remainder(len(rows), shares)
        of[generator("parts", seed, *key).permutation(rows)] = np.repeat(np.arange(len(shares)), counts)
    return of


def _numbered(groups: np.ndarray) -> np.ndarray:
    """Groups (N,) from 0 on, an image of group -1 being one by itself."""
    alone = np.flatnonzero(groups < 0)
    found = groups.copy()
    found[alone] = groups.max(initial=-1) + 1 + np.arange(len(alone))
    return np.unique(found, return_inverse=True)[1]


def _grouped(
    labels: np.ndarray, n_classes: int, groups: np.ndarray, shares: Sequence[Fraction], seed: int
) -> np.ndarray:
    """The part (N,) of each image: groups one after another, the largest first, each where it is missed most.

    A part misses what its share of each class is above what it has; of a group's images those count that it misses,
    relative to the share. Ties: the part that is emptier for its share, then the earlier one.
    """
    wanted = np.array([float(share) for share in shares])
    held = np.zeros((groups.max(initial=-1) + 1, n_classes + 1))  # (G, C + 1), the last column being no label
    np.add.at(held, (groups, labels), 1)
    target = wanted[:, None] * held.sum(axis=0)  # (P, C + 1)
    have = np.zeros_like(target)
    place = np.empty(len(held), np.int64)
    order = generator("groups", seed).permutation(len(held))
    for group in order[np.argsort(-held[order].sum(axis=1), kind="stable")].tolist():
        before, after = (have - target) ** 2, (have + held[group] - target) ** 2
        cost = ((after - before) / np.maximum(target, 1e-9)).sum(axis=1)
        fill = have.sum(axis=1) / wanted
        part = min(range(len(wanted)), key=lambda at: (round(float(cost[at]), 9), round(float(fill[at]), 9), at))
        have[part] += held[group]
        place[group] = part
    return place[groups]


def _require_groups(groups: np.ndarray, names: Sequence[str]) -> None:
    found = len(np.unique(groups[groups >= 0])) + int((groups < 0).sum())
    if found < len(names):
        raise DataError(
            f"{counted(found, 'group')} cannot make {counted(len(names), 'part')}: groups stay together",
            fix="Ask for fewer parts, or group by another column.",
        )


def _require_every_class(
    labels: np.ndarray, classes: Sequence[str], of: np.ndarray, names: Sequence[str], *, together: bool
) -> None:
    """Raise DataError for parts without an image of a class that there is, and for parts without any image."""
    missing = []
    for part, name in enumerate(names):
        inside = np.unique(labels[of == part])
        lacking = np.setdiff1d(np.unique(labels[labels >= 0]), inside)
        missing += [f"{name} has none of {printable(classes[c])} ({int((labels == c).sum())})" for c in lacking]
        if not len(inside):
            missing.append(f"{name} has no image at all")
    if missing:
        why = "groups are too large or too few" if together else "these classes have too few images for its share"
        raise DataError(
            f"{why}: {some(missing, 4)}", fix="Add images, change --parts, or keep what there is with --allow-fewer."
        )
