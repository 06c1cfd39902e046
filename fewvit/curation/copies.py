"""Pictures that are there twice: by their bytes, and by their features as `index duplicates` finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..features import FeatureSet
from ..labels import Listed
from ..neighbors import normalise
from ..neighbors.pairs import score
from ..retrieval.compared import Comparison, of_features
from ..retrieval.duplicates import NEAR, find_duplicates
from .findings import Finding

SAME = "the same bytes"


def exact_copies(images: Listed, digests: Sequence[bytes]) -> Iterator[Finding]:
    """Pictures of the same bytes: each but one, which is the first, or the first that has a label."""
    for rows in _by_digest(digests).values():
        first = _first(images, rows)
        for row in rows:
            if row != first:
                yield _copy("exact", images, row, first, SAME)


def exact_leaks(
    images: Listed, digests: Sequence[bytes], against: Listed, others: Sequence[bytes]
) -> Iterator[Finding]:
    """Pictures of the other set whose bytes are in this one, each with the first one that has them."""
    first = {digest: rows[0] for digest, rows in _by_digest(digests, least=1).items()}
    for row, digest in enumerate(others):
        if digest in first:
            at = first[digest]
            yield Finding("leak, exact", against.ids[row], SAME, images.ids[at], True, row, at)


def near_copies(features: FeatureSet, images: Listed, digests: Sequence[bytes], threshold: float) -> Iterator[Finding]:
    """Pictures of other bytes whose features are as close as copies' are: each of a group but one, as `exact_copies`.

    Of a group some may be copies of one another by way of a third; `reason` has the cosine with the one that is named.
    """
    row_of = {name: row for row, name in enumerate(images.ids)}
    for group in find_duplicates(Comparison((of_features("", features, None),)), threshold).groups:
        place_of = {row_of[name]: place for name, place in zip(group.names, group.rows.tolist(), strict=True)}
        rows = _of_other_bytes(list(place_of), digests)
        first = _first(images, rows)
        unit = normalise(features.features[[place_of[row] for row in rows]])
        scores = score(unit, np.repeat(unit[[rows.index(first)]], len(unit), axis=0))
        for row, value in zip(rows, scores.tolist(), strict=True):
            if row != first:
                yield _copy("near", images, row, first, f"cosine {value:.4f}")


def near_leaks(
    features: FeatureSet,
    images: Listed,
    digests: Sequence[bytes],
    other: FeatureSet,
    against: Listed,
    others: Sequence[bytes],
    threshold: float,
) -> Iterator[Finding]:
    """Pictures of the other set that are near copies of one of this set, and no exact ones."""
    rows, other_rows = ({name: row for row, name in enumerate(one.ids)} for one in (images, against))
    known = {digest for digest in digests if digest}
    comparison = Comparison(tuple(of_features("", one, None) for one in (features, other)))
    split = len(features)
    for group in find_duplicates(comparison, threshold).groups:
        for place, name, cosine, kind in zip(
            group.rows.tolist(), group.names, group.scores.tolist(), group.kinds, strict=True
        ):
            if place >= split and kind == NEAR and others[other_rows[name]] not in known:
                first = group.names[0]
                yield Finding("leak, near", name, f"cosine {cosine:.4f}", first, True, other_rows[name], rows[first])


def _first(images: Listed, rows: Sequence[int]) -> int:
    """The copy that the others are told beside: the first with a label, else the first."""
    return next((row for row in rows if images.labels[row] >= 0), rows[0])


def _copy(how: str, images: Listed, row: int, first: int, reason: str) -> Finding:
    one, other = (int(images.labels[at]) for at in (row, first))
    if one < 0 or other < 0 or one == other:
        return Finding(f"copy, {how}", images.ids[row], reason, images.ids[first], False, row, first)
    reason = f"{reason}; {images.classes[one]} here, {images.classes[other]} there"
    return Finding(f"two labels, {how}", images.ids[row], reason, images.ids[first], False, row, first)


def _of_other_bytes(rows: Sequence[int], digests: Sequence[bytes]) -> list[int]:
    """The rows without those whose bytes came before: these are told as exact copies. No digest: unknown."""
    first = {digests[row]: row for row in reversed(rows) if digests[row]}
    return [row for row in rows if first.get(digests[row], row) == row]


def _by_digest(digests: Sequence[bytes], least: int = 2) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            found.setdefault(digest, []).append(row)
    return {digest: rows for digest, rows in found.items() if len(rows) >= least}
