"""Relevance bound to an index: from ids, labels and published lists to the rows of a result, beside brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fewvit.errors import DataError, UnknownName, UsageError
from fewvit.neighbors import Bank, Neighbors
from fewvit.preprocess import Preprocess
from fewvit.results import Result
from fewvit.retrieval.ground_truth import QueryTruth, RevisitedTruth, save_revisited
from fewvit.retrieval.names import NamedRows, rows_of_ids
from fewvit.retrieval.protocols import PROTOCOLS, find_retrieval_protocol
from fewvit.retrieval.relevance.artworks import Artworks
from fewvit.retrieval.relevance.by_label import ByLabel
from fewvit.retrieval.relevance.copydays import Copydays
from fewvit.retrieval.relevance.revisited import Revisited

from oracles import brute_neighbors


@dataclasses.dataclass
class Images:
    """Ids, labels, classes: what a data set, features and an index have."""

    ids: list[str]
    labels: np.ndarray
    classes: list[str]


def images(*ids: str, labels: list[int] | None = None, classes: str = "") -> Images:
    return Images(list(ids), np.array(labels if labels is not None else [-1] * len(ids)), classes.split())


def ranking(*rows: list[int], scores: list[list[float]] | None = None) -> list[tuple[slice, Neighbors]]:
    """Neighbours of each query in slices of two queries."""
    near = np.array(rows)
    given = np.array(scores) if scores is not None else np.tile(-np.arange(near.shape[1], dtype=float), (len(near), 1))
    return [(slice(i, i + 2), Neighbors(near[i : i + 2], given[i : i + 2])) for i in range(0, len(near), 2)]


def values(rows: list[dict[str, object]], setting: str | None = None) -> dict[object, object]:
    return {row["metric"]: row["value"] for row in rows if row.get("setting") == setting}


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_queries_without_an_image_of_their_class_are_left_out_and_counted():
    """Classes agree by name: the query's owl (0) is the index's owl (2); emu and the unlabelled one have nothing."""
    index = images("a", "b", "c", "d", labels=[0, 2, 2, -1], classes="cat dog owl")
    queries = images("p", "q", "r", "s", labels=[0, 1, -1, 2], classes="owl emu cat")
    bound = ByLabel.bound(queries, index)
    assert bound.queries.tolist() == [0, 3]
    assert bound.positives.tolist() == [2, 1]
    rows = bound.measure(ranking([3, 1, 0, 2], [0, 1, 2, 3]))
    assert {(row["n_queries"], row["left_out"]) for row in rows} == {(2, 2)}
    found = values(rows)
    assert found["recall@1"] == 50
    assert found["map@r"] == pytest.approx(100 * ((1 / 2) / 2 + 1) / 2)
    assert found["r_precision"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert found["mrr"] == pytest.approx(100 * (1 / 2 + 1) / 2)


def test_an_image_without_label_is_relevant_to_none_but_keeps_its_place():
    index = images("a", "b", labels=[-1, 0], classes="cat")
    bound = ByLabel.bound(images("q", labels=[0], classes="cat"), index)
    assert values(bound.measure(ranking([0, 1])))["mrr"] == 50


def test_nothing_to_find_is_an_error():
    with pytest.raises(DataError, match="no query has an image of its class in the index"):
        ByLabel.bound(images("q", labels=[0], classes="emu"), images("a", labels=[0], classes="cat"))


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_an_evaluation_of_features_by_their_labels_is_that_of_brute_force(leave_one_out):
    """Leaving one out: the index is its own query set, an image is never its own answer, and R is one less."""
    random = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2, 3], [11, 7, 3, 1])
    features = (random.normal(size=(4, 5))[labels] + random.normal(size=(22, 5))).astype(np.float32)
    own = images(*(f"{i}.jpg" for i in range(22)), labels=labels.tolist(), classes="a b c d")
    bound = dataclasses.replace(ByLabel.bound(own, own, leave_one_out=leave_one_out), ks=(1, 5))
    assert bound.left_out == (1 if leave_one_out else 0)  # the single image of class d
    assert bound.depth == (10 if leave_one_out else 11)
    parts = Bank(features, engine="torch", device="cpu").chunks(features[bound.queries], bound.depth, exclude=bound.own)
    found = values(bound.measure(parts))
    near, _ = brute_neighbors(
        features, features, 21 if leave_one_out else 22, exclude=range(22) if leave_one_out else None
    )
    wanted = {"recall@1": [], "recall@5": [], "r_precision": [], "map@r": [], "mrr": []}
    for q, rows in enumerate(near.tolist()):
        hits = [labels[row] == labels[q] for row in rows]
        r = sum(hits)
        if r:
            wanted["recall@1"].append(hits[0])
            wanted["recall@5"].append(any(hits[:5]))
            wanted["r_precision"].append(sum(hits[:r]) / r)
            wanted["map@r"].append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
            wanted["mrr"].append(1 / (1 + hits.index(True)) if True in hits[: bound.depth] else 0)
    for name, each in wanted.items():
        assert found[name] == pytest.approx(100 * np.mean(each), abs=1e-9), name


def test_rows_of_ids_are_those_of_equal_ids():
    assert rows_of_ids(["b", "x", "a"], ["a", "b"]).tolist() == [1, -1, 0]


# ---- revisited -------------------------------------------------------------------------------------------------------

NAMES = ["image_0", "image_1", "image_2", "image_3"]
TRUTH = RevisitedTruth(
    "toy",
    NAMES,
    ["query_a", "query_b"],
    [QueryTruth((1, 2, 3, 4), (0,), (2,), (1,)), QueryTruth(None, (), (3,), ())],
)


def test_the_settings_of_one_query_by_hand():
    """Ranking distractor, 1, 2, 0, 3, in an index whose order is not the list's.

    Easy (ok 0; junk 1, 2): distractor, 0 -> rank 1: (0 + 1/2)/2. Medium (ok 0, 2; junk 1): ranks 1, 2:
    ((0 + 1/2) + (1/2 + 2/3))/2/2. Hard (ok 2; junk 1, 0): rank 1. The other query's only positive is hard, at rank 0.
    """
    index = images("jpg/image_3.jpg", "jpg/far.jpg", "jpg/image_1.jpg", "jpg/image_0.jpg", "jpg/image_2.jpg")
    bound = Revisited.bound(TRUTH, images("jpg/query_b.jpg", "jpg/query_a.jpg"), index)
    assert bound.queries.tolist() == [1, 0]  # in the order of the list
    assert bound.boxes == [(1, 2, 3, 4), None]
    assert bound.depth == 5
    rows = bound.measure(ranking([1, 2, 4, 3, 0], [0, 1, 2, 3, 4]))
    assert values(rows, "easy")["map"] == pytest.approx(100 * (0 + 1 / 2) / 2)
    medium = ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert values(rows, "medium")["map"] == pytest.approx(100 * (medium + 1) / 2)
    assert values(rows, "hard")["map"] == pytest.approx(100 * ((0 + 1 / 2) / 2 + 1) / 2)
    assert values(rows, "medium")["mp@1"] == 50
    assert values(rows, "medium")["mp@5"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert {(row["setting"], row["n_queries"], row.get("left_out")) for row in rows} == {
        ("easy", 1, 1),
        ("medium", 2, None),
        ("hard", 2, None),
    }


def test_an_easy_image_is_junk_where_only_hard_ones_count():
    """Ranking distractor, 0, 2: without the easy 0 the hard 2 has rank 1, not 2."""
    index = images("image_3.jpg", "far.jpg", "image_1.jpg", "image_0.jpg", "image_2.jpg")
    bound = Revisited.bound(TRUTH, images("query_a.jpg", "query_b.jpg"), index)
    rows = bound.measure(ranking([1, 3, 4, 2, 0], [0, 1, 2, 3, 4]))
    assert values(rows, "hard")["map"] == pytest.approx(100 * ((0 + 1 / 2) / 2 + 1) / 2)


def test_queries_that_stand_in_the_index_are_no_answers():
    """A folder that was indexed whole holds the queries: they are taken out like junk."""
    queries = images("query_a.jpg", "query_b.jpg")
    plain = Revisited.bound(TRUTH, queries, images(*(f"{name}.jpg" for name in NAMES)))
    whole = Revisited.bound(TRUTH, queries, images(*(f"{name}.jpg" for name in NAMES), *queries.ids))
    assert whole.unasked.tolist() == [4, 5]
    assert plain.measure(ranking([3, 0, 1, 2], [0, 3, 1, 2])) == whole.measure(
        ranking([4, 5, 3, 0, 1, 2], [5, 0, 4, 3, 1, 2])
    )


def test_images_that_the_index_lacks_are_counted_and_named():
    queries = images("query_a.jpg", "query_b.jpg")
    with pytest.raises(DataError, match="2 of 4 listed images are not in the index: image_1, image_3"):
        Revisited.bound(TRUTH, queries, images("image_0.jpg", "image_2.jpg"), "gnd.json")
    with pytest.raises(DataError, match="1 of 2 listed images is not in the queries: query_b"):
        Revisited.bound(TRUTH, images("query_a.jpg"), images(*(f"{name}.png" for name in NAMES)))
    with pytest.raises(DataError, match="1 name stands in the index more than once: image_0"):
        NamedRows(["a/image_0.jpg", "b/image_0.png", "c/image_1.png"], "the index")


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_an_altered_image_is_judged_by_its_folder_and_the_original_of_its_name():
    """strong: ranks 0 and 2 -> 1 and (0 + 1/3)/2; jpegqual/3: not among the first twenty -> 0."""
    index = images("original/200000.jpg", "original/200100.jpg", *(f"yfcc/2001{i:02d}.jpg" for i in range(30)))
    queries = images(
        "strong/200101.jpg", "strong/200002.jpg", "jpegqual/3/200000.jpg", "original/200000.jpg", "original/200100.jpg"
    )
    bound = Copydays.bound(queries, index)
    assert bound.queries.tolist() == [0, 1, 2]
    assert bound.originals.tolist() == [1, 0, 0]
    far = [*range(2, 22), 0, 1]
    rows = bound.measure(ranking([1, 0, *range(2, 22)], [5, 6, 0, 1, 2, *range(7, 24)], far))
    assert values(rows, "strong")["map"] == pytest.approx(100 * (1 + (0 + 1 / 3) / 2) / 2)
    assert values(rows, "jpegqual/3")["map"] == 0
    assert [(row["setting"], row["n_queries"]) for row in rows] == [("jpegqual/3", 1), ("strong", 2)]


def test_an_altered_image_without_its_original_is_an_error():
    with pytest.raises(DataError, match="1 altered image has no original in the index, such as strong/200201"):
        Copydays.bound(images("strong/200201.jpg"), images("original/200000.jpg"))


def test_pairs_of_all_queries_are_judged_together(tmp_path):
    """Q5 is a copy of nothing; Q7's copy R3 stands second, behind a wrong one of the same score.

    By score: Q3-R1 .9 right; Q5-R2 .8 wrong; Q7-R2 .7 wrong, Q7-R3 .7 right; then wrong ones. Two of three copies.
    AP = (1/1 + 2/4) / 3.
    """
    (tmp_path / "gt.csv").write_text("query_id,reference_id\nQ3,R1\nQ5,\nQ7,R3\nQ7,R4\n")
    index = images(*(f"refs/R{i}.jpg" for i in range(6)))
    queries = images("Q7.jpg", "Q5.jpg", "Q3.jpg", "Q9.jpg")
    bound = find_retrieval_protocol("disc21/1").judge(tmp_path / "gt.csv", queries, index)
    assert bound.queries.tolist() == [2, 1, 0]
    assert bound.depth == 10
    parts = ranking([1, 0], [2, 0], [2, 3], scores=[[0.9, 0.1], [0.8, 0.2], [0.7, 0.7]])
    found = values(bound.measure(parts))
    assert found["micro_ap"] == pytest.approx(100 * (1 + 2 / 4) / 3)
    assert found["recall@p90"] == pytest.approx(100 / 3)
    assert found["threshold@p90"] == pytest.approx(0.9)
    assert found["recall@rank1"] == pytest.approx(100 / 3)
    assert found["recall@rank10"] == pytest.approx(200 / 3)


# ---- landmarks and artworks ------------------------------------------------------------------------------------------


def test_landmarks_divide_by_a_hundred_at_most_and_keep_public_and_private_apart(tmp_path):
    """Query a has 130 images, the first place alone is right: 1/100. Query c has two, at places 1 and 3."""
    many = " ".join(f"r{i}" for i in range(130))
    (tmp_path / "solution.csv").write_text(f"id,images,Usage\na,{many},Private\nb,None,Ignored\nc,r7 r11,Public\n")
    index = images(*(f"{i % 7}/r{i}.jpg" for i in range(260)))
    bound = find_retrieval_protocol("gldv2/1").judge(
        tmp_path / "solution.csv", images("a.jpg", "b.jpg", "c.jpg"), index
    )
    assert bound.queries.tolist() == [0, 2]
    rows = bound.measure(ranking([0, *range(150, 249), 1], [7, 0, 11, *range(150, 248)]))
    assert values(rows, "private")["map@100"] == pytest.approx(100 * 1 / 100)
    assert values(rows, "public")["map@100"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_artworks_are_named_by_their_neighbours_and_distractors_lower_the_gap():
    index = images(*"abcde", labels=[0, 0, 1, 1, 2], classes="vase coin mask")
    queries = images("p", "q", "r", labels=[1, 0, -1], classes="vase coin")
    bound = dataclasses.replace(Artworks.bound(queries, index), k=2, temperature=10.0)
    assert bound.targets.tolist() == [1, 0, -1]
    parts = ranking([2, 0, 1], [4, 0, 1], [0, 1, 2], scores=[[0.8, 0.1, 0], [0.6, 0.5, 0], [0.9, 0.1, 0]])
    rows = bound.measure(parts)
    assert values(rows) == pytest.approx({"gap": 100 * (1 / 2) / 2, "gap_minus": 100 * 1 / 2, "accuracy": 50})
    assert {(row["k"], row["temperature"]) for row in rows} == {(2, 10.0)}


def test_artworks_are_tuned_on_other_queries():
    """A query has .8 with one class, a distractor .9 with one and .89 with another, of three classes.

    One neighbour: the distractor is the surer, GAP 1/2. Two, at the lowest temperature, .01: the query's class has
    1 / (1 + 2 e^-.008) = .3351, the distractor's 1 / (1 + e^-.0001 + e^-.009) = .3343: GAP 1, the first that is so.
    """
    index = images(*"abcd", labels=[0, 1, 1, 2], classes="vase coin mask")
    validation = Artworks.bound(images("p", "q", labels=[1, -1], classes="vase coin"), index)
    parts = ranking([1, 2, 0, 3], [0, 1, 3, 2], scores=[[0.8, 0.7, 0.1, 0], [0.9, 0.89, 0.88, 0]])
    bound = Artworks.bound(images("t", labels=[0], classes="vase"), index).tuned_on(validation, parts)
    assert (bound.k, bound.depth, bound.temperature) == (2, 2, 0.01)


def test_an_index_with_an_unlabelled_image_or_a_query_of_a_foreign_class_cannot_be_judged():
    labelled = images("a", labels=[0], classes="vase")
    with pytest.raises(DataError, match="1 image of the index has no label"):
        Artworks.bound(labelled, images("a", "b", labels=[0, -1], classes="vase"))
    with pytest.raises(DataError, match="1 query is of a class that the index has not"):
        Artworks.bound(images("q", labels=[0], classes="coin"), labelled)


# ---- protocols -------------------------------------------------------------------------------------------------------


def test_protocols_are_called_by_their_names_and_say_what_is_particular_to_them():
    assert list(PROTOCOLS) == [
        "labels/1",
        "revisitop/1",
        "dino/1",
        "copydays/1",
        "disc21/1",
        "gldv2/1",
        "met/1",
    ]
    assert {name: one.name for name, one in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}
    assert [name for name, one in PROTOCOLS.items() if one.query_box] == ["revisitop/1"]
    oxford, paris = (PROTOCOLS["dino/1"].reading_of(name).transform for name in ("roxford5k", "rparis6k"))
    assert oxford == {"longest": 224, "interpolation": "lanczos", "scales": (1.0,)}
    assert (paris["longest"], paris["scales"]) == (512, pytest.approx((1, 0.7071067811865476, 0.5)))
    copydays = PROTOCOLS["copydays/1"].reading_of()
    assert (copydays.transform["cover"], copydays.pool, copydays.whitening) == ((320, 320), "cls+gem", True)
    for one in PROTOCOLS.values():
        for reading in (one.reading, *one.readings.values()):
            Preprocess(**reading.transform)
    with pytest.raises(UnknownName, match="Did you mean revisitop/1"):
        find_retrieval_protocol("revisitop")


def test_a_protocol_wants_its_ground_truth_and_no_other(tmp_path):
    own = images("a", "b", labels=[0, 0], classes="cat")
    with pytest.raises(UsageError, match=r"disc21/1 needs a ground truth\n  Give the challenge's CSV"):
        find_retrieval_protocol("disc21/1").judge(None, own, own)
    with pytest.raises(UsageError, match="labels/1 reads no ground truth"):
        find_retrieval_protocol("labels/1").judge(tmp_path, own, own)
    with pytest.raises(UsageError, match="met/1 has queries of its own"):
        find_retrieval_protocol("met/1").judge(None, own, own, leave_one_out=True)
    assert find_retrieval_protocol("labels/1").judge(None, own, own).own is None
    assert find_retrieval_protocol("labels/1").judge(None, own, own, leave_one_out=True).own.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["revisitop/1", "dino/1"])
def test_revisited_protocols_read_the_converted_json(name, tmp_path):
    save_revisited(tmp_path / "gnd.json", TRUTH)
    index = images(*(f"{name}.jpg" for name in NAMES))
    bound = find_retrieval_protocol(name).judge(tmp_path / "gnd.json", images("query_a.jpg", "query_b.jpg"), index)
    assert values(bound.measure(ranking([0, 2, 1, 3], [3, 0, 1, 2])), "medium")["map"] == 100


def test_percentages_have_two_decimals_in_a_table_and_a_threshold_its_digits():
    rows = [{"metric": name, "value": 12.3456} for name in ("map", "mp@10", "recall@p90", "micro_ap")]
    table = Result("index", [*rows, {"metric": "threshold@p90", "value": 0.123456}]).to_table()
    assert [line[-1] for line in table[1:]] == ["12.35", "12.35", "12.35", "12.35", "0.1235"]
