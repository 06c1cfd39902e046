"""MSN's logistic regression: scikit-learn finds the same optimum, and the gap it promises is one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression as Reference

from fewvit import products, softmax_regression
from fewvit.classifiers.logistic import GRID, LogisticRegression
from fewvit.errors import NumericalError
from fewvit.products import Products
from fewvit.softmax_regression import solve


def clustered(classes: int = 7, shots: int = 5, width: int = 13, seed: int = 3, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Rows around class centres with a common offset, labels 3, 10, 17, …, shuffled."""
    random = np.random.default_rng(seed)
    numbers = random.permutation(np.repeat(np.arange(classes), shots))
    centres = random.normal(size=(classes, width))
    return (centres[numbers] + spread * random.normal(size=(len(numbers), width)) + 2).astype(np.float32), 7 * numbers + 3


def prepared(x: np.ndarray) -> np.ndarray:
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def objective(w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, lambd: float) -> float:
    logits = x @ w.T + b
    loss = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(loss.mean() + lambd / 2 / len(y) * (w**2).sum())


def reference(x: np.ndarray, y: np.ndarray, lambd: float, intercept: bool) -> Reference:
    return Reference(C=1 / lambd, fit_intercept=intercept, tol=1e-12, max_iter=20_000).fit(x, y)


@pytest.mark.parametrize("lambd", [0.0025, 0.1, 3.0])
@pytest.mark.parametrize("width", [13, 101], ids=["more rows than columns", "fewer rows than columns"])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_optimum_is_scikit_learns_at_c_of_one_over_lambda(lambd, width, intercept):
    x, y = clustered(width=width)
    model = LogisticRegression(lambd=lambd, intercept=intercept).fit(x, y)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    theirs = reference(rows, y, lambd, intercept)
    best = objective(theirs.coef_, theirs.intercept_, rows, numbers, lambd)
    found = objective(model.coef_.astype(np.float64), model.intercept_.astype(np.float64), rows, numbers, lambd)
    assert -1e-7 <= (found - best) / best <= 1e-6
    assert model.objective_ == pytest.approx(found, rel=1e-6)
    assert (model.predict(x) == theirs.predict(rows)).mean() >= 0.999
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(rows), atol=2e-3)


def test_the_reported_gap_is_an_upper_bound_at_every_tolerance():
    x, y = clustered(classes=11, shots=3)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    theirs = reference(rows, y, 0.01, False)
    best = objective(theirs.coef_, 0.0, rows, numbers, 0.01)
    for tol in (1e-1, 1e-2, 1e-4, 1e-6):
        solution = solve(rows, numbers, 11, 0.01, tol=tol, dtype="float64")
        missing = (objective(solution.weights, 0.0, rows, numbers, 0.01) - best) / solution.objective
        assert solution.converged
        assert -1e-9 <= missing <= solution.gap <= tol


def test_float64_reaches_what_float32_cannot():
    x, y = clustered()
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    exact = solve(rows, numbers, 7, 0.0025, tol=1e-12, dtype="float64")
    assert exact.converged
    assert exact.gap <= 1e-12
    assert not solve(rows, numbers, 7, 0.0025, tol=1e-30, dtype="float32", max_iter=300).converged


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = clustered(classes=11, shots=17, width=5)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    whole = solve(rows, numbers, 11, 0.01, tol=1e-10, dtype="float64")
    monkeypatch.setattr(softmax_regression, "_BLOCK_BYTES", 64 * 11 * 8)
    parts = solve(rows, numbers, 11, 0.01, tol=1e-10, dtype="float64")
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-3, atol=1e-4)
    assert parts.objective == pytest.approx(whole.objective, rel=1e-9)


def test_refreshed_logits_undo_rounding(monkeypatch):
    x, y = clustered(classes=13, shots=5, width=7, spread=3.0)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    monkeypatch.setattr(softmax_regression, "_REFRESH", 1)
    often = solve(rows, numbers, 13, 0.0025, tol=1e-6)
    monkeypatch.setattr(softmax_regression, "_REFRESH", 10**6)
    never = solve(rows, numbers, 13, 0.0025, tol=1e-6)
    assert often.objective == pytest.approx(never.objective, rel=2e-6)


@pytest.mark.parametrize("works", [True, False], ids=["packed", "plain"])
def test_products_are_those_of_the_matrices(works, monkeypatch):
    import torch

    if works and not products.packed_products_work():
        pytest.skip("this torch has no packed product")
    monkeypatch.setattr(products, "is_amd_avx512", lambda: works)
    stream = torch.Generator().manual_seed(1)
    x, w, r = (torch.randn(shape, generator=stream) for shape in ((17, 5), (7, 5), (7, 17)))
    torch.testing.assert_close(Products(x).logits(w), w @ x.T)
    torch.testing.assert_close(Products(x).gradient(r), r @ x)


@pytest.mark.parametrize(
    ("rows", "expected"), [("centred", prepared), ("unit", lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)), ("raw", lambda x: x)]
)
def test_rows_are_prepared_as_asked(rows, expected):
    x, y = clustered()
    model = LogisticRegression(lambd=0.1, rows=rows, dtype="float64", tol=1e-9).fit(x, y)
    theirs = reference(expected(x.astype(np.float64)), y, 0.1, False)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=2e-3)


def test_constant_rows_and_columns_harm_nobody():
    x, y = clustered()
    x[3], x[4] = 0, 7.1
    model = LogisticRegression(lambd=0.01).fit(x, y)
    assert np.isfinite(model.predict_proba(x)).all()
    np.testing.assert_allclose(model.predict_proba(x[3:5]), 1 / 7, atol=1e-6)  # nothing is known of them
    flat = LogisticRegression(lambd=0.01).fit(np.full_like(x, 3), y)
    np.testing.assert_allclose(flat.predict_proba(x[:2]), 1 / 7, atol=1e-6)


def test_a_solver_that_does_not_get_there_says_what_to_change():
    x, y = clustered()
    with pytest.raises(NumericalError, match="2 iterations") as error:
        LogisticRegression(lambd=1e-6, max_iter=2).fit(x, y)
    assert error.value.exit_code == 5
    assert "max_iter" in str(error.value)


@pytest.mark.parametrize("lambd", [0, -1.0, float("nan")])
def test_a_penalty_must_be_positive(lambd):
    with pytest.raises(ValueError, match="above zero"):
        LogisticRegression(lambd=lambd).fit(*clustered())


def test_lambda_is_the_one_with_the_best_held_out_accuracy_and_the_largest_of_equals():
    x, y = clustered(classes=7, shots=11, width=5, spread=1.0)
    model = LogisticRegression(lambd=None, seed=5).fit(x, y)
    from fewvit.calibration import stratified_folds

    fold = stratified_folds(np.unique(y, return_inverse=True)[1], 5, 5)
    right = {}
    for lambd in GRID:
        right[lambd] = sum(
            int((LogisticRegression(lambd=lambd).fit(x[fold != f], y[fold != f]).predict(x[fold == f]) == y[fold == f]).sum())
            for f in range(5)
        )
    assert model.lambd_ == max(lambd for lambd, hits in right.items() if hits == max(right.values()))
    assert "5-fold cross-validation" in model.why_
    assert f"{100 * max(right.values()) / len(y):.1f} %" in model.why_


def test_one_image_per_class_leaves_nothing_to_choose_lambda_with():
    model = LogisticRegression(lambd=None).fit(*clustered(shots=1))
    assert model.lambd_ == 0.0025
    assert "one image per class" in model.why_


def test_few_images_per_class_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogisticRegression().fit(*clustered(classes=29, shots=1))
