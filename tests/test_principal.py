"""Principal axes against NumPy's SVD; what they are fitted on; whitening by its formula; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.errors import UsageError
from fewvit.extraction.principal import EPSILON, Reduction
from fewvit.features import FeatureSet

WIDTH = 7


def rows(n: int, seed: int = 3) -> np.ndarray:
    stream = np.random.default_rng(seed)
    return (stream.normal(size=(n, WIDTH)) * np.arange(1, WIDTH + 1) + 5).astype(np.float32)


def features(x: np.ndarray, name: str = "train") -> FeatureSet:
    return FeatureSet(x, np.arange(len(x)) % 2, [f"{name}/{i}" for i in range(len(x))], ["x", "y"])


def by_svd(train: np.ndarray, other: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, count), and variances (count,), by the singular vectors of the centred rows."""
    plain = train.astype(np.float64)
    _, values, axes = np.linalg.svd(plain - plain.mean(axis=0), full_matrices=False)
    axes = axes[:count] * np.sign([axis[np.abs(axis).argmax()] for axis in axes[:count]])[:, None]
    return (other.astype(np.float64) - plain.mean(axis=0)) @ axes.T, values[:count] ** 2 / (len(train) - 1)


@pytest.mark.parametrize("n", [5, 29])  # fewer rows than columns, and more
@pytest.mark.parametrize("whiten", [False, True])
def test_coordinates_are_those_of_the_singular_vectors(n, whiten):
    train, test = rows(n), rows(11, seed=5)
    moved, moved_test, facts = Reduction(3, whiten).of(features(train), features(test, "test"), lambda line: None)
    assert moved_test is not None
    for found, x in ((moved, train), (moved_test, test)):
        wanted, variances = by_svd(train, x, 3)
        if whiten:
            wanted /= np.sqrt(variances + EPSILON * variances.max())
        np.testing.assert_allclose(found.features, wanted, rtol=1e-5, atol=1e-5)
        assert found.features.dtype == np.float32
    spread = np.linalg.svd(train - train.astype(np.float64).mean(axis=0), compute_uv=False) ** 2
    reduction = facts["reduction"]
    assert reduction["variance_kept"] == pytest.approx(spread[:3].sum() / spread.sum())
    assert (reduction["pca"], reduction["whiten"], reduction["fitted_on"]) == (3, whiten, n)
    assert reduction.get("epsilon") == (EPSILON if whiten else None)


def test_whitened_train_features_have_unit_variance_and_no_correlation():
    moved, _, _ = Reduction(whiten=True).of(features(rows(29)), None, lambda line: None)
    np.testing.assert_allclose(np.cov(moved.features.T), np.eye(WIDTH), atol=1e-3)


def test_no_test_row_has_a_part_in_the_axes():
    """A row that both test sets have keeps its coordinates, and so do the train rows, whatever stands beside them."""
    train, common = features(rows(29)), rows(1, seed=11)
    found = []
    for seed, scale in ((5, 1), (7, 1000)):
        test = features(np.concatenate([common, scale * rows(13, seed)]), "test")
        moved, moved_test, _ = Reduction(3, True).of(train, test, lambda line: None)
        assert moved_test is not None
        found.append((moved.features, moved_test.features[:1]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_order_of_the_train_rows_does_not_turn_an_axis():
    train, test = rows(29), rows(3, seed=5)
    order = np.random.default_rng(1).permutation(29)
    one, other = (Reduction(4).fit(x)[0].of(test) for x in (train, train[order]))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("n", "most"), [(5, 4), (29, WIDTH), (2, 1)])
def test_more_axes_than_the_train_images_have_are_refused_with_what_they_have(n, most):
    assert Reduction(most).fit(rows(n))[0].axes.shape == (most, WIDTH)
    with pytest.raises(UsageError, match=f"--pca {most + 1}: {n} train images of {WIDTH} columns have {most}"):
        Reduction(most + 1).fit(rows(n))
    assert len(Reduction(whiten=True).fit(rows(n))[0].axes) == most


def test_a_direction_without_variance_is_not_blown_up():
    flat = rows(29)
    flat[:, 3] = 2.0
    moved, _, _ = Reduction(whiten=True).of(features(flat), None, lambda line: None)
    assert np.abs(moved.features).max() < 10


def test_nothing_asked_for_is_the_features_themselves():
    train = features(rows(5))
    assert Reduction().of(train, None, lambda line: pytest.fail(line)) == (train, None, {})
