"""MSN's logistic regression on 1000 classes: scikit-learn's L-BFGS, cyanure at MSN's settings, and ours.

Each side has to reach an objective within 1e-6 of the optimum (found in float64 beforehand): scikit-learn gets the
largest tolerance that does, from a ladder, found before the clock runs; ours stops by itself at its default. cyanure
stops as MSN's script lets it, and its gap stands in the row; it runs in a process of its own, since in ours torch's
products are wrong once it has run. Features are synthetic: class centres under a power-law spectrum and a rotation,
with a common offset.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from fewvit.classifiers._softmax_regression import solve

from .measure import Claim, Outcome, cores, main, round_robin, rounded, worker

WHAT = "logistic regression, no intercept, 1000 classes, lambda 0.0025, to a relative objective gap of 1e-6, all cores"
OURS, SKLEARN, CYANURE = "fewvit", "scikit-learn lbfgs", "cyanure, MSN's settings"
LAMBDA, GAP = 0.0025, 1e-6
_LADDER = (1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 3e-9, 1e-9)  # scikit-learn's tol


def support(classes: int, shots: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Centred unit rows (n, D) as MSN's script makes them, and labels (n,)."""
    random = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.5
    rotation = np.linalg.qr(random.normal(size=(width, width)))[0]
    labels = np.repeat(np.arange(classes), shots)
    noise = 1.2 * random.normal(size=(len(labels), width))
    rows = ((random.normal(size=(classes, width))[labels] + noise) * spectrum) @ rotation + 0.2 * random.normal(
        size=width
    )
    rows -= rows.mean(axis=1, keepdims=True)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def objective(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """MSN's, in float64."""
    wide = weights.astype(np.float64)
    logits = x.astype(np.float64) @ wide.T
    return float(
        (logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).mean() + LAMBDA / 2 / len(y) * np.square(wide).sum()
    )


def ours(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    solution = solve(x, y, classes, LAMBDA)
    if not solution.converged:
        raise SystemExit(f"ours did not converge: gap {solution.gap}")
    return solution.weights


def sklearn(x: np.ndarray, y: np.ndarray, tol: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=1 / LAMBDA, fit_intercept=False, tol=tol, max_iter=5000).fit(x, y).coef_


def cyanure(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The estimator behind MSN's script.

    Multinomial logistic loss, L2 penalty lambda / n, tolerance 1e-3, 300 epochs at most.
    """
    from cyanure.estimators import Classifier

    model = Classifier(
        loss="multiclass-logistic",
        penalty="l2",
        lambda_1=LAMBDA / len(y),
        fit_intercept=False,
        tol=1e-3,
        max_iter=300,
        verbose=False,
    )
    model.fit(x, y)
    return (
        np.asarray(model.get_weights()).T
        if np.asarray(model.get_weights()).shape[0] == x.shape[1]
        else np.asarray(model.get_weights())
    )


def prepared_cyanure(classes: int, shots: int, width: int) -> Callable[[], np.ndarray]:
    x, y = support(classes, shots, width)
    return lambda: cyanure(x, y)


def reaching(x: np.ndarray, y: np.ndarray, best: float) -> float:
    """The largest of scikit-learn's tolerances that comes within the gap."""
    for tol in _LADDER:
        if (objective(sklearn(x, y, tol), x, y) - best) / best <= GAP:
            return tol
    raise SystemExit("scikit-learn does not reach the gap with any tolerance of the ladder")


def compare(classes: int, shots: int, width: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    x, y = support(classes, shots, width)
    truth = solve(x, y, classes, LAMBDA, tol=1e-9, dtype="float64")
    tol = reaching(x, y, truth.objective)
    answers: dict[str, np.ndarray] = {}
    runs: dict[str, Callable[[], np.ndarray]] = {SKLEARN: lambda: sklearn(x, y, tol), OURS: lambda: ours(x, y, classes)}
    with contextlib.ExitStack() as stack:
        if shots == 1 and importlib.util.find_spec("cyanure"):
            runs[CYANURE] = stack.enter_context(worker(prepared_cyanure, classes, shots, width))
        variants = {name: lambda _, name=name: answers.update({name: runs[name]()}) for name in runs}
        timing = round_robin(variants, [None], rounds, warm_up=False)
    predictions = {name: (x @ weights.T).argmax(axis=1) for name, weights in answers.items()}
    rows = []
    for row in timing.rows(SKLEARN, shots=shots, width=width):
        gap = (objective(answers[row["variant"]], x, y) - truth.objective) / truth.objective
        agree = 100 * float((predictions[row["variant"]] == predictions[OURS]).mean())
        rows.append(
            {
                **row,
                "gap": rounded(gap),
                "same_predictions": rounded(agree),
                **({"tol": tol} if row["variant"] == SKLEARN else {}),
            }
        )
    return rows, {name: timing.ratio(OURS, name) for name in runs if name != OURS}


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(cores())
    settings = (
        ((100, 1, 64, 2),) if quick else ((1000, 1, 384, 5), (1000, 2, 384, 3), (1000, 5, 384, 3), (1000, 5, 768, 1))
    )
    rows: list[dict[str, Any]] = []
    claims: list[Claim] = []
    for classes, shots, width, rounds in settings:
        found, ratios = compare(classes, shots, width, rounds)
        rows += found
        what = f"Logistic regression, {classes} classes, {shots} {'shot' if shots == 1 else 'shots'}, width {width}"
        claims.append(Claim(what, "scikit-learn, the same gap", ratios[SKLEARN], "x", ">= 3"))
        if CYANURE in ratios:
            claims.append(Claim("The same", "cyanure at MSN's settings", ratios[CYANURE], "x", ">= 20"))
    worst = max(row["gap"] for row in rows if row["variant"] == OURS)
    claims.append(Claim("Largest relative gap of ours to the optimum", "float64", worst, "", "<= 1e-6"))
    return Outcome(claims, rows, {"lambda": LAMBDA, "threads": cores()})


if __name__ == "__main__":
    main("logistic", WHAT, measure)
