"""Exact neighbours by cheap products in C, beside sums in float64 of every pair."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fewvit.errors import DataError
from fewvit.neighbors import Bank, certified, normalise
from fewvit.neighbors.certified import KINDS, Certified, kernels

HERE = range(1, kernels()[1] + 1)  # kinds of products that this CPU has
pytestmark = pytest.mark.skipif(not HERE, reason="the kernels in C were not built here")


@pytest.fixture(params=[pytest.param(kind, id=KINDS[kind]) for kind in HERE])
def kind(request, monkeypatch):
    library = kernels()[0]
    monkeypatch.setattr(certified, "kernels", lambda: (library, request.param))
    return request.param


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def brute(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows by float64 sums rounded to float32, ties by row."""
    scores = (queries.astype(np.float64) @ bank.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def refused(queries: np.ndarray, k: int):
    pytest.fail(f"{len(queries)} queries were left to the other search")


def search(bank: np.ndarray, queries: np.ndarray, k: int, otherwise=refused):
    return Certified(bank, otherwise).search(queries, k)


@pytest.mark.parametrize(
    ("n", "width", "k"), [(997, 61, 1), (997, 384, 20), (33, 7, 33), (4001, 32, 200), (64, 33, 64)]
)
@pytest.mark.parametrize("half", [False, True])
def test_the_very_neighbours_and_scores_of_brute_force(kind, n, width, k, half):
    bank, queries = normalise(cloud(n, width)), normalise(cloud(53, width, 1))
    stored = bank.astype(np.float16) if half else bank
    scores, rows = brute(stored, queries, k)
    got_scores, got_rows = search(stored, queries, k)
    np.testing.assert_array_equal(got_rows, rows)
    np.testing.assert_array_equal(got_scores, scores)


def test_rows_that_all_lie_close_are_told_apart_by_what_they_differ_in(kind):
    middle = cloud(1, 96)
    bank, queries = normalise(middle + 0.02 * cloud(3000, 96, 2)), normalise(middle + 0.02 * cloud(40, 96, 3))
    assert (bank @ queries.T).min() > 0.99
    scores, rows = brute(bank, queries, 30)
    got_scores, got_rows = search(bank, queries, 30)
    np.testing.assert_array_equal(got_rows, rows)
    np.testing.assert_array_equal(got_scores, scores)


def test_many_blocks_and_pieces_give_what_one_gives(kind, monkeypatch):
    bank, queries = normalise(cloud(2100, 64)), normalise(cloud(600, 64, 5))
    whole = search(bank, queries, 9)
    monkeypatch.setattr(certified, "_PANEL_BYTES", 64 * 2 * 1024)
    monkeypatch.setattr(certified, "_STATE_BYTES", 1)
    monkeypatch.setattr(certified, "_PIECE", 32)
    parts = search(bank, queries, 9)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_bank_in_rising_order_of_likeness_keeps_no_more_than_there_is_room_for(kind):
    query = normalise(cloud(1, 48))
    bank = normalise(cloud(6000, 48, 7))
    bank = np.ascontiguousarray(bank[np.argsort(bank @ query[0])])  # each row better than all before it
    queries = np.repeat(query, 40, axis=0)
    scores, rows = brute(bank, queries, 10)
    got_scores, got_rows = search(bank, queries, 10)
    np.testing.assert_array_equal(got_rows, rows)
    np.testing.assert_array_equal(got_scores, scores)


def test_equal_rows_come_by_their_number_across_the_last_place(kind):
    bank = np.repeat(normalise(cloud(89, 13)), 5, axis=0)
    _, rows = search(bank, normalise(cloud(37, 13, 73)), 7)
    np.testing.assert_array_equal(rows[:, :5], rows[:, :1] + np.arange(5))
    np.testing.assert_array_equal(rows[:, 0] % 5, 0)
    np.testing.assert_array_equal(rows[:, 5:], rows[:, 5:6] + np.arange(2))


def test_queries_that_too_many_rows_tie_for_are_searched_otherwise(kind):
    bank = np.repeat(normalise(cloud(2, 24)), 2000, axis=0)
    asked = []

    def other(queries, k):
        asked.append(len(queries))
        return brute(bank, queries, k)

    finder = Certified(bank, other)
    queries = normalise(cloud(40, 24, 9))
    _, rows = finder.search(queries, 5)
    assert asked == [40]
    assert finder.left == 40
    np.testing.assert_array_equal(rows, brute(bank, queries, 5)[1])


def test_scores_too_close_for_bfloat16_are_told_apart_in_float32(monkeypatch):
    if kernels()[1] < 3:
        pytest.skip("this CPU has no products of bfloat16")
    random = np.random.default_rng(3)
    base = normalise(cloud(1, 64))
    bank = np.repeat(base, 4000, axis=0)
    bank[:, 0] += random.permutation(4000) * 2e-6  # beside the one direction that queries look at
    bank = np.concatenate([bank, normalise(cloud(400, 64, 11))])
    queries = np.repeat(base, 40, axis=0)
    kinds = []
    real = certified._Pass
    monkeypatch.setattr(certified, "_Pass", lambda kind, *rest: kinds.append(kind) or real(kind, *rest))
    scores, _ = search(bank, queries, 20)
    assert kinds[-1] == 2
    np.testing.assert_array_equal(scores, brute(bank, queries, 20)[0])


def test_a_cpu_that_breaks_the_bound_is_not_believed(kind):
    bank, queries = normalise(cloud(499, 61)), normalise(cloud(41, 61, 71))
    asked = []

    def other(queries, k):
        asked.append(len(queries))
        return brute(bank, queries, k)

    finder = Certified(bank, other)
    finder._known = {  # as if nothing were lost by rounding, and rows had no length
        bf16: certified._Bank(np.zeros(61), 0.0, 0.0, 0.0) for bf16 in (False, True)
    }
    _, rows = finder.search(queries, 3)
    assert asked == [41]
    np.testing.assert_array_equal(rows, brute(bank, queries, 3)[1])


@pytest.mark.parametrize("scale", [1e15, 1e22, 1e30, 1e-22, 1e-38])
def test_rows_beyond_what_sums_of_float32_hold_are_searched_otherwise_and_tiny_ones_exactly(kind, scale):
    bank, queries = cloud(1000, 37) * np.float32(scale), cloud(64, 37, 1)
    wanted = np.argsort(-(queries.astype(np.float64) @ bank.astype(np.float64).T), axis=1, kind="stable")[:, :5]
    found = Bank(bank, metric="dot", device="cpu").search(queries, 5)
    np.testing.assert_array_equal(found.rows, wanted)


def test_single_rows_and_queries_of_another_order_of_magnitude_write_nowhere(kind):
    bank = normalise(cloud(20_000, 64))
    bank[::3] *= np.float32(1e30)
    asked = []

    def other(queries, k):
        asked.append(len(queries))
        return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)

    Certified(bank, other).search(normalise(cloud(64, 64, 1)), 5)
    assert asked == [64]
    good, queries = normalise(cloud(500, 64)), cloud(64, 64, 1)
    queries[7] *= np.float32(1e25)
    asked.clear()
    _, rows = Certified(good, other).search(queries, 5)
    assert asked == [1]  # that query alone
    left = np.arange(64) != 7
    np.testing.assert_array_equal(rows[left], brute(good, queries[left], 5)[1])


