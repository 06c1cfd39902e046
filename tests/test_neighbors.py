"""Exact neighbours: against brute force in float64, with ties everywhere, on both engines."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewvit import neighbors
from fewvit.errors import DataError, NumericalError, UsageError
from fewvit.neighbors import METRICS, Bank, engines, installed, normalise
from fewvit.neighbors.certified import Certified
from fewvit.neighbors.reduced import Reduced

from oracles import brute_neighbors, unit_rows

ENGINES = ("faiss", "torch")
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_metric = pytest.mark.parametrize("metric", METRICS)


def cloud(n: int, d: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def lattice(n: int, d: int = 3, seed: int = 7) -> np.ndarray:
    """Vectors of {-1, 0, 1}: few different ones, so ties reach across any k, and dot products are exact.

    Zero rows included.
    """
    return np.random.default_rng(seed).integers(-1, 2, (n, d)).astype(np.float32)


def copies(n: int, d: int = 5) -> np.ndarray:
    """A cloud of which 61 rows, spread over it, are one and the same: more than any spare neighbours see."""
    rows = cloud(n, d, 11)
    rows[np.random.default_rng(13).permutation(n)[:61]] = rows[n // 2]
    return rows


def nearly_equal(n: int, d: int = 7) -> np.ndarray:
    """Rows that differ from one another by less than float32 sums can tell."""
    return (cloud(1, d, 17) + 1e-7 * cloud(n, d, 19)).astype(np.float32)


BANKS = {"cloud": cloud(211, 13), "lattice": lattice(211), "copies": copies(211), "nearly equal": nearly_equal(211)}


def check(found: neighbors.Neighbors, bank: np.ndarray, queries: np.ndarray, k: int, metric: str, exclude=None) -> None:
    rows, scores = brute_neighbors(bank, queries, k, metric, exclude)
    np.testing.assert_array_equal(found.rows, rows)
    size = (
        1 if metric == "cosine" else (np.linalg.norm(bank, axis=1).max() + np.linalg.norm(queries, axis=1).max()) ** 2
    )
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6 * size)
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32


@every_engine
@every_metric
@pytest.mark.parametrize("k", [1, 7, 59, 211])
@pytest.mark.parametrize("kind", BANKS)
def test_neighbours_are_those_of_brute_force(kind, k, metric, engine):
    bank = BANKS[kind]
    queries = np.concatenate([bank[[3, 105, 210]], 2 * bank[::53], cloud(5, bank.shape[1], 23)])
    check(Bank(bank, metric=metric, device="cpu", engine=engine).search(queries, k), bank, queries, k, metric)


@every_engine
@every_metric
def test_rows_far_from_the_origin_are_told_apart(metric, engine):
    bank, queries = cloud(101, 5) + 300, cloud(7, 5, 29) + 300
    check(Bank(bank, metric=metric, device="cpu", engine=engine).search(queries, 11), bank, queries, 11, metric)


@every_engine
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_copies_are_listed_by_row_however_many_there_are(metric, engine):
    order = np.random.default_rng(37).permutation(180)
    bank = np.concatenate([cloud(97, 5), np.tile(cloud(1, 5, 31), (83, 1))])[order]
    same = np.flatnonzero(order >= 97)
    for k in (1, 3, 71, 83):
        found = Bank(bank, metric=metric, device="cpu", engine=engine).search(bank[same[:2]], k)
        np.testing.assert_array_equal(found.rows, np.tile(same[:k], (2, 1)))
        assert (found.scores == found.scores[:, :1]).all()


@every_engine
@every_metric
@pytest.mark.parametrize("kind", BANKS)
@pytest.mark.parametrize("k", [1, 7, 59, 210])
def test_an_excluded_row_is_never_a_neighbour_and_the_rest_moves_up(k, kind, metric, engine):
    bank = BANKS[kind]
    exclude = np.arange(len(bank))
    parts = list(Bank(bank, metric=metric, device="cpu", engine=engine).chunks(bank, k, exclude=exclude))
    some = np.array([0, 1, 100, 105, 209, 210])
    rows, scores = (np.concatenate([getattr(n, side) for _, n in parts]) for side in ("rows", "scores"))
    assert not (rows == exclude[:, None]).any()
    check(neighbors.Neighbors(rows[some], scores[some]), bank, bank[some], k, metric, exclude[some])


@every_engine
def test_each_query_excludes_its_own_row_in_every_chunk(engine, monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK_BYTES", 1)
    bank = lattice(131)
    exclude = np.random.default_rng(41).integers(-1, 131, 131)  # -1 excludes nothing
    parts = list(Bank(bank, metric="dot", device="cpu", engine=engine).chunks(bank, 7, exclude=exclude))
    assert [(p.start, p.stop) for p, _ in parts] == [(0, 64), (64, 128), (128, 131)]
    for part, found in parts:
        check(found, bank, bank[part], 7, "dot", exclude[part])


@every_engine
@every_metric
def test_chunk_boundaries_change_nothing(metric, engine, monkeypatch):
    bank, queries = np.concatenate([lattice(1033, 4), lattice(1033, 4, 43)]), lattice(131, 4, 47)
    whole = Bank(bank, metric=metric, device="cpu", engine=engine).search(queries, 13)
    check(neighbors.Neighbors(whole.rows[:3], whole.scores[:3]), bank, queries[:3], 13, metric)
    monkeypatch.setattr(
        neighbors, "_CHUNK_BYTES", 24 * 4 * 701
    )  # 64 queries, 1024 rows of a product, 701 rows scored again at a time
    cut = Bank(bank, metric=metric, device="cpu", engine=engine).search(queries, 13)
    np.testing.assert_array_equal(cut.rows, whole.rows)
    np.testing.assert_array_equal(cut.scores, whole.scores)


@pytest.mark.parametrize(("k", "width"), [(2003, 3), (1, 1009)])
def test_a_chunk_holds_as_many_queries_as_fit_the_memory_for_it(k, width):
    queries = np.broadcast_to(np.float32(1), (12007, width))
    part, _ = next(Bank(cloud(k, width), device="cpu").chunks(queries, k))
    taken = part.stop * (12 * k + 4 * width)  # a row number and a score of each neighbour, and the query itself
    assert neighbors._CHUNK_BYTES / 5 < taken < neighbors._CHUNK_BYTES


@pytest.mark.parametrize("best", [0, 1])
def test_an_engine_that_orders_within_rounding_is_put_right(best):
    rows = np.ones((2, 1), np.float32)
    rows[best] = np.nextafter(np.float32(1), np.float32(2))
    bank = Bank(rows, metric="dot", device="cpu")
    for given in ([[0, 1]], [[1, 0]]):
        bank._search = lambda queries, k, given=given: (np.ones((1, 2), np.float32), np.array(given))
        assert bank.search(np.ones((1, 1)), 2).rows.tolist() == [[best, 1 - best]]


@pytest.mark.parametrize("block", [1, 7, 100, 211])
@pytest.mark.parametrize("k", [1, 13, 211])
def test_the_best_of_the_blocks_best_are_the_best_of_all(k, block):
    bank, queries = (
        torch.tensor(np.round(100 * rows)) for rows in (cloud(211, 5), cloud(7, 5, 67))
    )  # products are exact
    every = queries @ bank.T
    scores, rows = engines._torch_topk(queries, bank, None, k, block)
    assert torch.equal(scores, every.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(every.gather(1, rows), scores)
    assert all(len(set(found)) == k for found in rows.tolist())


@pytest.mark.parametrize("width", [5, 101])
def test_scores_are_computed_again_for_as_many_rows_as_the_cache_holds(width, monkeypatch):
    monkeypatch.setattr(neighbors, "_CACHED_BYTES", 1 << 18)
    taken, real = [], neighbors._pairwise
    monkeypatch.setattr(
        neighbors,
        "_pairwise",
        lambda queries, rows, metric: (taken.append(len(rows)), real(queries, rows, metric))[1],
    )
    # all alike: whatever was fetched is scored again, and then the whole bank
    features = np.tile(cloud(1, width), (6007, 1))
    bank = Bank(features, device="cpu", engine="torch")
    bank.search(features[:503], 3)
    fitting = (1 << 18) // (width * 24)  # a product, its two factors, in float64
    again, whole = taken[: -(-503 * 11 // fitting)], taken[-(-503 * 11 // fitting) :]
    assert (sum(again), sum(whole)) == (503 * 11, 503 * 6007)  # eleven are fetched for three
    assert max(again) == max(whole) == fitting


def test_torch_makes_as_many_scores_at_once_as_fit_the_memory_for_them(monkeypatch):
    blocks = []
    monkeypatch.setattr(
        engines, "_torch_topk", lambda *all_, real=engines._torch_topk: blocks.append(all_[-1]) or real(*all_)
    )
    Bank(cloud(53, 5), device="cpu", engine="torch").search(cloud(7, 5), 3)
    assert engines._BLOCK_BYTES / 5 < blocks[0] * 512 * 4 <= engines._BLOCK_BYTES  # float32 scores of 512 queries


@every_engine
@pytest.mark.parametrize("kind", BANKS)
def test_a_query_alone_has_the_neighbours_it_has_in_a_batch(kind, engine):
    bank = Bank(BANKS[kind], device="cpu", engine=engine)
    queries = np.concatenate([BANKS[kind][::7], cloud(37, bank.rows.shape[1], 53)])
    together = bank.search(queries, 11)
    for q in range(len(queries)):
        alone = bank.search(queries[q : q + 1], 11)
        np.testing.assert_array_equal(alone.rows[0], together.rows[q])
        np.testing.assert_allclose(alone.scores[0], together.scores[q], rtol=0, atol=1e-6)


@every_engine
@every_metric
def test_without_ties_nothing_is_searched_or_scored_twice(metric, engine, monkeypatch):
    bank = Bank(cloud(211, 13), metric=metric, device="cpu", engine=engine)
    monkeypatch.setattr(Bank, "_score_all", lambda *a: pytest.fail("the whole bank was searched again"))
    monkeypatch.setattr(Bank, "score", lambda *a: pytest.fail("scores were computed again"))
    check(bank.search(cloud(3, 13, 71), 5), cloud(211, 13), cloud(3, 13, 71), 5, metric)


@every_engine
def test_only_queries_whose_ties_reach_too_far_are_searched_again(engine, monkeypatch):
    again, real = [], Bank._score_all
    monkeypatch.setattr(Bank, "_score_all", lambda bank, query: (again.append(query), real(bank, query))[1])
    features = np.eye(31, dtype=np.float32)
    features[7:27] = features[
        7
    ]  # 20 copies; 8 neighbours more than asked are fetched, so the 21st shows that there are no others
    bank, queries = Bank(features, metric="dot", device="cpu", engine=engine), features[[3, 7]] + 0.01 * features[5]
    for k, searched in ((1, 1), (5, 1), (12, 1), (13, 0), (20, 0), (23, 0)):
        again.clear()
        check(bank.search(queries[1:], k), features, queries[1:], k, "dot")
        assert len(again) == searched, k


@every_engine
def test_cosine_ignores_the_lengths_of_rows_and_queries(engine):
    bank, queries = cloud(101, 7), cloud(11, 7, 59)
    scale = 2.0 ** np.random.default_rng(61).integers(-9, 9, (101, 1))
    plain = Bank(bank, device="cpu", engine=engine).search(queries, 17)
    scaled = Bank(bank * scale, device="cpu", engine=engine).search(queries * 1024, 17)
    np.testing.assert_array_equal(scaled.rows, plain.rows)
    np.testing.assert_array_equal(scaled.scores, plain.scores)


@every_engine
def test_a_zero_row_is_at_cosine_zero_from_everything(engine):
    bank = np.array([[0, 0], [1, 0], [0, 0], [-1, 0], [3, 4]], np.float32)
    found = Bank(bank, device="cpu", engine=engine).search(np.array([[2, 0], [0, 0]], np.float32), 5)
    np.testing.assert_array_equal(found.rows, [[1, 4, 0, 2, 3], [0, 1, 2, 3, 4]])
    np.testing.assert_allclose(found.scores, [[1, 0.6, 0, 0, -1], [0, 0, 0, 0, 0]], atol=1e-7)


def test_scores_are_cosines_dot_products_and_minus_squared_distances():
    bank, query = np.array([[3, 4], [0, 2]], np.float32), np.array([[6, 8]], np.float32)
    scores = {metric: Bank(bank, metric=metric, device="cpu").search(query, 2).scores[0].tolist() for metric in METRICS}
    assert scores == {"cosine": pytest.approx([1, 0.8]), "dot": [50, 16], "euclidean": [-25, -72]}


def test_normalised_rows_are_the_rounded_exact_ones():
    rows = np.concatenate(
        [cloud(101, 13), lattice(29, 13), 1e30 * cloud(3, 13), 1e-30 * cloud(3, 13), np.full((1, 13), 3e38)]
    )
    np.testing.assert_array_equal(normalise(rows), unit_rows(rows))
    np.testing.assert_array_equal(normalise(rows[0])[0], unit_rows(rows[:1])[0])


def test_normalising_more_rows_than_one_pass_takes_changes_none_of_them():
    rows = cloud(16384 + 7, 2)
    once = unit_rows(rows[:211])
    rows[16383:16385] = rows[
        np.flatnonzero((unit_rows(once) != once).any(axis=1))[0]
    ]  # a second pass over it would show
    found = normalise(rows)
    for at in (0, 16383, 16384, 16390):
        np.testing.assert_array_equal(found[at], unit_rows(rows[at : at + 1])[0])


@every_engine
@every_metric
@pytest.mark.parametrize("form", ["float64", "float16", "int", "fortran", "strided", "read only"])
def test_features_of_any_kind_and_layout_are_taken_as_float32(form, metric, engine):
    plain = lattice(101, 5)
    plain[0], plain[1] = 0.5, 2
    forms = {
        "float64": plain.astype(np.float64),
        "float16": plain.astype(np.float16),
        "int": (2 * plain).astype(np.int64),
        "fortran": np.asfortranarray(plain),
        "strided": np.repeat(np.repeat(plain, 2, axis=0), 3, axis=1)[::2, ::3],
        "read only": plain.copy(),
    }
    given = forms[form]
    given.setflags(write=False)
    before = given.copy()
    wanted = Bank(given.astype(np.float32).copy(), metric=metric, device="cpu", engine=engine).search(
        given.astype(np.float32)[:11].copy(), 7
    )
    found = Bank(given, metric=metric, device="cpu", engine=engine).search(given[:11], 7)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(given, before)


@every_engine
@every_metric
def test_neither_bank_nor_queries_are_modified_or_kept(metric, engine):
    features, queries = copies(101), cloud(11, 5)
    kept = features.copy(), queries.copy()
    bank = Bank(features, metric=metric, device="cpu", engine=engine)
    first = bank.search(queries, 7)
    np.testing.assert_array_equal(features, kept[0])
    np.testing.assert_array_equal(queries, kept[1])
    features[:] = 0
    np.testing.assert_array_equal(bank.search(queries, 7).rows, first.rows)
    assert len(bank) == 101


@every_engine
@every_metric
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(value, metric, engine, monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK_BYTES", 1)
    bad = cloud(131, 3)
    bad[67, 1] = value
    with pytest.raises(NumericalError, match="row 67 of"):
        Bank(bad, metric=metric, device="cpu", engine=engine)
    with pytest.raises(NumericalError, match="row 67 of") as error:
        Bank(cloud(5, 3), metric=metric, device="cpu", engine=engine).search(bad, 2)
    assert error.value.exit_code == 5


def test_the_row_that_is_not_finite_is_named_beyond_the_first_pass():
    bad = np.ones((16384 + 11, 2), np.float32)
    bad[16384 + 5, 1] = np.nan
    with pytest.raises(NumericalError, match="row 16389 of"):
        normalise(bad)
    with pytest.raises(NumericalError, match="row 16396 of"):
        normalise(bad, 7)


@every_metric
def test_numbers_that_float32_cannot_hold_are_refused(metric):
    with pytest.raises(NumericalError, match="row 1 of"):
        Bank(np.array([[1.0, 2.0], [1e300, 0.0]]), metric=metric, device="cpu")


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_scores_that_would_overflow_are_refused(metric):
    bank = Bank(np.full((5, 3), 1e25), metric=metric, device="cpu")
    with pytest.raises(NumericalError, match="too large"):
        bank.search(np.full((2, 3), 1e25), 1)


@pytest.mark.parametrize("shape", [(7,), (0, 3), (2, 3, 5)])
def test_a_bank_that_is_no_table_of_rows_is_refused(shape):
    with pytest.raises(DataError, match="at least one row") as error:
        Bank(np.zeros(shape, np.float32), device="cpu")
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(3,), (7, 2), (7, 4), (1, 7, 3)])
def test_queries_of_another_width_are_refused(shape):
    with pytest.raises(DataError, match="do not fit a bank of 3 columns"):
        Bank(cloud(11, 3), device="cpu").search(np.zeros(shape, np.float32), 1)


@pytest.mark.parametrize("k", [0, -1, 12])
def test_a_k_outside_the_bank_is_refused(k):
    with pytest.raises(UsageError, match=f"k = {k} .* bank of 11 rows"):
        Bank(cloud(11, 3), device="cpu").search(cloud(2, 3), k)


def test_with_a_row_excluded_k_must_leave_one_row_over():
    bank = Bank(cloud(11, 3), device="cpu")
    with pytest.raises(UsageError):
        list(bank.chunks(cloud(2, 3), 11, exclude=np.array([0, 1])))
    assert next(bank.chunks(cloud(2, 3), 10, exclude=np.array([0, 1])))[1].rows.shape == (2, 10)


def test_no_queries_have_no_neighbours():
    found = Bank(cloud(11, 3), device="cpu").search(np.zeros((0, 3)), 7)
    assert (found.rows.shape, found.scores.shape) == ((0, 7), (0, 7))
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)


def test_a_bank_of_one_row_is_everyones_neighbour():
    found = Bank(cloud(1, 3), device="cpu").search(cloud(5, 3, 7), 1)
    np.testing.assert_array_equal(found.rows, np.zeros((5, 1)))


@pytest.mark.parametrize(("option", "value"), [("metric", "manhattan"), ("engine", "annoy")])
def test_an_unknown_metric_or_engine_is_refused_by_name(option, value):
    with pytest.raises(UsageError, match=value):
        Bank(cloud(11, 3), **{option: value})


# ---- which engine runs


@pytest.mark.parametrize(
    ("asked", "faiss", "kernels", "gpu", "chosen"),
    [
        (("auto", "cpu"), True, False, False, ("faiss", "cpu")),
        (("auto", "auto"), True, False, False, ("faiss", "cpu")),
        (("faiss", "cpu"), True, True, True, ("faiss", "cpu")),
        (("auto", "auto"), True, True, True, ("faiss_gpu", "cuda")),
        (("auto", "auto"), True, False, True, ("faiss", "cpu")),
        (("auto", "cuda:1"), True, True, True, ("faiss_gpu", "cuda:1")),
        (("auto", "cuda:1"), True, False, True, ("torch", "cuda:1")),
        (("auto", "auto"), False, False, False, ("torch", "cpu")),
        (("auto", "auto"), False, False, True, ("torch", "cuda")),
        (("torch", "auto"), True, True, True, ("torch", "cuda")),
        (("torch", "cpu"), True, True, True, ("torch", "cpu")),
        (("torch", "cuda:1"), True, True, True, ("torch", "cuda:1")),
    ],
)
def test_the_engine_follows_what_is_installed(asked, faiss, kernels, gpu, chosen, monkeypatch):
    monkeypatch.setattr(neighbors, "faiss_is_here", lambda: faiss)
    monkeypatch.setattr(neighbors, "faiss_gpu_works", lambda: kernels)
    monkeypatch.setattr(neighbors.os.path, "exists", lambda path: gpu and path == "/dev/nvidia0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert neighbors._choose(*asked) == chosen


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_gpu_that_is_not_here_is_refused(engine, monkeypatch):
    monkeypatch.setattr(neighbors, "faiss_gpu_works", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="cuda:3"):
        Bank(cloud(11, 3), device="cuda:3", engine=engine)


class FlatIndex:
    """What FAISS's flat GPU index does, by brute force; it remembers where it was put."""

    made: list[FlatIndex]

    def __init__(self, resources, width, config):
        self.width, self.device, self.resources = width, config.device, resources
        self.made.append(self)

    def add(self, rows):
        assert rows.shape[1] == self.width
        self.rows = rows

    def search(self, queries, k):
        assert k <= 5, "more than the GPU can select"
        values = self.values(queries.astype(np.float64))
        found = np.argsort(values, axis=1)[:, :k] if isinstance(self, L2) else np.argsort(-values, axis=1)[:, :k]
        return np.take_along_axis(values, found, axis=1).astype(np.float32), found


