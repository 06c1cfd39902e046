"""Classifiers: scikit-learn's own checks of every plug-in, and what k-NN adds to them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewvit import neighbors, plugins
from fewvit.classifiers.knn import KNNClassifier
from fewvit.errors import UsageError

from oracles import brute_neighbors, brute_votes

# options under which the checks run where the defaults do not suit them
OPTIONS = {
    # some checks have two columns: centred, they are one; some compare two fits to ten digits
    "logistic": {"rows": "raw", "intercept": True, "dtype": "float64", "tol": 1e-15},
    "alpha_tim": {"steps": 31},  # the paper's 1000 only take longer
}


def excused(estimator) -> dict[str, str]:
    """Checks that a classifier fails by what it is for."""
    alone = {"check_methods_subset_invariance": "a query's answer depends on the other queries of the call"}
    return alone if getattr(estimator, "transductive", False) else {}


@parametrize_with_checks(
    [plugins.find("classifiers", name)(**OPTIONS.get(name, {})) for name in plugins.names("classifiers")],
    expected_failed_checks=excused,
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def clusters(n: int, seed: int, labels=(3, 7)) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    own = stream.choice(labels, n, p=[0.7, 0.3])
    return stream.standard_normal((n, 5)) + np.where(own == labels[0], 1.0, -0.5)[:, None], own


@pytest.mark.parametrize("engine", ["faiss", "torch"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 7, 101])
def test_probabilities_are_shares_of_the_vote_of_brute_force(k, temperature, engine):
    (train, y), (test, _) = clusters(101, 3), clusters(31, 7)
    found = KNNClassifier(k=k, temperature=temperature, device="cpu", engine=engine).fit(train, y).predict_proba(test)
    rows, scores = brute_neighbors(train, test, k)
    votes = brute_votes(rows.tolist(), scores.tolist(), (y == 7).astype(int).tolist(), 2, temperature)
    np.testing.assert_allclose(found, votes / votes.sum(axis=1, keepdims=True), atol=1e-5)


def test_predictions_are_labels_of_whatever_kind_was_given():
    train, y = clusters(101, 3)
    plain = KNNClassifier(k=7, device="cpu").fit(train, y).predict(train)
    names = np.array(["three", "seven"])
    found = KNNClassifier(k=7, device="cpu").fit(train, names[(y == 7).astype(int)]).predict(train)
    np.testing.assert_array_equal(found, names[(plain == 7).astype(int)])
    assert set(plain) == {3, 7}


def test_a_tie_of_votes_goes_to_the_first_class():
    rows, labels = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([7, 3])
    classifier = KNNClassifier(k=2, device="cpu").fit(rows, labels)
    assert classifier.predict_proba([[2.0, 0.0]]).tolist() == [[0.5, 0.5]]
    assert classifier.predict([[2.0, 0.0]]).tolist() == [3]


def test_a_class_that_no_neighbour_has_gets_no_share():
    rows, labels = np.eye(5), np.array([3, 7, 7, 7, 11])
    shares = KNNClassifier(k=1, device="cpu").fit(rows, labels).predict_proba(rows)
    np.testing.assert_array_equal(shares, np.eye(3)[[0, 1, 1, 1, 2]])


def test_many_queries_are_predicted_in_chunks_without_a_difference(monkeypatch):
    (train, y), (test, _) = clusters(101, 3), clusters(211, 7)
    classifier = KNNClassifier(k=7, device="cpu").fit(train, y)
    whole = classifier.predict_proba(test)
    monkeypatch.setattr(neighbors, "_CHUNK_BYTES", 1)
    np.testing.assert_allclose(classifier.predict_proba(test), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "error", "told"),
    [(0, UsageError, "k = 0"), (-1, UsageError, "k = -1"), (102, ValueError, "k = 102 .* n_samples = 101")],
)
def test_a_k_outside_the_training_set_is_refused(k, error, told):
    with pytest.raises(error, match=told):
        KNNClassifier(k=k).fit(*clusters(101, 3))


def test_a_temperature_or_engine_that_cannot_be_is_refused_when_fitting():
    with pytest.raises(UsageError, match="temperature 0"):
        KNNClassifier(temperature=0).fit(*clusters(101, 3))
    with pytest.raises(UsageError, match="annoy"):
        KNNClassifier(engine="annoy").fit(*clusters(101, 3))


def test_the_defaults_are_the_papers():
    assert KNNClassifier().get_params() == {"k": None, "temperature": 0.07, "device": "auto", "engine": "auto"}
    assert KNNClassifier(device="cpu").fit(*clusters(101, 3)).k_ == 20
    assert KNNClassifier.needs == "features"


def test_all_rows_vote_where_they_are_fewer_than_the_papers_neighbours_which_is_told():
    X, y = clusters(13, 3)
    few = KNNClassifier(device="cpu").fit(X, y)
    assert few.k_ == 13
    np.testing.assert_array_equal(few.predict_proba(X), KNNClassifier(k=13, device="cpu").fit(X, y).predict_proba(X))
    assert "all 13 images vote" in KNNClassifier.summary([few], "1 shot")
    assert not KNNClassifier.summary([KNNClassifier(k=3, device="cpu").fit(X, y)], "1 shot")


CLASSIFIERS = [plugins.find("classifiers", name)(**OPTIONS.get(name, {})) for name in plugins.names("classifiers")]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=plugins.names("classifiers"))
def test_scores_and_logarithms_say_what_the_probabilities_say(estimator, classes):
    X, y = clusters(61, 3, labels=(3, 7))
    y = np.where(X[:, 1] > 0.5, 11, y) if classes == 3 else y
    fitted = clone(estimator).fit(X, y)
    queries = clusters(31, 7)[0]
    shares, scores = fitted.predict_proba(queries), fitted.decision_function(queries)
    assert np.isfinite(scores).all()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(fitted.predict_log_proba(queries), np.log(shares), rtol=1e-6, atol=1e-9)
    if classes == 2:
        assert scores.shape == (31,)
        np.testing.assert_array_equal(fitted.classes_[(scores > 0).astype(int)], fitted.predict(queries))
    else:
        assert scores.shape == (31, 3)
        np.testing.assert_array_equal(fitted.classes_[scores.argmax(axis=1)], fitted.predict(queries))


def test_logits_are_scores_that_probabilities_round_away():
    X, y = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0, 1])
    sure = plugins.find("classifiers", "logistic")(lambd=1e-12, rows="raw", dtype="float64").fit(X, y)
    far = [[100.0, 0.0]]
    assert sure.predict_proba(far)[0, 1] == 0
    assert sure.predict_log_proba(far)[0, 1] == pytest.approx(-sure.decision_function([[-100.0, 0.0]])[0])


WEIGHTED = {
    "logistic": {"dtype": "float64", "tol": 1e-15},
    "logistic_folds": {"dtype": "float64", "tol": 1e-15, "lambd": None},
    "ridge": {},
    "ridge_given": {"alpha": 0.1},
    "centroid": {"centering": "support"},
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "logistic_folds"])
def test_a_row_of_weight_two_is_a_row_that_stands_there_twice(name, wide):
    (X, y), stream = clusters(37, 3), np.random.default_rng(11)
    X = np.concatenate([X, stream.standard_normal((37, 60))], axis=1) if wide else X  # fewer rows than columns
    counts = stream.integers(0, 4, 37)
    counts[y == 7] = np.maximum(counts[y == 7], 1)
    kind = plugins.find("classifiers", name.split("_")[0])
    weighted = kind(**WEIGHTED[name]).fit(X, y, sample_weight=counts.astype(float))
    repeated = kind(**WEIGHTED[name]).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-5, atol=1e-7)
    assert np.abs(weighted.predict_proba(X) - kind(**WEIGHTED[name]).fit(X, y).predict_proba(X)).max() > 1e-3


def test_held_out_rows_count_by_their_weights_where_they_choose_the_penalty():
    X, y = clusters(61, 3)
    kind = plugins.find("classifiers", "logistic")
    alike = kind(**WEIGHTED["logistic_folds"]).fit(X, y, sample_weight=np.full(61, 2.0))
    assert "5-fold" in alike.why_
    assert alike.why_ == kind(**WEIGHTED["logistic_folds"]).fit(X, y).why_
    with pytest.raises(UsageError, match="tenth"):
        kind(lambd=None, selection="tenth").fit(X, y, sample_weight=np.ones(61))


@pytest.mark.parametrize("weights", [[-1.0] * 101, [1.0] * 100, [float("nan")] * 101])
def test_weights_that_cannot_be_are_refused(weights):
    for name in ("logistic", "ridge", "centroid"):
        with pytest.raises(ValueError, match="sample_weight"):
            plugins.find("classifiers", name)().fit(*clusters(101, 3), sample_weight=weights)


def test_no_weight_at_all_leaves_nothing_to_learn_from():
    with pytest.raises(ValueError, match="every sample_weight is zero"):
        plugins.find("classifiers", "ridge")().fit(*clusters(101, 3), sample_weight=np.zeros(101))


def test_it_works_where_scikit_learns_own_do():
    X, y = clusters(211, 3)
    search = GridSearchCV(KNNClassifier(device="cpu"), {"k": [1, 7, 31], "temperature": [0.07, 1.0]}, cv=3).fit(X, y)
    assert search.best_params_["k"] in (1, 7, 31)
    assert cross_val_score(make_pipeline(StandardScaler(), KNNClassifier(k=7, device="cpu")), X, y, cv=3).mean() > 0.7
    assert clone(KNNClassifier(k=3, temperature=0.5)).get_params() == KNNClassifier(k=3, temperature=0.5).get_params()


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_a_fitted_classifier_survives_pickling(engine):
    (train, y), (test, _) = clusters(101, 3), clusters(31, 7)
    fitted = KNNClassifier(k=7, device="cpu", engine=engine).fit(train, y)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(test), fitted.predict_proba(test))


def test_fitting_again_forgets_what_was_learnt_before():
    first, second = clusters(101, 3), clusters(53, 7, labels=(11, 13))
    classifier = KNNClassifier(k=7, device="cpu").fit(*first).fit(*second)
    assert classifier.classes_.tolist() == [11, 13]
    assert set(classifier.predict(first[0])) <= {11, 13}


def test_one_row_is_enough_to_vote():
    found = KNNClassifier(k=1).fit([[1.0, 0.0]], ["a"])
    assert found.predict([[0.0, 1.0], [2.0, 0.0]]).tolist() == ["a", "a"]
    assert found.predict_proba([[0.0, 1.0]]).tolist() == [[1.0]]


@pytest.mark.parametrize("weights", [[1e-300] * 101, [1e300] * 101, [1 + 1j] * 101])
def test_weights_that_no_sum_bears_are_refused(weights):
    for name in ("logistic", "ridge", "centroid"):
        with pytest.raises(ValueError, match="sample_weight"):
            plugins.find("classifiers", name)().fit(*clusters(101, 3), sample_weight=weights)
