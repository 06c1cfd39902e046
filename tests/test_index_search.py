"""Searches of an index beyond the model's small ones: filters, structures, ties, several examples, measured recall."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fewvit.errors import DataError, IntegrityError, NumericalError, UnknownName, UsageError
from fewvit.features import FeatureSet
from fewvit.metrics import mean_and_interval
from fewvit.neighbors.approximate import FEWEST, KINDS, Candidates, Effort, lists, sampled
from fewvit.retrieval import adding, growth, recall, search
from fewvit.retrieval.examples import mean_of, search_as_one, search_best, search_each
from fewvit.retrieval.folder import IndexFolder
from fewvit.retrieval.growth import FLAT_ROWS, Made, Wish
from fewvit.retrieval.manifest import Recall
from fewvit.retrieval.opened import OnlyThese, OpenIndex
from fewvit.sources import FeatureSource

from made_indexes import D, Model, answers, asked, built, opened, random_rows, source_of, unit

QUERIES = np.random.default_rng(2).normal(size=(5, D)).astype(np.float32)
N = 997


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of each kind over the same 997 rows; every seventh is of class `ox`, the first 90 in folder `a/`."""
    rows = {
        f"{'a' if i < 90 else 'b'}/{name}": (row[0], "ox" if i % 7 == 0 else "hen") for i, (name, row) in numbered()
    }
    root = tmp_path_factory.mktemp("many")
    for kind in ("flat", *KINDS):
        built(root / kind, rows, kind)
    return root, rows


def numbered():
    return enumerate(random_rows(17, N).items())


def brute(rows, queries, k, *, half=False, **only) -> list:
    model = Model(half, dict(rows))
    return [model.nearest(query, k, **only) for query in queries]


# ---- exactness


@pytest.mark.parametrize("kind", ["flat", *KINDS])
@pytest.mark.parametrize(
    "only", [{}, {"classes": ["ox"]}, {"classes": ["hen"]}, {"folder": "a/"}, {"folder": "b/09", "classes": ["ox"]}]
)
def test_every_kind_gives_the_right_rows_and_scores_under_every_filter(many, kind, only):
    root, rows = many
    for k in (1, 10, 93):
        found = asked(opened(root / kind), QUERIES, k, **only)
        assert found == brute(rows, QUERIES, k, half=kind == "compact", **only)


@pytest.mark.parametrize("kind", ["flat", *KINDS])
def test_a_query_gets_the_same_answer_alone_and_in_a_batch(many, kind):
    queries = np.random.default_rng(5).normal(size=(67, D)).astype(np.float32)
    index = OpenIndex.open(many[0] / kind)
    together = asked(index, queries, 11)
    assert [asked(index, query[None], 11)[0] for query in queries] == together
    index = OpenIndex.open(many[0] / kind)  # and in another order
    assert asked(index, queries[::-1], 11) == together[::-1]


@pytest.mark.parametrize("kind", ["flat", *KINDS])
def test_five_equal_images_come_in_the_order_of_their_ids_whatever_k_is(tmp_path, kind):
    rows = random_rows(4, 211)
    same = ["zz", "Z", "a", "m/5", "\udcff"]
    rows |= dict.fromkeys(same, (rows["007"][0], ""))
    built(tmp_path / "index", rows, kind)
    index = OpenIndex.open(tmp_path / "index")
    index.manifest = dataclasses.replace(index.manifest, effort=index.manifest.effort and Effort(1, 1))
    ordered = sorted([*same, "007"], key=lambda name: name.encode("utf-8", "surrogateescape"))
    for k in range(1, 7):
        [found] = asked(index, rows["007"][0][None], k)
        assert [name for name, _ in found] == ordered[:k]