class IP(FlatIndex):
    def values(self, queries):
        return queries @ self.rows.T


class L2(FlatIndex):
    def values(self, queries):
        return ((queries[:, None] - self.rows[None]) ** 2).sum(axis=2)


class Resources:
    def setTempMemory(self, size):
        self.size = size


@pytest.fixture
def gpu_faiss(monkeypatch):
    """A FAISS whose GPU index runs on the CPU, may select 5 neighbours, and 13 of them with those that settle ties."""
    FlatIndex.made = []
    module = SimpleNamespace(
        GpuIndexFlatIP=IP, GpuIndexFlatL2=L2, GpuIndexFlatConfig=SimpleNamespace, StandardGpuResources=Resources
    )
    monkeypatch.setitem(sys.modules, "faiss", module)
    monkeypatch.setattr(engines, "GPU_MAX_K", 5)
    monkeypatch.setattr(neighbors, "_SPARE", 2)
    monkeypatch.setattr(engines, "_torch", lambda rows, metric, device, real=engines._torch: real(rows, metric, "cpu"))
    return module


@every_metric
@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:3", 3)])
@pytest.mark.parametrize("k", [3, 4])
def test_the_gpu_index_is_used_up_to_what_it_can_select_and_torch_beyond(
    k, device, number, metric, gpu_faiss, monkeypatch
):
    monkeypatch.setattr(neighbors, "_choose", lambda engine, device: ("faiss_gpu", device))
    bank, queries = cloud(53, 5), cloud(7, 5, 67)
    check(Bank(bank, metric=metric, device=device).search(queries, k), bank, queries, k, metric)  # 5 are fetched, or 6
    [index] = FlatIndex.made
    assert (index.device, type(index)) == (number, L2 if metric == "euclidean" else IP)
    assert index.resources.size <= 1 << 30


