"""MIEB's scores: what is drawn, fitted, clustered and ranked, and what stands in the rows.

The numbers of STORED were given by mteb 2.26.24 for the arrays that `made` makes; `tests/parity/test_mieb.py` asks mteb
again where it is installed.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fewvit.errors import DataError, NumericalError, UnknownName, UsageError
from fewvit.evaluate.mieb import TASKS, evaluate_mieb
from fewvit.evaluate.mieb_probe import convergence_gap, fit_probes
from fewvit.evaluate.mieb_unsupervised import clustering_scores, retrieval_scores
from fewvit.features import FeatureSet
from fewvit.splits import mieb_draws

from made_features import made

# of the first ten rows of each draw, and of each measure; mteb's shares times 100
STORED_DRAWS = [
    [55, 40, 19, 31, 115, 56, 69, 105, 81, 26],
    [5, 44, 84, 42, 99, 68, 110, 37, 114, 70],
]
STORED_ACCURACY = [87.62886597938144, 90.72164948453609, 87.62886597938144, 89.69072164948454, 91.75257731958763]
STORED = {
    "accuracy": 89.48453608247424,
    "f1": 88.17344605298001,
    "f1_weighted": 89.52707243752563,
    "nmi": 77.11345302284475,
    "v_measure": 77.11345302284475,
    "ari": 73.17544656849732,
    "cluster_accuracy": 87.62886597938144,
    "hit_rate_at_1": 76.289,  # mteb rounds shares to five places
    "map_at_5": 17.760,
}


@pytest.fixture(scope="module")
def sets() -> tuple[FeatureSet, FeatureSet]:
    return made(29, 1.3, {0: (41, 31), 1: (23, 13), 2: (19, 17), 3: (11, 7), 4: (37, 29)})


@pytest.fixture(scope="module")
def two_classes() -> tuple[FeatureSet, FeatureSet]:
    return made(13, 2.0, {3: (29, 37), 7: (43, 19)})


def value(rows, metric, trial=None):
    [row] = [
        row
        for row in rows
        if row["metric"] == metric and row.get("trial") in (trial, "mean" if trial is None else trial)
    ]
    return row["value"]


# ---- draws


def naive_draws(labels, shots, draws, seed):
    """mteb's rule, one row after another."""
    order = list(range(len(labels)))
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)
        taken, drawn = {}, []
        for row in order:
            if taken.get(labels[row], 0) < shots:
                drawn.append(row)
                taken[labels[row]] = taken.get(labels[row], 0) + 1
        yield drawn


@pytest.mark.parametrize(("shots", "draws", "seed"), [(16, 5, 42), (3, 7, 5), (1, 2, 0)])
def test_draws_are_the_rule_taken_row_by_row(shots, draws, seed):
    labels = np.random.default_rng(2).choice([3, 7, 11], 97, p=[0.6, 0.3, 0.1])
    found = mieb_draws(labels, shots, draws, seed)
    assert [split.train.tolist() for split in found] == list(naive_draws(labels.tolist(), shots, draws, seed))
    assert [(split.shots, split.trial, split.seed) for split in found] == [(shots, d, seed) for d in range(draws)]


def test_draws_are_mtebs(sets):
    found = mieb_draws(sets[0].labels)
    assert [split.train[:10].tolist() for split in found[:2]] == STORED_DRAWS
    assert [len(split.train) for split in found] == [4 * 16 + 11] * 5


def test_unlabelled_rows_are_never_drawn_and_change_no_draw():
    labels = np.array([3, 7, 3, 7, 7, 3, 3])
    holes = np.array([-1, 3, 7, -1, 3, 7, 7, 3, -1, 3])
    rows = np.flatnonzero(holes >= 0)
    pairs = zip(mieb_draws(labels, 2), mieb_draws(holes, 2), strict=True)
    assert all((rows[one.train] == other.train).all() for one, other in pairs)
    with pytest.raises(DataError, match="no row has a label"):
        mieb_draws(np.array([-1, -1]))


# ---- numbers


def test_every_score_is_mtebs(sets):
    rows, _ = evaluate_mieb(*sets)
    for metric, stored in STORED.items():
        assert value(rows, metric) == pytest.approx(stored, abs=5e-4 if "_at_" in metric else 1e-9), metric
    assert [value(rows, "accuracy", trial) for trial in range(5)] == pytest.approx(STORED_ACCURACY, abs=1e-9)


def test_the_probe_takes_features_as_they_are(sets):
    """A column that says all but is small, and a large one that says nothing: scaling or normalising would show."""
    train, test = sets
    stretched = np.linspace(0.01, 9, 29, dtype=np.float32)
    scaled = [FeatureSet(one.features * stretched, one.labels, one.ids, one.classes) for one in (train, test)]
    rows, _ = evaluate_mieb(*scaled, tasks=["probe"])
    for split in mieb_draws(train.labels):
        plain = LogisticRegression(random_state=42).fit(scaled[0].features[split.train], train.labels[split.train])
        assert value(rows, "accuracy", split.trial) == 100 * plain.score(scaled[1].features, test.labels)


