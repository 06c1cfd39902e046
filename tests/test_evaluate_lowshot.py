"""Low-shot evaluation: what is fitted, on what, and what of it stands in the rows."""

from __future__ import annotations

import csv
import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest

from fewvit.calibration import expected_calibration_error, scale
from fewvit.classifiers.centroid import Centroid
from fewvit.classifiers.knn import KNNClassifier
from fewvit.classifiers.logistic import LogisticRegression
from fewvit.errors import DataError, NumericalError, UsageError
from fewvit.evaluate import lowshot, lowshot_cells
from fewvit.evaluate.evaluation import evaluate_estimator, largest_share
from fewvit.evaluate.lowshot import evaluate_lowshot
from fewvit.evaluate.lowshot_cells import Tuned, factory
from fewvit.evaluate.lowshot_options import LowShotOptions, by_shots, check_options, require_splits, splits_of
from fewvit.features import FeatureSet
from fewvit.metrics import NEVER, mean_and_interval
from fewvit.splits import Split, n_per_class

CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def features(per_class: int, seed: int, spread: float = 1.2, name: str = "toy") -> FeatureSet:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(5), per_class))
    centres = np.random.default_rng(0).normal(size=(5, 11))
    rows = (centres[labels] + spread * random.normal(size=(len(labels), 11))).astype(np.float32)
    return FeatureSet(rows, labels, [f"{CLASSES[c]}/{i}" for i, c in enumerate(labels)], CLASSES, "", name)


@pytest.fixture(scope="module")
def train() -> FeatureSet:
    return features(17, 1)


@pytest.fixture(scope="module")
def test() -> FeatureSet:
    return features(13, 2)


def options(**changes) -> LowShotOptions:
    plain = LowShotOptions(shots=(2,), trials=2, settings={"centroid": {}}, device="cpu", seed=7)
    return dataclasses.replace(plain, **changes)


def pick(rows, **wanted):
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def test_rows_are_what_the_classifier_gives_on_each_split(train, test):
    rows, _ = evaluate_lowshot(train, test, options(shots=(1, 2), settings={"centroid": {}, "logistic": {}}))
    for split in n_per_class(train.labels, CLASSES, [1, 2], 2, seed=7):
        x, y = train.features[split.train], train.labels[split.train]
        for method, estimator in (("centroid", Centroid()), ("logistic", LogisticRegression())):
            [row] = pick(rows, method=method, shots=split.shots, trial=split.trial, metric="top1")
            assert row["value"] == pytest.approx(100 * estimator.fit(x, y).score(test.features, test.labels))
            assert (row["n_train"], row["n_test"]) == (5 * split.shots, 65)


def test_means_carry_the_interval_of_their_trials(train, test):
    rows, _ = evaluate_lowshot(train, test, options(trials=3))
    for metric in ("top1", "top5", "ece"):
        trials = [pick(rows, trial=trial, metric=metric)[0]["value"] for trial in range(3)]
        [mean] = pick(rows, trial="mean", metric=metric)
        summary = mean_and_interval(trials)
        assert (mean["value"], mean["std"], mean["ci95"]) == (summary["mean"], summary["std"], summary["ci95"])
    assert pick(rows, metric="top5")[0]["value"] == 100.0  # of five classes


def said_by(train, test, changed: LowShotOptions, *about: str) -> tuple[list, list[str]]:
    """Rows, and the lines that were said about something."""
    lines: list[str] = []
    rows, _ = evaluate_lowshot(train, test, changed, "", lines.append)
    return rows, [line for line in lines if any(word in line for word in about)]


def test_trials_that_share_images_are_said_to_once_for_each_number_of_shots(train, test):
    rows, said = said_by(train, test, options(shots=(4, 5), trials=7, calibrate=False), "interval")
    assert said == [  # 17 images of a class make three blocks of five
        f"{n} shots: trials share labelled images, only 3 of the 7 are disjoint: the interval is too narrow"
        for n in (4, 5)
    ]
    assert "ci95" in pick(rows, trial="mean", metric="top1")[0]
    assert said_by(train, test, options(shots=(4, 5), trials=3, calibrate=False), "interval")[1] == []


