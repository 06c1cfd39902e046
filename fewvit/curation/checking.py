"""`data check`: one set, or what a second set shares with it, from pictures to result rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..datasets import Dataset, Listing
from ..errors import BadImages, UsageError, some
from ..evaluate.inputs import FeatureReader
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet, require_one_backbone
from ..results import Facts, Row
from ..sources import ImageSource, Notify, Source, announce, is_features, open_source
from .copies import exact_copies, exact_leaks, near_copies, near_leaks
from .findings import (
    CHECKS,
    FEW,
    NEED_LABELS,
    Finding,
    class_counts,
    effective_classes,
    most_common,
    of_classes,
    of_lost,
    of_pictures,
    of_unknown_classes,
)
from .label_errors import label_errors
from .looking import Look, Looks, Progress, with_reasons

_EXAMPLES = 3


@dataclass(frozen=True)
class Request:
    """What is looked for, and how."""

    threshold: float  # cosine from which on two pictures are copies
    label_errors: str | None = None  # one of `label_errors.WAYS`; None: not looked for
    fewest: int = FEW  # images that a class should have
    max_pixels: int = 64_000_000
    seed: int = 0


@dataclass(frozen=True)
class CheckedSet:
    """One set: who is in it, and what is known of each picture. Features may be of fewer, and looks of none."""

    name: str
    place: str
    listed: Dataset | FeatureSet
    looks: Sequence[Look]  # N; empty where features were given
    features: FeatureSet | None = None

    @property
    def images(self) -> Dataset | None:
        """The pictures; None where features were given."""
        return self.listed if isinstance(self.listed, Dataset) else None

    @property
    def digests(self) -> list[bytes]:
        """Sha256 of each picture's bytes (N); empty where unknown."""
        return [one.digest for one in self.looks] if self.looks else [b""] * len(self.listed.ids)


@dataclass
class Checked:
    """What a check found."""

    data: CheckedSet
    against: CheckedSet | None
    findings: list[Finding] = field(default_factory=list)  # in the order of CHECKS
    looked_for: list[str] = field(default_factory=list)  # checks that were made
    facts: Facts = field(default_factory=dict)

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [one for one in self.findings if one.check == check]


def check_set(
    source: str,
    against: str | None,
    listing: Listing,
    reader: FeatureReader | None,
    request: Request,
    notify: Notify,
    progress: Progress = lambda done, of: None,
) -> Checked:
    """What is wrong with a set, and what a second one shares with it; without a reader nothing goes by features.

    Raises DataError as the sources do, UsageError for several backbones, and as `extract`, but for pictures that cannot
    be decoded, however many: these are findings.
    """
    if reader is not None and (len(reader.backbones.names) > 1 or reader.options.layers == "each"):
        raise UsageError("one feature per image is compared: give one backbone, and a number of layers")
    listing = replace(listing, allow_empty_class=True)  # told, not refused
    places = [place for place in (source, against) if place is not None]
    pipeline = next(reader.pipelines()) if reader is not None and not all(map(is_features, places)) else None
    sets = [_opened(place, listing, reader, pipeline, request, notify, progress) for place in places]
    if len(sets) == 2 and sets[0].features is not None and sets[1].features is not None:
        require_one_backbone(sets[0].features, sets[1].features)
    facts = {} if pipeline is None else {**pipeline.facts, **_of_backbone(pipeline, request)}
    checked = Checked(sets[0], sets[1] if len(sets) == 2 else None, facts=facts)
    order = {name: place for place, name in enumerate(CHECKS)}
    checked.findings = sorted(_findings(checked, request, notify), key=lambda one: order[one.check])
    checked.looked_for = _looked_for(checked, request)
    return checked


def _opened(
    place: str,
    listing: Listing,
    reader: FeatureReader | None,
    pipeline: Pipeline | None,
    request: Request,
    notify: Notify,
    progress: Progress,
) -> CheckedSet:
    if is_features(place):
        given = FeatureSet.load(place, unlabelled=True)
        return CheckedSet(given.name, place, given, [], given)
    if reader is None or pipeline is None:
        from ..datasets import open_dataset

        images = announce(open_dataset(place, listing), notify)
        looks = Looks(images, request.max_pixels).complete(closely=True, progress=progress)
        return CheckedSet(images.name, place, images, looks)
    opened = open_source(place, listing, reader.extractor, notify)
    return _with_features(place, opened, pipeline, request, progress)


def _with_features(place: str, source: Source, pipeline: Pipeline, request: Request, progress: Progress) -> CheckedSet:
    """A set whose features are made, or found, and whose pictures are looked at on the way."""
    if not isinstance(source, ImageSource):
        raise TypeError("features were given")
    looks = Looks(source.images, request.max_pixels)
    features: FeatureSet | None
    try:
        features = replace(source, images=looks.watched()).features(pipeline)
        skipped = features.report.skipped if features.report is not None else []
    except BadImages as error:  # none can be decoded: that is a finding
        features, skipped = None, list(error.skipped)
    found = looks.complete(closely=False, progress=progress)
    return CheckedSet(source.name, place, source.images, with_reasons(found, source.ids, skipped), features)


