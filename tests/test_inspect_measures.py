"""Label-free measures against hand calculation, loops and cases where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.errors import DataError, NumericalError
from fewvit.inspect.measures import (
    alignment,
    alpha_req,
    effective_rank,
    lidar,
    neighbor_overlap,
    power_law,
    rank_me,
    uniformity,
)


def spectrum(values: np.ndarray, n: int, seed: int = 3) -> np.ndarray:
    """Features (n, D), centred, whose covariance has these eigenvalues times a constant."""
    random = np.random.default_rng(seed)
    width = len(values)
    noise = random.normal(size=(n, width))
    left = np.linalg.qr(noise - noise.mean(axis=0))[0]  # orthonormal columns with mean 0
    right = np.linalg.qr(random.normal(size=(width, width)))[0]
    return left * np.sqrt(values) @ right.T


# ---- RankMe


def test_rankme_of_an_isotropic_matrix_is_its_width_and_of_one_of_rank_one_is_one():
    assert rank_me(spectrum(np.ones(23), 101)) == pytest.approx(23, rel=1e-4)
    assert rank_me(np.outer(np.arange(1, 102), np.arange(1, 24))) == pytest.approx(1, rel=1e-4)


def test_rankme_of_two_singular_values_is_as_by_hand():
    """Singular values 3 and 1: p = 3/4, 1/4, entropy 0.5623351, exp 1.7547654."""
    features = np.zeros((5, 7))
    features[1, 2], features[3, 4] = 3, -1
    assert rank_me(features) == pytest.approx(1.7547654, rel=1e-4)  # epsilon adds 7e-7 log to it


def test_rankme_does_not_centre_and_does_not_depend_on_scale_rotation_or_order():
    features = np.random.default_rng(5).normal(size=(67, 19)) + 2
    turn = np.linalg.qr(np.random.default_rng(6).normal(size=(19, 19)))[0]
    assert rank_me(7 * features[::-1] @ turn) == pytest.approx(rank_me(features), rel=1e-9)
    assert rank_me(features - features.mean(axis=0)) > 1.2 * rank_me(features)
    assert rank_me(features.T) == pytest.approx(rank_me(features), rel=1e-9)  # more columns than rows


def test_equal_features_at_zero_have_no_rank():
    with pytest.raises(NumericalError, match="no rank"):
        rank_me(np.zeros((5, 3)))
    with pytest.raises(NumericalError, match="NaN"):
        rank_me(np.full((5, 3), np.nan))


# ---- LiDAR


def lidar_by_loop(views: np.ndarray, delta: float) -> float:
    """The definition, one outer product after another."""
    n, q, width = views.shape
    means = [sum(views[i]) / q for i in range(n)]
    whole = sum(means) / n
    between = sum(np.outer(m - whole, m - whole) for m in means) / (n - 1)
    within = np.zeros((width, width))
    for i in range(n):
        for j in range(q):
            within += np.outer(views[i, j] - means[i], views[i, j] - means[i])
    within = within / (n * (q - 1)) + delta * np.eye(width)
    values, vectors = np.linalg.eigh(within)
    half = vectors / np.sqrt(values) @ vectors.T
    eigenvalues = np.clip(np.linalg.eigvalsh(half @ between @ half), 0, None)
    p = eigenvalues / eigenvalues.sum() + 1e-7
    return float(np.exp(-sum(x * np.log(x) for x in p)))


@pytest.mark.parametrize("shape", [(13, 5, 7), (5, 3, 17)])
def test_lidar_is_its_definition_written_as_a_loop(shape):
    random = np.random.default_rng(7)
    views = random.normal(size=(shape[0], 1, shape[2])) * np.arange(1, shape[2] + 1) + 0.3 * random.normal(size=shape)
    assert lidar(views, 0.01) == pytest.approx(lidar_by_loop(views, 0.01), rel=1e-4)


def test_lidar_weighs_directions_by_how_little_views_differ_in_them():
    """Two directions of equal spread between images: where views differ ten times as much, little is left of one."""
    random = np.random.default_rng(8)
    means = spectrum(np.ones(2), 499)[:, None] * 20
    even = lidar(means + 0.1 * random.normal(size=(499, 11, 2)), 1e-9)
    uneven = lidar(means + 0.1 * random.normal(size=(499, 11, 2)) * [1, 10], 1e-9)
    assert even == pytest.approx(2, abs=0.01)
    assert uneven == pytest.approx(effective_rank(np.array([1, 0.01])), abs=0.02)


def test_lidar_needs_two_images_and_two_views():
    for shape in ((1, 5, 3), (5, 1, 3)):
        with pytest.raises(DataError, match="2 images and 2 views"):
            lidar(np.ones(shape))


# ---- alpha-ReQ


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_alpha_of_an_exact_power_law_is_its_exponent(alpha):
    values = np.arange(1, 38, dtype=float) ** -alpha
    assert power_law(values) == pytest.approx(alpha, rel=1e-9)
    assert alpha_req(spectrum(values, 211) + 5) == pytest.approx(alpha, rel=1e-6)  # the mean takes no part


def test_alpha_leaves_out_the_first_ranks_and_what_is_rounding():
    values = np.arange(1, 38, dtype=float) ** -1.5
    values[:4] *= 50  # no part of the law
    assert power_law(np.concatenate([values, np.full(9, 1e-20)])) == pytest.approx(1.5, rel=1e-9)
    with pytest.raises(DataError, match="too few"):
        power_law(np.array([1.0, 0.5]))


def test_alpha_is_the_weighted_line_of_polyfit():
    values = np.sort(np.random.default_rng(2).gamma(1, size=31))[::-1]
    rank = np.arange(5, 32)
    line = np.polyfit(np.log(rank), np.log(values[4:]), 1, w=np.sqrt(1 / rank))  # its weights are squared
    assert power_law(values) == pytest.approx(-line[0], rel=1e-9)


# ---- uniformity and alignment


def test_uniformity_is_that_of_every_pair(monkeypatch):
    monkeypatch.setattr("fewvit.inspect.measures._BLOCK", 13)  # several blocks, the last one smaller
    features = np.random.default_rng(4).normal(size=(61, 11)) + 0.5
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(61) for j in range(i)]
    assert uniformity(features) == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)


def test_uniformity_of_one_point_is_zero_and_of_two_opposite_ones_minus_eight():
    assert uniformity(np.ones((7, 3))) == pytest.approx(0, abs=1e-6)
    assert uniformity(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-8)
    with pytest.raises(DataError):
        uniformity(np.ones((1, 3)))


def test_alignment_is_zero_for_equal_directions_and_four_for_opposite_ones():
    one = np.array([[1.0, 0], [0, 2], [3, 4]])
    assert alignment(one, 5 * one) == pytest.approx(0, abs=1e-12)
    assert alignment(one, -one) == pytest.approx(4)
    assert alignment(one, np.array([[0, 1.0], [0, 1], [3, 4]])) == pytest.approx(2 / 3)


# ---- overlap of neighbours


def overlap_by_loop(bank: np.ndarray, rows: list[int], changed: np.ndarray, k: int) -> float:
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)

    def nearest(query: np.ndarray, own: int) -> set[int]:
        order = sorted((-float(unit[i] @ query), i) for i in range(len(unit)) if i != own)
        return {i for _, i in order[:k]}

    return float(np.mean([len(nearest(bank[r], r) & nearest(c, r)) / k for r, c in zip(rows, changed, strict=True)]))


def test_overlap_is_one_for_images_that_did_not_change_and_brute_force_for_those_that_did():
    random = np.random.default_rng(9)
    bank, rows = random.normal(size=(71, 5)), [3, 7, 70, 11]
    assert neighbor_overlap(bank, np.array(rows), 3 * bank[rows], 5) == 1
    changed = bank[rows] + 0.7 * random.normal(size=(4, 5))
    found = neighbor_overlap(bank, np.array(rows), changed, 5)
    assert found == pytest.approx(overlap_by_loop(bank, rows, changed, 5))
    assert 0 < found < 1