def test_trials_of_the_same_images_have_no_interval(train, test):
    rows, said = said_by(train, test, options(shots=(18, 1), trials=2, allow_fewer=True, calibrate=False), "interval")
    assert said[0] == "18 shots: the 2 trials have the same labelled images, so there is no interval"
    for row in pick(rows, trial="mean", shots=18):
        assert not {"std", "ci95"} & set(row)
    assert len(pick(rows, shots=18, metric="top1")) == 3


def test_the_same_seed_gives_the_same_rows_and_another_one_others(train, test):
    every = {"logistic": {}, "knn": {}, "centroid": {}}
    first, _ = evaluate_lowshot(train, test, options(settings=every))
    again, _ = evaluate_lowshot(train, test, options(settings=every))
    other, _ = evaluate_lowshot(train, test, options(settings=every, seed=8))
    assert first == again
    assert first != other


class Spy:
    """A classifier that keeps what it is fitted on, and guesses the first class."""

    seen: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def fit(self, X, y):
        type(self).seen.append((X, y))
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_test_rows_and_labels_never_reach_a_fit(train, test, monkeypatch):
    Spy.seen = []
    monkeypatch.setattr(lowshot_cells, "find", lambda kind, name: Spy)
    evaluate_lowshot(train, test, options(settings={"spy": {}}, shots=(5,)))
    support = {
        row.tobytes()
        for split in n_per_class(train.labels, CLASSES, [5], 2, seed=7)
        for row in train.features[split.train]
    }
    held = {row.tobytes() for row in test.features}
    fitted = {row.tobytes() for X, _ in Spy.seen for row in X}
    assert len(Spy.seen) > 2  # the fits that choose the temperature too
    assert fitted <= support
    assert not fitted & held
    shuffled = dataclasses.replace(test, labels=np.random.default_rng(0).permutation(test.labels))
    calls = [(X.copy(), y.copy()) for X, y in Spy.seen]
    Spy.seen = []
    evaluate_lowshot(train, shuffled, options(settings={"spy": {}}, shots=(5,)))
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(calls, Spy.seen, strict=True))


@pytest.mark.parametrize("method", ["logistic", "knn", "centroid", "ridge", "cache_model"])
def test_test_labels_change_no_prediction(method, train, test, tmp_path):
    shuffled = dataclasses.replace(test, labels=np.roll(test.labels, 7))
    for name, given in (("a", test), ("b", shuffled)):
        evaluate_lowshot(
            train, given, options(settings={method: {}}, trials=1, save_predictions=tmp_path / f"{name}.csv")
        )
    read = [list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in "ab"]
    assert [(row["prediction"], row["probability"]) for row in read[0]] == [
        (row["prediction"], row["probability"]) for row in read[1]
    ]


# ---- where hyper-parameters come from


@pytest.mark.parametrize(
    ("protocol", "shots", "lambd", "expected"),
    [
        ("msn/1", 5, None, 0.0025),
        ("msn/1", "1%", None, 0.075),
        ("msn/1", "1percent", None, 0.075),
        ("msn/1", "10%", None, 0.0025),
        ("dino/1", 1, None, 0.1),
        ("dinov2/1", 5, None, None),
        ("", 5, None, 0.0025),
        ("msn/1", 5, 0.5, 0.5),
        ("dinov2/1", 5, 0.5, 0.5),
    ],
)
def test_lambda_is_the_protocols_or_the_users(protocol, shots, lambd, expected):
    made = factory("logistic", {}, 10, Split(np.arange(10), shots), options(lambd=lambd), protocol)()
    assert made.lambd == expected
    assert (made.intercept, made.rows) == ((True, "raw") if protocol == "dinov2/1" else (False, "centred"))


