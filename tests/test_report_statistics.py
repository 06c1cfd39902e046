"""The statistics of a report: by hand, by brute force over every resample, and against SciPy, autorank, statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from fewvit import paired
from fewvit.errors import DataError
from fewvit.paired import corrected_t, holm, mcnemar, paired_bootstrap
from fewvit.report.statistics import (
    against_published,
    groups,
    rank_over_data_sets,
    require_data_sets,
    signed_rank,
)

# ---- the bootstrap


def every_resample(differences: np.ndarray) -> np.ndarray:
    """The mean of each of the R^R Q^Q equally likely resamples, one after another."""
    draws, images = differences.shape
    return np.array(
        [
            differences[np.ix_(rows, columns)].mean()
            for rows in itertools.product(range(draws), repeat=draws)
            for columns in itertools.product(range(images), repeat=images)
        ]
    )


# both ways of counting: many kinds of images drawn one by one, few kinds at once
SMALL = [np.array([[3.0, 0, -1, 2], [1, 0, 4, -2], [7, 0, -5, -2]]), np.array([[1.0, 1, -1, 1, 0]])]


@pytest.mark.parametrize("differences", SMALL)
@pytest.mark.parametrize("way", ["_counts_of_kinds", "_counts_of_images"])
def test_the_bootstrap_has_the_mean_spread_and_tails_of_all_resamples_together(differences, way, monkeypatch):
    monkeypatch.setattr(paired, "_DEAR_KINDS", 0 if way == "_counts_of_kinds" else 10**9)
    every = every_resample(differences)
    found = paired.resampled_means(differences, resamples=40_000, seed=3)
    assert found.mean() == pytest.approx(every.mean(), abs=5 * every.std() / 200)
    assert found.std() == pytest.approx(every.std(), rel=0.03)
    for value in np.quantile(every, [0.05, 0.3, 0.8]):
        assert (found <= value + 1e-9).mean() == pytest.approx((every <= value + 1e-9).mean(), abs=0.015)


@pytest.mark.parametrize("differences", SMALL)
def test_the_interval_and_the_p_are_those_of_the_resampled_means(differences):
    means = paired.resampled_means(differences, resamples=999, seed=7)
    found = paired_bootstrap(differences, resamples=999, seed=7)
    assert sum(means < found.low) <= 0.025 * 999 <= sum(means <= found.low)
    assert sum(means > found.high) <= 0.025 * 999 <= sum(means >= found.high)
    assert found.p == pytest.approx(min(1, 2 * (min(sum(means <= 0), sum(means >= 0)) + 1) / 1000))
    assert found.resamples == 999


def test_the_variance_of_the_bootstrap_has_its_closed_form():
    """Of images, of draws and of both at once, each as resampling adds it; blocks of another size change no moment."""
    stream = np.random.default_rng(3)
    differences = stream.normal(size=(7, 1)) + 2 * stream.normal(size=(1, 311)) + stream.normal(size=(7, 311))
    draws, images = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - draws[:, None] - images + differences.mean()
    wanted = draws.var() / 7 + images.var() / 311 + (rest**2).mean() / (7 * 311)
    found = paired.resampled_means(differences, resamples=20_000, seed=3)
    assert found.var() == pytest.approx(wanted, rel=0.05)


def test_the_interval_covers_the_truth_where_resampling_images_in_each_draw_would_not():
    """200 experiments whose images differ more than their draws: 95 % intervals of a difference that is 0.

    Resampling images anew inside each draw takes 10 draws of 101 images for 1,010 images.
    """
    stream = np.random.default_rng(7)
    held, nested_held = 0, 0
    for number in range(200):
        differences = 0.05 * stream.normal(size=(10, 1)) + stream.normal(size=(1, 101)) + stream.normal(size=(10, 101))
        found = paired_bootstrap(differences, resamples=400, seed=number)
        held += found.low <= 0 <= found.high
        of_images = stream.multinomial(101, np.full(101, 1 / 101), size=(400, 10))  # (B, R, Q): each draw its own
        nested = np.quantile((of_images * differences).sum(axis=(1, 2)) / 1010, [0.025, 0.975])
        nested_held += nested[0] <= 0 <= nested[1]
    assert held >= 180
    assert nested_held <= 130


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    differences = np.random.default_rng(3).normal(size=(3, 31))
    assert paired_bootstrap(differences, seed=3) == paired_bootstrap(differences, seed=3)
    assert paired_bootstrap(differences, seed=3) != paired_bootstrap(differences, seed=7)


def test_systems_that_never_differ_have_no_spread_and_p_1():
    found = paired_bootstrap(np.zeros((3, 11)))
    assert (found.low, found.high, found.p) == (0, 0, 1)


def test_one_draw_is_resampled_by_its_images_alone():
    """As SciPy's bootstrap of a mean."""
    differences = np.random.default_rng(3).integers(-1, 2, size=(1, 199)) + 0.1
    found = paired_bootstrap(differences, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (differences[0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


# ---- the corrected t


def test_the_corrected_t_is_as_by_hand():
    """Differences 1, 2, 3, 6: mean 3, variance 14 / 3; 20 test images for 50 labelled ones."""
    found = corrected_t([1, 2, 3, 6], n_train=50, n_test=20)
    error = math.sqrt((1 / 4 + 20 / 50) * 14 / 3)
    assert found.t == pytest.approx(3 / error)
    assert found.p == pytest.approx(2 * scipy.stats.t(3).sf(3 / error))
    assert (found.low, found.high) == pytest.approx((3 - 3.182446 * error, 3 + 3.182446 * error), rel=1e-6)
    assert found.ratio == 0.4


def test_without_test_images_the_corrected_t_is_the_paired_t_of_scipy():
    stream = np.random.default_rng(3)
    a, b = stream.normal(60, 2, 7), stream.normal(59, 2, 7)
    found, theirs = corrected_t(a - b, n_train=10, n_test=0), scipy.stats.ttest_rel(a, b)
    assert (found.t, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_draws_that_all_differ_alike_are_certain_and_those_that_never_differ_are_not():
    assert corrected_t([-2.0, -2.0, -2.0], 3, 7).p == 0
    assert corrected_t([-2.0, -2.0, -2.0], 3, 7).t == -math.inf
    assert corrected_t([0.0, 0.0, 0.0], 3, 7).p == 1


def test_one_draw_has_no_t():
    assert corrected_t([3.0], 3, 7) is None


# ---- McNemar


def test_mcnemar_is_as_by_hand():
    """7 images that one alone got right: 6 and 1; of 2^7 ways 2 (1 + 7) are as uneven."""
    a = np.array([True] * 6 + [False] + [True] * 5 + [False] * 3)
    b = np.array([False] * 6 + [True] + [True] * 5 + [False] * 3)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(16 / 128)
    assert mcnemar(a, a) == 1


def test_mcnemar_is_that_of_statsmodels():
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    stream = np.random.default_rng(7)
    a, b = stream.random(211) < 0.7, stream.random(211) < 0.6
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert mcnemar(a, b) == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)


# ---- several tests


def test_holms_steps_are_as_by_hand():
    """Ascending 0.01, 0.02, 0.03, 0.3 times 4, 3, 2, 1; the third may not fall below the second."""
    assert holm([0.3, 0.01, 0.03, 0.02]) == pytest.approx([0.3, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holms_steps_are_those_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(3).random(23) ** 3
    np.testing.assert_allclose(holm(p.tolist()), multitest.multipletests(p, method="holm")[1])


def test_groups_are_the_largest_sets_without_a_pair_that_is_told_apart():
    """Against every subset."""
    stream = np.random.default_rng(3)
    for _ in range(50):
        apart = [pair for pair in itertools.combinations(range(6), 2) if stream.random() < 0.5]
        whole = [
            set(some)
            for size in range(1, 7)
            for some in itertools.combinations(range(6), size)
            if not any(pair in apart for pair in itertools.combinations(some, 2))
        ]
        largest = [tuple(sorted(one)) for one in whole if not any(one < other for other in whole)]
        assert groups(6, apart) == sorted(largest)


# ---- data sets

# Friedman by hand: ranks of three systems on five data sets, one tie
SCORES = np.array([[90, 80, 70], [60, 50, 40], [77, 77, 70], [30, 35, 20], [99, 98, 97]], float)


def test_friedman_is_as_by_hand():
    """Ranks 1 2 3, 1 2 3, 1.5 1.5 3, 2 1 3, 1 2 3: sums 6.5, 8.5, 15. Without ties 12 / (5*3*4) * 339.5 - 60 = 7.9;
    one pair of equals in five triples divides it by 1 - 6 / (5 * 24) = 0.95."""
    found = rank_over_data_sets(SCORES)
    assert found.mean_ranks == pytest.approx((1.3, 1.7, 3))
    assert found.statistic == pytest.approx(7.9 / 0.95)
    assert found.p == pytest.approx(math.exp(-7.9 / 0.95 / 2))  # chi squared of two degrees
    assert found.data_sets == 5


def test_holms_pairs_are_as_by_hand():
    """z = difference of mean ranks / sqrt(3 * 4 / 30): 0.632, 2.688, 2.055; p 0.527, 0.00719, 0.0398, times 1, 3, 2."""
    found = rank_over_data_sets(SCORES)
    assert found.pairs == pytest.approx({(0, 1): 0.5271, (0, 2): 0.02157, (1, 2): 0.07972}, rel=1e-3)
    assert [found.apart(pair) for pair in found.pairs] == [False, True, False]


def test_the_critical_difference_is_that_of_demsars_table():
    """q of 0.05: 2.343 for three systems, 2.569 for four, 3.164 for ten (Demšar 2006, table 5)."""
    for systems, q in ((3, 2.343), (4, 2.569), (10, 3.164)):
        scores = np.random.default_rng(3).random((14, systems))
        found = rank_over_data_sets(scores).critical_difference
        assert found == pytest.approx(q * math.sqrt(systems * (systems + 1) / (6 * 14)), abs=1e-3)


def test_groups_are_within_the_critical_difference_and_all_where_friedman_sees_none():
    found = rank_over_data_sets(SCORES)  # critical difference 1.48: the first and the third differ by 1.7
    assert found.groups == [(0, 1), (1, 2)]
    level = rank_over_data_sets(np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3], [2, 3, 1.0]]))
    assert not level.is_significant
    assert level.groups == [(0, 1, 2)]
    assert not any(map(level.apart, level.pairs))


def test_systems_that_are_equal_everywhere_have_equal_ranks_and_p_1():
    found = rank_over_data_sets(np.full((7, 3), 50.0))
    assert (found.p, found.mean_ranks) == (1, (2, 2, 2))


@pytest.mark.parametrize("seed", [3, 7])
def test_ranks_friedman_critical_difference_and_groups_are_those_of_scipy_and_brute_force(seed):
    scores = np.random.default_rng(seed).normal(size=(13, 5)) + np.array([0, 0.5, 1, 1.5, 3])
    found = rank_over_data_sets(scores)
    ranks = scipy.stats.rankdata(-scores, axis=1).mean(axis=0)
    q = scipy.stats.studentized_range.ppf(0.95, 5, np.inf) / math.sqrt(2)
    assert found.mean_ranks == pytest.approx(tuple(ranks))
    assert (found.statistic, found.p) == pytest.approx(tuple(scipy.stats.friedmanchisquare(*scores.T)))
    assert found.critical_difference == pytest.approx(q * math.sqrt(5 * 6 / (6 * 13)), rel=1e-4)
    sets = [set(c) for n in range(2, 6) for c in itertools.combinations(range(5), n)]
    near = [one for one in sets if np.ptp(ranks[list(one)]) <= found.critical_difference]
    largest = [sorted(one) for one in near if not any(one < other for other in near)]
    assert sorted(sorted(group) for group in found.groups if len(group) > 1) == sorted(largest)


@pytest.mark.parametrize("seed", [3, 7])
@pytest.mark.filterwarnings("ignore")
def test_ranks_friedman_and_critical_difference_are_those_of_autorank(seed, capsys):
    pytest.importorskip("autorank", reason="autorank is not installed")
    import matplotlib

    matplotlib.use("agg")
    import autorank
    import pandas

    scores = np.random.default_rng(seed).normal(size=(13, 5)) + np.array([0, 0.5, 1, 1.5, 3])
    theirs = autorank.autorank(pandas.DataFrame(scores, columns=list("abcde")), force_mode="nonparametric")
    found = rank_over_data_sets(scores)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.critical_difference == pytest.approx(theirs.cd, rel=1e-4)  # theirs approximates the quantile
    assert found.mean_ranks == pytest.approx(tuple(theirs.rankdf.meanrank[list("abcde")]))
    assert found.is_significant
    _, names, spans = autorank._util.get_sorted_rank_groups(
        theirs._replace(rankdf=theirs.rankdf.sort_values("meanrank")), False
    )
    bars = [set(names[low : high + 1]) for low, high in spans]
    ours = [{"abcde"[one] for one in group} for group in found.groups if len(group) > 1]
    assert sorted(map(sorted, ours)) == sorted(map(sorted, bars))


def test_the_signed_rank_test_is_exact_as_by_hand():
    """Seven data sets, one small loss: signed ranks at least as uneven have 2 of 2^7 (rank sums 0 and 1), both ways."""
    a, b = np.array([61, 62, 63, 64, 65, 66, 67.0]), np.array([61.5, 61, 61, 61, 61, 61, 61])
    assert signed_rank(a, b) == signed_rank(b, a) == pytest.approx(4 / 128)
    assert signed_rank(a, a) == 1


@pytest.mark.parametrize(
    ("number", "systems", "why"), [(5, 2, "0.0625"), (4, 3, "several data sets"), (1, 3, "1 data set is")]
)
def test_too_few_data_sets_are_refused_with_the_reason(number, systems, why):
    scores = np.random.default_rng(3).random((number, systems))
    with pytest.raises(DataError, match=why):
        rank_over_data_sets(scores) if systems > 2 else signed_rank(*scores.T)


def test_as_many_data_sets_as_needed_are_enough():
    require_data_sets(6, 2)
    require_data_sets(5, 3)


# ---- the published number


@pytest.mark.parametrize(
    ("values", "published", "delta", "verdict"),
    [
        ([47.0, 47.1, 47.2], "47.1 ± 0.1", 0.0, "the published number, as rounded there"),
        ([71.34], 71.3, 0.04, "the published number, as rounded there"),
        ([71.36], 71.3, 0.06, "differs; there is no spread to judge it by"),
        ([45, 46, 47], 46.9, -0.9, "within the draws' spread"),  # standard deviation 1
        ([45, 46, 47], "47.2 ± 0.7", -1.2, "within the draws' spread"),  # root of 1 + 0.49 = 1.22
        ([45, 46, 47], "47.3 ± 0.7", -1.3, "within twice the draws' spread"),
        ([45, 46, 47], 43.5, 2.5, "above by 2.5 times the draws' spread"),
        ([45, 46, 47], "49", -3.0, "below by 3.0 times the draws' spread"),
        ([46.0], "45.8 ± 0.3", 0.2, "within the spread published"),
        ([46.0, 46.0], "45.5 ± 0.1", 0.5, "above by 5.0 times the spread published"),
    ],
)
def test_the_delta_to_a_published_number_has_its_verdict(values, published, delta, verdict):
    found = against_published(values, published)
    assert found.delta == pytest.approx(delta)
    assert found.verdict == verdict


def test_what_is_no_published_number_is_refused():
    with pytest.raises(DataError, match="'many' is no published number"):
        against_published([3.0], "many")
