"""A comparison on hand-made sweeps: which pairs it takes, what it matches, what it refuses, and its numbers by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewvit.errors import DataError, UnknownName, UsageError
from fewvit.evaluate.details import Details, EpisodeScores
from fewvit.paired import corrected_t, mcnemar, paired_bootstrap
from fewvit.report.comparison import Comparison, compare
from fewvit.report.looking import DetailsOf
from fewvit.report.read import read
from fewvit.report.rows import lines_of
from fewvit.report.statistics import rank_over_data_sets, signed_rank
from fewvit.results import Result
from fewvit.sweep.folder import SweepFolder, digest_of

from made_sweeps import IDS, LABELS, many, predictions, put


def found_in(folder: Path, *names: str, **options: int) -> Comparison:
    found = read([folder])
    return compare(lines_of(found.records), names, DetailsOf(found), **options)


# ---- a pair on one data set


def test_a_pairs_row_is_what_the_statistics_say_of_the_two(tmp_path):
    a, b = predictions(0.9, 3, 5), predictions(0.5, 7, 5)
    put(tmp_path, "dino", a)
    put(tmp_path, "msn", b, protocol="msn/1")
    found = found_in(tmp_path, "dino", "msn", resamples=500, seed=3)
    (row,) = found.pairs
    difference = 100.0 * (a == LABELS) - 100.0 * (b == LABELS)
    by_hand = paired_bootstrap(difference, resamples=500, seed=3)
    assert (row["dataset"], row["method"], row["shots"], row["a"], row["b"]) == ("tiny", "logistic", 5, "dino", "msn")
    assert (row["protocol_a"], row["protocol_b"]) == ("dino/1", "msn/1")
    assert row["value_a"] == pytest.approx(100 * (a == LABELS).mean())
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["ci95"] == pytest.approx([by_hand.low, by_hand.high])
    assert row["p"] == row["p_holm"] == by_hand.p < 0.05
    assert row["p_corrected_t"] == pytest.approx(corrected_t(difference.mean(axis=1), 15, 33).p)
    assert row["p_mcnemar"] == pytest.approx(mcnemar(a[0] == LABELS, b[0] == LABELS))
    assert (row["resampled"], row["draws"], row["n_test"]) == ("draws and images", 5, 33)
    assert row["verdict"] == "dino is better"


def test_the_first_named_is_the_one_that_is_subtracted_from(tmp_path):
    put(tmp_path, "dino", predictions(0.9, 3, 5))
    put(tmp_path, "msn", predictions(0.5, 7, 5))
    here, there = (found_in(tmp_path, *names).pairs[0] for names in (("dino", "msn"), ("msn", "dino")))
    assert here["difference"] == pytest.approx(-there["difference"])
    assert here["verdict"] == there["verdict"] == "dino is better"


def test_images_are_matched_by_their_ids_in_whatever_order_they_stand(tmp_path):
    a, b = predictions(0.8, 3, 5), predictions(0.6, 7, 5)
    for name, order in (("same", range(33)), ("other", np.random.default_rng(3).permutation(33))):
        put(tmp_path / name, "dino", a)
        put(tmp_path / name, "msn", b, order=order)
    same, other = (found_in(tmp_path / name, "dino", "msn").pairs[0] for name in ("same", "other"))
    assert same == other


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ids": ["new.png", *IDS[1:]]}, "their test images differ: 2 are in one alone, such as bee/0.png"),
        ({"labels": np.array([2, *LABELS[1:]])}, "bee/0.png is bee in one and dog in the other"),
    ],
)
def test_different_test_sets_are_refused_with_what_differs(tmp_path, change, why):
    put(tmp_path, "dino", predictions(0.8, 3, 2))
    put(tmp_path, "msn", predictions(0.6, 7, 2), **change)
    with pytest.raises(DataError, match="no two of dino, msn") as caught:
        found_in(tmp_path, "dino", "msn")
    assert why in str(caught.value)


def test_other_images_of_the_same_name_are_another_data_set(tmp_path):
    put(tmp_path, "dino", predictions(0.8, 3, 2), contents="aaaaaaaa")
    put(tmp_path, "msn", predictions(0.8, 7, 2), contents="bbbbbbbb")
    with pytest.raises(DataError, match="missing: msn on tiny"):
        found_in(tmp_path, "dino", "msn")


def test_draws_of_another_seed_are_not_paired(tmp_path):
    put(tmp_path, "dino", predictions(0.8, 3, 2), seed=3)
    put(tmp_path, "msn", predictions(0.8, 7, 2), seed=7)
    with pytest.raises(DataError, match="no two of"):
        found_in(tmp_path, "dino", "msn")


def test_one_draw_is_told_and_its_images_alone_are_resampled(tmp_path):
    put(tmp_path, "dino", predictions(0.9, 3, 1))
    put(tmp_path, "msn", predictions(0.5, 7, 1))
    found = found_in(tmp_path, "dino", "msn")
    assert (found.pairs[0]["resampled"], found.pairs[0]["p_corrected_t"]) == ("images", None)
    assert any("one draw: test images alone" in note for note in found.notes)


def test_draws_without_their_images_are_told_and_have_the_corrected_t_alone(tmp_path):
    a, b = predictions(0.9, 3, 5), predictions(0.5, 7, 5)
    put(tmp_path, "dino", a)
    put(tmp_path, "msn", b, keep=False)
    found = found_in(tmp_path, "dino", "msn")
    by_hand = corrected_t(100 * ((a == LABELS).mean(axis=1) - (b == LABELS).mean(axis=1)), 15, 33)
    (row,) = found.pairs
    assert row["p"] == row["p_corrected_t"] == pytest.approx(by_hand.p)
    assert row["ci95"] == pytest.approx([by_hand.low, by_hand.high])
    assert (row["p_mcnemar"], row["resampled"]) == (None, "nothing")
    assert any("by the corrected t alone" in note for note in found.notes)


def test_one_draw_without_its_images_is_not_tested(tmp_path):
    for name, seed in (("dino", 3), ("msn", 7)):
        put(tmp_path, name, predictions(0.6, seed, 1), keep=False)
    (row,) = found_in(tmp_path, "dino", "msn").pairs
    assert (row["p"], row["p_holm"], row["verdict"]) == (None, None, "not tested")


def test_damaged_predictions_are_left_out_by_name_and_done_without(tmp_path):
    put(tmp_path, "dino", predictions(0.9, 3, 5))
    put(tmp_path, "msn", predictions(0.5, 7, 5))
    damaged = sorted((tmp_path / "details").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-7])
    found = read([tmp_path])
    found.damaged.clear()  # there is no plan
    (row,) = compare(lines_of(found.records), ("dino", "msn"), DetailsOf(found)).pairs
    assert row["resampled"] == "nothing"
    assert [error.file for error in found.damaged] == [damaged]


def test_draws_that_one_alone_has_are_left_out(tmp_path):
    a, b = predictions(0.9, 3, 5), predictions(0.5, 7, 3)
    put(tmp_path, "dino", a)
    put(tmp_path, "msn", b)
    (row,) = found_in(tmp_path, "dino", "msn").pairs
    assert row["draws"] == 3
    assert row["value_a"] == pytest.approx(100 * (a[:3] == LABELS).mean())


def test_episodes_are_compared_one_by_one(tmp_path):
    accuracies = {name: np.random.default_rng(seed).normal(60, 5, 41) for name, seed in (("dino", 3), ("msn", 7))}
    for name, found in accuracies.items():
        cell = {"evaluation": "episodes", "backbone": {"label": name}, "data": {"label": "tiny", "contents": "00"}}
        cell["request"] = digest_of(cell)
        columns = {"method": "centroid", "shots": 1, "ways": 3}
        row = {**columns, "dataset": "tiny", "backbone": name, "trial": "mean", "metric": "accuracy"}
        SweepFolder(tmp_path).write_cell(
            digest_of(cell),
            cell,
            Result("episodes", [{**row, "value": float(found.mean())}]),
            Details(episodes=[EpisodeScores(columns, found)]),
        )
    (row,) = found_in(tmp_path, "dino", "msn").pairs
    difference = accuracies["dino"] - accuracies["msn"]
    assert row["p"] == paired_bootstrap(difference[None]).p
    assert (row["resampled"], row["n_test"], row["p_mcnemar"]) == ("episodes", 41, None)


def test_a_draw_that_repeats_another_is_counted_once(tmp_path):
    a, b = predictions(0.9, 3, 2), predictions(0.5, 7, 2)
    for folder, draws in (("twice", [0, 1, 0, 1, 0]), ("once", [0, 1])):
        put(tmp_path / folder, "dino", a[draws])
        put(tmp_path / folder, "msn", b[draws])
    (row,), (once,) = (found_in(tmp_path / folder, "dino", "msn").pairs for folder in ("twice", "once"))
    assert row["draws"] == 2
    names = ("p", "p_corrected_t", "ci95", "difference")
    assert [row[name] for name in names] == [once[name] for name in names]


# ---- several systems


def test_three_systems_have_holms_steps_and_groups(tmp_path):
    for name, skill, seed in (("dino", 0.95, 3), ("msn", 0.9, 7), ("mae", 0.3, 11)):
        put(tmp_path, name, predictions(skill, seed, 5))
    found = found_in(tmp_path, "dino", "msn", "mae")
    p = {(row["a"], row["b"]): row["p"] for row in found.pairs}
    adjusted = {(row["a"], row["b"]): row["p_holm"] for row in found.pairs}
    assert adjusted["dino", "mae"] == pytest.approx(3 * p["dino", "mae"])
    assert adjusted["dino", "msn"] == p["dino", "msn"] > 0.05
    assert [row["systems"] for row in found.groups] == ["dino, msn", "mae"]


def test_methods_are_compared_on_one_backbone(tmp_path):
    for method, skill in (("logistic", 0.9), ("centroid", 0.4)):
        put(tmp_path, "dino", predictions(skill, 3, 5), method=method)
        put(tmp_path, "msn", predictions(skill, 7, 5), method=method)
    found = found_in(tmp_path, "centroid", "logistic")
    assert [(row["backbone"], row["verdict"]) for row in found.pairs] == [
        ("dino", "logistic is better"),
        ("msn", "logistic is better"),
    ]


def test_two_protocols_of_one_backbone_are_two_systems(tmp_path):
    put(tmp_path, "dino", predictions(0.9, 3, 5), protocol="dino/1")
    put(tmp_path, "dino", predictions(0.6, 5, 5), protocol="dino/2")
    put(tmp_path, "msn", predictions(0.3, 7, 5), protocol="msn/1")
    found = found_in(tmp_path, "dino", "msn")
    assert [(row["a"], row["b"]) for row in found.pairs] == [
        ("dino (dino/1)", "dino (dino/2)"),
        ("dino (dino/1)", "msn"),
        ("dino (dino/2)", "msn"),
    ]
    assert found.pairs[0]["value_a"] != pytest.approx(found.pairs[2]["value_a"])


def test_what_is_missing_is_named_and_never_filled_in(tmp_path):
    for data in ("tiny", "large"):
        put(tmp_path, "dino", predictions(0.9, 3, 5), data=data, contents=data)
    put(tmp_path, "msn", predictions(0.3, 7, 5), contents="tiny")
    put(tmp_path, "dino", predictions(0.9, 3, 5), contents="tiny", shots=1)
    found = found_in(tmp_path, "dino", "msn")
    assert [row["dataset"] for row in found.pairs] == ["tiny"]
    assert any(note.startswith("missing: msn on large") for note in found.notes)
    assert any(note.startswith("missing: msn has no result of") and "shots 1" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("dino", "dino"), UsageError, "a thing cannot be compared with itself"),
        (("dino",), UsageError, "two names or more"),
        (("dino", "mns"), UnknownName, "unknown backbone 'mns'. Did you mean msn"),
        (("dino", "logistic"), UnknownName, "backbones alone, or methods alone"),
        (("spam", "eggs"), UnknownName, "unknown backbone or method 'spam'"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(tmp_path, names, error, words):
    put(tmp_path, "dino", predictions(0.9, 3, 2))
    put(tmp_path, "msn", predictions(0.9, 3, 2))
    with pytest.raises(error, match=words.replace("?", "")):
        found_in(tmp_path, *names)


def several_tasks(folder: Path) -> None:
    """k-NN and logistic with few labels, and k-NN at several k with all of them."""
    for method, skill in (("logistic", 0.9), ("knn", 0.4)):
        for shots in (1, 5):
            put(folder, "dino", predictions(skill, 3, 5), method=method, shots=shots)
    cell = {"evaluation": "knn", "backbone": {"label": "dino"}, "data": {"label": "tiny", "contents": "00"}}
    cell["request"] = digest_of(cell)
    same = {"method": "knn", "dataset": "tiny", "backbone": "dino", "metric": "top1", "value": 90.0}
    SweepFolder(folder).write_cell(
        digest_of(cell), cell, Result("knn", [{**same, "k": k} for k in (1, 5, 10, 20)]), Details()
    )


def test_what_a_method_lacks_in_another_task_is_one_counted_line(tmp_path):
    several_tasks(tmp_path)
    found = found_in(tmp_path, "knn", "logistic")
    assert [(row["shots"], row["verdict"]) for row in found.pairs] == [(n, "logistic is better") for n in (1, 5)]
    missing = [note for note in found.notes if note.startswith("missing")]
    assert missing == ["missing: logistic has no result of 4 settings of knn, such as knn, dino, k 1, metric top1"]


def test_a_method_is_named_with_its_task_where_its_name_stands_for_several(tmp_path):
    several_tasks(tmp_path)
    found = found_in(tmp_path, "lowshot.knn", "logistic")
    assert [row["a"] for row in found.pairs] == ["lowshot.knn", "lowshot.knn"]
    assert not [note for note in found.notes if note.startswith("missing")]
    with pytest.raises(UnknownName, match=r"Did you mean lowshot\.knn"):
        found_in(tmp_path, "lowshot.kn", "logistic")


# ---- over data sets


def test_three_systems_over_five_data_sets_have_friedmans_test_and_its_pairs(tmp_path):
    means = many(tmp_path, {"dino": 0.95, "msn": 0.75, "mae": 0.4}, 5)
    found = found_in(tmp_path, "dino", "msn", "mae", resamples=100)
    by_hand = rank_over_data_sets(means)
    rows = {(row["a"], row["b"]): row for row in found.over_data_sets}
    assert list(rows) == [("dino", "msn"), ("dino", "mae"), ("msn", "mae")]
    assert rows["dino", "mae"]["p_friedman"] == pytest.approx(by_hand.p)
    assert [row["p_holm"] for row in rows.values()] == pytest.approx(list(by_hand.pairs.values()))
    assert rows["dino", "mae"]["value_a"] == pytest.approx(means[:, 0].mean())
    assert rows["dino", "mae"]["p_wilcoxon"] is None  # five data sets are too few for it
    assert rows["dino", "mae"]["verdict"] == "dino is better"
    assert found.ranked[0].ranking == by_hand
    assert [row["systems"] for row in found.groups if row["dataset"] == "5 data sets"] == ["dino, msn", "msn, mae"]


def test_two_systems_over_six_data_sets_have_wilcoxons_test(tmp_path):
    means = many(tmp_path, {"dino": 0.95, "mae": 0.5}, 6)
    found = found_in(tmp_path, "dino", "mae", resamples=100)
    (row,) = found.over_data_sets
    assert row["p_wilcoxon"] == row["p_holm"] == signed_rank(*means.T) == 2 / 64
    assert (row["verdict"], row["p_friedman"], found.ranked) == ("dino is better", None, [])


@pytest.mark.parametrize(("skills", "number"), [({"a": 0.9, "b": 0.5}, 5), ({"a": 0.9, "b": 0.5, "c": 0.4}, 4)])
def test_fewer_data_sets_are_refused_with_the_reason(tmp_path, skills, number):
    many(tmp_path, skills, number)
    found = found_in(tmp_path, *skills, resamples=100)
    assert (found.over_data_sets, found.ranked) == ([], [])
    assert any(f"{number} data sets are too few for a test over data sets" in note for note in found.notes)


def test_a_data_set_that_one_system_lacks_is_not_ranked(tmp_path):
    means = many(tmp_path, {"dino": 0.95, "msn": 0.75, "mae": 0.4}, 5)
    put(tmp_path, "dino", predictions(0.1, 3, 3), data="half", contents="half")
    put(tmp_path, "msn", predictions(0.9, 3, 3), data="half", contents="half")
    found = found_in(tmp_path, "dino", "msn", "mae", resamples=100)
    assert found.ranked[0].ranking == rank_over_data_sets(means)
    assert any(note.startswith("missing: mae on half") for note in found.notes)


# ---- as rows


def test_all_rows_have_the_same_columns_and_the_table_that_they_are_of(tmp_path):
    many(tmp_path, {"dino": 0.95, "msn": 0.75, "mae": 0.4}, 5)
    found = found_in(tmp_path, "dino", "msn", "mae", resamples=100)
    rows = found.rows()
    assert len({tuple(name for name in row if name != "ci95") for row in rows}) == 1
    assert len(rows) == len(found.pairs) + len(found.groups) + len(found.over_data_sets)
    assert list(dict.fromkeys(row["table"] for row in rows)) == ["pairs", "cannot be told apart", "over data sets"]


def test_equal_results_give_equal_rows_whatever_order_they_are_read_in(tmp_path):
    many(tmp_path, {"dino": 0.95, "msn": 0.75, "mae": 0.4}, 5)
    found, names = read([tmp_path]), ("dino", "msn", "mae")
    here, there = (
        compare(lines_of(records), names, DetailsOf(found), resamples=100).rows()
        for records in (found.records, found.records[::-1])
    )
    assert here == there