def test_dinov2s_logistic_regression_is_chosen_by_its_own_rule():
    made = factory("logistic", {}, 10, Split(np.arange(10), 5), options(seed=0), "dinov2/1")()
    assert (made.selection, made.dtype, made.seed) == ("tenth", "float64", 0)
    assert factory("logistic", {}, 10, Split(np.arange(10), 5), options(), "msn/1")().selection == "folds"
    with pytest.raises(UsageError, match=r"'dinov2/7'.*dinov2/1"):
        factory("logistic", {}, 10, Split(np.arange(10), 5), options(), "dinov2/7")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"knn": {"k": 11}}, "knn on 2 shots: k = 11"),
        ({"knn": {"k": 0}}, "k = 0: at least one"),
        ({"logistic": {"lambd": 0.0}}, "lambd = 0"),
    ],
)
@pytest.mark.parametrize("trials", [1, 3])
def test_an_option_that_does_not_suit_the_labelled_images_is_a_usage_error(settings, told, trials, train, test):
    with pytest.raises(UsageError, match=told):
        evaluate_lowshot(train, test, options(settings=settings, trials=trials))


def test_settings_win_over_everything():
    made = factory("logistic", {"lambd": 7.0, "tol": 1e-3}, 10, Split(np.arange(10), 5), options(lambd=0.5), "msn/1")()
    assert (made.lambd, made.tol, made.device) == (7.0, 1e-3, "cpu")


@pytest.mark.parametrize(("rows", "settings", "k"), [(5, {}, 5), (100, {}, 20), (100, {"k": 3}, 3)])
def test_ks_default_shrinks_with_the_support_and_a_given_one_stays(rows, settings, k):
    assert factory("knn", settings, rows, Split(np.arange(rows), 1), options(), "")().k == k


def test_the_manifest_tells_lambda_and_why(train, test):
    _, facts = evaluate_lowshot(train, test, options(settings={"logistic": {}}, trials=1), "msn/1")
    told = facts["classifiers"]["logistic, 2 shots, trial 0"]
    assert (told["lambd"], told["why"]) == (0.0025, "MSN's for n per class")
    assert told["gap"] <= 1e-6


@pytest.mark.parametrize(
    ("protocol", "changed", "settings", "told"),
    [
        ("dino/1", {}, {}, ["lambda 0.1, dino/1's (unofficial)"]),
        ("msn/1", {}, {}, ["lambda 0.0025, MSN's for n per class"]),
        ("msn/1", {"shots": (), "percents": (1,)}, {}, ["lambda 0.075, MSN's for 1 %"]),
        ("mae/1", {}, {}, ["lambda 0.0025, MSN's, since mae/1 has none"]),
        ("", {}, {}, ["lambda 0.0025, MSN's, since the features' protocol is not known"]),
        ("dino/1", {"lambd": 0.7}, {}, ["lambda 0.7, given by --lambd"]),
        ("dino/1", {"lambd": 0.7}, {"lambd": 0.3}, ["lambda 0.3, given by --set"]),
    ],
)
def test_whose_lambda_it_is_stands_in_the_manifest_and_is_said_once(protocol, changed, settings, told, train, test):
    lines: list[str] = []
    asked = options(**{"shots": (1, 2), "calibrate": False, "settings": {"logistic": settings}, **changed})
    _, facts = evaluate_lowshot(train, test, asked, protocol, lines.append)
    said = [line.removeprefix("logistic regression: ") for line in lines if "lambda" in line]
    assert said == told
    assert {f"lambda {fact['lambd']:g}, {fact['why']}" for fact in facts["classifiers"].values()} == set(told)


def test_the_folds_that_calibrate_vote_with_the_neighbours_asked_for_and_no_more_than_there_are_classes(train):
    fitted = KNNClassifier(k=9, device="cpu").fit(train.features, train.labels)
    assert [lowshot_cells._loosened(KNNClassifier(k=k), fitted).k for k in (1, 2, 5, 6, 90)] == [1, 2, 5, 5, 5]


