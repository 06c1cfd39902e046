"""Random numbers of a batch: NumPy's own counter-based generator, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewvit.seeds import seed_of
from fewvit.views.draws import uniforms

ROWS = np.array([0, 7, 3, 7, 1_281_166, 2**63 - 1])


def philox(seed: int, epoch: int, row: int, stream: str, n: int) -> np.ndarray:
    key = np.array([seed_of(seed, epoch, stream), row], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 331])
def test_the_numbers_are_numpys_philox_keyed_by_seed_epoch_stream_and_row(n):
    expected = np.stack([philox(11, 5, row, "views", n) for row in ROWS.tolist()])
    np.testing.assert_array_equal(uniforms(11, 5, ROWS, "views", n), expected)


def test_a_batch_of_many_chunks_is_computed_as_row_by_row():
    rows = np.arange(1009)
    found = uniforms(3, 0, rows, "mask", 37)
    for row in (0, 408, 409, 410, 411, 1008):
        np.testing.assert_array_equal(found[row], philox(3, 0, row, "mask", 37))


def test_a_longer_draw_begins_with_the_shorter_one():
    np.testing.assert_array_equal(uniforms(3, 1, ROWS, "a", 23)[:, :7], uniforms(3, 1, ROWS, "a", 7))


def test_every_part_of_the_key_changes_all_numbers():
    base = uniforms(3, 1, np.arange(101), "a", 13)
    for other in (
        uniforms(4, 1, np.arange(101), "a", 13),
        uniforms(3, 2, np.arange(101), "a", 13),
        uniforms(3, 1, np.arange(101), "b", 13),
    ):
        assert not (other == base).any()
    assert len(np.unique(base)) == base.size


def test_numbers_are_uniform_and_neighbours_are_independent():
    numbers = uniforms(3, 1, np.arange(5003), "a", 11)
    assert numbers.min() >= 0 < numbers.max() < 1
    assert stats.kstest(numbers.reshape(-1), "uniform").pvalue > 0.001
    for a, b in (
        (numbers[:-1], numbers[1:]),
        (numbers[:, :-1], numbers[:, 1:]),
        (numbers, uniforms(3, 2, np.arange(5003), "a", 11)),
    ):
        assert abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 4 / np.sqrt(a.size)


def test_no_rows_and_no_numbers_are_empty_arrays():
    assert uniforms(3, 1, np.array([], np.int64), "a", 5).shape == (0, 5)
    assert uniforms(3, 1, ROWS, "a", 0).shape == (6, 0)
