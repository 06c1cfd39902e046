"""The strangeness that a bundle stores: which score, chosen among the labelled images, and where `unknown` begins.

A score is good if it tells apart what fewvit can try without a stranger at hand: classes that were left out of its fit,
which are near, and made-up rows, which are far. The threshold is of rows that the score was not fitted on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration import held_folds, stratified_folds
from ..errors import UsageError, counted
from ..metrics import auroc, threshold_at
from ..seeds import generator
from ..strangeness import DEFAULT, Score, find_score, scaled, score_names

KNOWN_SHARE = 0.95  # of held-out known images that a threshold lets pass
_FOLDS, _GROUPS = 5, 10  # of images held out, of classes left out
_ENOUGH, _FEW = 2000, 200  # rows to choose a score by, and those among them that are compared with made-up ones
_WIDEST = 2048  # columns whose covariance is inverted in seconds; of more, what needs none is taken
_BETTER = 0.02  # by which another score's AUROC must exceed the default's: less is within what ten groups tell
_BLOCK = 64  # rows of one product, always as many: the last digits of a row depend on how many there are
_ARRAYS = "strangeness."  # how the names of its arrays begin


@dataclass(frozen=True)
class Strangeness:
    """A score fitted on a bundle's rows, and the strangeness above which a picture is of none of its classes."""

    name: str  # of the score
    score: Score
    threshold: float | None = None  # None: no image could be held out to take one from
    known_share: float = KNOWN_SHARE
    calibrated_on: int = 0  # images held out in turn
    # score -> AUROC against `left_out` classes and `made_up` rows; empty where it was named by the user
    tried: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def of(self, features: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of features (Q, D), higher is stranger."""
        rows, found = scaled(features), np.zeros(len(features))
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            padded = np.concatenate([part, np.zeros((_BLOCK - len(part), part.shape[1]))])
            found[start : start + _BLOCK] = self.score.of(padded)[: len(part)]
        return found

    def grown(self, features: np.ndarray, labels: np.ndarray, n_classes: int) -> Strangeness:
        """With more rows (N, D), as if they had been there when fitting; the threshold stays."""
        learnt = self.score.learnt.with_more(scaled(features), labels, n_classes)
        return dataclasses.replace(self, score=type(self.score)(learnt))

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        told = ("threshold", "known_share", "calibrated_on", "tried")
        return {"score": self.name, **{name: getattr(self, name) for name in told}}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What the score learnt, to be stored."""
        return {_ARRAYS + name: np.ascontiguousarray(array) for name, array in self.score.learnt.arrays.items()}


def strangeness_of(
    facts: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray], width: int, n_classes: int
) -> Strangeness | None:
    """What `facts` and `arrays` gave; None for a bundle without. Raises ValueError and KeyError for what is none."""
    if facts is None:
        return None
    own = {name.removeprefix(_ARRAYS): array for name, array in arrays.items() if name.startswith(_ARRAYS)}
    kind, threshold = find_score(facts["score"]), facts["threshold"]
    if threshold is not None and not (isinstance(threshold, int | float) and np.isfinite(threshold)):
        raise ValueError(f"the threshold of the strangeness is {threshold!r}, which is no number")
    rest = {name: facts[name] for name in ("threshold", "known_share", "calibrated_on", "tried")}
    return Strangeness(facts["score"], kind(kind.learns.of_arrays(own, width, n_classes)), **rest)


def check_known_share(share: float) -> None:
    """Raise UsageError unless it is a share above 0."""
    if not 0 < share <= 1:
        raise UsageError(f"--known-share {share} is no share above 0 and up to 1")


# ---- fitting


def fit_strangeness(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    known_share: float = KNOWN_SHARE,
    seed: int = 0,
    name: str | None = None,
) -> tuple[Strangeness, np.ndarray]:
    """The strangeness fitted on features (N, D) and labels (N,) = 0 … C - 1, and that of held-out rows (m,).

    The held-out rows are those of `calibration.held_out` of the same seed, in its order. `name` is the score; without
    one it is chosen.
    """
    rows = scaled(features)
    is_wide = rows.shape[1] > _WIDEST
    tried = {} if name is not None or is_wide else try_scores(rows, labels, seed)
    chosen = name.replace("-", "_") if name is not None else "nearest" if is_wide else best_of(tried)
    folds = held_folds(labels, _FOLDS, seed)
    held = np.concatenate(
        [np.zeros(0), *(_fitted(chosen, rows[rest], labels[rest]).of(rows[out]) for out, rest in folds)]
    )
    threshold = threshold_at(held, known_share) if len(held) else None
    score = _fitted(chosen, rows, labels)
    return Strangeness(chosen, score, threshold, known_share, len(held), tried), held


