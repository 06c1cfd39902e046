"""MIEB's linear probe: scikit-learn's logistic regression on the features as they are, 16 images per class, five draws.

Source: Xiao et al. 2025 (MIEB), section 3; settings as in mteb 2.26.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import NumericalError, counted
from ..features import FeatureSet
from ..splits import Split

MAX_ITER = 100  # mteb's; too few for many columns or classes, and part of the number that is published
SEED = 42  # mteb's, of every task
_C = 1.0  # scikit-learn's default, which mteb leaves as it is
_TOL = 1e-4  # of the solution that the probe is compared with


@dataclass(frozen=True)
class Probe:
    """One fitted draw, judged on the test features."""

    split: Split
    estimator: Any  # scikit-learn's
    converged: bool
    scores: dict[str, float]  # accuracy, f1 (macro), f1_weighted; percent


def fit_probes(train: FeatureSet, test: FeatureSet, splits: Sequence[Split]) -> list[Probe]:
    """The probe of each draw. Features are neither scaled nor normalised; every row is labelled."""
    probes = []
    for split in splits:
        estimator, converged = _fitted(train.features[split.train], train.labels[split.train])
        predicted = estimator.predict(test.features)
        probes.append(Probe(split, estimator, converged, _scores(test.labels, predicted)))
    return probes


def _fitted(rows: np.ndarray, labels: np.ndarray) -> tuple[Any, bool]:
    """The regression on rows (n, D) float32, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression(max_iter=MAX_ITER, random_state=SEED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(rows, labels)
    return estimator, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def _scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": 100 * float(accuracy_score(labels, predicted)),
        "f1": 100 * float(f1_score(labels, predicted, average="macro")),
        "f1_weighted": 100 * float(f1_score(labels, predicted, average="weighted")),
    }


def convergence_gap(probes: Sequence[Probe], train: FeatureSet, test: FeatureSet) -> str | None:
    """A line on how far the first probe that did not converge is from its optimum; None where all did."""
    unfinished = [probe for probe in probes if not probe.converged]
    if not unfinished:
        return None
    stopped = (
        f"{len(unfinished)} of {counted(len(probes), 'draw')} stopped after {MAX_ITER} iterations before convergence, "
        "which belongs to the protocol"
    )
    first = unfinished[0]
    rows, labels = train.features[first.split.train], train.labels[first.split.train]
    optimum = _optimum(rows, labels)
    if optimum is None:
        return f"{stopped}; how far from the optimum is not known"
    reached, least = (_objective(one, rows, labels) for one in (first.estimator, optimum))
    right = 100 * float((optimum.predict(test.features) == test.labels).mean())
    return (
        f"{stopped}: in draw {first.split.trial} the objective is "
        f"{100 * (reached / least - 1):.2g} % above its least value, where accuracy is {right:.2f} in place of "
        f"{first.scores['accuracy']:.2f}"
    )


def _optimum(rows: np.ndarray, labels: np.ndarray) -> Any | None:
    """The same regression, solved to a relative gap of 1e-4; None where that is not reached."""
    from ..classifiers.logistic import LogisticRegression

    # with two classes scikit-learn has one vector w, which is (-w/2, w/2) here: half the square, so twice the penalty
    lambd = (2 if len(np.unique(labels)) == 2 else 1) / _C
    exact = LogisticRegression(lambd=lambd, rows="raw", intercept=True, tol=_TOL, dtype="float64", device="cpu")
    try:
        return exact.fit(rows, labels)
    except NumericalError:
        return None


def _objective(estimator: Any, rows: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's: the sum of -log p of the labels of rows (n, D), plus ||W||^2 / 2 C."""
    from scipy.special import log_softmax

    weights, constants = np.asarray(estimator.coef_, np.float64), np.asarray(estimator.intercept_, np.float64)
    if len(weights) == 2:  # ours of two classes, as scikit-learn writes it
        weights, constants = weights[1:] - weights[:1], constants[1:] - constants[:1]
    logits = rows.astype(np.float64) @ weights.T + constants
    if len(weights) == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    own = np.searchsorted(estimator.classes_, labels)
    loss = -log_softmax(logits, axis=1)[np.arange(len(rows)), own].sum()
    return float(loss + np.square(weights).sum() / (2 * _C))