def test_two_classes_are_probed_too(two_classes):
    rows, _ = evaluate_mieb(*two_classes, tasks=["probe"])
    train, test = two_classes
    for split in mieb_draws(train.labels):
        plain = LogisticRegression(random_state=42).fit(train.features[split.train], train.labels[split.train])
        assert value(rows, "accuracy", split.trial) == 100 * plain.score(test.features, test.labels)


def test_clusters_are_matched_with_classes_as_well_as_any_match_does(monkeypatch):
    labels = np.array([3, 3, 3, 7, 7, 9, 9, 9, 9, 3, 7])
    clusters = np.array([2, 2, 0, 1, 1, 0, 0, 2, 2, 2, 0])
    monkeypatch.setattr("fewvit.evaluate.mieb_unsupervised._clusters", lambda rows, number: clusters)
    features = FeatureSet(
        np.zeros((11, 2), np.float32), labels, [str(i) for i in range(11)], [str(c) for c in range(10)]
    )
    best = max(
        sum(match[cluster] == label for cluster, label in zip(clusters, labels, strict=True))
        for match in itertools.permutations([3, 7, 9])
    )
    assert clustering_scores(features)["cluster_accuracy"] == 100 * best / 11


def test_there_are_as_many_clusters_as_classes_that_have_test_images(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fewvit.evaluate.mieb_unsupervised._clusters",
        lambda rows, number: asked.append(number) or np.zeros(len(rows), int),
    )
    _, test = made(5, 1.0, {3: (2, 5), 7: (2, 3), 9: (2, 0)})
    clustering_scores(test)
    assert asked == [2]


def test_retrieval_is_by_cosine_over_all_others_and_divides_by_all_relevant_rows():
    """Angles by hand: a row's nearest are those beside it; lengths, which would turn the order round, say nothing."""
    degrees = np.array([0, 10, 21, 33, 46, 60, 175])
    labels = np.array([3, 3, 7, 3, 7, 3, 5])  # the last one is alone in its class: no query
    length = np.array([1, 50, 1, 9, 1, 30, 1])
    rows = (length * np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])).T.astype(np.float32)
    features = FeatureSet(rows, labels, [str(i) for i in range(7)], [str(c) for c in range(8)])
    hits, precisions = [], []
    for q in range(6):
        others = sorted((abs(degrees[d] - degrees[q]), d) for d in range(7) if d != q)
        right = [labels[d] == labels[q] for _, d in others]
        hits.append(right[0])
        relevant = sum(right)
        precisions.append(sum(sum(right[: k + 1]) / (k + 1) for k in range(5) if right[k]) / relevant)
    scores, asked = retrieval_scores(features)
    assert asked == 6
    assert scores == pytest.approx({"hit_rate_at_1": 100 * np.mean(hits), "map_at_5": 100 * np.mean(precisions)})
    assert 0 < scores["hit_rate_at_1"] < 100


def test_average_precision_of_a_large_class_stays_small():
    _, test = made(11, 0.001, {3: (2, 23), 7: (2, 11)})
    scores, _ = retrieval_scores(test)
    assert scores == pytest.approx({"hit_rate_at_1": 100, "map_at_5": 100 * (23 * 5 / 22 + 11 * 5 / 10) / 34})


# ---- what does not converge


@pytest.fixture(scope="module")
def unscaled():
    """Features so large and so mixed that 100 iterations do not do; three classes, and two."""
    found = []
    for classes in ({3: (19, 31), 5: (29, 13), 7: (23, 17)}, {3: (23, 31), 7: (31, 13)}):
        sets = made(37, 3.0, classes)
        scale = np.geomspace(0.05, 20, 37, dtype=np.float32)
        found.append([FeatureSet(one.features * scale, one.labels, one.ids, one.classes) for one in sets])
    return found