def best_of(tried: Mapping[str, Mapping[str, float]]) -> str:
    """The default score, or the one with the best mean AUROC if it is better by more than `_BETTER`.

    Where nothing could be tried it is `mahalanobis`, which is never far off; where no class has two images, and so no
    spread is known, it is the plain distance to the nearest mean.
    """
    if not tried:
        return "mahalanobis"
    means = {name: float(np.mean(list(found.values()))) for name, found in tried.items()}
    best = max(means, key=lambda name: means[name])
    return best if means[best] > means[DEFAULT] + _BETTER else DEFAULT


def try_scores(rows: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Score -> AUROC of held-out known rows against classes `left_out` of the fit and against `made_up` rows.

    Of scaled rows (N, D). Empty with fewer than 3 classes, and where no class has two rows: then nothing can be tried.
    """
    if len(rows) > _ENOUGH:
        some = np.sort(generator("strangeness rows", seed).permutation(len(rows))[:_ENOUGH])
        rows, labels = rows[some], np.unique(labels[some], return_inverse=True)[1]
    near = [_compared(rows, labels, fit, rows[known], rows[out]) for fit, known, out in _left_out(labels, seed)]
    if not near:
        return {}
    folds, made_up = held_folds(labels, _FOLDS, seed, _FEW), made_up_rows(rows, seed)
    far = [_compared(rows, labels, fit, rows[known], made_up[known]) for known, fit in folds]
    tried = {"left_out": near, "made_up": far}
    return {
        name: {what: float(np.mean([one[name] for one in found])) for what, found in tried.items()}
        for name in score_names()
    }


def _compared(
    rows: np.ndarray, labels: np.ndarray, fit: np.ndarray, known: np.ndarray, strange: np.ndarray
) -> dict[str, float]:
    """Every score's AUROC of known against strange rows, fitted on the rows `fit`.

    What two of them learn is learnt once.
    """
    present, numbers = np.unique(labels[fit], return_inverse=True)
    kinds = {name: find_score(name) for name in score_names()}
    learnt = {learns: learns.of(rows[fit], numbers, len(present)) for learns in {k.learns for k in kinds.values()}}
    scores = {name: kind(learnt[kind.learns]) for name, kind in kinds.items()}
    return {name: auroc(score.of(known), score.of(strange)) for name, score in scores.items()}


def made_up_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """(N, D) of unit length, each column in an order of its own: numbers that occur, in company that does not."""
    stream = generator("made-up rows", seed)
    return scaled(np.stack([stream.permutation(column) for column in rows.T], axis=1))


def _left_out(labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows to fit on, rows of the same classes that are held out, and rows of the classes that are left out.

    Each class is left out once, in at most `_GROUPS` groups.
    """
    n_classes, fold = int(labels.max()) + 1, stratified_folds(labels, _FOLDS, seed)
    order = generator("classes left out", seed).permutation(n_classes)
    groups = min(n_classes, _GROUPS) if n_classes >= 3 else 0
    for g in range(groups):
        out, held = np.isin(labels, order[g::groups]), fold == g % _FOLDS
        if (held & ~out).any():
            yield np.flatnonzero(~out & ~held), np.flatnonzero(~out & held), np.flatnonzero(out)


def _fitted(name: str, rows: np.ndarray, labels: np.ndarray) -> Score:
    """The score of scaled rows (N, D), whose labels may have gaps."""
    kind = find_score(name)
    present, numbers = np.unique(labels, return_inverse=True)
    return kind(kind.learns.of(rows, numbers, len(present)))


# ---- words


def told(strangeness: Strangeness) -> str:
    """The score, why it is this one, and the threshold, in a line."""
    found = strangeness.tried.get(strangeness.name, {})
    names = {"left_out": "classes left out", "made_up": "made-up rows"}
    why = "; ".join(f"AUROC {value:.2f} against {names[name]}" for name, value in found.items())
    begin = f"strangeness is by {strangeness.name}{f' ({why})' if why else ''}"
    if strangeness.threshold is None:
        return f"{begin}; no image could be held out, so nothing is called `unknown` for it"
    return (
        f"{begin}; above {strangeness.threshold:.4g} a picture is `unknown`: {100 * strangeness.known_share:g} % of "
        f"{counted(strangeness.calibrated_on, 'held-out image')} are not"
    )