@pytest.mark.parametrize(
    ("fault", "works"),
    [("none", True), ("no GPU build", False), ("no GPU", False), ("raises", False), ("wrong", False)],
)
def test_faiss_on_the_gpu_is_trusted_after_a_search_that_was_right(fault, works, monkeypatch):
    def knn_gpu(resources, bank, queries, k, *, metric):
        assert metric == "inner product"
        if fault == "raises":
            raise RuntimeError("no kernel image is available for execution on the device")
        found = np.argmax(queries @ bank.T, axis=1)[:, None]
        return None, found * 0 if fault == "wrong" else found

    module = SimpleNamespace(
        get_num_gpus=lambda: int(fault != "no GPU"), knn_gpu=knn_gpu, METRIC_INNER_PRODUCT="inner product"
    )
    if fault != "no GPU build":
        module.StandardGpuResources = Resources
    monkeypatch.setitem(sys.modules, "faiss", module)
    installed.faiss_gpu_works.cache_clear()
    assert installed.faiss_gpu_works() is works
    installed.faiss_gpu_works.cache_clear()


# ---- in processes of their own

SEARCH = """
import sys, numpy as np
from fewvit.neighbors import Bank
from fewvit.errors import UsageError
assert False, "asserts are off here"
bank = np.random.default_rng(3).integers(-1, 2, (101, 3))
found = Bank(bank, metric="dot", device="cpu", engine=sys.argv[1]).search(bank[:7], 5)
try:
    Bank(bank, device="cpu").search(bank[:7], 102)
except UsageError:
    print(found.rows.tolist())
"""


