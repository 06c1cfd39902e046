"""Pictures of weights: position tables and patch filters, against tables made by hand and NumPy's own decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.inspect.mosaic import stretched, tiled
from fewvit.inspect.patch_filters import principal_filters
from fewvit.inspect.position_table import cosine_similarity


def test_the_similarity_of_two_positions_is_their_cosine():
    table = np.array([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0], [-2.0, 0.0]])
    root = 1 / np.sqrt(2)
    by_hand = [[1, 0, root, -1], [0, 1, root, 0], [root, root, 1, -root], [-1, 0, -root, 1]]
    np.testing.assert_allclose(cosine_similarity(table), by_hand, atol=1e-12)


def test_a_position_of_zeros_is_like_no_other():
    found = cosine_similarity(np.array([[0.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(found, [[0, 0], [0, 1]])


def test_tiles_stand_row_by_row_with_a_gap_between():
    tiles = np.arange(3)[:, None, None] * np.ones((3, 2, 3))
    found = tiled(tiles, 2, gap=1, ground=-1)
    expected = [
        [0, 0, 0, -1, 1, 1, 1],
        [0, 0, 0, -1, 1, 1, 1],
        [-1, -1, -1, -1, -1, -1, -1],
        [2, 2, 2, -1, -1, -1, -1],
        [2, 2, 2, -1, -1, -1, -1],
    ]
    np.testing.assert_array_equal(found, expected)


def test_each_tile_is_stretched_by_itself():
    tiles = np.array([[[1.0, 3.0], [2.0, 1.0]], [[-8.0, 0.0], [-6.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 1], [0.5, 0]], [[0, 1], [0.25, 0.75]], [[0.5, 0.5], [0.5, 0.5]]]
    np.testing.assert_allclose(stretched(tiles), expected)


def made_filters(rank: int, channels: int = 31, patch: int = 3, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, 3, P, P) that are a mean filter and `rank` orthonormal ones (rank, 3, P, P) of falling strength."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((3 * patch**2, rank)))[0].T  # (rank, 3P²)
    loads = rng.standard_normal((channels, rank))
    loads = np.linalg.qr(loads - loads.mean(axis=0))[0] * 0.5 ** np.arange(rank)  # centred, orthogonal, falling
    mean = 5 * rng.standard_normal(3 * patch**2)
    weights = (mean + loads @ basis).reshape(channels, 3, patch, patch)
    return weights, basis.reshape(rank, 3, patch, patch)


def test_the_principal_filters_are_the_ones_the_weights_were_made_of():
    weights, basis = made_filters(rank=5)
    found, explained = principal_filters(weights, 28)
    assert len(found) == 5  # no direction is shown in which nothing varies
    cosines = np.abs((found * basis).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    strengths = 0.25 ** np.arange(5)
    np.testing.assert_allclose(explained, strengths / strengths.sum(), atol=1e-9)


def test_the_filters_are_centred_before_their_components_are_taken():
    """The mean filter is fifty times as strong here, and is no component."""
    weights, _ = made_filters(rank=2)
    found, _ = principal_filters(weights, 28)
    mean = weights.mean(axis=0)
    raw = np.linalg.svd(weights.reshape(len(weights), -1), full_matrices=False)[2][0]
    assert abs(float(raw @ mean.ravel())) / np.linalg.norm(mean) > 0.99  # what stands there where nothing is centred
    centred = np.linalg.svd((weights - mean).reshape(len(weights), -1), full_matrices=False)[2][:2]
    np.testing.assert_allclose(np.abs((centred * found.reshape(2, -1)).sum(axis=1)), 1, atol=1e-6)


def test_the_sign_of_a_component_does_not_depend_on_that_of_the_weights():
    weights, _ = made_filters(rank=4)
    np.testing.assert_allclose(principal_filters(weights, 3)[0], principal_filters(-weights, 3)[0], atol=1e-9)


@pytest.mark.parametrize("most", [1, 3, 28])
def test_there_are_no_more_components_than_are_asked_for(most):
    assert len(principal_filters(made_filters(rank=7)[0], most)[0]) == min(most, 7)