def test_looking_past_rows_left_out_and_gathering_the_others_give_what_brute_force_does(many, monkeypatch):
    segment = opened(many[0] / "flat").segments[0]
    random, queries = np.random.default_rng(9), unit(QUERIES)
    exact = (segment.features.astype(np.float64) @ queries.T.astype(np.float64)).T
    monkeypatch.setattr(search, "_GATHERED", 101)
    monkeypatch.setattr(search, "_MORE", 64)
    for left_out, k in ((1, 3), (17, 1), (211, 5), (N - 11, 7), (N - 3, 3)):
        allowed = np.ones(N, bool)
        nearest = np.argsort(-exact[0])[
            : left_out // 2
        ]  # the nearest ones of a query, so that looking past takes several tries
        others = np.setdiff1d(np.arange(N), nearest)
        allowed[np.concatenate([nearest, random.choice(others, left_out - len(nearest), replace=False)])] = False
        masked = np.where(allowed, exact, -np.inf)
        wanted = np.argsort(-masked, axis=1)[:, :k]
        for scores, rows in (
            search._past(segment, queries, k, allowed, left_out),
            search._gathered(segment, queries, k, np.flatnonzero(allowed)),
            search._compared(segment, queries, k, allowed),
        ):
            np.testing.assert_array_equal(rows, wanted)
            np.testing.assert_array_equal(scores, np.take_along_axis(masked, wanted, 1).astype(np.float32))


def test_a_structure_that_finds_too_few_gives_way_to_comparing_every_row(many, monkeypatch):
    index = OpenIndex.open(many[0] / "ivf")
    index.manifest = dataclasses.replace(index.manifest, effort=Effort(1, 2))
    asked_of, found = [], Candidates.search

    def blind(self, queries, count, effort, live=None):
        rows = found(self, queries, count, effort, live)
        rows[::2] = -1  # nothing for every second query
        asked_of.append((count, effort))
        return rows

    monkeypatch.setattr(Candidates, "search", blind)
    wanted = brute(many[1], QUERIES, 7)
    answered = asked(index, QUERIES, 7)
    assert asked_of == [(14, Effort(1, 2))]
    assert answered[::2] == wanted[::2]
    assert all(set(one) <= set(brute(many[1], [query], N)[0]) for one, query in zip(answered, QUERIES))


def test_a_structure_is_not_asked_where_less_than_one_row_in_eight_may_be_found(many, monkeypatch):
    index = OpenIndex.open(many[0] / "hnsw")
    monkeypatch.setattr(Candidates, "search", lambda *args: pytest.fail("asked"))
    assert asked(index, QUERIES, 3, folder="a/") == brute(many[1], QUERIES, 3, folder="a/")  # 90 of 997
    with pytest.raises(pytest.fail.Exception, match="asked"):
        asked(index, QUERIES, 3, classes=["ox"])  # 143 of 997


def test_a_row_that_a_structure_names_twice_is_found_once(many, monkeypatch):
    index = opened(many[0] / "ivf")
    found = Candidates.search
    monkeypatch.setattr(Candidates, "search", lambda *args: np.repeat(found(*args), 2, axis=1))
    assert asked(index, QUERIES, 9) == brute(many[1], QUERIES, 9)


def test_rows_that_do_not_exist_are_an_error_of_the_structure(many):
    index = opened(many[0] / "ivf")
    candidates = index.segments[0].candidates
    candidates.rows = 500
    with pytest.raises(IntegrityError, match="rows that do not exist"):
        candidates.search(unit(QUERIES), 500, Effort(1 << 14, 1))


@pytest.mark.parametrize("k", [0, -1])
def test_a_search_for_no_neighbour_is_a_usage_error(many, k):
    index = opened(many[0] / "flat")
    for ask in (
        lambda: index.search(QUERIES, k),
        lambda: search_best(index, QUERIES, QUERIES[:0], k, OnlyThese(), None),
    ):
        with pytest.raises(UsageError, match=f"k = {k}: a search needs at least one neighbour") as caught:
            ask()
        assert caught.value.exit_code == 2


