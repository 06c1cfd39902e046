"""MSN's logistic regression: scikit-learn finds the same optimum, and the gap it promises is one."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression as Reference

from fewvit.classifiers import _softmax_regression as softmax_regression
from fewvit.classifiers import logistic
from fewvit.classifiers._softmax_regression import penalty_path, solve
from fewvit.classifiers.logistic import DINOV2_GRID, GRID, LogisticRegression
from fewvit.errors import NumericalError
from fewvit.models import products
from fewvit.models.products import Products


def clustered(
    classes: int = 7, shots: int = 5, width: int = 13, seed: int = 3, spread: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Rows around class centres with a common offset, labels 3, 10, 17, …, shuffled."""
    random = np.random.default_rng(seed)
    numbers = random.permutation(np.repeat(np.arange(classes), shots))
    centres = random.normal(size=(classes, width))
    return (centres[numbers] + spread * random.normal(size=(len(numbers), width)) + 2).astype(
        np.float32
    ), 7 * numbers + 3


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


@pytest.mark.parametrize("lambd", [0.01, 1.0, 100.0, 1e4])
def test_far_from_the_origin_and_with_uneven_classes_the_optimum_is_scikit_learns(lambd):
    """A constant has no penalty.

    It must neither be forgotten under a strong one nor fight with W over the rows' mean.
    """
    x, y = clustered(classes=5, shots=7)
    x, y = 30 + x[y != 3].astype(np.float64), y[y != 3]
    x, y = np.concatenate([x, x[y == 10][:5] + 0.1]), np.concatenate([y, np.full(5, 10)])
    model = LogisticRegression(lambd=lambd, rows="raw", intercept=True, dtype="float64", tol=1e-7).fit(x, y)
    numbers = np.unique(y, return_inverse=True)[1]
    theirs = reference(x - x.mean(axis=0), y, lambd, True)  # it is slow from afar; the optimum is the same, moved
    best = objective(theirs.coef_, theirs.intercept_, x - x.mean(axis=0), numbers, lambd)
    assert objective(model.coef_, model.intercept_, x, numbers, lambd) == pytest.approx(best, rel=1e-6)
    assert model.objective_ == pytest.approx(best, rel=1e-6)
    assert model.n_iter_ < 100
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(x - x.mean(axis=0)), atol=2e-3)


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_block_of_logits_fills_the_memory_for_it(dtype, monkeypatch):
    monkeypatch.setattr(softmax_regression, "_BLOCK_BYTES", 1 << 16)
    x, y = torch.zeros(20011, 5, dtype=getattr(torch, dtype)), torch.zeros(20011, dtype=torch.int64)
    problem = softmax_regression._Problem(x, y, 7, 0.1, free_columns=0)
    *filled, rest = [block.numel() * block.element_size() for block in problem.logits(torch.zeros(7, 5, dtype=x.dtype))]
    assert all((1 << 16) - 7 * 8 < size <= 1 << 16 for size in filled)  # one row more would not fit
    assert sum(filled) + rest == 20011 * 7 * x.element_size()


@pytest.mark.parametrize(("n", "width"), [(7, 31), (31, 7), (11, 11)])
def test_rows_are_expressed_in_an_orthonormal_basis_of_their_span_where_that_is_smaller(n, width):
    x = torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    inside, basis = softmax_regression._in_span(x)
    assert inside.shape == (n, min(n, width))
    if basis is None:
        assert torch.equal(inside, x)
    else:
        torch.testing.assert_close(inside @ basis.T, x)
        torch.testing.assert_close(basis.T @ basis, torch.eye(n, dtype=torch.float64))
    assert (basis is None) == (n >= width)


def test_logits_are_computed_afresh_every_so_many_steps_and_updated_between(monkeypatch):
    x, y = clustered(classes=13, shots=5, width=7, spread=3.0)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    products, real = [], softmax_regression._Problem.logits
    monkeypatch.setattr(
        softmax_regression._Problem, "logits", lambda problem, w: products.append(w) or real(problem, w)
    )
    for every in (1, 2, 5, 10**6):
        products.clear()
        monkeypatch.setattr(softmax_regression, "REFRESH", every)
        steps = solve(rows, numbers, 13, 0.0025, tol=1e-8, dtype="float64").iterations
        assert steps > 10
        assert len(products) == 1 + steps // every  # one to begin with; no step had to be halved


def test_refreshed_logits_undo_rounding(monkeypatch):
    x, y = clustered(classes=13, shots=5, width=7, spread=3.0)
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    monkeypatch.setattr(softmax_regression, "REFRESH", 1)
    often = solve(rows, numbers, 13, 0.0025, tol=1e-6)
    monkeypatch.setattr(softmax_regression, "REFRESH", 10**6)
    never = solve(rows, numbers, 13, 0.0025, tol=1e-6)
    assert often.objective == pytest.approx(never.objective, rel=2e-6)


