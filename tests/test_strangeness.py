"""Scores of strangeness beside brute force and scikit-learn; choosing, thresholds, storing; what `unknown` says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from sklearn.covariance import oas
from sklearn.metrics import roc_auc_score, roc_curve

from fewvit.bundles import file as bundles
from fewvit.bundles import strangeness
from fewvit.bundles.bundle import Bundle
from fewvit.bundles.file import load_bundle, save_bundle
from fewvit.bundles.fit import FittingRequest, fit_bundle
from fewvit.bundles.judged import (
    THRESHOLDS,
    coverage_rows,
    require_strangers,
    stranger_rows,
    telling_thresholds,
)
from fewvit.bundles.predict import Limits, predict_rows
from fewvit.bundles.strangeness import best_of, fit_strangeness, made_up_rows, try_scores
from fewvit.calibration import stratified_folds
from fewvit.errors import DataError, IntegrityError, UnknownName, UsageError
from fewvit.features import FeatureSet
from fewvit.metrics import auroc, passing_at, threshold_at
from fewvit.strangeness import find_score, fitted, scaled, score_names
from fewvit.strangeness._moments import shrunken

D, CLASSES = 13, ["ant", "cät", "dog"]


def rows_of(n: int, seed: int, labels=(0, 1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced rows around one direction per class, with columns of different spread."""
    stream = np.random.default_rng(seed)
    own = np.concatenate([np.repeat(labels, 2), stream.choice(labels, n - 2 * len(labels), p=[0.5, 0.3, 0.2])])
    spread = np.linspace(0.1, 1.5, D)
    return (stream.standard_normal((n, D)) * spread + 3 * np.eye(D)[own]).astype(np.float32), own


def features(n: int, seed: int) -> FeatureSet:
    rows, labels = rows_of(n, seed)
    return FeatureSet(rows, labels, [f"{seed}/{i}" for i in range(n)], CLASSES, "f" * 64)


def far(n: int, seed: int) -> np.ndarray:
    """Rows along a direction that no class has."""
    return (np.random.default_rng(seed).standard_normal((n, D)) * 0.1 - 3 * np.eye(D)[11]).astype(np.float32)


def bundle_of(**asked) -> Bundle:
    return fit_bundle(features(97, 3), FittingRequest("centroid", **asked))[0]


# ---- scores


def distances(rows, means, covariance) -> np.ndarray:
    """(Q, C) one by one."""
    inverse = np.linalg.inv(covariance)
    return np.array([[(x - m) @ inverse @ (x - m) for m in means] for x in rows])


def unit(rows: np.ndarray) -> np.ndarray:
    return np.array([row / math.sqrt(sum(float(v) ** 2 for v in row)) for row in rows.astype(np.float64)])


def parts(n=97):
    """Unit rows, labels, class means, the covariance around them and that around the mean of all."""
    rows, labels = rows_of(n, 3)
    rows = unit(rows)
    means = np.array([rows[labels == c].mean(axis=0) for c in range(3)])
    within = oas(rows - means[labels], assume_centered=True)[0]
    return rows, labels, means, within, oas(rows)[0]


def by_hand(name: str, queries: np.ndarray) -> np.ndarray:
    rows, _, means, within, total = parts()
    own = distances(queries, means, within).min(axis=1)
    relative = own - distances(queries, [rows.mean(axis=0)], total)[:, 0]
    cosines = np.array([sorted((float(q @ x) for x in rows), reverse=True) for q in queries])
    directions = unit(means)
    energy = [-0.07 * math.log(sum(math.exp(float(q @ m) / 0.07) for m in directions)) for q in queries]
    return {"mahalanobis": own, "relative_mahalanobis": relative, "nearest": 1 - cosines[:, 2], "energy": energy}[name]


@pytest.mark.parametrize("name", ["energy", "mahalanobis", "nearest", "relative_mahalanobis"])
def test_a_score_is_what_brute_force_and_scikit_learns_covariance_give(name):
    rows, labels = rows_of(97, 3)
    queries = np.concatenate([rows_of(31, 7)[0], far(5, 1)])
    found = fitted(name, rows, labels, 3).of(scaled(queries))
    np.testing.assert_allclose(found, by_hand(name, unit(queries)), rtol=2e-4, atol=1e-4)