def test_a_k_beyond_all_memory_finds_every_image(many):
    near = opened(many[0] / "flat").search(QUERIES, 1 << 40)
    assert np.diff(near.starts).tolist() == [N] * 5


def test_queries_that_are_not_finite_or_of_another_width_are_refused(many):
    index = opened(many[0] / "flat")
    with pytest.raises(NumericalError, match="row 3 of the features is not finite"):
        index.search(np.where(np.arange(5)[:, None] == 3, np.nan, QUERIES), 3)
    with pytest.raises(DataError, match=r"\(5, 7\) do not fit an index of 13 columns"):
        index.search(QUERIES[:, :7], 3)
    with pytest.raises(DataError, match=r"\(13,\) do not fit"):
        index.search(QUERIES[0], 3)
    with pytest.raises(UsageError, match="threshold nan: the score is a cosine"):
        index.search(QUERIES, 3, threshold=float("nan"))
    with pytest.raises(UnknownName, match="Did you mean ox"):
        index.search(QUERIES, 3, only=OnlyThese(["oxx"]))
    assert len(index.search(QUERIES[:0], 3)) == 0


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_index_of_which_everything_was_removed_finds_nothing_and_can_be_filled_again(tmp_path, kind):
    rows = random_rows(3, 37)
    built(tmp_path / "i", rows, kind)
    growth.remove(IndexFolder(tmp_path / "i"), list(rows))
    index = OpenIndex.open(tmp_path / "i")
    assert (len(index), asked(index, QUERIES, 3)) == (0, [[]] * 5)
    assert len(search_best(index, QUERIES, QUERIES[:1], 3, OnlyThese(), None).rows) == 0
    index.verify()
    adding.add(IndexFolder(tmp_path / "i"), source_of(rows), None, "")
    assert asked(OpenIndex.open(tmp_path / "i"), QUERIES, 3) == brute(rows, QUERIES, 3)


def test_a_threshold_that_is_a_score_keeps_that_image(many):
    index = opened(many[0] / "flat")
    [all_] = asked(index, QUERIES[:1], 9)
    assert asked(index, QUERIES[:1], 9, threshold=all_[4][1]) == [all_[:5]]
    assert asked(index, QUERIES[:1], 9, threshold=float(np.nextafter(np.float32(all_[4][1]), np.float32(2)))) == [
        all_[:4]
    ]


# ---- several examples, by hand

PLANE = {"east": (1, 0), "north": (0, 1), "west": (-1, 0), "between": (3, 3), "low": (4, 3)}


@pytest.fixture
def plane(tmp_path):
    rows = {name: (np.array([*xy, *[0] * (D - 2)], np.float32), "") for name, xy in PLANE.items()}
    built(tmp_path / "plane", rows)
    return opened(tmp_path / "plane")


def point(*places: tuple[float, ...]) -> np.ndarray:
    return np.array([[*place, *[0] * (D - len(place))] for place in places], np.float32)


def test_the_mean_of_examples_is_that_of_unit_vectors(plane):
    [query] = mean_of(point((9, 0), (0, 2)), point()[:0].reshape(0, D))
    np.testing.assert_allclose(query[:2], [0.5, 0.5])  # not (4.5, 1)
    found = asked(plane, mean_of(point((9, 0), (0, 2)), np.zeros((0, D))), 2)
    assert found == [[("between", pytest.approx(1)), ("low", pytest.approx(7 / (5 * 2**0.5), abs=1e-6))]]


def test_an_unwanted_example_is_taken_away_from_twice_the_mean(plane):
    [query] = mean_of(point((9, 0), (0, 2)), point((0, 5)))
    np.testing.assert_allclose(query[:2], [1, 0])  # 2 (1/2, 1/2) - (0, 1)
    [query] = mean_of(point((0, 5)), point((3, 0), (0, 1)))
    np.testing.assert_allclose(query[:2], [-0.5, 1.5])  # 2 (0, 1) - (1/2, 1/2)
    near = search_each(plane, point((9, 0), (0, 2)), point((0, 5)), 1, OnlyThese(), None)
    # 2 (1, 0) - (0, 1) = (2, -1), nearest to the east; 2 (0, 1) - (0, 1) = (0, 1)
    assert answers(plane, near) == [[("east", pytest.approx(2 / 5**0.5, abs=1e-6))], [("north", 1.0)]]


