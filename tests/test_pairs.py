"""Close pairs of rows: against brute force, however the rows are ordered, cut into blocks or put into cells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewvit.errors import NumericalError, UsageError
from fewvit.neighbors import pairs as module
from fewvit.neighbors.pairs import PairSearch, UnitRows, row_keys, toward, wilson

from oracles import score, unit_rows


def planted(n: int, d: int = 17, seed: int = 3, copies: int = 61) -> np.ndarray:
    """A cloud in which some rows are near copies of others, with cosines around 0.9, and lengths vary."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, d))
    at = random.permutation(n)[: 2 * copies]
    for first, second, noise in zip(at[:copies], at[copies:], random.uniform(0, 0.25, copies), strict=True):
        rows[second] = rows[first] + noise * random.standard_normal(d)
    return (rows * random.uniform(0.5, 2, (n, 1))).astype(np.float32)


def brute(rows: np.ndarray, threshold: float, split: int | None = None) -> dict[tuple[int, int], float]:
    """Pairs and scores by comparing every two rows in Python."""
    unit = unit_rows(rows)
    wide = unit.astype(np.float64) @ unit.astype(np.float64).T
    near = np.argwhere(wide >= threshold - 1e-3).tolist()
    found = {(a, b): min(1.0, score(unit[a].tolist(), unit[b].tolist(), "cosine")) for a, b in near if a < b}
    return {
        (a, b): value
        for (a, b), value in found.items()
        if value >= np.float32(threshold) and (split is None or a < split <= b)
    }