def test_the_blend_is_the_sum_of_two_each_by_mean_and_spread_of_held_out_rows():
    rows, labels = rows_of(97, 3)
    two = ("relative_mahalanobis", "nearest")
    fold, queries = stratified_folds(labels, 5, 0), rows_of(31, 7)[0]
    total = np.zeros(31)
    for name in two:
        held = np.concatenate(
            [fitted(name, rows[fold != f], labels[fold != f], 3).of(scaled(rows[fold == f])) for f in range(5)]
        )
        total += (fitted(name, rows, labels, 3).of(scaled(queries)) - held.mean()) / held.std()
    np.testing.assert_allclose(fitted("blend", rows, labels, 3).of(scaled(queries)), total, rtol=1e-9)


@pytest.mark.parametrize("n", [5, 29, 301])
def test_the_shrinkage_is_scikit_learns(n):
    rows = np.random.default_rng(n).standard_normal((n, D)) * np.linspace(0.1, 3, D)
    np.testing.assert_allclose(shrunken(rows.T @ rows / n, n), oas(rows, assume_centered=True)[0], rtol=1e-12)


@pytest.mark.parametrize("name", score_names())
def test_the_length_of_a_feature_does_not_matter_and_far_rows_are_stranger(name):
    rows, labels = rows_of(97, 3)
    score, queries = fitted(name, rows, labels, 3), rows_of(31, 7)[0]
    np.testing.assert_allclose(score.of(scaled(7 * queries)), score.of(scaled(queries)), rtol=1e-4, atol=1e-5)
    assert score.of(scaled(far(5, 1))).min() > np.median(score.of(scaled(queries)))


@pytest.mark.parametrize("name", score_names())
def test_more_rows_and_a_new_class_are_as_if_they_had_been_there(name):
    rows, labels = rows_of(97, 3)
    old = labels < 2
    kind = find_score(name)
    first = kind.learns.of(scaled(rows[old]), labels[old], 2)
    grown = kind(first.with_more(scaled(rows[~old]), labels[~old], 3)).of(scaled(rows_of(31, 7)[0]))
    order = np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)])
    whole = kind.learns.of(scaled(rows[order]), labels[order], 3)
    if name == "blend":  # whose centres and spreads stay
        whole = dataclasses.replace(whole, centres=first.centres, spreads=first.spreads)
    np.testing.assert_allclose(grown, kind(whole).of(scaled(rows_of(31, 7)[0])), rtol=1e-8)


def test_without_a_spread_within_classes_the_distance_is_the_plain_one():
    rows = unit(rows_of(97, 3)[0][:5])
    queries = unit(rows_of(31, 7)[0])
    found = fitted("mahalanobis", rows, np.arange(5), 5).of(queries)
    plain = np.array([min(float(((q - x) ** 2).sum()) for x in rows) for q in queries])
    np.testing.assert_allclose(found / found[0], plain / plain[0], rtol=1e-9)


def test_a_score_that_is_none_is_told_with_what_there_is():
    with pytest.raises(UnknownName, match=r"strangeness score 'mahalanobi'.*mahalanobis"):
        find_score("mahalanobi")


# ---- measures


def test_auroc_and_passing_are_scikit_learns_and_those_counted_by_hand():
    assert auroc(np.array([1.0, 2, 3]), np.array([2.0, 4])) == (1 + 0.5 + 3) / 6
    known, strange = np.arange(1.0, 21), np.array([18.0, 19, 19.5, 20, 30])
    assert threshold_at(known, 0.95) == 19
    assert passing_at(known, strange) == 40
    stream = np.random.default_rng(3)
    known, strange = stream.integers(0, 30, 101).astype(float), stream.integers(5, 40, 67).astype(float)
    truth = np.repeat([0, 1], [101, 67])
    assert auroc(known, strange) == pytest.approx(roc_auc_score(truth, np.concatenate([known, strange])), abs=1e-12)
    rates = roc_curve(truth == 0, -np.concatenate([known, strange]), drop_intermediate=False)
    first = int(np.argmax(rates[1] >= 0.95))
    assert passing_at(known, strange) == pytest.approx(100 * rates[0][first])


@pytest.mark.parametrize(("share", "place"), [(0.95, 19), (1.0, 20), (0.5, 10), (0.951, 20), (0.001, 1)])
def test_a_threshold_is_the_least_that_lets_the_share_pass(share, place):
    known = np.random.default_rng(3).permutation(np.arange(1.0, 21))
    assert threshold_at(known, share) == place