def test_a_lambda_that_was_chosen_is_said_for_each_number_of_shots(train, test):
    lines: list[str] = []
    asked = options(shots=(1, 5), calibrate=False, settings={"logistic": {"lambd": None}})
    evaluate_lowshot(train, test, asked, "dino/1", lines.append)
    one, five = [line for line in lines if "lambda" in line]
    assert one.startswith("logistic regression, 1 shot: lambda 0.0025, MSN's: one image per class")
    assert five.startswith("logistic regression, 5 shots: lambda ")
    assert "dino" not in one + five


# ---- what is asked for


def test_unless_told_otherwise_one_two_and_five_images_are_drawn_three_times_for_three_classifiers():
    plain = LowShotOptions()
    assert (tuple(plain.shots), plain.trials, plain.seed) == ((1, 2, 5), 3, 0)
    assert plain.settings == {"logistic": {}, "knn": {}, "centroid": {}}
    assert (plain.calibrate, plain.allow_fewer, plain.lambd) == (True, False, None)
    assert (tuple(plain.percents), tuple(plain.subsets)) == ((), ())


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, -1], [0, 0, 1, -1, -1]])
def test_only_labelled_images_count_before_any_is_read(labels):
    images = SimpleNamespace(ids=list("abcde"), labels=np.array(labels), classes=["x", "y"])
    enough = labels.count(1) == 2
    with nullcontext() if enough else pytest.raises(DataError, match="y"):
        require_splits(images, options(shots=(2,)))


def test_uncalibrated_shares_are_taken_as_they_are(train, test):
    _, notes = evaluate_lowshot(train, test, options(calibrate=False, trials=1))
    assert [facts["temperature"] for facts in notes["classifiers"].values()] == [1.0]


# ---- the paper's number beside the measured one

SHOWN = [("logistic", 1), ("logistic", 2), ("logistic", "1percent")]  # method and shots


def published(
    family="msn",
    patch=16,
    n_test=50_000,
    classes=1000,
    subsets=("1.txt",),
    random=False,
    pipeline=True,
    as_published=True,
):
    """Method and shots of the rows that have the paper's number beside them; each must be the mean of top-1."""
    info = {"published": {"lowshot": {1: "47.1", 2: "55.8"}, "1%": "67.2"}}
    spec = SimpleNamespace(is_random=random, info=info, family=family, architecture=SimpleNamespace(patch=patch))
    inputs = SimpleNamespace(
        pipeline=SimpleNamespace(spec=spec) if pipeline else None, train=SimpleNamespace(classes=range(classes))
    )
    rows = [
        {"method": method, "shots": shots, "trial": trial, "metric": metric, "n_test": n_test, "value": 1.0}
        for method in ("last-block", "logistic", "ridge")
        for shots in (1, 2, 5, "1percent")
        for metric in ("ece", "top1", "top5")
        for trial in (0, "mean")
    ]
    with mock.patch.object(lowshot, "reads_as_published", return_value=as_published):
        found = list(lowshot._with_published(rows, inputs, options(subsets=subsets)))
    assert [{name: value for name, value in row.items() if name != "published"} for row in found] == rows
    shown = [row for row in found if "published" in row]
    assert all((row["trial"], row["metric"]) == ("mean", "top1") for row in shown)
    assert all(row["published"] == {1: "47.1", 2: "55.8", "1percent": "67.2"}[row["shots"]] for row in shown)
    return [(row["method"], row["shots"]) for row in shown]


def test_the_papers_number_stands_beside_the_mean_of_its_own_classifier():
    assert published() == SHOWN
    assert published(as_published=False) == []
    assert published("mae") == [("last-block", 2), ("last-block", "1percent"), ("logistic", 1)]
    assert published("mae", patch=14) == published("supervised") == published("dino") == SHOWN


@pytest.mark.parametrize(
    "other",
    [
        *({"n_test": 49_999}, {"n_test": 50_001}, {"classes": 999}, {"classes": 1001}),
        *({"subsets": ()}, {"random": True}, {"pipeline": False}),
    ],
)
def test_on_other_data_or_weights_there_is_no_number_of_the_papers(other):
    assert published(**other) == []