def test_the_best_looks_further_where_an_example_lost_all_it_found_to_the_unwanted(tmp_path):
    rows = {"a1": (1, 0, 0.1), "a2": (1, 0, 0.12), "a3": (1, 0, -0.5), "b1": (0, 1, 0), "b2": (0, 0.2, -1)}
    built(tmp_path / "i", {name: (point(xyz)[0], "") for name, xyz in rows.items()})
    east, north, unwanted = (point(xyz) for xyz in ((1, 0, 0), (0, 1, 0), (1, 0, 0.1)))
    examples = np.concatenate([east, north])
    near = search_best(opened(tmp_path / "i"), examples, unwanted, 2, OnlyThese(), None)
    # the two nearest of the east go; b2 scores 0.196, and a3, which no example found at first, 0.894
    assert answers(opened(tmp_path / "i"), near) == [[("b1", 1.0), ("a3", pytest.approx(1 / 1.25**0.5))]]


def test_several_examples_as_one_are_their_mean_or_the_best_of_them(plane):
    examples, none, other = point((1, 0), (0, 1)), np.zeros((0, D)), point((-1, 0))

    def found(combine: str, some: np.ndarray, unwanted: np.ndarray) -> list[str]:
        return [
            name for name, _ in answers(plane, search_as_one(plane, some, unwanted, 9, combine, OnlyThese(), None))[0]
        ]

    best = search_best(plane, examples, none, 9, OnlyThese(), None)
    mean = search_each(plane, mean_of(examples, none), none, 9, OnlyThese(), None)
    assert found("max", examples, none) == [name for name, _ in answers(plane, best)[0]]
    assert found("mean", examples, none) == [name for name, _ in answers(plane, mean)[0]]
    assert found("max", examples, none) != found("mean", examples, none)
    assert "west" in found("mean", examples[:1], other)  # a mean moves away from it
    assert "west" not in found("max", examples[:1], other)  # the best leaves out what is nearer to it


def test_examples_that_cancel_each_other_find_all_images_equally_near(plane):
    assert asked(plane, mean_of(point((1, 0), (-1, 0)), np.zeros((0, D))), 9) == [[(n, 0.0) for n in sorted(PLANE)]]


def test_the_best_of_several_examples_decides_and_what_is_nearer_to_the_unwanted_goes(plane):
    near = search_best(plane, point((1, 0), (0, 1)), np.zeros((0, D)), 9, OnlyThese(), None)
    assert answers(plane, near) == [
        [
            ("east", 1.0),
            ("north", 1.0),
            ("low", pytest.approx(0.8)),
            ("between", pytest.approx(0.5**0.5)),
            ("west", 0.0),
        ]
    ]
    near = search_best(plane, point((1, 0), (0, 1)), point((0.1, 1)), 9, OnlyThese(), None)
    # north and between are nearer to (0.1, 1) than to an example? north 1 > 0.995; between 0.774 > 0.707: it goes
    assert [name for name, _ in answers(plane, near)[0]] == ["east", "north", "low", "west"]
    near = search_best(plane, point((1, 0), (0, 1)), np.zeros((0, D)), 9, OnlyThese(), 0.75)
    assert [name for name, _ in answers(plane, near)[0]] == ["east", "north", "low"]