@every_engine
def test_checks_and_ties_hold_without_asserts(engine, python):
    bank = np.random.default_rng(3).integers(-1, 2, (101, 3))
    printed = python(SEARCH, engine, PYTHONOPTIMIZE="1").stdout
    assert printed.strip() == str(brute_neighbors(bank, bank[:7], 5, "dot")[0].tolist())


MEMORY = """
import resource, sys, numpy as np
from fewvit.neighbors import Bank
features = np.random.default_rng(3).standard_normal((20011, 16)).astype(np.float32)
features[:7001] = 1  # ties far beyond the k-th place
bank = Bank(features, device="cpu", engine=sys.argv[1])
for part, found in bank.chunks(features[:2], 20):
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = sum(len(found.rows) for part, found in bank.chunks(features[6901:16908], 20))
print(seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@every_engine
def test_memory_stays_bounded_where_the_score_matrix_would_fill_it(engine, python):
    seen, grown = map(int, python(MEMORY, engine).stdout.split())
    assert seen == 10007
    assert grown < 150_000  # kB; all scores would be 800 MB


# ---- products in bfloat16 that say which rows to score again


def reduced(bank: np.ndarray, otherwise=None) -> Reduced:
    def refused(queries, k):
        pytest.fail("queries were left to the other search")

    return Reduced(bank, Bank.of_unit_rows(bank, device="cpu").score, otherwise or refused)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_products_in_bfloat16_find_the_very_neighbours_that_brute_force_finds(k, half, monkeypatch):
    from fewvit.neighbors import reduced as module

    monkeypatch.setattr(module, "_ROWS", 211)  # blocks that fill no whole number of groups
    monkeypatch.setattr(module, "_CHUNK", 17)
    monkeypatch.setattr(module, "_MOST", 1000)
    monkeypatch.setattr(module, "_CROWDED", 1)
    bank, queries = unit_rows(cloud(997, 61)), unit_rows(cloud(41, 61, 71))
    stored = bank.astype(np.float16) if half else bank
    rows, scores = brute_neighbors(stored.astype(np.float32), queries, k, "dot")
    got_scores, got_rows = reduced(stored).search(queries, k)
    np.testing.assert_array_equal(got_rows, rows)
    np.testing.assert_allclose(got_scores, scores, rtol=0, atol=1e-7)


def test_ties_across_the_last_place_are_broken_by_row_with_products_in_bfloat16_too(monkeypatch):
    from fewvit.neighbors import reduced as module

    monkeypatch.setattr(module, "_CROWDED", 1)
    bank = np.repeat(unit_rows(cloud(89, 13)), 5, axis=0)  # every row five times
    queries = unit_rows(cloud(37, 13, 73))
    _, rows = reduced(bank).search(queries, 7)
    first, second = rows[:, :5], rows[:, 5:]
    np.testing.assert_array_equal(first, first[:, :1] + np.arange(5))
    np.testing.assert_array_equal(first[:, 0] % 5, 0)
    np.testing.assert_array_equal(second, second[:, :1] + np.arange(2))


def test_where_scores_lie_within_the_error_of_bfloat16_the_other_search_is_asked(monkeypatch):
    from fewvit.neighbors import reduced as module

    monkeypatch.setattr(module, "_MOST", 3)
    middle = unit_rows(cloud(1, 61))
    close = unit_rows(middle + 1e-4 * cloud(997, 61, 79))  # all cosines differ in the eighth digit
    asked = []

    def other(queries, k):
        asked.append(len(queries))
        return np.full((len(queries), k), 0.5, np.float32), np.full((len(queries), k), 3)

    queries = np.concatenate([middle, -middle, unit_rows(cloud(5, 61, 83))])
    scores, rows = reduced(close, other).search(queries, 7)
    assert asked == [7]
    assert (rows == 3).all()
    assert (scores == 0.5).all()


def test_a_cpu_that_breaks_the_bound_is_not_believed(monkeypatch):
    bank, queries = unit_rows(cloud(499, 61)), unit_rows(cloud(41, 61, 71))
    asked = []

    def other(queries, k):
        asked.append(len(queries))
        return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)

    search = Reduced(bank, lambda *of: Bank(bank, device="cpu").score(*of) + np.float32(0.05), other)
    search.search(queries, 3)
    assert asked == [41]


def test_a_bank_searches_in_bfloat16_where_that_pays_and_gives_the_same_neighbours(monkeypatch):
    from fewvit.neighbors import reduced as module

    bank, queries = cloud(1009, 61), cloud(41, 61, 71)
    plain = Bank(bank, device="cpu").search(queries, 7)
    monkeypatch.setattr(Certified, "serves", staticmethod(lambda *_: False))  # as where nothing is compiled
    monkeypatch.setattr(module, "WORTH", 1)
    monkeypatch.setattr(module, "computes_bf16", lambda: True)
    called = []
    monkeypatch.setattr(Reduced, "search", lambda own, *of, real=Reduced.search: called.append(of[1]) or real(own, *of))
    for wanted, times in ((7, 1), (module.NEIGHBORS + 1, 1)):
        found = Bank(bank, device="cpu").search(queries, wanted)
        np.testing.assert_array_equal(found.rows[:, :7], plain.rows)
        np.testing.assert_allclose(found.scores[:, :7], plain.scores, rtol=0, atol=3e-7)
        assert len(called) == times
    Bank(bank, device="cpu").search(queries[:31], 7)
    Bank(bank, metric="dot", device="cpu").search(queries, 7)
    assert len(called) == 1