def test_nothing_to_compare_is_said():
    for call in (lambda: auroc(np.zeros(0), np.ones(3)), lambda: auroc(np.ones(3), np.zeros(0))):
        with pytest.raises(DataError):
            call()
    with pytest.raises(DataError):
        threshold_at(np.zeros(0), 0.95)


@pytest.mark.parametrize(
    ("confidence", "more"),
    [
        ([0.2, 0.4, 0.6, 0.8, 0.96], set()),
        ([0.1, 0.1234, 0.2, 0.25, 0.29], {0.123, 0.2, 0.25}),  # none of the usual ones divides them
        ([0.1, 0.2, 0.31, 0.35, 0.39], {0.2, 0.31, 0.35}),  # one does
    ],
    ids=["of few classes", "of many", "one divides"],
)
def test_thresholds_that_all_images_fall_below_have_quartiles_beside_them(confidence, more):
    assert telling_thresholds(np.array(confidence)) == {*THRESHOLDS, *more}


def test_risk_and_coverage_are_counted_at_each_threshold():
    confidence, right = np.array([0.2, 0.4, 0.6, 0.8]), np.array([False, True, False, True])
    rows = coverage_rows(confidence, right, {0.6, 0.0, 0.9})
    found = [(row["threshold"], row["coverage"], row["value"], row["n_test"]) for row in rows]
    assert found == [(0.0, 100.0, 50.0, 4), (0.6, 50.0, 50.0, 2), (0.9, 0.0, None, 0)]


# ---- choosing and thresholds


def test_another_score_is_chosen_only_where_it_is_clearly_better():
    tried = {"blend": {"left_out": 0.6, "made_up": 1.0}, "nearest": {"left_out": 0.63, "made_up": 1.0}}
    assert best_of(tried) == "blend"
    assert best_of({**tried, "energy": {"left_out": 0.65, "made_up": 1.0}}) == "energy"
    assert best_of({}) == "mahalanobis"


def test_scores_are_tried_on_classes_left_out_and_on_made_up_rows():
    rows, labels = rows_of(97, 3)
    tried = try_scores(scaled(rows), labels, 0)
    assert list(tried) == score_names()
    assert all(list(found) == ["left_out", "made_up"] for found in tried.values())
    two = labels < 2
    assert try_scores(scaled(rows[two]), labels[two], 0) == {}
    assert fit_strangeness(rows[two], labels[two])[0].name == "mahalanobis"
    assert try_scores(scaled(rows[:3]), np.arange(3), 0) == {}


def test_leaving_a_class_out_measures_that_class_against_held_out_rows():
    """Three groups of one class each, counted with a score of their own fit."""
    rows, labels = rows_of(97, 3)
    fold, found = stratified_folds(labels, 5, 0), {}
    for out, f in itertools.product(range(3), range(5)):
        held, rest = (labels != out) & (fold == f), (labels != out) & (fold != f)
        score = fitted("mahalanobis", rows[rest], np.unique(labels[rest], return_inverse=True)[1], 2)
        found[out, f] = roc_auc_score(
            labels[held | (labels == out)] == out, score.of(scaled(rows[held | (labels == out)]))
        )
    wanted = [
        np.mean([found[out, g] for g, out in enumerate(order)]) for order in itertools.permutations(range(3))
    ]  # whichever class comes first
    assert min(abs(try_scores(scaled(rows), labels, 0)["mahalanobis"]["left_out"] - w) for w in wanted) < 1e-9


def test_made_up_rows_hold_each_columns_numbers_in_another_order():
    rows = rows_of(97, 3)[0].astype(np.float64)
    rows /= np.abs(rows).max()
    made = made_up_rows(rows, 0)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    ratio = made[:, :1] / made  # what unit length leaves: ratios of numbers that occur in their columns
    assert np.isin(np.round(ratio[0, 1], 9), np.round(rows[:, :1] / rows[:, 1], 9))
    assert not np.allclose(made, scaled(rows))


@pytest.mark.parametrize("share", [0.95, 0.7])
def test_the_threshold_is_that_share_of_rows_that_the_score_was_not_fitted_on(share):
    rows, labels = rows_of(97, 3)
    found, held = fit_strangeness(rows, labels, known_share=share, name="mahalanobis")
    fold = stratified_folds(labels, 5, 0)
    wanted = [
        fitted("mahalanobis", rows[fold != f], labels[fold != f], 3).of(scaled(rows[fold == f])) for f in range(5)
    ]
    np.testing.assert_allclose(held, np.concatenate(wanted))
    assert found.threshold == sorted(held)[math.ceil(share * 97) - 1]
    assert (found.calibrated_on, found.known_share, found.tried) == (97, share, {})