@pytest.mark.parametrize("works", [True, False], ids=["packed", "plain"])
def test_products_are_those_of_the_matrices(works, monkeypatch):
    if works and not products.packing_works():
        pytest.skip("this torch has no packed product")
    monkeypatch.setattr(products, "packing_works", lambda: works)
    stream = torch.Generator().manual_seed(1)
    x, w, r = (torch.randn(shape, generator=stream) for shape in ((17, 5), (7, 5), (7, 17)))
    torch.testing.assert_close(Products(x).logits(w), w @ x.T)
    torch.testing.assert_close(Products(x).gradient(r), r @ x)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [("centred", prepared), ("unit", lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)), ("raw", lambda x: x)],
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
            int(
                (
                    LogisticRegression(lambd=lambd).fit(x[fold != f], y[fold != f]).predict(x[fold == f])
                    == y[fold == f]
                ).sum()
            )
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


# ---- DINOv2's way to lambda


def test_the_45_penalties_are_dinov2s():
    np.testing.assert_allclose(DINOV2_GRID, 1 / 10 ** np.linspace(-6, 5, 45))


@pytest.mark.parametrize("width", [13, 101], ids=["more rows than columns", "fewer rows than columns"])
@pytest.mark.parametrize("intercept", [False, True])
def test_every_point_of_a_path_is_as_near_to_the_optimum_as_promised(width, intercept):
    x, y = clustered(width=width, shots=11)
    numbers, x = np.unique(y, return_inverse=True)[1], x.astype(np.float64)
    lambdas = (100.0, 1.0, 0.01)
    found = list(penalty_path(x, numbers, 7, lambdas, intercept=intercept, tol=1e-4, max_iter=200))
    for lambd, solution in zip(lambdas, found, strict=True):
        theirs = reference(x, numbers, lambd, intercept)
        best = objective(theirs.coef_, theirs.intercept_, x, numbers, lambd)
        here = objective(solution.weights, solution.intercept, x, numbers, lambd)
        assert solution.converged
        assert solution.objective == pytest.approx(here, rel=1e-9)
        assert solution.gap <= 1e-4
        assert (
            -1e-9 <= (here - best) / best <= (1e-3 if intercept else solution.gap)
        )  # of constants the gap is an estimate


def test_a_path_is_shorter_than_its_searches_one_by_one():
    x, y = clustered(width=5, shots=11)
    numbers = np.unique(y, return_inverse=True)[1]
    lambdas = DINOV2_GRID[16:]
    together = sum(s.iterations for s in penalty_path(x, numbers, 7, lambdas, max_iter=1000))
    alone = sum(solve(x, numbers, 7, lambd, tol=1e-3, dtype="float64").iterations for lambd in lambdas)
    assert together < alone / 2


def test_under_the_strongest_penalty_weights_point_to_the_class_means_and_not_nowhere():
    x, y = clustered(shots=11, width=29, spread=0.5)
    numbers = np.unique(y, return_inverse=True)[1]
    [solution] = penalty_path(x, numbers, 7, [1e6], intercept=True)
    means = np.stack([x[numbers == c].mean(axis=0) for c in range(7)]) - x.mean(axis=0)
    cosines = (
        (solution.weights * means).sum(axis=1)
        / np.linalg.norm(solution.weights, axis=1)
        / np.linalg.norm(means, axis=1)
    )
    assert cosines.min() > 0.999
    assert solution.iterations == 1
    model = LogisticRegression(lambd=1e6, rows="raw", intercept=True, dtype="float64").fit(x, y)
    np.testing.assert_array_equal(
        model.predict(x), 7 * (x @ solution.weights.T + solution.intercept).argmax(axis=1) + 3
    )
    assert model.score(x, y) > 0.9


@pytest.mark.parametrize("flat", [0.0, -1e-300])
def test_rounding_that_bends_the_curve_upside_down_ends_a_search_where_it_is(flat, monkeypatch):
    """With float32 and next to no penalty the curvature along a line can be rounding, of either sign.

    Such a step has no length.
    """
    x, y = clustered()
    rows, numbers = prepared(x), np.unique(y, return_inverse=True)[1]
    real, calls = softmax_regression._Problem.along, []

    def along(problem, direction, probabilities):
        calls.append(problem)
        slopes, curvature = real(problem, direction, probabilities)
        return slopes, flat if len(calls) == 4 else curvature

    monkeypatch.setattr(softmax_regression._Problem, "along", along)
    solution = solve(rows, numbers, 7, 0.01, dtype="float64")
    assert (solution.iterations, solution.converged, len(calls)) == (3, False, 4)
    calls.clear()
    assert solve(rows, numbers, 7, 0.01).converged  # what float32 cannot see, float64 can


