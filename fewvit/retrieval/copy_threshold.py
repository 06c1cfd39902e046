"""The threshold above which images are copies, from copies that are made of a user's own images.

Each image of a sample gets a copy, in turn a crop, a recompression, a smaller version, one with an overlay, and a
mirror image; where the set is small, each gets several. The copies are what should be found. What should not are the
most similar other images of the set: every pair of a sampled image with one of these, counted as often as the image was
copied. Precision is the share of copies among all pairs at or above a threshold: that of a set in which every image has
one copy. Images of the same bytes or features count as neither. Whether two images of the set are copies that were
there before is not known: the pairs that decided are reported, for a user to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Dataset
from ..errors import DataError, UsageError
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet
from ..neighbors.pairs import UnitRows, nearest_rows, row_keys, score, wilson
from ..results import Facts
from ..seeds import generator
from ..sources import Extractor
from .compared import ComparedSet
from .made_copies import EDITS, Plan, made_copies

COPIES = 1000  # that are made; at least 381 must be found to show a precision of 99 %
_OTHERS = 64  # most similar images looked at for each one of the sample
_SHOWN = 3  # pairs of others that are reported
_DECIMALS = 6  # of a threshold, so that its flag says all of it


@dataclass(frozen=True)
class Request:
    """What a threshold is wanted for."""

    copies: int = COPIES
    precision: float = 0.99
    seed: int = 0


@dataclass(frozen=True)
class CopyThreshold:
    """A threshold, and what is known of it."""

    threshold: float
    wanted: float  # precision
    found: int  # copies at or above the threshold
    false: int  # pairs of other images there
    kinds: dict[str, tuple[int, int]]  # kind of copy -> found, made
    nearest: Sequence[tuple[str, str, float]]  # the most similar images that were taken for no copies
    mistaken: int  # images of the sample with another image at or above the threshold
    sample: int  # images
    images: int  # of the whole set

    @property
    def precision(self) -> float:
        """The share of copies among the pairs at or above the threshold."""
        return self.found / max(1, self.found + self.false)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the precision, 95 %."""
        return wilson(self.found, self.found + self.false)

    @property
    def is_reached(self) -> bool:
        """Whether even the lower end of the interval is what was wanted."""
        return self.interval[0] >= self.wanted

    @property
    def is_kept_by_others(self) -> bool:
        """Whether so many copies were made that it is the pairs of other images that keep the precision from being."""
        made = sum(made for _, made in self.kinds.values())
        return not self.is_reached and wilson(made, made)[0] >= self.wanted

    @property
    def look_alikes(self) -> tuple[int, int]:
        """How many images of the whole set have another one at or above the threshold, 95 % interval."""
        low, high = wilson(self.mistaken, self.sample)
        return math.floor(low * self.images), math.ceil(high * self.images)

    def facts(self) -> Facts:
        """For a manifest."""
        return {
            "threshold": self.threshold,
            "precision": round(self.precision, 6),
            "precision_ci95": [round(end, 6) for end in self.interval],
            "precision_wanted": self.wanted,
            "reached": self.is_reached,
            "copies_found": self.found,
            "false_pairs": self.false,
            "look_alikes_ci95": list(self.look_alikes),
            "recall": {
                kind: {"found": found, "made": made, "value": round(found / made, 6)}
                for kind, (found, made) in self.kinds.items()
            },
            "nearest": [{"id": one, "other": other, "score": value} for one, other, value in self.nearest],
        }

    def lines(self) -> list[str]:
        """For people: what it is, how sure that is, what it finds, and the flag that repeats it."""
        low, high = self.interval
        made = sum(made for _, made in self.kinds.values())
        recall = ", ".join(f"{kind} {found}/{of}" for kind, (found, of) in self.kinds.items())
        lines = [
            f"threshold {self.threshold}: of {made} made copies {self.found} are found, beside {self.false} other "
            f"pairs; precision {self.precision:.4f} (95 %: {low:.4f} to {high:.4f}); repeat it with "
            f"--threshold {self.threshold}",
            f"copies found: {recall}",
            f"{self.look_alikes[0]} to {self.look_alikes[1]} of the {self.images} images have an image so similar that "
            "is no copy, or is one that was there before",
        ]
        if not self.is_reached:
            way_out = (
                "pairs of other images are in the way: where they are copies that were there before (look at the most "
                "similar ones below), take those that `fewvit index duplicates` finds without --calibrate out of the "
                "set and calibrate again; else"
                if self.is_kept_by_others
                else "make more copies with --sample N, or"
            )
            lines.append(
                f"precision {self.wanted} is NOT reached with certainty: at this threshold, the best there is, it may "
                f"be as low as {low:.4f}; {way_out} ask for less with --copy-precision"
            )
        pairs = "; ".join(f"{one} and {other} ({value:.4f})" for one, other, value in self.nearest)
        return [*lines, *([f"most similar images taken for no copies, look at them: {pairs}"] if pairs else [])]