@pytest.mark.parametrize("which", [0, 1])
def test_how_far_an_unfinished_probe_is_from_its_optimum_is_told(unscaled, which):
    train, test = unscaled[which]
    said: list[str] = []
    rows, facts = evaluate_mieb(train, test, ["probe"], said.append)
    assert {one["converged"] for one in facts["probe"]} == {False}
    assert {one["iterations"] for one in facts["probe"]} == {100}
    [line] = [line for line in said if "convergence" in line]
    told = re.fullmatch(
        r"5 of 5 draws stopped after 100 iterations before convergence, which belongs to the protocol: in draw 0 the "
        r"objective is ([\d.e+-]+) % above its least value, where accuracy is ([\d.]+) in place of ([\d.]+)",
        line,
    )
    assert told, line
    rows_, labels = (array[mieb_draws(train.labels)[0].train] for array in (train.features, train.labels))
    least = LogisticRegression(max_iter=10**6, tol=1e-10, solver="newton-cholesky").fit(rows_.astype(float), labels)

    def objective(model):
        shares = model.predict_proba(rows_.astype(float))[
            np.arange(len(labels)), np.searchsorted(model.classes_, labels)
        ]
        return -np.log(shares).sum() + np.square(model.coef_).sum() / 2

    [first] = fit_probes(train, test, mieb_draws(train.labels)[:1])
    above = 100 * (objective(first.estimator) / objective(least) - 1)
    assert float(told[1]) == pytest.approx(above, rel=0.06, abs=0.02)
    assert float(told[2]) == pytest.approx(100 * least.score(test.features.astype(float), test.labels), abs=0.005)
    assert float(told[3]) == pytest.approx(value(rows, "accuracy", 0), abs=0.005)


def test_an_optimum_that_is_not_reached_is_said_to_be_unknown(unscaled, monkeypatch):
    train, test = unscaled[0]
    probes = fit_probes(train, test, mieb_draws(train.labels)[:2])

    def fails(self, X, y):
        raise NumericalError("no")

    monkeypatch.setattr("fewvit.classifiers.logistic.LogisticRegression.fit", fails)
    assert str(convergence_gap(probes, train, test)).endswith("how far from the optimum is not known")


def test_nothing_is_said_of_probes_that_converge(sets):
    said: list[str] = []
    _, facts = evaluate_mieb(*sets, ["probe"], said.append)
    assert all(one["converged"] and one["iterations"] < 100 for one in facts["probe"])
    assert not any("convergence" in line for line in said)


# ---- rows and refusals


def test_tasks_have_their_own_rows_and_columns(sets):
    rows, facts = evaluate_mieb(*sets)
    assert facts["evaluation"] == "mieb/1"
    assert {row["method"] for row in rows} == set(TASKS)
    probe = [row for row in rows if row["method"] == "probe"]
    assert {(row["shots"], row["n_train"], row["n_test"]) for row in probe} == {(16, 75, 97)}
    [mean] = [row for row in probe if (row["metric"], row["trial"]) == ("accuracy", "mean")]
    assert mean["std"] == pytest.approx(np.std(STORED_ACCURACY, ddof=1))
    for task in ("clustering", "retrieval"):
        alone, _ = evaluate_mieb(None, sets[1], [task])
        assert alone == [row for row in rows if row["method"] == task]


def test_classes_with_fewer_images_and_draws_that_are_all_alike_are_told():
    said: list[str] = []
    rows, _ = evaluate_mieb(*made(7, 1.0, {3: (5, 7), 5: (4, 7), 7: (16, 5)}), ["probe"], said.append)
    assert said[0] == "probe: 25 images a draw, 16 of each of 3 classes; 2 classes have fewer and give all of them"
    assert any("the 5 trials have the same labelled images" in line for line in said)
    assert not any("std" in row for row in rows)


def test_queries_without_another_image_of_their_class_are_counted():
    _, test = made(5, 1.0, {3: (2, 5), 7: (2, 1), 9: (2, 4)})
    rows, _ = evaluate_mieb(None, test, ["retrieval"])
    assert {(row["n_test"], row["n_queries"], row["left_out"]) for row in rows} == {(10, 9, 1)}


def test_what_cannot_be_scored_is_refused(sets):
    train, test = sets
    with pytest.raises(UnknownName, match=r"unknown task 'clusterings'\. Did you mean clustering"):
        evaluate_mieb(train, test, ["clusterings"])
    with pytest.raises(UsageError, match="no task"):
        evaluate_mieb(train, test, [])
    with pytest.raises(UsageError, match="the probe needs images to learn from"):
        evaluate_mieb(None, test)
    one = test.select(np.flatnonzero(test.labels == 4))
    with pytest.raises(DataError, match="test images are all of one class"):
        evaluate_mieb(None, one, ["clustering"])
    with pytest.raises(DataError, match="train images are all of one class"):
        evaluate_mieb(one, test, ["probe"])
    with pytest.raises(DataError, match="one test image has no other"):
        evaluate_mieb(None, one.select(np.arange(1)), ["retrieval"])
    apart = test.select(np.unique(test.labels, return_index=True)[1])
    with pytest.raises(DataError, match="no test image has another one of its class"):
        evaluate_mieb(None, apart, ["retrieval"])
    broken = FeatureSet(np.full_like(test.features, np.nan), test.labels, test.ids, test.classes)
    with pytest.raises(NumericalError):
        evaluate_mieb(train, broken)
