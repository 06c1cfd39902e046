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
    "knn": {"k": 2},  # some checks fit on ten rows; the papers' 20 neighbours cannot come from those
    "logistic": {"rows": "raw", "intercept": True},  # some checks have two columns: centred, they are one
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
    assert KNNClassifier().get_params() == {"k": 20, "temperature": 0.07, "device": "auto", "engine": "auto"}
    assert KNNClassifier.needs == "features"


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