# ---- judging


def test_an_evaluation_in_chunks_is_the_whole_one(train, test, monkeypatch):
    model = LogisticRegression().fit(train.features, train.labels)
    shares = model.predict_proba(test.features)
    for size in (1 << 23, 1):
        monkeypatch.setattr("fewvit.evaluate.evaluation._CHUNK_BYTES", size)
        evaluation = evaluate_estimator(model, test, 2.5)
        order = np.argsort(-shares, axis=1, kind="stable")
        assert evaluation.rank.tolist() == [
            int(np.flatnonzero(row == label)[0]) for row, label in zip(order, test.labels, strict=True)
        ]
        scaled = scale(shares, 2.5)
        np.testing.assert_allclose(evaluation.confidence, scaled.max(axis=1), rtol=1e-5)
        assert evaluation.metrics(test)["ece"] == pytest.approx(
            expected_calibration_error(scaled, test.labels), abs=1e-3
        )


def test_an_evaluation_takes_as_many_rows_at_a_time_as_its_bytes_hold_and_64_at_least(train, monkeypatch):
    """Five classes of eight bytes make 40 bytes a row."""

    class Recording(Centroid):
        def predict_proba(self, X):
            asked.append(len(X))
            return super().predict_proba(X)

    class Together(Recording):
        transductive = True

    many = features(31, 3)  # 155 rows
    for kind, size, wanted in ((Recording, 40 * 71, [71, 71, 13]), (Recording, 1, [64, 64, 27]), (Together, 1, [155])):
        monkeypatch.setattr("fewvit.evaluate.evaluation._CHUNK_BYTES", size)
        asked: list[int] = []
        evaluate_estimator(kind().fit(train.features, train.labels), many, 1.0)
        assert asked == wanted


@pytest.mark.parametrize("missing", [0, 3, 4])
def test_a_class_without_support_is_never_right(missing, train, test):
    known = train.select(np.flatnonzero(train.labels != missing))
    evaluation = evaluate_estimator(Centroid().fit(known.features, known.labels), test, 1.0)
    assert (evaluation.rank[test.labels == missing] == NEVER).all()
    assert missing not in evaluation.predictions
    assert evaluation.metrics(test)["top5"] == pytest.approx(80.0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 7.0])
def test_the_largest_share_needs_no_others(temperature):
    shares = np.random.default_rng(3).dirichlet(np.ones(7) / 3, size=11)
    np.testing.assert_allclose(largest_share(shares, temperature), scale(shares, temperature).max(axis=1), rtol=2e-6)


def test_a_transductive_classifier_far_below_the_class_means_is_told_with_both_means(train, test):
    far_train, far_test = (dataclasses.replace(one, features=one.features + 20) for one in (train, test))
    told: list[str] = []
    settings = {"label_propagation": {}, "centroid": {}}
    rows, _ = evaluate_lowshot(far_train, far_test, options(shots=(1,), settings=settings), "", told.append)
    mean = {row["method"]: row["value"] for row in pick(rows, metric="top1", trial="mean")}
    assert mean["centroid"] - mean["label_propagation"] > 5
    (line,) = [line for line in told if "nearest class mean" in line]
    assert line.startswith(f"label_propagation, 1 shot: {mean['label_propagation']:.1f} % is ")
    assert f"(centroid, {mean['centroid']:.1f} %)" in line


def test_transductive_rows_say_so(train, test):
    rows, _ = evaluate_lowshot(train, test, options(settings={"bd_cspn": {}, "centroid": {}}))
    assert all(row["transductive"] is True for row in pick(rows, method="bd_cspn"))
    assert not any("transductive" in row for row in pick(rows, method="centroid"))


# ---- files


