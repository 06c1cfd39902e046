"""Problems solved together beside the same ones solved alone.

Objective, weights, iterations, and what leaves the batch when.
"""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.classifiers import _softmax_batches as softmax_batches
from fewvit.classifiers._softmax_batches import solve_together
from fewvit.classifiers._softmax_regression import Memory, Solution, solve
from fewvit.classifiers.logistic import LogisticRegression


def rows(classes: int = 5, shots: int = 6, width: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), shots)
    x = draw.normal(size=(classes, width))[y] + draw.normal(size=(len(y), width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def same(found: Solution, alone: Solution, tol: float = 1e-6) -> None:
    assert found.converged
    assert alone.converged
    assert found.objective == pytest.approx(alone.objective, rel=2 * tol)
    assert found.weights.dtype == alone.weights.dtype
    np.testing.assert_allclose(found.weights, alone.weights, atol=0.02 * np.abs(alone.weights).max())


@pytest.mark.parametrize("width", [9, 70], ids=["more rows than columns", "fewer rows than columns"])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_problem_of_a_batch_comes_to_its_own_optimum(width, intercept, dtype):
    sets = [rows(width=width, seed=seed) for seed in range(4)]
    lambdas = [0.01, 0.1, 1.0, 10.0]
    found = solve_together(sets, 5, lambdas, intercept=intercept, dtype=dtype)
    for one, lambd, solution in zip(sets, lambdas, found, strict=True):
        same(solution, solve(*one, 5, lambd, intercept=intercept, dtype=dtype))


def test_problems_of_several_shapes_come_back_in_their_order():
    sets = [rows(shots=shots, seed=shots) for shots in (6, 1, 2, 6, 1)]
    for one, solution in zip(sets, solve_together(sets, 5, [0.1] * 5), strict=True):
        same(solution, solve(*one, 5, 0.1))


@pytest.mark.parametrize("width", [9, 70])
def test_one_set_under_many_penalties_is_stored_once(width, monkeypatch):
    stored, real = [], softmax_batches._Batch.__init__
    monkeypatch.setattr(
        softmax_batches._Batch, "__init__", lambda self, *a: real(self, *a) or stored.append(len(self.x))
    )
    one, lambdas = rows(width=width), [100.0, 1.0, 0.01, 0.0001]
    for lambd, solution in zip(lambdas, solve_together([one] * 4, 5, lambdas, tol=1e-5), strict=True):
        same(solution, solve(*one, 5, lambd, tol=1e-5), tol=1e-5)
    assert stored == [1]


def test_what_is_solved_leaves_the_batch(monkeypatch):
    sizes, real = [], softmax_batches._Batch._along
    monkeypatch.setattr(softmax_batches._Batch, "_along", lambda self, d, s: sizes.append(len(d)) or real(self, d, s))
    found = solve_together([rows(seed=seed) for seed in range(3)], 5, [10.0, 0.1, 0.01], tol=1e-5)
    assert [one.iterations for one in found] == sorted(one.iterations for one in found)
    assert sizes[0] == 3
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == found[-1].iterations + 1


def test_the_search_of_a_problem_does_not_depend_on_the_others():
    sets = [rows(seed=seed) for seed in range(3)]
    together, alone = (
        solve_together(sets, 5, [0.1] * 3, dtype="float64"),
        [solve(*one, 5, 0.1, dtype="float64") for one in sets],
    )
    assert [one.iterations for one in together] == [one.iterations for one in alone]
    for found, wanted in zip(together, alone, strict=True):
        np.testing.assert_allclose(found.weights, wanted.weights, rtol=1e-6, atol=1e-9)
        assert found.gap == pytest.approx(wanted.gap, rel=1e-3)


def test_what_float32_cannot_finish_is_solved_alone(monkeypatch):
    handed, real = [], softmax_batches.solve
    monkeypatch.setattr(softmax_batches, "solve", lambda *a, **k: handed.append(a[3]) or real(*a, **k))
    sets = [rows(seed=seed) for seed in range(2)]
    found = solve_together(sets, 5, [0.01, 0.02], tol=1e-16)
    assert handed == [0.01, 0.02]
    assert all(one.converged and one.gap <= 1e-16 for one in found)


def test_one_problem_that_finds_no_way_down_does_not_stop_the_others(monkeypatch):
    real = softmax_batches._Batch._step

    def stuck(self, here, *a, **k):
        there, lower = real(self, here, *a, **k)
        return there, lower if len(lower) == 1 else lower & (self.mu != self.mu.max())

    monkeypatch.setattr(softmax_batches._Batch, "_step", stuck)
    handed, alone = [], softmax_batches.solve
    monkeypatch.setattr(softmax_batches, "solve", lambda *a, **k: handed.append(a[3]) or alone(*a, **k))
    sets = [rows(seed=seed) for seed in range(2)]
    for one, lambd, solution in zip(sets, (0.1, 0.3), solve_together(sets, 5, [0.1, 0.3]), strict=True):
        same(solution, alone(*one, 5, lambd))
    assert handed == [0.3]


def test_too_few_iterations_are_told():
    [found] = solve_together([rows()], 5, [1e-4], max_iter=2)
    assert (found.converged, found.iterations) == (False, 2)
    assert found.gap > 1e-6


def test_pairs_that_rounding_has_spoilt_count_for_nothing():
    import torch

    step, change = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 4)
    change[0], change[1] = step[0], -step[1]  # curvature upwards, and downwards
    memory, gradient = (
        Memory(softmax_batches._dot, softmax_batches._plus),
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)),
    )
    softmax_batches._learn(memory, step, change)
    found = memory.direction(gradient)
    torch.testing.assert_close(found[1], -gradient[1])
    torch.testing.assert_close(found[0], -gradient[0])  # of a Hessian that is one, the inverse is one
    softmax_batches._learn(
        memory, step, 2 * step
    )  # a Hessian of two along the step; what is across it takes the newest scale
    torch.testing.assert_close(memory.direction(step), -step / 2)