@pytest.mark.parametrize("kind", ["flat", *KINDS])
def test_the_best_of_examples_is_that_of_brute_force_with_unwanted_ones_too(many, kind):
    root, rows = many
    index, random = opened(root / kind), np.random.default_rng(8)
    for seed in range(12):
        examples, unwanted = (
            random.normal(size=(3, D)).astype(np.float32),
            random.normal(size=(seed % 4, D)).astype(np.float32),
        )
        if seed % 3 == 0 and len(unwanted):
            unwanted = examples[:1] + 0.3 * unwanted  # everything near one example goes
        only = {"classes": ["ox"]} if seed % 2 else {}
        scores = [dict(found) for found in brute(rows, examples, N, half=kind == "compact", **only)]
        against = [dict(found) for found in brute(rows, unwanted, N, half=kind == "compact", **only)]
        best = {name: max(one[name] for one in scores) for name in scores[0]}
        kept = {name: s for name, s in best.items() if all(s >= one[name] for one in against)}
        for k in (1, 5, 40, N):
            wanted = sorted(kept.items(), key=lambda pair: (-pair[1], pair[0].encode()))[:k]
            near = search_best(index, examples, unwanted, k, OnlyThese(**only), None)
            assert answers(index, near) == [wanted]


# ---- names


def test_ids_near_one_that_is_none_are_found_before_and_behind_its_place_and_dead_ones_are_not(tmp_path, monkeypatch):
    names = ["cat/001.jpg", "cat/002.jpg", "dog/001.jpg", "dog/002.jpg", "eel/77.png"]
    row = np.ones(D, np.float32)
    built(tmp_path / "i", dict.fromkeys(names, (row, "")))
    index = OpenIndex.open(tmp_path / "i")
    assert set(index.nearest_ids("dog/00.jpg")) == {"dog/001.jpg", "dog/002.jpg", "cat/002.jpg"}
    assert index.nearest_ids("DOG/002.JPG")[0] == "dog/002.jpg"
    assert index.nearest_ids("zzzzz") == []
    with pytest.raises(DataError, match=r"no image eel/7\.png in this index\n  Did you mean eel/77\.png\?"):
        index.row_of("eel/7.png")
    growth.remove(index.folder, ["dog/001.jpg"])
    assert "dog/001.jpg" not in OpenIndex.open(tmp_path / "i").nearest_ids("dog/00.jpg")
    monkeypatch.setattr("fewvit.retrieval.opened._NEAR_IDS", 1)  # one before the place, and one behind
    assert index.nearest_ids("dog/0015.jpg") == ["dog/001.jpg", "dog/002.jpg"]
    assert index.nearest_ids("dog/000.jpg") == ["dog/001.jpg", "cat/002.jpg"]


def test_a_class_that_is_none_but_a_list_of_classes_is_told_to_be_given_one_by_one(many):
    index = OpenIndex.open(many[0] / "flat")
    for name, told in (("ox,hen", "--class ox --class hen."), ("ox, hen,ox", "--class ox --class hen --class ox.")):
        with pytest.raises(UnknownName) as caught:
            index.matching(OnlyThese([name]))
        assert str(caught.value).endswith(told)
    for name in ("ox,yak", "oxen", ","):
        with pytest.raises(UnknownName) as caught:
            index.matching(OnlyThese([name]))
        assert "--class" not in str(caught.value)


def test_a_class_has_images_as_long_as_one_of_its_rows_is_live(tmp_path):
    row = np.ones(D, np.float32)
    built(tmp_path / "i", {"a": (row, "hen"), "b": (row, "ox"), "c": (row, "ox"), "d": (row, "")})
    index = OpenIndex.open(tmp_path / "i")
    assert index.classes == ["ox", "hen"]
    assert index.without_images(["ox", "hen"]) == []
    growth.remove(index.folder, ["a", "b"])
    assert OpenIndex.open(tmp_path / "i").without_images(["hen", "ox"]) == ["hen"]
    assert OpenIndex.open(tmp_path / "i").without_images([]) == []
    growth.remove(index.folder, ["c"])
    assert OpenIndex.open(tmp_path / "i").classes_with_images().tolist() == []
    assert OpenIndex.open(tmp_path / "i").without_images(["ox"]) == ["ox"]


# ---- recall