def calibrated_threshold(
    one: ComparedSet, pipeline: Pipeline | None, extractor: Extractor, request: Request
) -> CopyThreshold:
    """The lowest threshold whose precision is what is wanted at the lower end of its interval too; else the surest.

    Copies go through the same pipeline as the images, and their features into the same cache. Raises UsageError for a
    set without images or a precision that is none, DataError for fewer than two images, and as `extract`.
    """
    _check(one, request)
    if one.read is None or pipeline is None:
        raise UsageError("--calibrate makes copies of images, and these are features", fix="Give --threshold COSINE.")
    keys = row_keys(one.rows)
    plan = planned(one, keys, request)
    features, plan = _features(made_copies(plan, one.read, extractor.work.max_pixels), plan, pipeline, extractor)
    sample, times = np.unique(plan.rows, return_counts=True)
    copies = UnitRows.of(features.features)
    positive = np.concatenate([score(one.rows.take(plan.rows[numbers]), rows) for numbers, rows in copies.blocks(4096)])
    others, negative = most_similar(one.rows, sample, keys)
    threshold = lowest_threshold(positive, negative, times, request.precision)
    return CopyThreshold(
        threshold,
        request.precision,
        int(np.count_nonzero(positive >= np.float32(threshold))),
        _false(negative, times, threshold),
        _by_kind(plan.kinds, positive >= np.float32(threshold)),
        _nearest(one, sample, others, negative),
        int(np.count_nonzero((negative >= np.float32(threshold)).any(axis=1))),
        len(sample),
        len(one),
    )


def _check(one: ComparedSet, request: Request) -> None:
    if not 0 < request.precision < 1:
        raise UsageError(f"--copy-precision {request.precision} is no share above 0 and below 1, such as 0.99")
    if request.copies < 1:
        raise UsageError(f"--sample {request.copies}: at least one copy must be made")
    if len(one) < 2:
        raise DataError("one image has no others to tell its copies from", file=one.place)


def planned(one: ComparedSet, keys: np.ndarray, request: Request) -> Plan:
    """Copies of a sample that does not depend on the order of the rows; of a few images each is made several times."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    distinct = order[np.r_[True, (keys[order[1:]] != keys[order[:-1]]).any(axis=1)]]
    drawn = generator("sample", request.seed).permutation(len(distinct))[: request.copies]
    rows = distinct[drawn]
    each = min(len(EDITS), math.ceil(request.copies / len(rows)))
    kinds = list(EDITS)
    turn = np.arange(len(rows))[:, None] + np.arange(each) * (1 if each == len(kinds) else 2)
    chosen = (turn % len(kinds)).reshape(-1)[: request.copies]
    rows = np.repeat(rows, each)[: request.copies]
    return Plan(rows, [kinds[at] for at in chosen.tolist()], one.names(rows), request.seed)


def _features(copies: Dataset, plan: Plan, pipeline: Pipeline, extractor: Extractor) -> tuple[FeatureSet, Plan]:
    """The copies' features, and the plan without those that could not be made."""
    features = extractor.features(pipeline, copies)
    if len(features) == len(copies):
        return features, plan
    there = set(features.ids)
    kept = [at for at, name in enumerate(copies.ids) if name in there]
    return features, Plan(plan.rows[kept], [plan.kinds[at] for at in kept], [plan.names[at] for at in kept], plan.seed)


def most_similar(rows: UnitRows, sample: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines (n, k) of the most similar others of each sampled row; row -1 and -1 where there are fewer.

    Rows equal to the sampled one are left out: they are copies.
    """
    best = nearest_rows(rows, rows.take(sample), _OTHERS)
    equal = (keys[best[0]] == keys[sample][:, None]).all(axis=2)
    return np.where(equal, -1, best[0]), np.where(equal, np.float32(-1), best[1])


def lowest_threshold(positive: np.ndarray, negative: np.ndarray, times: np.ndarray, wanted: float) -> float:
    """The lowest threshold at which the precision's lower end is `wanted`; where there is none, where it is highest.

    `positive` (n,): cosines of copies; `negative` (m, k): of the others of each sampled image, which count
    `times` (m,).
    """
    falling = np.sort(positive[positive > 0])[::-1]
    if len(falling) == 0:
        return 1.0
    candidates = np.unique(np.floor(falling.astype(np.float64) * 10**_DECIMALS) / 10**_DECIMALS)[::-1]
    candidates = candidates[candidates > 0]
    lows = []
    for candidate in candidates.tolist():
        found = int(np.count_nonzero(positive >= np.float32(candidate)))
        lows.append(wilson(found, found + _false(negative, times, candidate))[0])
    enough = [candidate for candidate, low in zip(candidates.tolist(), lows, strict=True) if low >= wanted]
    return float(round(min(enough) if enough else candidates[int(np.argmax(lows))], _DECIMALS))


def _false(negative: np.ndarray, times: np.ndarray, threshold: float) -> int:
    return int((np.count_nonzero(negative >= np.float32(threshold), axis=1) * times).sum())


def _by_kind(kinds: Sequence[str], found: np.ndarray) -> dict[str, tuple[int, int]]:
    counts = {kind: (0, 0) for kind in EDITS if kind in kinds}
    for kind, is_found in zip(kinds, found.tolist(), strict=True):
        counts[kind] = (counts[kind][0] + is_found, counts[kind][1] + 1)
    return counts


def _nearest(
    one: ComparedSet, sample: np.ndarray, others: np.ndarray, negative: np.ndarray
) -> list[tuple[str, str, float]]:
    """The most similar pairs of different images, each pair once."""
    shown: dict[frozenset[int], tuple[str, str, float]] = {}
    for place in np.argsort(-negative, axis=None, kind="stable")[: 4 * _SHOWN].tolist():
        at, to = divmod(place, negative.shape[1])
        first, second = int(sample[at]), int(others[at, to])
        if second >= 0 and len(shown) < _SHOWN:
            names = sorted(one.names(np.array([first, second])))
            shown.setdefault(frozenset((first, second)), (names[0], names[1], round(float(negative[at, to]), 6)))
    return list(shown.values())