def test_one_image_per_class_has_a_strangeness_but_no_threshold():
    rows, labels = rows_of(97, 3)
    first = np.unique(labels, return_index=True)[1]
    found, held = fit_strangeness(rows[first], labels[first])
    assert (found.name, found.threshold, len(held)) == ("mahalanobis", None, 0)
    said: list[str] = []
    one = features(97, 3).select(first)
    bundle, _ = fit_bundle(one, FittingRequest("centroid"), notify=said.append)
    assert any("nothing is called `unknown` for it" in line for line in said)
    assert {row["unknown_by"] for row in predict_rows(bundle, features(31, 7), 0.0)} == {None}


def test_the_same_rows_give_the_same_strangeness():
    rows, labels = rows_of(97, 3)
    (a, held_a), (b, held_b) = (fit_strangeness(rows, labels) for _ in range(2))
    assert (a.name, a.threshold, a.tried) == (b.name, b.threshold, b.tried)
    np.testing.assert_array_equal(held_a, held_b)


# ---- bundles


def test_unknown_tells_by_what(tmp_path):
    limits = Limits(0.5, 3.0)
    assert [limits.why_unknown(*one) for one in ((0.5, 3.0), (0.4, 3.0), (0.5, 3.1), (0.4, 3.1), (0.4, None))] == [
        "",
        "confidence",
        "strangeness",
        "confidence and strangeness",
        "confidence",
    ]
    assert Limits(0.5, None).why_unknown(0.9, 1e9) == ""


def test_far_pictures_are_unknown_for_their_strangeness_and_known_ones_are_not():
    bundle = bundle_of()
    mixed = features(31, 7)
    both = FeatureSet(
        np.concatenate([mixed.features, far(7, 1)]), np.full(38, -1), [str(i) for i in range(38)], CLASSES
    )
    rows = list(predict_rows(bundle, both, 0.0))
    assert [row["unknown_by"] for row in rows[31:]] == ["strangeness"] * 7
    assert [row["label"] for row in rows[31:]] == ["unknown"] * 7
    assert sum(row["label"] == "unknown" for row in rows[:31]) <= 5
    assert [row["strangeness"] > bundle.strangeness.threshold for row in rows] == [
        row["unknown_by"] is not None for row in rows
    ]
    sure = list(predict_rows(bundle, both, 1.1 - 0.1, -1e9))
    assert {row["unknown_by"] for row in sure if row["confidence"] < 1} == {"confidence and strangeness"}
    assert {row["unknown_by"] for row in predict_rows(bundle, both, 0.0, math.inf)} == {None}


@pytest.mark.parametrize("name", score_names())
def test_strangeness_comes_back_from_a_file_to_the_last_bit(name, tmp_path):
    bundle, test = bundle_of(strangeness=name, known_share=0.9), features(31, 7)
    save_bundle(tmp_path / "b", bundle)
    found = load_bundle(tmp_path / "b")
    assert found.strangeness.facts == bundle.strangeness.facts
    assert found.strangeness.name == name
    assert list(predict_rows(found, test)) == list(predict_rows(bundle, test))