@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_in_the_manifest_is_a_recount_by_brute_force(many, kind):
    root, _ = many
    index = OpenIndex.open(root / kind)
    stored, features = index.manifest.recall, index.segments[0].features.astype(np.float64)
    asked_of = recall.held_out(N)
    shares = []
    for row in asked_of.tolist():
        exact = (features * features[row]).sum(axis=1).astype(np.float32)
        order = np.lexsort((np.arange(N), -exact))
        truth = [other for other in order.tolist() if other != row][:10]
        found = [r for r in index.search(features[[row]].astype(np.float32), 11).rows.tolist() if r != row][:10]
        shares.append(len(set(truth) & set(found)) / 10)
    assert (stored.at, stored.queries, stored.wanted) == (10, N // 2, 0.95)
    assert stored.value == pytest.approx(np.mean(shares), abs=1e-6)
    if min(shares) < max(shares):
        half = 1.9648 * np.std(shares, ddof=1) / len(shares) ** 0.5  # Student's t with 497 degrees of freedom
        assert stored.low == pytest.approx(np.mean(shares) - half, abs=2e-5)
        assert stored.high == pytest.approx(min(1, np.mean(shares) + half), abs=2e-5)
    assert stored.is_met


def test_the_interval_of_recall_by_hand():
    truth = [{1, 2}, {3, 4}, {5, 6}, {7, 8}]
    found = [{1, 2}, {3, 9}, {5, 6}, {7}]  # 1, 1/2, 1, 1/2: mean 3/4, deviation 0.2887
    measured = recall._recall(truth, found, 0.5)
    half = 3.1824 * np.std([1, 0.5, 1, 0.5], ddof=1) / 2
    assert (measured.value, measured.queries) == (0.75, 4)
    assert measured.low == pytest.approx(0.75 - half, abs=1e-4)
    assert not measured.is_met
    assert mean_and_interval([100, 50, 100, 50])["ci95"][0] == pytest.approx(100 * measured.low, abs=1e-3)
    # where all are equal, three more of n could be worse
    assert recall._recall(truth * 25, truth * 25, 0.95) == Recall(1.0, 0.97, 1.0, 10, 100, 0.95)
    assert not recall._recall(truth, truth, 0.95).is_met  # four queries show nothing
    third = recall._recall([{1, 2, 3}] * 100, [{1, 8, 9}] * 100, 0.95)
    assert third == Recall(0.333333, 0.303333, 0.333333, 10, 100, 0.95)


def test_an_index_promises_95_percent_unless_asked_for_more_or_less():
    assert Wish().recall == 0.95


def test_a_row_is_left_out_of_its_own_answer_where_it_has_twins_too(tmp_path):
    rows = random_rows(5, 61)
    rows |= {f"{name}-again": row for name, row in list(rows.items())[:31]}
    built(tmp_path / "i", rows, "ivf")
    segment = opened(tmp_path / "i").segments[0]
    for row, near in zip(
        recall.held_out(92).tolist(), recall._neighbours(segment, recall.held_out(92), None), strict=True
    ):
        assert row not in near
        assert len(near) == 10


def test_the_effort_rises_until_the_promise_is_kept_and_no_further(many):
    segment = OpenIndex.open(many[0] / "ivf").segments[0]
    efforts = KINDS["ivf"].efforts(N)
    assert [effort.visited for effort in efforts] == [1, 2, 4, 8, 12]
    measured = [recall.settled(segment, [effort], 1.0)[1] for effort in efforts]
    for wanted in (0.2, 0.6, 0.9, 0.99):
        effort, found = recall.settled(segment, efforts, wanted)
        first = next(i for i, one in enumerate(measured) if one.low >= wanted)
        assert (effort, found.value) == (efforts[first], measured[first].value)


def test_a_promise_that_is_not_kept_is_said_and_stands_in_the_manifest(tmp_path):
    lines: list[str] = []
    growth.build(
        IndexFolder(tmp_path / "i"),
        source_of(random_rows(3, 101)),
        None,
        Made("", "", {}, {}),
        Wish("ivf", recall=1.0),
        notify=lines.append,
    )
    [line] = lines
    assert "1.0 was wanted; --kind flat finds all" in line
    assert "at the greatest effort of ivf" in line
    manifest = OpenIndex.open(tmp_path / "i").manifest
    assert manifest.recall.wanted == 1.0
    assert not manifest.recall.is_met
    assert manifest.effort == KINDS["ivf"].efforts(101)[-1]


def test_held_out_rows_are_in_no_training_sample(monkeypatch):
    from fewvit.neighbors import approximate

    features = unit(np.random.default_rng(1).normal(size=(N, D)))
    held_out = recall.held_out(N)
    assert len(held_out) == N // 2
    seen = []
    padded = approximate._padded
    monkeypatch.setattr(approximate, "_padded", lambda rows, width: seen.append(np.array(rows)) or padded(rows, width))
    for kind in ("ivf", "compact"):
        seen.clear()
        Candidates.built(KINDS[kind], features, held_out)
        trained = {row.tobytes() for row in seen[0]}
        assert len(trained) == N - len(held_out)
        assert not trained & {row.tobytes() for row in features[held_out]}


def test_a_flat_index_and_one_of_few_rows_are_exact_by_construction(tmp_path):
    for kind, count in (("flat", 101), ("compact", FEWEST - 1), ("ivf", 1), ("hnsw", 2)):
        built(tmp_path / kind, random_rows(3, count), kind)
        manifest = OpenIndex.open(tmp_path / kind).manifest
        assert (manifest.effort, manifest.recall) == (None, Recall(1.0, 1.0, 1.0, 10, 0, 0.95))
        assert asked(OpenIndex.open(tmp_path / kind), QUERIES, 3) == brute(
            random_rows(3, count), QUERIES, 3, half=kind == "compact"
        )
    built(tmp_path / "enough", random_rows(3, FEWEST), "compact")
    assert OpenIndex.open(tmp_path / "enough").manifest.effort is not None


# ---- structures


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_is_the_same_bytes_whatever_the_number_of_threads(kind):
    from fewvit.neighbors.installed import faiss_library

    features, faiss = unit(np.random.default_rng(1).normal(size=(1999, D))), faiss_library()
    threads, found = faiss.omp_get_max_threads(), []
    try:
        for count in (1, 2, 1, 3):
            faiss.omp_set_num_threads(count)
            found.append(Candidates.built(KINDS[kind], features, np.arange(7)).tobytes())
    finally:
        faiss.omp_set_num_threads(threads)
    assert len(set(found)) == 1


def test_a_structure_of_another_kind_or_over_other_rows_is_refused():
    features = unit(np.random.default_rng(1).normal(size=(331, D)))
    made = {kind: Candidates.built(KINDS[kind], features, np.arange(7)).data.cast("B") for kind in KINDS}
    for kind in KINDS:
        assert Candidates.read(KINDS[kind], made[kind], features).rows == 331
        with pytest.raises(IntegrityError, match="331 rows of 13 columns, and the index has 330 of 13"):
            Candidates.read(KINDS[kind], made[kind], features[1:])
        with pytest.raises(IntegrityError, match="FAISS cannot read it"):
            Candidates.read(KINDS[kind], made[kind][:-9], features)
        for other in set(KINDS) - {kind}:
            with pytest.raises(IntegrityError, match="of FAISS where a"):
                Candidates.read(KINDS[kind], made[other], features)


def test_wide_codes_are_filled_up_and_found(tmp_path):
    """131 columns: 66 parts of two."""
    features = np.random.default_rng(1).normal(size=(401, 131)).astype(np.float32)
    source = FeatureSource("wide", FeatureSet(features, np.full(401, -1), [f"{i:03d}" for i in range(401)], []))
    growth.build(IndexFolder(tmp_path / "i"), source, None, Made("", "", {}, {}), Wish("compact"), size=67)
    index = opened(tmp_path / "i")
    kept = unit(features).astype(np.float16).astype(np.float64)
    exact = unit(features[:5]).astype(np.float64) @ kept.T
    near = index.search(features[:5], 9)
    assert [near.of(q)[0].tolist() for q in range(5)] == np.argsort(-exact, axis=1)[:, :9].tolist()


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (1, 1),
        (79, 1),
        (159, 1),
        (160, 2),
        (997, 12),
        (10_000, 125),
        (100_000, 1024),
        (1_000_000, 4096),
        (4_000_000, 8192),
    ],
)
def test_lists_are_about_four_times_the_root_and_large_enough_to_be_trained(rows, wanted):
    assert lists(rows) == wanted