# ---- the estimator's way there


@pytest.fixture
def batched(monkeypatch):
    """As on a GPU; counts how many problems each batch had."""
    from fewvit.classifiers import logistic

    sizes: list[int] = []
    monkeypatch.setattr(logistic, "batches_pay", lambda device: True)
    monkeypatch.setattr(
        logistic, "solve_together", lambda sets, *a, **k: sizes.append(len(sets)) or solve_together(sets, *a, **k)
    )
    return sizes


def test_trials_are_fitted_as_one_and_come_out_as_alone(batched):
    sets = [rows(seed=seed) for seed in range(3)]
    together = [LogisticRegression(lambd=lambd, device="cpu") for lambd in (0.1, 0.2, 0.1)]
    LogisticRegression.fit_together(together, sets)
    assert batched == [3]
    for one, (x, y) in zip(together, sets, strict=True):
        alone = LogisticRegression(lambd=one.lambd, device="cpu").fit(x, y)
        assert one.objective_ == pytest.approx(alone.objective_, rel=2e-6)
        assert (one.predict(x) == alone.predict(x)).all()
        assert one.lambd_ == one.lambd
    assert batched == [3]  # one problem is no batch


def test_sets_with_other_numbers_of_classes_are_other_batches(batched):
    sets = [rows(seed=0), rows(classes=3, seed=1), rows(seed=2), rows(classes=3, seed=3)]
    estimators = [LogisticRegression(device="cpu") for _ in sets]
    LogisticRegression.fit_together(estimators, sets)
    assert batched == [2, 2]
    assert [one.coef_.shape for one in estimators] == [(5, 9), (3, 9), (5, 9), (3, 9)]


@pytest.mark.slow
def test_all_penalties_of_a_fold_are_tried_as_one_and_the_choice_is_the_same(batched, monkeypatch):
    x, y = rows(shots=8)
    together = LogisticRegression(lambd=None, device="cpu").fit(x, y)
    assert batched == [11] * 5
    monkeypatch.undo()
    alone = LogisticRegression(lambd=None, device="cpu").fit(x, y)
    assert (together.lambd_, together.why_) == (alone.lambd_, alone.why_)


def test_on_a_cpu_problems_are_solved_one_by_one(monkeypatch):
    from fewvit.classifiers import logistic

    monkeypatch.setattr(logistic, "solve_together", lambda *a, **k: pytest.fail("a batch"))
    LogisticRegression.fit_together(
        [LogisticRegression(device="cpu") for _ in range(2)], [rows(seed=seed) for seed in range(2)]
    )
    assert (
        softmax_batches.batches_pay("cuda"),
        softmax_batches.batches_pay("cuda:1"),
        softmax_batches.batches_pay("cpu"),
    ) == (
        True,
        True,
        False,
    )


def test_low_shot_trials_are_fitted_together(batched, monkeypatch):
    from fewvit.evaluate.lowshot import evaluate_lowshot
    from fewvit.evaluate.lowshot_options import LowShotOptions
    from fewvit.features import FeatureSet

    sets = []
    for part in range(2):
        x, y = rows(shots=8, seed=part)
        sets.append(FeatureSet(x, y.astype(np.int64), [f"{part}-{i}" for i in range(len(y))], list("abcde"), "f"))
    options = LowShotOptions(shots=(1, 2), trials=3, settings={"logistic": {}}, calibrate=False, device="cpu")
    together = evaluate_lowshot(*sets, options)[0]
    assert batched == [3, 3]
    monkeypatch.undo()
    alone = evaluate_lowshot(*sets, options)[0]
    assert batched == [3, 3]
    assert [row["value"] for row in together] == pytest.approx([row["value"] for row in alone], abs=0.05)


def test_directions_are_those_of_the_dense_bfgs_matrices():
    import torch

    draw = np.random.default_rng(0)
    steps = draw.normal(size=(4, 3, 8))
    changes = steps + 0.3 * draw.normal(size=steps.shape)
    gradient = draw.normal(size=(3, 8))
    memory = Memory(softmax_batches._dot, softmax_batches._plus)
    for step, change in zip(steps, changes, strict=True):
        softmax_batches._learn(memory, *(torch.from_numpy(one).view(3, 2, 4) for one in (step, change)))
    found = memory.direction(torch.from_numpy(gradient).view(3, 2, 4)).view(3, 8).numpy()
    for i in range(3):
        assert all(step @ change > 0 for step, change in zip(steps[:, i], changes[:, i], strict=True))
        inverse = np.eye(8) * (steps[-1, i] @ changes[-1, i]) / np.square(changes[-1, i]).sum()
        for step, change in zip(steps[:, i], changes[:, i], strict=True):
            turn = np.eye(8) - np.outer(step, change) / (step @ change)
            inverse = turn @ inverse @ turn.T + np.outer(step, step) / (step @ change)
        np.testing.assert_allclose(found[i], -inverse @ gradient[i], rtol=1e-10)