def rewritten(path, arrays=None, **facts) -> None:
    """The bundle with other entries in its strangeness, signed as if it had been written so."""
    with safetensors.safe_open(path, "numpy") as file:
        manifest = json.loads(file.metadata()["fewvit.bundle"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    manifest["strangeness"] |= facts
    kept = {name: array for name, array in {**kept, **(arrays or {})}.items() if array is not None}
    manifest["sha256"] = bundles._digest(manifest, kept)
    path.write_bytes(safetensors.numpy.save(kept, {"fewvit.bundle": json.dumps(manifest, sort_keys=True)}))


@pytest.mark.parametrize(
    ("arrays", "facts", "named"),
    [
        ({"strangeness.products": np.full((D, D), np.nan)}, {}, "products"),
        ({"strangeness.products": np.eye(D + 1)}, {}, "products"),
        ({"strangeness.sums": np.ones((4, D))}, {}, "sums"),
        ({"strangeness.sums": None}, {}, "lacks its sums"),
        ({"strangeness.counts": np.array([3.0, 0, 2])}, {}, "without a row"),
        ({"strangeness.rows": np.ones((3, D))}, {}, "rows"),
        ({"strangeness.spreads": np.zeros(2)}, {}, "spread"),
        ({}, {"score": "crystal_ball"}, "crystal_ball"),
        ({}, {"threshold": "high"}, "threshold"),
    ],
    ids=["nan", "wide", "classes", "gone", "empty", "type", "spread", "score", "threshold"],
)
def test_a_strangeness_that_cannot_be_is_an_integrity_error(tmp_path, arrays, facts, named):
    save_bundle(tmp_path / "b", bundle_of(strangeness="blend"))
    rewritten(tmp_path / "b", arrays, **facts)
    with pytest.raises(IntegrityError, match=named):
        load_bundle(tmp_path / "b")


def test_a_bundle_from_before_strangeness_predicts_as_it_did(tmp_path):
    bundle, test = bundle_of(), features(31, 7)
    save_bundle(tmp_path / "b", bundle)
    with safetensors.safe_open(tmp_path / "b", "numpy") as file:
        manifest = json.loads(file.metadata()["fewvit.bundle"])
        arrays = {name: file.get_tensor(name) for name in file.keys() if "strangeness" not in name}  # noqa: SIM118
    del manifest["strangeness"]
    manifest["sha256"] = bundles._digest(manifest, arrays)
    (tmp_path / "b").write_bytes(safetensors.numpy.save(arrays, {"fewvit.bundle": json.dumps(manifest)}))
    old = load_bundle(tmp_path / "b")
    assert old.strangeness is None
    wanted = [
        {name: value for name, value in row.items() if name not in ("strangeness", "unknown_by")}
        for row in predict_rows(bundle, test, None, math.inf)
    ]
    assert list(predict_rows(old, test)) == wanted
    with pytest.raises(UsageError, match="no strangeness score"):
        list(predict_rows(old, test, None, 3.0))


def test_a_class_that_is_added_is_no_longer_strange():
    bundle = bundle_of()
    assert {row["unknown_by"] for row in predict_rows(bundle, as_set(far(9, 1)), 0.0)} == {"strangeness"}
    grown = bundle.grown(far(11, 2), np.full(11, 3), [*CLASSES, "eel"])
    rows = list(predict_rows(grown, as_set(far(9, 1)), 0.0))
    assert [row["label"] for row in rows].count("eel") >= 8
    assert grown.strangeness.threshold == bundle.strangeness.threshold


def as_set(rows: np.ndarray) -> FeatureSet:
    return FeatureSet(rows, np.full(len(rows), -1), [str(i) for i in range(len(rows))], [])


def test_strangers_are_judged_beside_held_out_images_by_confidence_and_by_strangeness():
    bundle, judged = fit_bundle(features(97, 3), FittingRequest("centroid"))
    rows = {(row["by"], row["metric"]): row["value"] for row in stranger_rows(bundle, judged, as_set(far(23, 1)))}
    truth = np.repeat([0, 1], [97, 23])
    score = np.concatenate([judged.strangeness, bundle.strangeness.of(far(23, 1))])
    assert rows[bundle.strangeness.name, "auroc"] == pytest.approx(roc_auc_score(truth, score))
    shares = bundle.confidences(bundle.probabilities(far(23, 1))).max(axis=1)
    score = -np.concatenate([bundle.confidences(judged.held.probabilities).max(axis=1), shares])
    assert rows["confidence", "auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert set(rows) == {(by, m) for by in ("confidence", bundle.strangeness.name) for m in ("auroc", "fpr@95")}
    with pytest.raises(DataError, match="such as ant, are the bundle's"):
        stranger_rows(bundle, judged, features(31, 7))


def test_labelled_pictures_are_no_strangers_and_none_at_all_are_none():
    known, told = features(60, 0), list[str]()
    with pytest.raises(DataError, match="the labelled ones"):
        require_strangers("s", known, known.select(np.arange(7)), told.append)
    with pytest.raises(DataError, match="no picture"):
        require_strangers("s", known, known.select(np.zeros(0, np.int64)), told.append)
    mixed = as_set(np.concatenate([known.features[:2], far(9, 1)]).astype(np.float32))
    require_strangers("s", known, mixed, told.append)
    assert told == ["2 of 11 pictures of --strangers have the features of labelled images"]


def test_features_too_wide_for_a_covariance_are_judged_by_the_nearest_rows(monkeypatch):
    monkeypatch.setattr(strangeness, "_WIDEST", D - 1)
    assert fit_strangeness(*rows_of(60, 0))[0].name == "nearest"
