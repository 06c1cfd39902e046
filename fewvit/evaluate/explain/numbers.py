"""How far the published number is, or why none applies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import counted, printable
from ...results import Row
from .check import DIFFERS, OK, UNKNOWN, Check
from .method import published_method, published_shots, share, shots_of
from .subject import Subject

_CLOSE = 0.5  # percentage points that rounding, decoders and drivers may make


def knn_number(subject: Subject, checks: Sequence[Check]) -> Check:
    """Top-1 at the published k, or at the best k where that is not known, beside the published number."""
    row = _best(subject)
    here = f"{row['value']:.2f} at k = {row['k']}"
    published = subject.spec.published.get("knn") if subject.spec is not None else None
    if published is None or _untrained(subject):
        return _none(subject, "top-1", here, "k-NN")
    return distance("top-1", here, row["value"], str(published), _differing(checks), _comparable(checks))


def _best(subject: Subject) -> Row:
    """The row to compare: at the published temperature and k where these were measured, else the best."""
    rows = [row for row in subject.rows if row["metric"] == "top1" and row.get("trial") in (None, "mean")]
    shots = max((row.get("shots", 0) for row in rows), default=0)
    rows = [row for row in rows if row.get("shots", 0) == shots]
    protocol = subject.protocol
    if protocol is not None:
        rows = [row for row in rows if row["temperature"] == protocol.temperature] or rows
        wanted = (protocol.published_k,) if protocol.published_k else protocol.ks
        rows = [row for row in rows if row["k"] in wanted] or rows
    return max(rows, key=lambda row: row["value"])


def lowshot_numbers(subject: Subject, checks: Sequence[Check]) -> Iterator[Check]:
    """The mean top-1 of each number of shots beside the published one."""
    known = published_shots(subject)
    for shots in shots_of(subject):
        what = f"top-1, {share(shots)}{'-shot' if isinstance(shots, int) else ''}"
        is_known = share(shots) in known and not _untrained(subject)
        method = published_method(subject, shots) if is_known else _best_method(subject, shots)
        row = _mean(subject, method, shots)
        here = f"{row['value']:.2f} by {method}" if row is not None else None
        if not is_known:
            labels = f"{counted(shots, 'image')} per class" if isinstance(shots, int) else share(shots)
            yield _none(subject, what, here, labels)
        elif row is None:
            yield Check(
                what, None, str(known[share(shots)]), UNKNOWN, f"It was measured with {method}: --classifier {method}."
            )
        else:
            number = printable(str(known[share(shots)]))
            yield distance(what, here or "", row["value"], number, _differing(checks), _comparable(checks))


def _best_method(subject: Subject, shots: int | str) -> str:
    """The classifier with the highest mean top-1: nothing published says which one to look at."""
    rows = [row for row in subject.rows if (row["shots"], row["trial"], row["metric"]) == (shots, "mean", "top1")]
    return str(max(rows, key=lambda row: float(row["value"]))["method"])


def _mean(subject: Subject, method: str, shots: int | str) -> Row | None:
    return next(
        (
            row
            for row in subject.rows
            if (row["method"], row["shots"], row["trial"], row["metric"]) == (method, shots, "mean", "top1")
        ),
        None,
    )


def distance(what: str, here: str, value: float, published: str, differing: Sequence[str], comparable: bool) -> Check:
    """How far a measured value is from a published one such as `47.1 ± 0.1`, both in percent.

    It is ok within half a point. On other images than the published number's nothing follows from the distance.
    """
    apart = round(value - float(published.split()[0]), 2)
    far = f"{abs(apart):.2f} {'above' if apart > 0 else 'below'} the published number" if apart else "Equal to it"
    look = (
        f"What differs: {', '.join(differing)}."
        if differing
        else "All that was checked agrees; what is left are the images themselves, and versions."
    )
    if not comparable:
        return Check(what, here, published, UNKNOWN, f"{far}, which was measured on other images. {look}")
    verdict = OK if abs(apart) <= _CLOSE else DIFFERS
    return Check(what, here, published, verdict, f"{far}. {look}" if verdict == DIFFERS or differing else f"{far}.")


def _differing(checks: Sequence[Check]) -> list[str]:
    return [check.what for check in checks if check.verdict == DIFFERS]


def _comparable(checks: Sequence[Check]) -> bool:
    """Whether the test images are as many, and of as many classes, as those of the published number."""
    return all(check.verdict == OK for check in checks if check.what in ("test images", "classes"))


def _untrained(subject: Subject) -> bool:
    return subject.spec is not None and subject.spec.is_random


def _none(subject: Subject, what: str, here: str | None, by: str) -> Check:
    """Why there is no number to compare with."""
    spec = subject.spec
    if spec is None:
        why = "The backbone behind these features is not known, so there is no published number to compare with."
    elif spec.is_random:
        why = "Untrained weights have no published number."
    elif not spec.published:
        why = f"No number of {spec.name} is published."
    else:
        why = (
            f"No number of {spec.name} by {by} is published; `fewvit backbones info {spec.name}` shows those that are."
        )
    return Check(what, here, None, UNKNOWN, why)