def test_a_sample_is_seeded_in_order_and_without_repetition():
    assert sampled(5, 7).tolist() == [0, 1, 2, 3, 4]
    drawn = sampled(1000, 31)
    assert len(set(drawn.tolist())) == 31
    assert (np.diff(drawn) > 0).all()
    assert (drawn == sampled(1000, 31)).all()
    assert (drawn != sampled(1000, 31, seed=3)).any()


@pytest.mark.parametrize(
    ("rows", "memory", "recall_", "kind"),
    [
        (FLAT_ROWS, 1, 0.5, "flat"),
        (FLAT_ROWS + 1, 4 << 30, 0.95, "hnsw"),
        (FLAT_ROWS + 1, 4 << 30, 1.0, "flat"),
        (1_000_000, 658_000_000, 0.95, "hnsw"),  # 384 + 256 + 16 bytes a row
        (1_000_000, 650_000_000, 0.95, "ivf"),  # 384 + 8 and 6.3 of centroids
        (1_000_000, 390_000_000, 0.95, "compact"),
        (1_000_000, 1, 0.95, "compact"),  # nothing fits: the smallest
    ],
)
def test_what_is_left_open_is_decided_by_rows_memory_and_recall(rows, memory, recall_, kind):
    assert Wish("auto", memory, recall_).kind_for(rows, 384) == kind
    assert Wish("ivf", memory, recall_).kind_for(rows, 384) == "ivf"


