"""Labels that the features of the other pictures speak against.

Two ways. `cleanlab`: confident learning on probabilities that a logistic regression gives to pictures it was not fitted
on (Northcutt et al. 2021). `knn`: nearly all of the nearest pictures have one other label. The second
needs nothing installed, names fewer pictures, and says nothing of small classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..errors import DataError, MissingExtra, UnknownName, counted
from ..features import FeatureSet
from ..neighbors import Bank, normalise
from .findings import Finding

WAYS = ("cleanlab", "knn")
K, AGREEING = 10, 8  # nearest pictures that are asked, and how many must be of one other class
LEAST = 6  # images of a class from which on `knn` judges it: its neighbours would be others' otherwise
FOLDS = 5
_BLOCK = 4096  # queries searched at once

Notify = Callable[[str], None]


def require_way(way: str) -> None:
    """Raise UnknownName for a way that is none, MissingExtra where cleanlab is asked for and not there."""
    if way not in WAYS:
        raise UnknownName("way to find label errors", way, WAYS)
    if way == "cleanlab" and not has_cleanlab():
        raise MissingExtra(
            "--label-errors cleanlab needs cleanlab",
            fix="pip install 'fewvit[labels]', or give --label-errors knn, which needs nothing.",
        )


def has_cleanlab() -> bool:
    """Whether the package of the extra `labels` is installed."""
    from importlib.util import find_spec

    return find_spec("cleanlab") is not None


def label_errors(features: FeatureSet, way: str, seed: int, notify: Notify) -> Iterator[Finding]:
    """Images whose label is probably wrong, `other` being the class that they are more like; the surest first.

    Raises as `require_way`.
    """
    require_way(way)
    rows = _judged(features, LEAST if way == "knn" else 2, way, notify)
    if len(np.unique(features.labels[rows])) < 2:
        notify(f"label errors ({way}): fewer than two classes to judge by, nothing was looked for")
        return
    judge = _by_neighbors if way == "knn" else _by_cleanlab
    yield from judge(features, rows, seed)


def _judged(features: FeatureSet, least: int, way: str, notify: Notify) -> np.ndarray:
    """The rows (n,) of classes with at least so many images."""
    labels = features.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(features.classes))
    small = int(((counts > 0) & (counts < least)).sum())
    if small:
        notify(
            f"label errors ({way}): {counted(small, 'class has', 'classes have')} fewer than {least} images, and "
            "nothing is said of their labels"
        )
    return np.flatnonzero((labels >= 0) & (counts[labels] >= least))


# ---- by neighbours


def _by_neighbors(features: FeatureSet, rows: np.ndarray, seed: int) -> Iterator[Finding]:
    """Each labelled image is asked about among all other ones, which have one voice each; `seed` changes nothing."""
    known = np.flatnonzero(features.labels >= 0)
    labels, judged = features.labels[known], np.isin(known, rows)
    unit = normalise(features.features[known])
    bank, k = Bank.of_unit_rows(unit), min(K, len(known) - 1)
    least = -(-AGREEING * k // K)
    found = []
    for start in range(0, len(known), _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(known)))
        near = _others(bank.search(unit[own], k + 1).rows, own)
        for at, voices in zip(own.tolist(), labels[near], strict=True):
            classes, counts = np.unique(voices, return_counts=True)
            best = int(counts.argmax())
            if judged[at] and classes[best] != labels[at] and counts[best] >= least:
                found.append((-int(counts[best]), int(known[at]), int(classes[best])))
    for minus, row, other in sorted(found):
        yield _error(features, row, other, f"{-minus} of its {k} nearest images are {features.classes[other]}")


def _others(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Neighbours (q, k) of rows that are among their own (q, k + 1): without themselves, or else without the last."""
    kept = rows != own[:, None]
    kept[kept.all(axis=1), -1] = False
    return rows[kept].reshape(len(rows), -1)


# ---- by cleanlab


def _by_cleanlab(features: FeatureSet, rows: np.ndarray, seed: int) -> Iterator[Finding]:
    from cleanlab.filter import find_label_issues

    present, labels = np.unique(features.labels[rows], return_inverse=True)
    shares = held_out_probabilities(features.features[rows], labels, seed)
    issues = find_label_issues(labels, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    for at in np.asarray(issues, dtype=np.int64).tolist():
        best = int(shares[at].argmax())
        name = features.classes[int(present[best])]
        reason = f"{100 * shares[at, best]:.0f} % {name}, {100 * shares[at, labels[at]]:.0f} % its label"
        yield _error(features, int(rows[at]), int(present[best]), reason)


def held_out_probabilities(rows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Class probabilities (N, C) of each image by a regression that was fitted without it: 5 folds.

    Raises DataError for a class with a single image.
    """
    from ..calibration import stratified_folds
    from ..classifiers.logistic import LogisticRegression

    folds = stratified_folds(labels, FOLDS, seed)
    if (folds < 0).any():
        raise DataError("a class has a single image, which cannot be held out")
    shares = np.zeros((len(rows), int(labels.max()) + 1))
    for fold in np.unique(folds):
        held = folds == fold
        fitted = LogisticRegression().fit(rows[~held], labels[~held])
        shares[np.ix_(held, fitted.classes_)] = fitted.predict_proba(rows[held])
    return shares


def _error(features: FeatureSet, row: int, other: int, reason: str) -> Finding:
    own = features.classes[int(features.labels[row])]
    return Finding("label error", features.ids[row], f"{own}, {reason}", features.classes[other])
