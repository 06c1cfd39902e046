"""Calibration: by hand, against a grid of temperatures, and against scikit-learn's counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from fewvit import calibration
from fewvit.calibration import (
    best_temperature,
    cautious,
    confusion_matrix,
    cross_validated_temperature,
    expected_calibration_error,
    held_out,
    per_class_rows,
    reliability,
    scale,
    softmax,
    stratified_folds,
    temperature_as_sure,
)
from fewvit.errors import DataError, UsageError


def random_probabilities(n: int, classes: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    logits = sharpness * np.random.default_rng(seed).standard_normal((n, classes))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def drawn(probabilities: np.ndarray, seed: int) -> np.ndarray:
    """A label for each row, drawn from the row's own distribution."""
    return np.array(
        [np.random.default_rng([seed, i]).choice(len(row), p=row / row.sum()) for i, row in enumerate(probabilities)]
    )


def test_a_softmax_by_hand_and_of_logits_too_large_to_be_raised():
    assert softmax(np.log(np.array([[0.2, 0.3, 0.5]])) - 900) == pytest.approx(np.array([[0.2, 0.3, 0.5]]))
    assert softmax(np.array([[2000.0, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


# ---- scaling


def test_scaling_raises_to_the_inverse_temperature_and_normalises():
    found = scale(np.array([[0.9, 0.1], [0.5, 0.5]]), 0.5)
    np.testing.assert_allclose(found, [[0.81 / 0.82, 0.01 / 0.82], [0.5, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(scale(np.array([[0.64, 0.36]]), 2.0), [[0.8 / 1.4, 0.6 / 1.4]], rtol=1e-12)


def test_temperature_one_changes_nothing_and_extremes_are_even_and_certain():
    p = random_probabilities(31, 5, seed=3)
    np.testing.assert_allclose(scale(p, 1.0), p, rtol=1e-12)
    np.testing.assert_allclose(scale(p, 1e9), np.full(p.shape, 0.2), atol=1e-7)
    np.testing.assert_allclose(scale(p, 1e-4).max(axis=1), 1.0, atol=1e-6)


def test_a_class_without_a_vote_stays_without():
    np.testing.assert_allclose(scale(np.array([[0.8, 0.0, 0.2]]), 2.0), [[2 / 3, 0, 1 / 3]], rtol=1e-12)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_a_temperature_that_cannot_scale_is_refused(temperature):
    with pytest.raises(UsageError, match="temperature"):
        scale(np.array([[0.9, 0.1]]), temperature)


# ---- the best temperature


def loss(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean log loss of the confidence against being right, with Platt's targets, term by term."""
    m = len(labels)
    total = 0.0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        powers = [p ** (1 / temperature) if p > 0 else 0.0 for p in row]
        confidence = max(powers) / sum(powers)
        target = 1 - 1 / (m + 2) if row.index(max(row)) == label else 1 / (m + 2)
        total -= target * math.log(confidence) + (1 - target) * math.log(max(1 - confidence, 1e-12))
    return total / m


@pytest.mark.parametrize(("n", "classes", "truth"), [(211, 7, 1.7), (101, 2, 0.4), (53, 3, 6.0), (11, 5, 1.0)])
def test_the_temperature_is_the_best_of_a_grid(n, classes, truth):
    p = random_probabilities(n, classes, seed=n)
    labels = drawn(scale(p, truth), seed=7)
    found = best_temperature(p, labels)
    grid = np.geomspace(0.05, 50, 401)
    best = grid[np.argmin([loss(p, labels, t) for t in grid])]
    assert found == pytest.approx(best, rel=math.log(1000) / 400)  # one step of the grid
    assert all(loss(p, labels, found) < loss(p, labels, found * factor) for factor in (0.98, 1.02))


def test_what_a_temperature_distorted_is_found_again():
    p = random_probabilities(4999, 5, seed=3)
    labels = drawn(p, seed=7)
    assert best_temperature(p, labels) == pytest.approx(1.0, abs=0.05)
    assert best_temperature(scale(p, 0.5), labels) == pytest.approx(2.0, abs=0.1)
    assert best_temperature(scale(p, 3.0), labels) == pytest.approx(1 / 3, abs=0.02)


def test_held_out_images_that_are_all_right_do_not_ask_for_certainty():
    n = 11
    p, labels = np.tile([[0.7, 0.3]], (n, 1)), np.zeros(n, int)
    sure = scale(p, best_temperature(p, labels))[0, 0]
    assert sure == pytest.approx(1 - 1 / (n + 2), abs=1e-4)  # the target that Platt's smoothing leaves


def test_the_temperature_stays_in_its_bracket():
    p = np.tile([[0.9, 0.1]], (13, 1))
    assert best_temperature(p, np.ones(13, int)) == pytest.approx(
        calibration.MAX_TEMPERATURE, rel=1e-3
    )  # always wrong: even is best
    nearly_even = np.tile([[0.5 + 1e-7, 0.5 - 1e-7]], (13, 1))
    assert best_temperature(nearly_even, np.zeros(13, int)) == pytest.approx(calibration.MIN_TEMPERATURE, rel=1e-2)
    assert best_temperature(np.full((13, 5), 0.2), np.arange(13) % 5) == 1.0  # no temperature is better than another


def test_few_rows_sharpen_little_and_even_out_as_much_as_many():
    assert cautious(0.25, 20) == pytest.approx(0.5)  # half of the logarithm
    assert cautious(0.25, 0) == 1
    assert cautious(0.25, 10**9) == pytest.approx(0.25)
    assert [cautious(t, 3) for t in (1.0, 1.7, 40.0)] == [1.0, 1.7, 40.0]


def test_a_temperature_makes_rows_as_sure_as_is_asked_and_never_surer_than_they_are():
    shares = random_probabilities(17, 7, seed=4)
    own = shares.max(axis=1).mean()
    for wanted in (0.2, 0.4, own - 0.01):
        found = temperature_as_sure(shares, wanted)
        assert found > 1
        assert scale(shares, found).max(axis=1).mean() == pytest.approx(wanted, abs=1e-4)
    assert temperature_as_sure(shares, own) == temperature_as_sure(shares, 0.99) == 1
    assert temperature_as_sure(shares, 0.1) == pytest.approx(100, rel=1e-3)  # less than even: as even as there is


def test_predictions_that_are_often_wrong_are_believed_as_often_as_they_are_right():
    stream = np.random.default_rng(3)
    p = np.zeros((601, 31))
    for row in p:  # three classes have votes; in every third row the true class has none
        row[stream.choice(31, 3, replace=False)] = stream.dirichlet([9.0, 2.0, 1.0])
    labels = np.where(np.arange(601) % 3 == 0, p.argmin(axis=1), p.argmax(axis=1))
    confidence = scale(p, best_temperature(p, labels)).max(axis=1)
    assert confidence.mean() == pytest.approx(2 / 3, abs=0.05)


# ---- folds


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_even_within_each_class_and_never_take_a_whole_class(folds):
    labels = np.repeat([3, 7, 11, 13, 17], [1, 2, 4, 11, 23])
    fold = stratified_folds(labels, folds, seed=0)
    assert fold[0] == -1  # a single image is never held out
    assert (fold[1:] >= 0).all()
    sizes = np.bincount(fold[1:], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for c in (7, 11, 13, 17):
        counts = np.bincount(fold[labels == c], minlength=folds)
        assert counts.max() - counts.min() <= 1
        assert counts.max() < counts.sum()


def test_folds_depend_on_the_seed_alone():
    labels = np.array([3, 7] * 11)
    assert stratified_folds(labels, 5, 0).tolist() == stratified_folds(labels, 5, 0).tolist()
    assert stratified_folds(labels, 5, 0).tolist() != stratified_folds(labels, 5, 1).tolist()
    with pytest.raises(UsageError, match=r"^1 fold holds nothing out"):
        stratified_folds(labels, 1, 0)


class Remembering:
    """Knows the rows it was fitted on, and says for a row how many of each class it has seen."""

    seen: list[tuple[set, set]]

    def __init__(self, log):
        self.log = log

    def fit(self, X, y):
        self.rows, self.counts = set(X[:, 0].tolist()), np.array([(y == c).sum() for c in np.unique(y)])
        return self

    def predict_proba(self, X):
        self.log.append((self.rows, set(X[:, 0].tolist())))
        return np.tile(self.counts / self.counts.sum(), (len(X), 1))


def test_no_estimator_judges_a_row_that_it_was_fitted_on_and_each_row_is_judged_once():
    X, y = np.arange(23.0)[:, None], np.array([3] * 17 + [7] * 5 + [11])
    log: list = []
    judged = held_out(lambda: Remembering(log), X, y)
    assert len(log) == 5
    assert all(not fitted & asked for fitted, asked in log)
    assert sorted(row for _, asked in log for row in asked) == list(range(22))
    assert sorted(judged.rows) == list(range(22))  # row 22 is the only one of its class
    assert judged.labels.tolist() == [0 if row < 17 else 1 for row in judged.rows]
    for row, shares in zip(judged.rows, judged.probabilities, strict=True):
        [fitted] = [fitted for fitted, asked in log if row in asked]
        wanted = np.bincount([0 if r < 17 else 1 if r < 22 else 2 for r in fitted], minlength=3) / len(fitted)
        np.testing.assert_allclose(shares, wanted)


def test_folds_end_when_enough_rows_are_judged(monkeypatch):
    X, y = np.arange(23.0)[:, None], np.array([3] * 17 + [7] * 6)
    for enough, wanted in ((5, 1), (6, 2), (23, 5)):
        monkeypatch.setattr(calibration, "ENOUGH", enough)
        log: list = []
        judged = held_out(lambda log=log: Remembering(log), X, y)
        assert len(log) == wanted
        assert set(judged.rows) == {row for _, asked in log for row in asked}
        assert judged.labels.tolist() == [0 if row < 17 else 1 for row in judged.rows]


def test_one_image_per_class_leaves_the_probabilities_as_they_are():
    def never():
        raise AssertionError("nothing can be held out, so nothing is to be fitted")

    assert cross_validated_temperature(never, np.eye(3), np.array([3, 7, 11])) == 1.0


def test_an_overconfident_estimator_is_cooled_down_and_its_error_on_new_data_falls():
    stream = np.random.default_rng(3)
    center = stream.standard_normal((2, 31))

    def draw(n):
        y = stream.choice([3, 7], n, p=[0.6, 0.4])
        return center[(y == 7).astype(int)] + 3 * stream.standard_normal((n, 31)), y

    (X, y), (test, truth) = draw(61), draw(997)
    overfit = lambda: LogisticRegression(C=1e4, max_iter=3000)  # noqa: E731
    temperature = cross_validated_temperature(overfit, X, y)
    p, labels = overfit().fit(X, y).predict_proba(test), (truth == 7).astype(int)
    assert temperature > 2
    assert expected_calibration_error(scale(p, temperature), labels) < 0.5 * expected_calibration_error(p, labels)


# ---- reports


def test_calibration_error_by_hand():
    # bins of 15: 0.96 and 1.0 fall into the last (14/15, 1], 0.6 lies on the edge of (8/15, 9/15], 0.7 in (10/15,
    # 11/15]
    p = np.array([[0.96, 0.04], [0.0, 1.0], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 0, 1, 1])
    # one of two right at 0.96 + 1.0; wrong at 0.6; right at 0.7
    wanted = (abs(1 - (0.96 + 1.0)) + abs(0 - 0.6) + abs(1 - 0.7)) / 4
    assert expected_calibration_error(p, labels) == pytest.approx(100 * wanted)
    assert expected_calibration_error(p, labels, bins=1) == pytest.approx(100 * abs(2 - (0.96 + 1.0 + 0.6 + 0.7)) / 4)


def test_there_are_fifteen_bins_unless_another_number_is_asked_for():
    """0.61 and 0.66 lie in (9/15, 10/15], which ends between 10 bins' edges.

    0.67 in the bin above, which 10 bins join with 0.66's.
    """
    p = np.array([[0.61, 0.39], [0.66, 0.34], [0.67, 0.33]])
    labels = np.array([0, 0, 1])  # right, right, wrong
    wanted = (abs(2 - (0.61 + 0.66)) + abs(0 - 0.67)) / 3
    assert expected_calibration_error(p, labels) == pytest.approx(100 * wanted)
    assert expected_calibration_error(p, labels, bins=10) == pytest.approx(100 * abs(2 - (0.61 + 0.66 + 0.67)) / 3)


@pytest.mark.parametrize("bins", [2, 7, 15])
def test_calibration_error_is_the_sum_over_bins_of_their_own_gaps(bins):
    p = random_probabilities(499, 3, seed=11)
    labels = drawn(scale(p, 2.0), seed=13)
    total = 0.0
    for low, high in ((i / bins, (i + 1) / bins) for i in range(bins)):
        inside = [
            (max(row), row.index(max(row)) == label) for row, label in zip(p.tolist(), labels.tolist(), strict=True)
        ]
        inside = [(confidence, right) for confidence, right in inside if low < confidence <= high]
        total += abs(sum(right for _, right in inside) - sum(confidence for confidence, _ in inside))
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(100 * total / 499)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    p = np.array([[0.75, 0.25], [0.74, 0.26], [0.76, 0.24]])
    labels = np.array([0, 0, 1])
    wanted = (abs(2 - (0.75 + 0.74)) + 0.76) / 3  # bins of 4: (0.5, 0.75] holds the first two
    assert expected_calibration_error(p, labels, bins=4) == pytest.approx(100 * wanted)


def test_predictions_that_are_right_as_often_as_they_say_have_no_error():
    p = np.tile([[0.75, 0.25]], (8, 1))
    assert expected_calibration_error(p, np.array([0, 0, 0, 1] * 2)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(DataError):
        expected_calibration_error(np.zeros((0, 2)), np.zeros(0, int))


def test_the_confusion_matrix_is_scikit_learns():
    stream = np.random.default_rng(3)
    labels, predictions = stream.choice([1, 3, 4], 101), stream.choice([0, 3, 4], 101)
    wanted = metrics.confusion_matrix(labels, predictions, labels=range(7))
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 7), wanted)


def test_accuracy_by_class_by_hand():
    confusion = np.array([[2, 1, 0], [0, 0, 0], [1, 1, 5]])
    assert per_class_rows(confusion, ["cat", "dog", "owl"]) == [
        {"class": "cat", "n_test": 3, "correct": 2, "top1": pytest.approx(200 / 3)},
        {"class": "dog", "n_test": 0, "correct": 0, "top1": None},
        {"class": "owl", "n_test": 7, "correct": 5, "top1": pytest.approx(500 / 7)},
    ]


def test_features_that_all_point_one_way_are_calibrated_too():
    from fewvit.classifiers.centroid import Centroid

    draw = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 40)
    # cosines above 0.999
    x = (100 * np.ones(16) + draw.normal(size=(4, 16))[y] + 0.5 * draw.normal(size=(160, 16))).astype(np.float32)
    half = np.arange(160) % 2 == 0
    estimator = Centroid().fit(x[half], y[half])
    temperature = cross_validated_temperature(Centroid, x[half], y[half])
    raw, scaled = estimator.predict_proba(x[~half]), scale(estimator.predict_proba(x[~half]), temperature)
    assert (estimator.predict(x[~half]) == y[~half]).mean() > 0.9
    assert calibration.MIN_TEMPERATURE < temperature < 0.01
    assert expected_calibration_error(raw, y[~half]) > 60
    assert expected_calibration_error(scaled, y[~half]) < 10


# ---- the curve and its three errors

# five bins; 0.2 is the upper end of the first, 0.4 of the second, nothing lies in (0.6, 0.8]
CONFIDENCE = np.array([0.2, 0.3, 0.4, 0.5, 0.55, 0.9, 1.0])
RIGHT = np.array([True, False, True, True, False, True, True])


def test_the_curve_is_as_by_hand():
    found = reliability(CONFIDENCE, RIGHT, bins=5)
    assert found.counts.tolist() == [1, 2, 2, 0, 2]
    np.testing.assert_allclose(found.accuracy, [100, 50, 50, np.nan, 100])
    np.testing.assert_allclose(found.confidence, [20, 35, 52.5, np.nan, 95])


def test_the_three_calibration_errors_are_as_by_hand():
    """The bins' |accuracy - confidence| are 80, 15, 2.5, none and 5 points over 1, 2, 2, 0 and 2 of the 7 rows."""
    found = reliability(CONFIDENCE, RIGHT, bins=5)
    assert found.ece == pytest.approx((1 * 80 + 2 * 15 + 2 * 2.5 + 2 * 5) / 7)
    assert found.rms == pytest.approx(math.sqrt((1 * 80**2 + 2 * 15**2 + 2 * 2.5**2 + 2 * 5**2) / 7))
    assert found.mce == pytest.approx(80)


def test_errors_of_opposite_sign_meet_in_a_bin_and_never_across_bins():
    one_bin = reliability(np.array([0.5, 0.5]), np.array([True, False]), bins=3)
    assert (one_bin.ece, one_bin.rms, one_bin.mce) == (0, 0, 0)
    two_bins = reliability(np.array([0.25, 0.75]), np.array([True, False]), bins=3)
    assert (two_bins.ece, two_bins.rms, two_bins.mce) == pytest.approx((75, 75, 75))


@pytest.mark.parametrize("seed", range(5))
def test_the_errors_stand_in_their_order(seed):
    """A mean of absolute values, their root mean square, their maximum."""
    p = random_probabilities(211, 4, seed)
    found = reliability(p.max(axis=1), p.argmax(axis=1) == drawn(p, seed))
    assert 0 < found.ece < found.rms < found.mce


def test_no_predictions_have_no_curve():
    with pytest.raises(DataError, match="no test images"):
        reliability(np.zeros(0), np.zeros(0, bool))