def by_tenths(x: np.ndarray, y: np.ndarray, seed: int, parts: int) -> tuple[float, float]:
    """(lambda, share right in percent) of the rule written out with scikit-learn's regressions, over so many tenths."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    tenths = [order[i * (len(x) // 10) : (i + 1) * (len(x) // 10)] for i in range(parts)]
    right = []
    for lambd in logistic.DINOV2_GRID:
        hits = 0
        for held in tenths:
            kept = np.setdiff1d(order, held)
            hits += (reference(x[kept], y[kept], lambd, True).predict(x[held]) == y[held]).sum()
        right.append(100 * hits / sum(map(len, tenths)))
    return logistic.DINOV2_GRID[int(np.argmax(right))], max(right)


@pytest.mark.parametrize(
    ("shots", "enough", "parts"), [(17, 11, 1), (17, 12, 2), pytest.param(3, 200, 10, marks=pytest.mark.slow)]
)
def test_dinov2s_lambda_is_the_best_on_the_first_tenth_and_on_more_where_it_is_small(shots, enough, parts, monkeypatch):
    monkeypatch.setattr(logistic, "_ENOUGH", enough)
    monkeypatch.setattr(logistic, "DINOV2_GRID", DINOV2_GRID[14:40:5])
    monkeypatch.setattr(
        logistic, "penalty_path", functools.partial(penalty_path, tol=1e-10, max_iter=1000)
    )  # the rule, not rounding
    x, y = clustered(classes=7, shots=shots, width=5, spread=1.0)
    x = x.astype(np.float64)
    model = LogisticRegression(lambd=None, selection="tenth", rows="raw", intercept=True, dtype="float64", seed=5).fit(
        x, y
    )
    lambd, share = by_tenths(x, y, 5, parts)
    assert (
        f"best of 6 by DINOv2's rule, {share:.1f} % of {parts * (7 * shots // 10)} held-out images right" in model.why_
    )
    assert model.lambd_ == pytest.approx(lambd)
    theirs = reference(x, y, model.lambd_, True)  # fitted on all rows in the end
    assert (model.predict(x) == theirs.predict(x)).all()


@pytest.mark.slow
def test_another_seed_holds_out_another_tenth():
    x, y = clustered(classes=7, shots=5, width=5, spread=3.0)
    whys = {
        LogisticRegression(lambd=None, selection="tenth", rows="raw", dtype="float64", seed=s).fit(x, y).why_
        for s in range(5)
    }
    assert len(whys) > 1


def test_one_image_per_class_leaves_dinov2s_rule_nothing_to_choose_with():
    model = LogisticRegression(lambd=None, selection="tenth").fit(*clustered(shots=1))
    assert (model.lambd_, "one image per class" in model.why_) == (0.0025, True)
    x, y = clustered(classes=3, shots=2, width=3)  # fewer than ten rows: each is held out by itself
    assert "of 6 held-out images" in LogisticRegression(lambd=None, selection="tenth").fit(x, y).why_


def test_what_float32_cannot_reach_is_finished_in_float64(monkeypatch):
    x, y = clustered()
    rows, numbers = prepared(x).astype(np.float32), np.unique(y, return_inverse=True)[1]
    searches, real = [], softmax_regression._descend
    monkeypatch.setattr(
        softmax_regression, "_descend", lambda p, w, *a: searches.append((w.dtype, real(p, w, *a))) or searches[-1][1]
    )
    found = solve(rows, numbers, 7, 0.1, tol=1e-20)
    assert [dtype for dtype, _ in searches] == [torch.float32, torch.float64]
    (_, gap, first), (_, last, second) = (search for _, search in searches)
    assert (gap > 1e-16, found.gap, found.iterations) == (True, last, first + second)
    assert 100 < first < 400  # it is told soon
    exact = solve(rows, numbers, 7, 0.1, tol=1e-16, dtype="float64")
    assert (exact.converged, found.gap < 1e-3 * gap, found.weights.dtype) == (True, True, np.float32)
    assert found.objective == pytest.approx(exact.objective, rel=1e-13)


def test_a_search_that_is_nearer_than_ever_now_and_then_has_not_stalled():
    progress = softmax_regression.Progress(True)
    gaps = [1.0 / (1 + iteration // 100) for iteration in range(500)] + [0.2] * 100
    ended = [iteration for iteration, gap in enumerate(gaps) if progress.stalled(gap, iteration)]
    assert ended == list(range(500, 600))
    assert not any(softmax_regression.Progress(False).stalled(1.0, iteration) for iteration in range(1000))


def test_a_direction_is_that_of_the_dense_bfgs_matrix():
    draw = np.random.default_rng(0)
    pairs = [(step, step + 0.3 * draw.normal(size=8)) for step in draw.normal(size=(4, 8))]
    assert all(step @ change > 0 for step, change in pairs)
    memory, (step, change) = softmax_regression.Memory(softmax_regression._dot, softmax_regression._plus), pairs[-1]
    inverse = np.eye(8) * (step @ change) / (change @ change)
    for step, change in pairs:
        softmax_regression._learn(memory, *(torch.from_numpy(one).view(2, 4) for one in (step, change)))
        turn = np.eye(8) - np.outer(step, change) / (step @ change)
        inverse = turn @ inverse @ turn.T + np.outer(step, step) / (step @ change)
    gradient = draw.normal(size=8)
    found = memory.direction(torch.from_numpy(gradient).view(2, 4))
    np.testing.assert_allclose(found.view(-1).numpy(), -inverse @ gradient, rtol=1e-10)
