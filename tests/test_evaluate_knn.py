"""k-NN evaluation: every percentage against brute force, and every option that could give a wrong one refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from fewvit import neighbors
from fewvit.errors import DataError, FingerprintMismatch, UsageError
from fewvit.evaluate import knn
from fewvit.evaluate.knn import KNNOptions, evaluate_knn, score_knn
from fewvit.features import FeatureSet
from fewvit.splits import dinov2_subset
from fewvit.vote import votes_at

from oracles import knn_accuracy

CLASSES = [f"class {c}" for c in range(11)]


def toy(n: int, seed: int, labels: Sequence[int] = (2, 3, 5, 6, 7, 8, 10), name: str = "toy", **facts) -> FeatureSet:
    """Unbalanced classes around centres that overlap; integers, so that ties are common and exact."""
    stream = np.random.default_rng(seed)
    own = stream.choice(labels, n, p=1 / np.arange(2, len(labels) + 2) / sum(1 / np.arange(2, len(labels) + 2)))
    centre = np.random.default_rng(3).integers(-2, 3, (11, 5))
    rows = (centre[own] + stream.integers(-2, 3, (n, 5))).astype(np.float32)
    return FeatureSet(
        rows, own.astype(np.int64), [f"{name}/{i}" for i in range(n)], facts.pop("classes", CLASSES), name=name, **facts
    )


TRAIN, TEST = toy(211, 5), toy(53, 7)
CPU = {"device": "cpu"}


def values(rows) -> dict:
    return {(row["k"], row["temperature"], row["metric"]): row["value"] for row in rows}


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_every_k_and_temperature_is_brute_force(engine, monkeypatch):
    monkeypatch.setattr(neighbors, "faiss_is_here", lambda: engine == "faiss")
    ks, temperatures = (1, 2, 7, 53, 211), (0.07, 0.002, 3.0)
    rows, seconds = evaluate_knn(TRAIN, TEST, KNNOptions(ks=ks, temperatures=temperatures, **CPU))
    wanted = {}
    for k in ks:
        for t in temperatures:
            top = knn_accuracy(TRAIN.features, TRAIN.labels.tolist(), TEST.features, TEST.labels.tolist(), 11, k, t)
            wanted |= {(k, t, "top1"): pytest.approx(top[0]), (k, t, "top5"): pytest.approx(top[1])}
    assert values(rows) == wanted
    assert len({row["value"] for row in rows}) > 5  # the oracle would not notice a constant
    assert seconds > 0


@pytest.mark.parametrize("k", [1, 3, 11, 210])
def test_leave_one_out_is_brute_force_without_the_image_itself(k):
    rows, _ = evaluate_knn(TRAIN, None, KNNOptions(ks=(k,), leave_one_out=True, **CPU))
    labels = TRAIN.labels.tolist()
    top = knn_accuracy(TRAIN.features, labels, TRAIN.features, labels, 11, k, 0.07, leave_one_out=True)
    assert values(rows) == {(k, 0.07, "top1"): pytest.approx(top[0]), (k, 0.07, "top5"): pytest.approx(top[1])}
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(210, 211)}


def test_leave_one_out_over_many_chunks_excludes_each_image_and_no_other(monkeypatch):
    whole, _ = evaluate_knn(TRAIN, None, KNNOptions(ks=(7,), leave_one_out=True, **CPU))
    monkeypatch.setattr(neighbors, "_CHUNK_BYTES", 1)
    cut, _ = evaluate_knn(TRAIN, None, KNNOptions(ks=(7,), leave_one_out=True, **CPU))
    assert values(cut) == values(whole)


def test_rows_say_what_was_measured():
    [one, five] = evaluate_knn(TRAIN, TEST, KNNOptions(ks=(7,), **CPU))[0]
    shared = {"method": "knn", "k": 7, "temperature": 0.07, "n_train": 211, "n_test": 53}
    assert one == {**shared, "metric": "top1", "value": one["value"]}
    assert five == {**shared, "metric": "top5", "value": five["value"]}


def test_top5_with_fewer_than_five_neighbours_counts_as_many_places_as_neighbours():
    train = FeatureSet(np.eye(7, dtype=np.float32), np.arange(7), [str(i) for i in range(7)], CLASSES)
    query = np.array([[7, 6, 5, 4, 3, 2, 1]], np.float32)
    for target, hits in ((0, (1, 1, 1)), (2, (0, 1, 1)), (4, (0, 0, 1)), (5, (0, 0, 0))):
        test = FeatureSet(query, np.array([target]), ["q"], CLASSES)
        rows, _ = evaluate_knn(train, test, KNNOptions(ks=(2, 3, 7), **CPU))
        assert [values(rows)[k, 0.07, "top5"] / 100 for k in (2, 3, 7)] == list(hits)


def test_without_ks_the_papers_are_used_and_those_above_the_bank_are_left_out_aloud():
    for size, ks, note in (
        (150, [10, 20, 100], ["k = 200 left out: the bank has 150 images"]),
        (200, [10, 20, 100, 200], []),
        (7, [7], ["k = 10, 20, 100, 200 left out: the bank has 7 images"]),
    ):
        said: list[str] = []
        rows, _ = evaluate_knn(toy(size, 5), TEST, KNNOptions(ks=() if size == 7 else None, **CPU), said.append)
        assert [row["k"] for row in rows if row["metric"] == "top1"] == ks
        assert [line for line in said if "features of a train image" not in line] == note  # of integers some coincide


def test_left_alone_an_image_has_one_neighbour_less_to_offer():
    said: list[str] = []
    rows, _ = evaluate_knn(toy(100, 5), None, KNNOptions(leave_one_out=True, **CPU), said.append)
    assert [row["k"] for row in rows if row["metric"] == "top1"] == [10, 20]
    assert said == ["k = 100, 200 left out: the bank has 99 images"]


@pytest.mark.parametrize(("ks", "bad"), [((212,), 212), ((7, 0), 0), ((-1, 3), -1), ((7, 300, 500), 300)])
def test_a_k_given_by_hand_that_does_not_fit_is_refused(ks, bad):
    with pytest.raises(UsageError, match=f"k = {bad} does not fit a bank of 211 images") as error:
        evaluate_knn(TRAIN, TEST, KNNOptions(ks=ks, **CPU))
    assert error.value.exit_code == 2
    assert "between 1 and 211" in str(error.value)


def test_in_leave_one_out_a_k_of_the_whole_set_is_refused():
    with pytest.raises(UsageError, match="bank of 210 images"):
        evaluate_knn(TRAIN, None, KNNOptions(ks=(211,), leave_one_out=True, **CPU))


def test_ks_are_measured_once_each_in_ascending_order():
    rows, _ = evaluate_knn(TRAIN, TEST, KNNOptions(ks=(7, 2, 7), **CPU))
    assert [(row["k"], row["metric"]) for row in rows] == [(2, "top1"), (2, "top5"), (7, "top1"), (7, "top5")]


# ---- labels


def relabelled(features: FeatureSet, rows: slice) -> FeatureSet:
    labels = features.labels.copy()
    labels[rows] = -1
    return FeatureSet(features.features, labels, features.ids, features.classes)


def test_unlabelled_images_are_left_out_on_both_sides_aloud():
    said: list[str] = []
    options = KNNOptions(ks=(7,), **CPU)
    found, _ = evaluate_knn(relabelled(TRAIN, slice(0, 60)), relabelled(TEST, slice(50, 53)), options, said.append)
    wanted, _ = evaluate_knn(TRAIN.select(np.arange(60, 211)), TEST.select(np.arange(50)), options)
    assert found == wanted
    assert said == ["60 unlabelled train images are left out", "3 unlabelled test images are left out"]


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_side_without_labels_is_a_data_error(side):
    sides = {"train": TRAIN, "test": TEST}
    sides[side] = relabelled(sides[side], slice(None))
    with pytest.raises(DataError, match=f"the {side} images have no labels") as error:
        evaluate_knn(**sides, options=KNNOptions(ks=(7,), **CPU))
    assert error.value.exit_code == 3


def test_one_class_is_a_data_error_that_names_it():
    with pytest.raises(DataError, match=r"all of one class \('class 7'\)"):
        evaluate_knn(toy(31, 5, labels=[7]), TEST, KNNOptions(ks=(7,), **CPU))
    with pytest.raises(DataError, match="all of one class"):
        evaluate_knn(toy(31, 5, labels=[7]), None, KNNOptions(ks=(7,), leave_one_out=True, **CPU))


def test_two_classes_are_enough_and_need_not_start_at_zero():
    assert evaluate_knn(toy(31, 5, labels=[3, 7]), toy(11, 7, labels=[3, 7]), KNNOptions(ks=(3,), **CPU))[0]


def test_test_classes_that_train_lacks_are_a_data_error():
    names = [f"class {c}" for c in range(10)] + ["stranger"]
    strange = FeatureSet(TEST.features[:2], np.array([3, 10]), ["a", "b"], names)
    with pytest.raises(DataError, match="1 class of the test set is not in the training set: stranger"):
        evaluate_knn(TRAIN, strange, KNNOptions(ks=(7,), **CPU))


def test_labels_are_compared_by_class_name_and_not_by_number():
    backwards = FeatureSet(TEST.features, 10 - TEST.labels, TEST.ids, CLASSES[::-1])
    options = KNNOptions(ks=(7, 20), **CPU)
    assert evaluate_knn(TRAIN, backwards, options)[0] == evaluate_knn(TRAIN, TEST, options)[0]


def test_features_of_another_backbone_are_refused():
    with pytest.raises(FingerprintMismatch):
        evaluate_knn(toy(31, 5, fingerprint="a" * 64), toy(11, 7, fingerprint="b" * 64), KNNOptions(ks=(3,), **CPU))


# ---- few shots


def test_few_shot_trials_are_brute_force_on_the_drawn_images():
    rows, _ = evaluate_knn(TRAIN, TEST, KNNOptions(shots=(1, 12), trials=3, temperatures=(0.07, 0.5), **CPU))
    singles = {
        (r["shots"], r["trial"], r["k"], r["temperature"], r["metric"]): r["value"]
        for r in rows
        if r["trial"] != "mean"
    }
    wanted = {}
    for n, ks in ((1, [1]), (12, [10, 12])):
        for trial in range(3):
            bank = TRAIN.select(dinov2_subset(TRAIN.labels, n, trial))
            for k in ks:
                for t in (0.07, 0.5):
                    top = knn_accuracy(
                        bank.features, bank.labels.tolist(), TEST.features, TEST.labels.tolist(), 11, k, t
                    )
                    wanted |= {
                        (n, trial, k, t, metric): pytest.approx(value)
                        for metric, value in zip(("top1", "top5"), top, strict=True)
                    }
    assert singles == wanted
    assert {(r["shots"], r["n_train"], r["n_test"], r["method"]) for r in rows} == {
        (1, 7, 53, "knn"),
        (12, 84, 53, "knn"),
    }


def test_the_mean_row_holds_mean_deviation_and_students_interval_of_its_trials():
    rows, _ = evaluate_knn(TRAIN, TEST, KNNOptions(shots=(2,), trials=3, **CPU))
    for metric in ("top1", "top5"):
        [*trials, mean] = [row for row in rows if row["metric"] == metric]
        a, b, c = (row["value"] for row in trials)
        centre = (a + b + c) / 3
        deviation = (((a - centre) ** 2 + (b - centre) ** 2 + (c - centre) ** 2) / 2) ** 0.5
        half = 4.302652729911275 * deviation / 3**0.5  # t(0.975) with 2 degrees of freedom
        assert (mean["trial"], mean["k"], mean["shots"], mean["n_train"]) == ("mean", 2, 2, 14)
        assert (mean["value"], mean["std"], *mean["ci95"]) == pytest.approx(
            (centre, deviation, centre - half, centre + half)
        )
        assert deviation > 0


def test_one_trial_has_a_mean_row_without_an_interval():
    rows, _ = evaluate_knn(TRAIN, TEST, KNNOptions(shots=(2,), trials=1, **CPU))
    assert [row["trial"] for row in rows] == [0, 0, "mean", "mean"]
    assert all("std" not in row and "ci95" not in row for row in rows)


def test_trials_that_share_images_are_told_and_equal_ones_have_no_interval():
    classes, counts = np.unique(TRAIN.labels[TRAIN.labels >= 0], return_counts=True)
    most = int(counts.min())
    few = TRAIN.select(np.concatenate([np.flatnonzero(TRAIN.labels == c)[:most] for c in classes]))
    said: list[str] = []
    rows, _ = evaluate_knn(few, TEST, KNNOptions(shots=(most - 1, most), trials=2, **CPU), said.append)
    assert said == [
        f"{most - 1} shots: trials share labelled images, only 1 of the 2 are disjoint: the interval is too narrow",
        f"{most} shots: the 2 trials have the same labelled images, so there is no interval",
    ]
    assert {row["shots"] for row in rows if "ci95" in row} == {most - 1}


def test_ks_by_hand_go_with_shots_as_far_as_they_are_not_above_them():
    rows, _ = evaluate_knn(TRAIN, TEST, KNNOptions(ks=(1, 3, 5), shots=(3, 4), **CPU))
    assert {(row["shots"], row["k"]) for row in rows} == {(3, 1), (3, 3), (4, 1), (4, 3), (4, 4)}


def test_more_shots_than_a_class_has_images_are_a_data_error():
    with pytest.raises(DataError, match="fewer than 100 images"):
        evaluate_knn(TRAIN, TEST, KNNOptions(shots=(100,), **CPU))


# ---- options that exclude each other


@pytest.mark.parametrize(
    ("test", "options", "words"),
    [
        (None, {}, "no test set"),
        (TEST, {"leave_one_out": True}, "no test set"),
        (None, {"leave_one_out": True, "shots": (1,)}, "evaluated on themselves"),
        (TEST, {"shots": (1,), "trials": 0}, "0 trials"),
        (TEST, {"shots": (0,)}, "0 images per class"),
        (TEST, {"temperatures": (0.07, 0.001)}, "temperature 0.001"),
        (TEST, {"ks": (0,), "shots": (2,)}, "votes of 0, 2"),
    ],
)
def test_options_that_would_measure_something_else_are_refused(test, options, words):
    with pytest.raises(UsageError) as error:
        evaluate_knn(TRAIN, test, KNNOptions(**options, **CPU))
    assert words in str(error.value)


def test_one_search_serves_all_ks_and_temperatures(monkeypatch):
    searched = []
    real = neighbors.Bank.chunks
    monkeypatch.setattr(
        neighbors.Bank, "chunks", lambda bank, queries, k, **o: (searched.append(k), real(bank, queries, k, **o))[1]
    )
    scores = score_knn(TRAIN, TEST, [1, 7, 20], [0.07, 0.5], device="cpu")
    assert searched == [20]
    assert [(s.temperature, s.k) for s in scores] == [(t, k) for t in (0.07, 0.5) for k in (1, 7, 20)]


def test_the_seconds_are_those_between_the_first_search_and_the_last_vote(monkeypatch):
    now = iter([10.25, 12.5])
    monkeypatch.setattr(knn, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert evaluate_knn(TRAIN, TEST, KNNOptions(ks=(7,), **CPU))[1] == 2.25


def test_votes_are_counted_for_as_many_images_at_a_time_as_their_bytes_hold_and_64_at_least(monkeypatch):
    """Eleven classes of eight bytes make 88 bytes an image; scores are the same whatever is counted at a time."""
    many = toy(137, 11)
    whole = score_knn(TRAIN, many, [7], [0.07], device="cpu")
    counted: list[int] = []
    monkeypatch.setattr(knn, "votes_at", lambda few, *rest: counted.append(len(few.rows)) or votes_at(few, *rest))
    for size, wanted in ((88 * 67 + 87, [67, 67, 3]), (1, [64, 64, 9])):
        monkeypatch.setattr(knn, "_TABLE_BYTES", size)
        assert score_knn(TRAIN, many, [7], [0.07], device="cpu") == whole
        assert counted == wanted
        counted.clear()


# ---- the published number beside the measured one


def published(k=20, n_test=50_000, classes=1000, random=False, each=False, known=74.5, given=False, as_published=True):
    """k and temperature of the rows that have the published number beside them; each must be top-1."""
    spec = SimpleNamespace(is_random=random, published={"knn": known} if known else {})
    pipeline = SimpleNamespace(spec=spec, each=each, protocol=SimpleNamespace(published_k=k))
    inputs = SimpleNamespace(pipeline=None if given else pipeline, train=SimpleNamespace(classes=range(classes)))
    rows = [
        {"k": k, "temperature": t, "metric": metric, "n_test": n_test, "value": {10: 70.0, 20: 71.0, 100: 72.0}[k] - t}
        for t in (0.07, 0.1)
        for k in (10, 20, 100)
        for metric in ("top1", "top5")
    ]
    with mock.patch.object(knn, "reads_as_published", return_value=as_published):
        found = list(knn._with_published(rows, inputs))
    assert [{name: value for name, value in row.items() if name != "published"} for row in found] == rows
    shown = [row for row in found if "published" in row]
    assert all((row["metric"], row["published"]) == ("top1", known) for row in shown)
    return [(row["k"], row["temperature"]) for row in shown]


def test_the_published_number_stands_at_its_own_k_or_at_the_best_where_none_is_said():
    assert published() == [(20, 0.07)]
    assert published(k=0) == [(100, 0.07)]
    assert published(as_published=False) == []


@pytest.mark.parametrize(
    "other",
    [
        *({"n_test": 49_999}, {"classes": 999}, {"random": True}, {"each": True}, {"known": None}, {"given": True}),
    ],
)
def test_on_other_data_or_weights_no_number_is_published(other):
    assert published(**other) == []
