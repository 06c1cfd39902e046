"""Places, top-k accuracy and confidence intervals, against hand calculations and a sort of every row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewvit.errors import DataError
from fewvit.metrics import (
    NEVER,
    effective_number,
    mean_and_interval,
    mean_cosine,
    paired_gain,
    rank_of_target,
    rankme,
    top_k_accuracy,
)

from oracles import place


def test_the_place_of_a_class_counts_those_with_more_votes_and_equal_ones_before_it():
    votes = np.array([[5, 9, 5, 0, 5]])
    places = [int(rank_of_target(votes, np.array([c]))[0]) for c in range(5)]
    assert places == [1, 0, 2, NEVER, 3]  # class 3 has no vote


def test_places_are_those_of_a_sort_by_vote_and_number():
    stream = np.random.default_rng(3)
    for votes in (
        stream.integers(0, 3, (211, 7)).astype(float),
        stream.random((101, 13)),
        stream.integers(0, 2, (53, 3)) * 1e-300,
    ):
        targets = stream.integers(0, votes.shape[1], len(votes))
        wanted = [place(row, target) for row, target in zip(votes.tolist(), targets.tolist(), strict=True)]
        np.testing.assert_array_equal(rank_of_target(votes, targets), wanted)


def test_a_class_without_a_vote_is_no_hit_even_among_few_classes():
    rank = rank_of_target(np.array([[0.0, 2.0, 0.0]] * 2), np.array([0, 2]))
    assert rank.tolist() == [NEVER, NEVER]
    assert top_k_accuracy(rank, 5) == 0


def test_top_k_accuracy_is_the_percentage_of_places_below_k():
    rank = np.array([0, 0, 1, 4, 5, 7, 2])
    assert [top_k_accuracy(rank, k) for k in (1, 2, 3, 5, 6, 8)] == pytest.approx(
        [200 / 7, 300 / 7, 400 / 7, 500 / 7, 600 / 7, 100]
    )
    assert type(top_k_accuracy(rank, 1)) is float


def test_accuracy_over_no_images_is_a_data_error():
    with pytest.raises(DataError, match="no test images") as error:
        top_k_accuracy(np.zeros(0, int), 1)
    assert error.value.exit_code == 3


def test_the_interval_of_three_trials_is_students_by_hand():
    # mean 48, deviations -1, 0, 1: std 1; t(0.975, 2 degrees) = 4.302653; half width 4.302653 / sqrt 3
    found = mean_and_interval([47.0, 48.0, 49.0])
    assert found == {"mean": 48.0, "std": 1.0, "ci95": pytest.approx([48 - 2.484138, 48 + 2.484138], abs=1e-6)}


@pytest.mark.parametrize("n", [2, 3, 7, 101, 601])
def test_the_interval_is_the_one_of_scipys_t_distribution(n):
    values = np.random.default_rng(n).normal(53, 7, n)
    found = mean_and_interval(values.tolist())
    wanted = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert found["ci95"] == pytest.approx(wanted, rel=1e-12)
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert found["mean"] == pytest.approx(values.mean())


def test_the_interval_ends_where_percentages_do():
    # t(0.975, 1 degree) = 12.706205; half width 12.706205 * 0.5 for two values one apart
    assert mean_and_interval([3.0, 4.0])["ci95"] == [0.0, pytest.approx(3.5 + 6.353102, abs=1e-5)]
    assert mean_and_interval([96.0, 97.0])["ci95"] == [pytest.approx(96.5 - 6.353102, abs=1e-5), 100.0]
    assert mean_and_interval([4.0, 96.0])["ci95"] == [0.0, 100.0]


def test_one_trial_has_a_mean_and_no_interval():
    assert mean_and_interval([37.5]) == {"mean": 37.5}


def test_equal_trials_have_an_interval_of_no_width():
    assert mean_and_interval([37.5, 37.5]) == {"mean": 37.5, "std": 0.0, "ci95": [37.5, 37.5]}


def test_no_trials_are_a_data_error():
    with pytest.raises(DataError, match="no trials"):
        mean_and_interval([])


# ---- collapse


def test_the_effective_rank_of_a_known_spectrum_is_exp_of_the_entropy_of_its_shares():
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    for spectrum, wanted in (([1, 1, 1, 1], 4.0), ([2, 1, 1], 2 * 2**0.5), ([3], 1.0), ([7, 7], 2.0)):
        rows = np.zeros((7, 5))
        rows[np.arange(len(spectrum)), np.arange(len(spectrum))] = spectrum
        assert rankme((rows @ turn).astype(np.float32)) == pytest.approx(wanted, abs=1e-4)


def test_the_effective_rank_of_many_rows_is_that_of_a_few_in_even_steps():
    rows = np.eye(3)[[0, 0, 0, 1, 1, 1, 2]]
    assert rankme(rows, rows=3) == pytest.approx(3, abs=1e-4)  # rows 0, 3 and 6
    assert rankme(rows) < 2.98


def test_the_mean_cosine_is_that_of_all_pairs_one_by_one():
    rows = np.random.default_rng(7).normal(size=(13, 5)).astype(np.float32) + 1
    rows[4] = 0
    unit = [row / np.linalg.norm(row) if row.any() else row for row in rows.astype(np.float64)]
    pairs = [float(unit[i] @ unit[j]) for i in range(13) for j in range(13) if i != j]
    assert mean_cosine(rows) == pytest.approx(np.mean(pairs), abs=1e-9)
    assert mean_cosine(np.array([[1, 0], [0, 2], [3, 3]])) == pytest.approx(2**0.5 / 3)


def test_labels_are_spread_over_as_many_classes_as_exp_of_their_entropy():
    assert effective_number(np.array([3, 7, 3, 7])) == pytest.approx(2)
    assert effective_number(np.array([3, 3, 3, 7])) == pytest.approx(1.7547653, abs=1e-6)
    assert effective_number(np.array([7, 7])) == 1
    with pytest.raises(DataError):
        effective_number(np.array([]))


def test_a_gain_on_the_same_images_has_agresti_and_mins_interval():
    """By hand: 9 won, 2 lost of 30. (9.5 - 2.5) / 32 = 0.21875; its error is sqrt(12 - 49 / 32) / 32 = 0.10112."""
    before, after = np.zeros(30, bool), np.zeros(30, bool)
    after[:9], before[9:11] = True, True
    both = np.arange(30) >= 23
    points, low, high = paired_gain(before | both, after | both)
    assert points == pytest.approx(100 * 7 / 30)
    assert (low, high) == pytest.approx((21.875 - 1.959964 * 10.112, 21.875 + 1.959964 * 10.112), abs=2e-3)
    lost, lowest, highest = paired_gain(after | both, before | both)
    assert (lost, lowest, highest) == pytest.approx((-points, -high, -low))


def test_the_interval_of_a_gain_covers_what_is_true_in_about_95_of_100_draws():
    random, truth = np.random.default_rng(3), np.array([0.5, 0.2, 0.1, 0.2])  # both, won, lost, neither
    covered = 0
    for _ in range(2000):
        kind = random.choice(4, size=101, p=truth)
        _, low, high = paired_gain((kind == 0) | (kind == 2), kind <= 1)
        covered += low <= 10 <= high
    assert 0.935 < covered / 2000 < 0.97