def found(search: PairSearch) -> dict[tuple[int, int], float]:
    """What a search finds; no pair may come twice."""
    pairs = [
        ((a, b), value)
        for some in search
        for a, b, value in zip(some.first.tolist(), some.second.tolist(), some.scores.tolist(), strict=True)
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def same(one: dict[tuple[int, int], float], other: dict[tuple[int, int], float]) -> bool:
    """The same pairs, and scores that differ by the last digit at most: `fsum` rounds once, a sum more often."""
    return set(one) == set(other) and all(abs(one[pair] - other[pair]) <= 6e-8 for pair in one)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("split", [None, 7, 1000])
@pytest.mark.parametrize("exact", [True, False])
def test_the_pairs_are_those_of_brute_force(exact, split, dtype):
    rows = planted(1501).astype(dtype)
    wanted = brute(rows, 0.9, split)
    assert len(wanted) > (2 if split == 7 else 20) or split == 7
    assert same(found(PairSearch(UnitRows.of(rows), 0.9, split, exact=exact)), wanted)


@pytest.mark.parametrize("exact", [True, False])
def test_the_size_of_a_block_changes_nothing(exact):
    rows = UnitRows.of(planted(499))
    whole = found(PairSearch(rows, 0.85, exact=exact))
    assert whole
    for block in (3, 13, 5000):
        assert found(PairSearch(rows, 0.85, exact=exact, block=block)) == whole


@pytest.mark.parametrize("exact", [True, False])
def test_the_order_of_the_rows_changes_nothing(exact):
    rows = planted(1499, copies=211)
    order = np.random.default_rng(5).permutation(len(rows))
    before = found(PairSearch(UnitRows.of(rows), 0.8, exact=exact))
    after = found(PairSearch(UnitRows.of(rows[order]), 0.8, exact=exact))
    back = {tuple(sorted((int(order[a]), int(order[b])))): value for (a, b), value in after.items()}
    assert len(before) > 150
    assert back == before


def test_the_number_of_threads_changes_nothing(python):
    code = """
import sys, hashlib, numpy as np
from fewvit.neighbors.pairs import PairSearch, UnitRows
random = np.random.default_rng(3)
rows = random.standard_normal((20011, 24)).astype(np.float32)
rows[10007:10507] = rows[:500] + 0.1 * random.standard_normal((500, 24))
lines = sorted(
    (a, b, s) for p in PairSearch(UnitRows.of(rows), 0.9, exact=False)
    for a, b, s in zip(p.first.tolist(), p.second.tolist(), p.scores.tolist())
)
print(len(lines), hashlib.sha256(repr(lines).encode()).hexdigest())
"""
    one, other = (python(code, OMP_NUM_THREADS=n, OPENBLAS_NUM_THREADS=n).stdout for n in ("1", "2"))
    assert one == other
    assert int(one.split()[0]) >= 500


def test_equal_rows_are_pairs_at_every_threshold():
    rows = planted(211, copies=3)
    rows[5] = rows[200]
    pairs = found(PairSearch(UnitRows.of(rows), 0.9999))
    assert (5, 200) in pairs
    assert pairs[5, 200] == pytest.approx(1, abs=1e-7)


def test_a_score_at_the_threshold_counts_and_one_below_it_does_not():
    rows = np.array([[1, 0], [0.6, 0.8], [0.8, -0.6]], np.float32)  # cosines 0.6, 0.8 and 0
    assert set(found(PairSearch(UnitRows.of(rows), 0.6))) == {(0, 1), (0, 2)}
    assert set(found(PairSearch(UnitRows.of(rows), float(np.nextafter(np.float32(0.6), 1))))) == {(0, 2)}


def test_what_is_overlooked_is_measured_on_rows_moved_to_the_threshold(monkeypatch):
    """With one cell for each row: hardly less than what is missed of planted pairs, some of whose rows k-means saw."""
    monkeypatch.setattr(module, "_VISITED", (1,))
    random = np.random.default_rng(3)
    rows = random.standard_normal((20011, 24))
    rows[10007:] = toward(rows[:10004] / np.linalg.norm(rows[:10004], axis=1, keepdims=True), rows[3:10007], 0.901)
    search = PairSearch(UnitRows.of(rows.astype(np.float32)), 0.9, exact=False)
    pairs = found(search)
    missed = sum((row, 10007 + row) not in pairs for row in range(10004)) / 10004
    assert missed > 0.1
    assert missed - 0.02 < search.missed.missed / search.missed.probes < missed + 0.15
    assert missed < search.missed.at_most


def test_rows_are_put_into_as_many_cells_as_it_takes_to_miss_almost_none():
    rows = UnitRows.of(planted(20011, 48, copies=997))
    search = PairSearch(rows, 0.9, exact=False)
    pairs = found(search)
    assert search.missed.visited > 1
    assert search.missed.missed <= 0.0005 * search.missed.probes
    assert pairs == found(PairSearch(rows, 0.9, exact=True))


def test_rows_that_are_turned_toward_others_have_the_cosine_that_was_asked():
    rows, others = (unit_rows(planted(101, seed=seed, copies=2)) for seed in (5, 7))
    moved = toward(rows, others, 0.93)
    cosines = (rows.astype(np.float64) * moved).sum(axis=1)
    np.testing.assert_allclose(cosines, 0.93, atol=1e-6)
    assert ((moved * others).sum(axis=1) > (rows * others).sum(axis=1) * 0.93).all()


def test_keys_are_equal_where_rows_are_and_nowhere_else():
    rows = planted(307, copies=2)
    rows[11] = rows[250]
    rows[12] = 3 * rows[251]  # of the same direction, whatever the rounding
    rows[13], rows[252] = np.float32([0.0] * 17), np.float32([-0.0] * 17)
    keys = row_keys(UnitRows.of(rows))
    equal = {(a, b) for a in range(307) for b in range(a) if (keys[a] == keys[b]).all()}
    assert {(250, 11), (252, 13)} <= equal <= {(250, 11), (252, 13), (251, 12)}


@pytest.mark.parametrize("threshold", [0, -0.5, 1.0001, math.nan, 95])
def test_a_threshold_that_is_no_cosine_of_copies_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold"):
        PairSearch(UnitRows.of(planted(11, copies=2)), threshold)


def test_rows_that_are_not_finite_are_refused():
    rows = planted(211)
    rows[97, 3] = np.nan
    with pytest.raises(NumericalError):
        found(PairSearch(UnitRows.of(rows), 0.9))


def test_wilsons_interval_is_that_of_the_paper_by_hand():
    """9 of 10, z = 1.96: (0.9 + 0.19208 ± 1.96 sqrt(0.009 + 0.009604)) / 1.38416."""
    low, high = wilson(9, 10)
    assert low == pytest.approx((1.09207 - 1.959964 * math.sqrt(0.009 + 0.0096036)) / 1.384146, abs=1e-4)
    assert high == pytest.approx((1.09207 + 1.959964 * math.sqrt(0.009 + 0.0096036)) / 1.384146, abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(381, 381)[0] > 0.99 > wilson(380, 380)[0]


def test_every_pair_is_compared_where_there_are_as_many_as_of_so_many_rows_and_no_more(monkeypatch):
    monkeypatch.setattr(module, "EXACT_ROWS", 10)

    def is_exact(rows: int, split: int | None = None) -> bool:
        return PairSearch(UnitRows.of(np.eye(rows, dtype=np.float32)), 0.5, split).is_exact

    assert (is_exact(2), is_exact(10), is_exact(11)) == (True, True, False)
    assert (is_exact(15, 5), is_exact(16, 5)) == (True, False)  # 5 × 10 and 5 × 11 pairs; 10 × 10 / 2 are few enough
    assert PairSearch(UnitRows.of(np.eye(11, dtype=np.float32)), 0.5, exact=True).is_exact


def test_the_share_that_is_done_is_that_of_the_comparisons_begun_before():
    rows = UnitRows.of(np.eye(8, dtype=np.float32))
    told: list[float] = []
    assert list(PairSearch(rows, 0.5, block=2, exact=True, progress=told.append)) == []
    # of 8 rows each is compared with those behind it: after 2 of them (6/8)² of the comparisons are left
    assert told == [0.0] * 4 + [1 - 36 / 64] * 3 + [1 - 16 / 64] * 2 + [1 - 4 / 64, 1.0]
    del told[:]
    assert list(PairSearch(rows, 0.5, 4, block=2, exact=True, progress=told.append)) == []
    assert told == [0.0, 0.0, 0.5, 0.5, 1.0]