def table_of(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_all_classifiers_and_trials_stand_in_the_one_file_that_was_named(train, test, tmp_path):
    wanted = {
        "save_predictions": tmp_path / "p.csv",
        "save_per_class": tmp_path / "c.csv",
        "save_confusion": tmp_path / "m.csv",
    }
    lines: list[str] = []
    asked = options(settings={"knn": {}, "centroid": {}}, shots=(1, 2), **wanted)
    rows, _ = evaluate_lowshot(train, test, asked, "", lines.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "m.csv", "p.csv"]
    assert [line for line in lines if "wrote" in line] == [
        f"wrote {tmp_path / name}" for name in ("p.csv", "c.csv", "m.csv")
    ]
    predictions, classes, confusion = (table_of(path) for path in wanted.values())
    assert list(predictions[0]) == ["method", "shots", "trial", "id", "label", "prediction", "probability"]
    assert list(classes[0])[:4] == ["method", "shots", "trial", "class"]
    assert list(confusion[0]) == ["method", "shots", "trial", "true \\ predicted", *CLASSES]
    for cell in pick(rows, metric="top1"):
        if cell["trial"] == "mean":
            continue
        where = {name: str(cell[name]) for name in ("method", "shots", "trial")}
        mine = pick(predictions, **where)
        assert [row["id"] for row in mine] == list(test.ids)
        assert 100 * np.mean([row["label"] == row["prediction"] for row in mine]) == pytest.approx(cell["value"])
        assert 100 * sum(int(row["correct"]) for row in pick(classes, **where)) / 65 == pytest.approx(cell["value"])
        diagonal = sum(int(row[row["true \\ predicted"]]) for row in pick(confusion, **where))
        assert 100 * diagonal / 65 == pytest.approx(cell["value"])


def test_a_saved_split_gives_the_same_rows_again(train, test, tmp_path):
    rows, _ = evaluate_lowshot(train, test, options(shots=(1, 2), calibrate=False, save_split=tmp_path / "s.csv"))
    again, _ = evaluate_lowshot(train, test, options(subsets=[str(tmp_path / "s.csv")], calibrate=False, seed=99))
    assert rows == again


# ---- what is refused


def test_too_few_images_are_refused_or_kept_on_demand(train, test):
    with pytest.raises(DataError, match="5 classes have fewer than 18 images"):
        evaluate_lowshot(train, test, options(shots=(18,)))
    rows, _ = evaluate_lowshot(train, test, options(shots=(18,), trials=1, allow_fewer=True))
    assert rows[0]["n_train"] == 85


def test_sets_without_labels_or_with_one_class_or_with_nan_are_refused(train, test):
    bare = dataclasses.replace(train, labels=np.full(85, -1))
    single = dataclasses.replace(train, labels=np.zeros(85, np.int64))
    broken = dataclasses.replace(train, features=np.where(np.arange(85)[:, None] == 7, np.nan, train.features))
    for given, error in ((bare, DataError), (single, DataError), (broken, NumericalError)):
        with pytest.raises(error):
            evaluate_lowshot(given, test, options())
    with pytest.raises(DataError, match="the test images have no labels"):
        evaluate_lowshot(train, dataclasses.replace(test, labels=np.full(65, -1)), options())


def test_nothing_to_measure_is_a_usage_error(train, test):
    with pytest.raises(UsageError, match="--shots"):
        evaluate_lowshot(train, test, options(shots=()))


def test_constant_features_give_finite_numbers(train, test):
    flat = dataclasses.replace(train, features=np.full_like(train.features, 3.0))
    rows, _ = evaluate_lowshot(flat, test, options(settings={"logistic": {}, "knn": {}, "centroid": {}}))
    assert all(np.isfinite(row["value"]) for row in rows)


# ---- what is asked for


@pytest.mark.parametrize("penalty", [0.0, -0.5, float("inf"), float("nan")])
def test_a_penalty_that_is_no_number_above_zero_is_refused(penalty):
    with pytest.raises(UsageError, match="the penalty must be a number above zero"):
        check_options(LowShotOptions(lambd=penalty))


def test_a_penalty_goes_with_a_classifier_that_has_one():
    check_options(LowShotOptions(lambd=0.25))
    check_options(LowShotOptions(settings={"knn": {}}))
    with pytest.raises(UsageError, match="which is not among the classifiers"):
        check_options(LowShotOptions(lambd=0.25, settings={"knn": {}, "centroid": {}}))


def test_splits_are_required_of_the_labelled_images_alone():
    unlabelled = FeatureSet(np.eye(7), np.array([0, 0, 0, 1, 1, -1, -1]), list("abcdefg"), ["x", "y"])
    require_splits(unlabelled, LowShotOptions(shots=(2,)))
    with pytest.raises(DataError, match=r"1 class has fewer than 3 images: y \(2\)"):
        require_splits(unlabelled, LowShotOptions(shots=(3,)))


def test_a_listed_image_without_a_label_is_as_good_as_missing_before_any_image_is_read(tmp_path):
    images = FeatureSet(np.eye(7), np.array([3, 3, 3, 7, 7, -1, -1]), list("abcdefg"), list("pqrstuvw"))
    (tmp_path / "list.txt").write_text("a\nd\nf\n")
    listed = LowShotOptions(shots=(), subsets=(str(tmp_path / "list.txt"),))
    with pytest.raises(DataError, match="1 of its 3 images is not among the train images: f"):
        require_splits(images, listed)
    assert require_splits(images, dataclasses.replace(listed, allow_fewer=True)) is None


def test_shots_percentages_and_nothing_are_what_was_asked_for(train):
    asked = LowShotOptions(shots=(1, 2), percents=(10.0,), trials=2)
    splits = splits_of(train, asked, lambda line: None)
    assert [(split.shots, split.trial) for split in splits] == [(1, 0), (1, 1), (2, 0), (2, 1), ("10%", 0), ("10%", 1)]
    assert [[split.trial for split in alike] for alike in by_shots(splits)] == [[0, 1]] * 3
    with pytest.raises(UsageError, match="nothing to measure"):
        splits_of(train, LowShotOptions(shots=()), lambda line: None)


def test_what_trains_on_the_images_has_rows_beside_the_classifiers_and_its_own_view_of_the_test_images(train, test):
    class Oracle:
        """Knows no class but the first, whose images a tuned network moves to the origin."""

        name = "oracle"

        def fit(self, splits, train, test):
            moved = dataclasses.replace(test, features=np.where(test.labels[:, None] == 0, 0, test.features))
            for split in splits:
                yield Tuned(OriginIsFirst(), moved, 1.23456, f"trial {split.trial}")

    class OriginIsFirst:
        classes_ = np.arange(5)

        def predict_proba(self, X):
            first = (np.asarray(X) == 0).all(axis=1)
            return np.where(first[:, None], np.eye(5)[0], np.eye(5)[4])

    asked = LowShotOptions(shots=(1,), trials=2, settings={"centroid": {}})
    rows, facts = evaluate_lowshot(train=train, test=test, options=asked, tuner=Oracle())
    found = [row["value"] for row in rows if row["method"] == "oracle" and row["metric"] == "top1"]
    share = 100 * np.isin(test.labels, (0, 4)).mean()
    np.testing.assert_allclose(found, [share] * 3)
    assert {row["method"] for row in rows} == {"centroid", "oracle"}
    assert facts["classifiers"]["oracle, 1 shot, trial 1"] == {"temperature": 1.2346, "why": "trial 1"}


def test_a_tuner_that_leaves_a_split_out_is_told_so_and_not_measured_on_the_others(train, test):
    class Forgetful:
        name = "forgetful"

        def fit(self, splits, train, test):
            for split in splits[1:]:
                fitted = Centroid().fit(train.features[split.train], train.labels[split.train])
                yield Tuned(fitted, test, 1.0, "none chosen")

    with pytest.raises(ValueError, match="shorter"):
        evaluate_lowshot(train, test, options(trials=3), tuner=Forgetful())