def test_a_query_that_was_given_up_takes_no_more_rows():
    """Crowded after its first rows, and rows of infinite score follow: nothing is written for it."""
    rows = np.concatenate([np.repeat(normalise(cloud(1, 32)), 4000, axis=0), normalise(cloud(100, 32, 4))])
    finder = Certified(np.ascontiguousarray(rows), lambda queries, k: brute(rows, queries, k))
    _, found = finder.search(np.repeat(rows[:1], 40, axis=0), 3)
    np.testing.assert_array_equal(found, np.tile(np.arange(3), (40, 1)))


def test_features_of_no_columns_are_refused():
    with pytest.raises(DataError, match="row and column"):
        Bank(np.zeros((50, 0), np.float32))


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_bank_gives_the_same_neighbours_with_the_kernels_and_without(kind, metric, monkeypatch):
    bank, queries = 3 * cloud(1009, 61), 2 * cloud(41, 61, 71)
    found = Bank(bank, metric=metric, device="cpu").search(queries, 7)
    monkeypatch.setattr(Certified, "serves", staticmethod(lambda *_: False))
    plain = Bank(bank, metric=metric, device="cpu").search(queries, 7)
    np.testing.assert_array_equal(found.rows, plain.rows)
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5, atol=3e-7)


def test_leaving_one_out_and_few_queries_are_as_without(kind, monkeypatch):
    bank = cloud(700, 40)
    own = np.arange(100)
    found = list(Bank(bank, device="cpu").chunks(bank[:100], 5, exclude=own))
    few = Bank(bank, device="cpu").search(bank[:3], 5)
    assert not (np.concatenate([near.rows for _, near in found]) == own[:, None]).any()
    monkeypatch.setattr(Certified, "serves", staticmethod(lambda *_: False))
    plain = list(Bank(bank, device="cpu").chunks(bank[:100], 5, exclude=own))
    np.testing.assert_array_equal(*(np.concatenate([near.rows for _, near in one]) for one in (found, plain)))
    np.testing.assert_array_equal(few.rows, Bank(bank, device="cpu").search(bank[:3], 5).rows)


def test_what_is_compiled_can_be_turned_off():
    code = "from fewvit.neighbors.certified import kind; print(kind())"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FEWVIT_KERNELS": "off"}, capture_output=True, text=True
    )
    assert told.stdout.strip() == "none"


@pytest.mark.slow
def test_a_million_queries_among_near_ties_find_what_float64_finds(kind):
    """Rows in pairs and dozens whose scores differ from the seventh digit on, or not at all."""
    random = np.random.default_rng(kind)
    heads = normalise(cloud(60, 32, 13))
    steps = 10.0 ** random.uniform(-8, -2, size=(60, 24, 1)) * random.normal(size=(60, 24, 32))
    bank = np.ascontiguousarray((heads[:, None] + steps).reshape(-1, 32).astype(np.float32))
    bank[::5] = bank[1::5]  # and equal ones
    bank = normalise(bank)
    for part in range(100):
        queries = normalise(cloud(10_000, 32, 100 + part))
        queries[::3] = normalise(
            bank[random.integers(0, len(bank), len(queries[::3]))] + 1e-6 * cloud(len(queries[::3]), 32, part)
        )
        found = Bank.of_unit_rows(bank, device="cpu").search(queries, 10)
        exact = queries.astype(np.float64) @ bank.astype(np.float64).T
        wanted = np.argsort(-exact.astype(np.float32), axis=1, kind="stable")[:, :10]
        got, best = (np.take_along_axis(exact, rows, 1) for rows in (found.rows, wanted))
        # sums in another order may round to the neighbouring float32; nothing else may differ
        apart = (found.rows != wanted).any(axis=1)
        assert apart.mean() < 1e-3
        np.testing.assert_allclose(got, best, rtol=0, atol=1.2e-7)
        # queries are given unit length once more, which may take a last digit
        np.testing.assert_allclose(found.scores, got, rtol=0, atol=1.3e-7)