def _findings(checked: Checked, request: Request, notify: Notify) -> Iterator[Finding]:
    one, other = checked.data, checked.against
    yield from of_lost(one.images)
    yield from of_pictures(one.listed.ids, one.looks)
    yield from of_classes(one.listed, request.fewest)
    yield from exact_copies(one.listed, one.digests)
    if one.features is not None:
        yield from near_copies(one.features, one.listed, one.digests, request.threshold)
        if request.label_errors is not None:
            row_of = {name: row for row, name in enumerate(one.listed.ids)}
            for error in label_errors(one.features, request.label_errors, request.seed, notify):
                yield replace(error, row=row_of[error.id])
    if other is None:
        return
    yield from of_unknown_classes(one.listed, other.listed)
    for finding in (*of_lost(other.images), *of_pictures(other.listed.ids, other.looks)):
        if finding.check == "bad file":
            yield replace(finding, reason=f"{finding.reason}, in the other set", of_against=True)
    yield from exact_leaks(one.listed, one.digests, other.listed, other.digests)
    if one.features is not None and other.features is not None:
        yield from near_leaks(
            one.features, one.listed, one.digests, other.features, other.listed, other.digests, request.threshold
        )


def _looked_for(checked: Checked, request: Request) -> list[str]:
    """The checks that were made: what needs pictures, features, labels or a second set is not made without."""
    one, other = checked.data, checked.against
    left: set[str] = set()
    if not one.looks:
        left |= {"bad file", "copy, exact", "two labels, exact", "leak, exact", "other format", "blank", "tiny"}
        left |= {"huge", "long", "turned", "alpha", "16 bit", "CMYK", "animated"}
    if one.features is None:
        left |= {"copy, near", "two labels, near", "leak, near", "label error"}
    if request.label_errors is None:
        left.add("label error")
    if other is None:
        left |= {"leak, exact", "leak, near", "unknown class"}
    else:
        left |= {"leak, exact"} if not other.looks else set()
        left |= {"leak, near"} if other.features is None else set()
    if not (np.asarray(one.listed.labels) >= 0).any():
        left |= set(NEED_LABELS)
    return [name for name in CHECKS if name not in left]


# ---- rows


def rows_of(checked: Checked) -> list[Row]:
    """Result rows: what the set is made of (`kind` fact), then every check that was made (`finding`), of count 0 too.

    `share` is of the pictures, or of the classes, in percent.
    """
    one = checked.data
    rows = [_row("fact", *fact) for fact in _facts(one)]
    if checked.against is not None:
        rows.append(_row("fact", "images of the other set", len(checked.against.listed.ids), None, ""))
    for check in checked.looked_for:
        found = checked.of(check)
        whole = _whole(checked, check)
        names = some([finding.id for finding in found], _EXAMPLES)
        row = _row("finding", check, len(found), 100 * len(found) / whole if whole else 0.0, names)
        rows.append({**row, "advice": CHECKS[check]})
    return rows


def _row(kind: str, check: str, count: int | None, share: float | None, examples: str) -> Row:
    return {
        "kind": kind,
        "check": check,
        "count": count,
        "share": None if share is None else round(share, 2),
        "examples": examples,
    }


def _whole(checked: Checked, check: str) -> int:
    """How many there are of what a check counts."""
    if check == "bad file" and checked.against is not None:
        return len(checked.data.listed.ids) + len(checked.against.listed.ids)
    if check.startswith("leak") and checked.against is not None:
        return len(checked.against.listed.ids)
    if check == "unknown class" and checked.against is not None:
        return len(checked.against.listed.classes)
    return len(checked.data.listed.classes if check.endswith("class") else checked.data.listed.ids)


def _of_backbone(pipeline: Pipeline, request: Request) -> Facts:
    """Whose features tell copies and wrong labels, and how alike two have to be."""
    weights = {"weights": "random"} if pipeline.spec.is_random else {}
    return {"backbone": pipeline.spec.name, **weights, "threshold": request.threshold}


def _facts(one: CheckedSet) -> Iterator[tuple[str, int | None, float | None, str]]:
    """(name, count, share in percent, words) of what a set is made of."""
    total, counts = len(one.listed.ids), class_counts(one.listed)
    yield "images", total, 100.0, ""
    labelled = int(counts.sum())
    yield "labelled", labelled, 100 * labelled / total if total else 0.0, ""
    if labelled:
        there = counts[counts > 0]
        big, small = (
            one.listed.classes[int(at)] for at in (counts.argmax(), np.where(counts > 0, counts, total + 1).argmin())
        )
        yield "classes", len(one.listed.classes), None, f"effectively {effective_classes(counts):.1f}"
        spread = f"{small} {there.min()}, {big} {there.max()}: 1 to {there.max() / there.min():.3g}"
        spread = spread if there.min() < there.max() else f"all {there.max()}"
        yield "smallest and largest class", None, None, spread
    sizes = np.array([(look.facts.width, look.facts.height) for look in one.looks if look.facts.width], np.int64)
    if len(sizes):
        yield "size", None, None, _sizes(sizes)
    for what in ("format", "mode"):
        values = [getattr(look.facts, what) for look in one.looks if getattr(look.facts, what)]
        for value, count in most_common(values):
            yield f"{what} {value}", count, 100 * count / total, ""


def _sizes(sizes: np.ndarray) -> str:
    """The smallest and the largest picture by area, and the median of each side."""
    order = np.lexsort((sizes[:, 1], sizes[:, 0], sizes.prod(axis=1)))
    first, last = (f"{w} x {h}" for w, h in sizes[order[[0, -1]]].tolist())
    middle = " x ".join(f"{side:g}" for side in np.median(sizes, axis=0))
    return f"{first} to {last} pixels, median {middle}"


def list_of(checked: Checked) -> list[list[str]]:
    """Every finding as a row of `check, id, other, reason`, the names of the columns first."""
    return [
        ["check", "id", "other", "reason"],
        *([one.check, one.id, one.other, one.reason] for one in checked.findings),
    ]