def test_the_memory_of_a_row_by_hand():
    assert KINDS["hnsw"].bytes_per_row(25_000, 384) == 384 + 2 * 32 * 4 + 16
    assert lists(25_000) == 312  # 512 is near 4 × the root, and each list wants 80 rows
    assert KINDS["ivf"].bytes_per_row(25_000, 384) == pytest.approx(384 + 8 + 312 * 384 * 4 / 25_000, abs=1e-9)
    assert KINDS["compact"].bytes_per_row(25_000, 384) == pytest.approx(64 + 8 + 384 * 4 / 25_000, abs=1e-9)
    many = 1_000_001
    assert (KINDS["compact"].lists(many - 1), KINDS["compact"].lists(many)) == (1, 4096)
    assert KINDS["compact"].bytes_per_row(many, 384) == pytest.approx(72 + 4096 * 384 * 4 / many, abs=1e-9)


def test_a_compact_index_of_one_list_rescores_more_and_one_of_many_looks_into_more_of_them_first():
    one = [(effort.visited, effort.rerank) for effort in KINDS["compact"].efforts(1_000_000)]
    assert one == [(1, rerank) for rerank in (4, 8, 16, 32, 64, 128)]
    many = [(effort.visited, effort.rerank) for effort in KINDS["compact"].efforts(1_000_001)]
    doubled = [(2**power, 8) for power in range(13)]
    assert many == doubled + [(4096, rerank) for rerank in (16, 32, 64, 128)]


def test_a_compact_row_takes_less_than_a_hundred_bytes():
    for dimension in (13, 192, 384, 768, 1024):
        assert KINDS["compact"].bytes_per_row(1_000_000, dimension) <= 100
