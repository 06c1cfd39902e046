"""Few-shot classifiers against their papers' equations, in loops of NumPy, and in the limits where they are known."""

from __future__ import annotations

import itertools
import pickle
import typing
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import linear_model

from fewvit import plugins
from fewvit.classifiers import label_propagation, ridge
from fewvit.classifiers._episodic import EpisodicClassifier, neighbor_lists
from fewvit.classifiers.alpha_tim import AlphaTIM
from fewvit.classifiers.bd_cspn import BDCSPN
from fewvit.classifiers.cache_model import CacheModel
from fewvit.classifiers.centroid import Centroid
from fewvit.classifiers.knn import KNNClassifier
from fewvit.classifiers.label_propagation import LabelPropagation
from fewvit.classifiers.laplacian_shot import LaplacianShot
from fewvit.classifiers.pt_map import PTMAP, sinkhorn
from fewvit.classifiers.ridge import _ALPHAS, Ridge
from fewvit.errors import DataError, NumericalError, UsageError
from fewvit.features import FeatureSet

QUICK = {AlphaTIM: {"steps": 53, "learning_rate": 1e-2}}
EPISODIC = [
    kind
    for kind in (plugins.find("classifiers", name) for name in plugins.names("classifiers"))
    if isinstance(kind, type) and issubclass(kind, EpisodicClassifier)
]
TRANSDUCTIVE = [kind for kind in EPISODIC if kind.transductive]
every = pytest.mark.parametrize("kind", EPISODIC)


def quick(kind: type, **options) -> typing.Any:
    return kind(**{**QUICK.get(kind, {}), **options})


def task(seed: int, counts=(3, 2, 5), queries=13, width=7, noise=1.0):
    """Support (n, D), labels 3, 7, 11 with unbalanced counts, queries (q, D) and their labels."""
    stream = np.random.default_rng(seed)
    centres = 2.0 * stream.standard_normal((len(counts), width))
    own, asked = np.repeat(np.arange(len(counts)), counts), stream.integers(0, len(counts), queries)
    names = np.array([3, 7, 11, 13, 17])
    rows = [centres[side] + noise * stream.standard_normal((len(side), width)) for side in (own, asked)]
    return rows[0], names[own], rows[1], names[asked]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def means_by_hand(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array(
        [
            sum(row for row, label in zip(rows, labels, strict=True) if label == c) / (labels == c).sum()
            for c in np.unique(labels)
        ]
    )


def squared_distances(queries: np.ndarray, means: np.ndarray) -> np.ndarray:
    return np.array([[sum((a - b) ** 2 for a, b in zip(q, m, strict=True)) for m in means] for q in queries])


# ---- the steps they share


def test_neighbour_lists_are_those_of_a_loop_over_the_cosines_of_each_episode():
    points = np.random.default_rng(3).standard_normal((2, 11, 5))
    rows, cosines = neighbor_lists(torch.tensor(points), 4)
    for e, i in itertools.product(range(2), range(11)):
        table = [float(unit(points[e])[i] @ unit(points[e])[j]) for j in range(11)]
        near = sorted((j for j in range(11) if j != i), key=lambda j, table=table: -table[j])[:4]
        assert rows[e, i].tolist() == near
        np.testing.assert_allclose(cosines[e, i], [table[j] for j in near], atol=1e-6)


def test_a_point_alone_has_an_empty_list_and_of_few_points_all_others_are_neighbours():
    alone, few = (neighbor_lists(torch.ones(2, m, 5), 4) for m in (1, 3))
    assert [side.shape for side in alone] == [(2, 1, 0), (2, 1, 0)]
    assert few[0].tolist() == 2 * [[[1, 2], [0, 2], [0, 1]]]


# ---- what all of them keep


@every
def test_a_batch_of_episodes_is_the_episodes_one_by_one_and_what_fit_and_predict_give(kind):
    tasks = [task(seed) for seed in range(5)]
    support, queries = (torch.tensor(np.stack([t[i] for t in tasks])) for i in (0, 2))
    labels = torch.tensor(np.searchsorted([3, 7, 11], tasks[0][1]))
    together = quick(kind).probabilities(support, labels, queries, 3)
    for e, (rows, names, asked, _) in enumerate(tasks):
        np.testing.assert_allclose(together[e], quick(kind).fit(rows, names).predict_proba(asked), atol=1e-9)


@every
def test_episodes_may_number_their_rows_differently(kind):
    rows, names, asked, _ = task(3)
    labels = np.searchsorted([3, 7, 11], names)
    order = np.random.default_rng(1).permutation(len(rows))
    support, own = torch.tensor(np.stack([rows, rows[order]])), torch.tensor(np.stack([labels, labels[order]]))
    found = quick(kind).probabilities(support, own, torch.tensor(np.stack([asked, asked])), 3)
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


@every
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_features_that_are_all_alike_give_finite_even_probabilities(kind, value):
    labels = np.repeat([3, 7, 11], [2, 2, 2])
    shares = quick(kind).fit(np.full((6, 5), value), labels).predict_proba(np.full((7, 5), value))
    np.testing.assert_allclose(shares, 1 / 3, atol=1e-5)


@every
def test_one_class_and_one_query_are_answered(kind):
    rows, names, asked, _ = task(3)
    np.testing.assert_allclose(quick(kind).fit(rows, np.full(len(rows), 7)).predict_proba(asked), 1)
    alone = quick(kind).fit(rows, names).predict_proba(asked[:1])
    assert alone.sum() == pytest.approx(1)


@every
def test_a_query_s_answer_depends_on_the_others_where_a_classifier_says_that_it_is_transductive(kind):
    rows, names, asked, _ = task(3, noise=2.0)
    fitted = quick(kind).fit(rows, names)
    alone = np.concatenate([fitted.predict_proba(asked[q : q + 1]) for q in range(len(asked))])
    assert (np.abs(alone - fitted.predict_proba(asked)).max() > 1e-3) == kind.transductive


DEFAULTS = {  # the papers', or their authors', or as docs/episodes.md says why not
    Centroid: {"metric": "cosine", "normalise": True, "centering": "none", "base": None, "temperature": 0.1},
    Ridge: {"alpha": None, "temperature": 0.1},
    CacheModel: {"beta": 5.5},
    LabelPropagation: {"k": 10, "alpha": 0.99, "sigma": None},
    BDCSPN: {"candidates": 8, "epsilon": 1.0, "temperature": 0.1},
    LaplacianShot: {"lambd": 0.7, "k": 3, "steps": 20, "rectify": True, "scale": "spread"},
    AlphaTIM: {"alpha": 2.0, "tau": 15.0, "learning_rate": 1e-4, "steps": 1000}
    | {"support_weight": 1.0, "marginal_weight": 1.0, "conditional_weight": 1.0},
    PTMAP: {
        "beta": 0.5,
        "negative": "signed",
        "centering": True,
        "lambd": 10.0,
        "step": 0.2,
        "steps": 20,
        "sinkhorn_steps": 50,
    },
}


@every
def test_the_defaults_are_the_documented_ones(kind):
    assert kind().get_params() == DEFAULTS[kind]
    assert kind.needs == "features"


@every
def test_nan_is_refused_and_float32_stays_close_to_float64(kind):
    rows, names, asked, _ = task(5)
    with pytest.raises(ValueError, match="NaN"):
        quick(kind).fit(np.where(rows == rows[2, 3], np.nan, rows), names)
    single = quick(kind).fit(rows.astype(np.float32), names).predict_proba(asked)
    np.testing.assert_allclose(single, quick(kind).fit(rows, names).predict_proba(asked), atol=2e-4)


@every
def test_text_labels_come_back_and_pickling_changes_nothing(kind):
    rows, names, asked, _ = task(3)
    fitted = quick(kind).fit(rows, np.array([f"class {n}" for n in names]))
    assert set(fitted.predict(asked)) <= {"class 3", "class 7", "class 11"}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(asked), fitted.predict_proba(asked))


@every
def test_a_class_without_support_is_refused(kind):
    rows, _, asked, _ = task(3)
    with pytest.raises(UsageError, match="no support"):
        quick(kind).probabilities(
            torch.tensor(rows)[None], torch.zeros(10, dtype=torch.int64), torch.tensor(asked)[None], 2
        )


BAD = [
    (Centroid, {"temperature": 0}),
    (Centroid, {"metric": "dot"}),
    (Centroid, {"centering": "mean"}),
    (Centroid, {"centering": "base"}),
    (Centroid, {"base": np.ones(7)}),
    (Ridge, {"alpha": 0}),
    (Ridge, {"temperature": float("nan")}),
    (CacheModel, {"beta": 0}),
    (LabelPropagation, {"alpha": 1}),
    (LabelPropagation, {"k": 0}),
    (LabelPropagation, {"sigma": 0}),
    (BDCSPN, {"candidates": -1}),
    (BDCSPN, {"epsilon": -0.1}),
    (BDCSPN, {"temperature": 0}),
    (LaplacianShot, {"lambd": -1}),
    (LaplacianShot, {"k": 0}),
    (LaplacianShot, {"steps": -1}),
    (LaplacianShot, {"scale": "unit"}),
    (AlphaTIM, {"alpha": 0}),
    (AlphaTIM, {"tau": 0}),
    (AlphaTIM, {"learning_rate": 0}),
    (AlphaTIM, {"steps": -1}),
    (PTMAP, {"negative": "drop"}),
    (PTMAP, {"beta": 0}),
    (PTMAP, {"lambd": 0}),
    (PTMAP, {"step": 0}),
    (PTMAP, {"steps": -1}),
    (PTMAP, {"sinkhorn_steps": 0}),
]


@pytest.mark.parametrize(("kind", "options"), BAD)
def test_an_option_that_cannot_be_is_refused_by_name_when_fitting(kind, options):
    rows, names, _, _ = task(3)
    with pytest.raises(UsageError, match=next(iter(options))):
        kind(**options).fit(rows, names)


@every
def test_an_option_s_type_can_be_read_from_the_constructor(kind):
    hints = typing.get_type_hints(kind.__init__)
    assert set(hints) == set(kind().get_params())


# ---- centroid


def test_the_centroid_is_the_normalised_mean_of_normalised_rows():
    rows, names, asked, _ = task(3)
    expected = softmax(unit(asked) @ unit(means_by_hand(unit(rows), names)).T / 0.1)
    np.testing.assert_allclose(Centroid().fit(rows, names).predict_proba(asked), expected, atol=1e-12)


def test_rows_that_are_averaged_before_they_are_normalised_weigh_by_their_length():
    rows, names, asked, _ = task(3)
    rows = rows * np.linspace(0.1, 3.0, len(rows))[:, None]
    expected = softmax(unit(asked) @ unit(means_by_hand(rows, names)).T / 0.1)
    found = Centroid(normalise=False).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found - Centroid().fit(rows, names).predict_proba(asked)).max() > 0.003


@pytest.mark.parametrize("variant", ["UN", "L2N", "CL2N", "support"])
def test_simpleshot_s_variants_are_squared_distances_to_class_means(variant):
    rows, names, asked, _ = task(3)
    base = np.random.default_rng(7).standard_normal((31, 7)) + 1
    centre = {"UN": 0.0, "L2N": 0.0, "CL2N": base.mean(axis=0), "support": rows.mean(axis=0)}[variant]
    prepare: Callable = (lambda x: x) if variant == "UN" else lambda x: unit(x - centre)
    options = {
        "UN": {"normalise": False},
        "L2N": {},
        "CL2N": {"centering": "base", "base": base},
        "support": {"centering": "support"},
    }
    expected = softmax(-squared_distances(prepare(asked), means_by_hand(prepare(rows), names)) / 0.7)
    found = Centroid(metric="euclidean", temperature=0.7, **options[variant]).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_base_may_be_rows_their_mean_or_a_features_file(tmp_path):
    rows, names, asked, _ = task(3)
    base = (np.random.default_rng(7).standard_normal((31, 7)) + 1).astype(np.float32)
    FeatureSet(base, np.zeros(31, np.int64), [str(i) for i in range(31)], ["other"]).save(tmp_path / "base.npz")
    given = [base, base.mean(axis=0, dtype=np.float64), str(tmp_path / "base.npz")]
    found = [Centroid(centering="base", base=b).fit(rows, names).predict_proba(asked) for b in given]
    np.testing.assert_allclose(found[1], found[0], atol=1e-9)
    np.testing.assert_allclose(found[2], found[0], atol=1e-9)
    assert np.abs(found[0] - Centroid().fit(rows, names).predict_proba(asked)).max() > 0.01
    for other in (base[:, :5], np.hstack([base, base]), np.full(7, np.inf)):
        with pytest.raises(DataError, match="7 columns"):
            Centroid(centering="base", base=other).fit(rows, names)


@pytest.mark.parametrize(
    "options", [{}, {"metric": "euclidean", "normalise": False}, {"centering": "base", "base": np.ones(7)}]
)
def test_adding_rows_and_classes_is_fitting_on_all_of_them(options):
    rows, names, asked, _ = task(3, counts=(3, 2, 5, 2))
    first = np.flatnonzero(names != 7)[:-1]
    second = np.setdiff1d(np.arange(len(rows)), first)
    grown = Centroid(**options).fit(rows[first], names[first]).add(rows[second], names[second])
    whole = Centroid(**options).fit(rows, names)
    assert grown.classes_.tolist() == [3, 7, 11, 13]
    np.testing.assert_allclose(grown.predict_proba(asked), whole.predict_proba(asked), atol=1e-12)


def test_adding_to_nothing_is_fitting_and_a_support_centre_stays():
    rows, names, asked, _ = task(3)
    np.testing.assert_array_equal(
        Centroid().add(rows, names).predict_proba(asked), Centroid().fit(rows, names).predict_proba(asked)
    )
    centred = Centroid(centering="support").fit(rows[:5], names[:5]).add(rows[5:], names[5:])
    as_base = Centroid(centering="base", base=rows[:5].mean(axis=0)).fit(rows, names)
    np.testing.assert_allclose(centred.predict_proba(asked), as_base.predict_proba(asked), atol=1e-12)


def test_distances_between_single_precision_rows_far_from_the_origin_are_kept():
    rows, names, asked, _ = task(3)
    plain = {"metric": "euclidean", "normalise": False, "temperature": 5.0}
    near = Centroid(**plain).fit(rows, names).predict_proba(asked)
    far = Centroid(**plain).fit((rows + 3e4).astype(np.float32), names).predict_proba((asked + 3e4).astype(np.float32))
    np.testing.assert_allclose(far, near, atol=0.02)


# ---- ridge


@pytest.mark.parametrize("alpha", [1e-4, 0.3, 100.0])
@pytest.mark.parametrize("counts", [(2, 1, 2), (11, 7, 13)])  # fewer rows than columns, and more
def test_ridge_scores_are_scikit_learns(counts, alpha):
    rows, names, asked, _ = task(3, counts=counts)
    one_hot = (names[:, None] == np.unique(names)).astype(float)
    scores = linear_model.Ridge(alpha=alpha).fit(unit(rows), one_hot).predict(unit(asked))
    found = Ridge(alpha=alpha, temperature=0.5).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, softmax(scores / 0.5), atol=1e-8)


@pytest.mark.parametrize("noise", [0.3, 3.0])
@pytest.mark.parametrize("counts", [(2, 1, 2), (11, 7, 13)])
def test_ridge_takes_the_alpha_that_refits_without_each_row_would_choose(counts, noise):
    rows, names, asked, _ = task(11, counts=counts, noise=noise)
    X, Y = unit(rows), (names[:, None] == np.unique(names)).astype(float)

    def error(alpha: float) -> float:
        left = [np.arange(len(X)) != i for i in range(len(X))]
        return sum(((linear_model.Ridge(alpha=alpha).fit(X[m], Y[m]).predict(X[~m]) - Y[~m]) ** 2).sum() for m in left)

    best = min(_ALPHAS, key=error)
    chosen = Ridge().fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(chosen, Ridge(alpha=best).fit(rows, names).predict_proba(asked), atol=1e-12)
    other = _ALPHAS[(_ALPHAS.index(best) + 4) % len(_ALPHAS)]
    assert np.abs(chosen - Ridge(alpha=other).fit(rows, names).predict_proba(asked)).max() > 1e-6


def refitted(X: np.ndarray, Y: np.ndarray, alpha: float, asked: np.ndarray) -> np.ndarray:
    """What ridge regression with an offset on rows X says about one row more, by the normal equations."""
    centred, width = X - X.mean(axis=0), X.shape[1]
    weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(width), centred.T @ Y)
    return (asked - X.mean(axis=0)) @ weights + Y.mean(axis=0)


@pytest.mark.parametrize("block", [3, 1024])
@pytest.mark.parametrize(
    ("counts", "width"), [((2, 1, 2), 7), ((11, 7, 13), 7), ((2, 3, 1, 2, 5), 3)]
)  # rows, columns, or classes most
def test_leave_one_out_errors_are_those_of_refits_at_every_strength(counts, width, block, monkeypatch):
    monkeypatch.setattr(ridge, "_BLOCK_ROWS", block)
    tasks = [task(seed, counts=counts, width=width) for seed in (3, 5)]  # two episodes at once
    X, Y = np.stack([unit(t[0]) for t in tasks]), (tasks[0][1][:, None] == np.unique(tasks[0][1])).astype(float)
    expected = np.zeros((len(_ALPHAS), 2))
    for (a, alpha), e, i in itertools.product(enumerate(_ALPHAS), range(2), range(len(Y))):
        rest = np.arange(len(Y)) != i
        expected[a, e] += ((refitted(X[e][rest], Y[rest], alpha, X[e][i]) - Y[i]) ** 2).sum()
    centred, labels = torch.tensor(X - X.mean(axis=1, keepdims=True)), torch.tensor(np.tile(Y.argmax(axis=1), (2, 1)))
    found = ridge._left_out(ridge._axes(centred, labels, torch.tensor(np.tile(Y.mean(axis=0), (2, 1)))))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# ---- cache model


def test_the_cache_model_sums_exp_of_minus_beta_times_one_minus_cosine():
    rows, names, asked, _ = task(3)
    shares = np.zeros((len(asked), 3))
    for q, query in enumerate(unit(asked)):
        for key, name in zip(unit(rows), names, strict=True):
            shares[q, [3, 7, 11].index(name)] += np.exp(-5.5 * (1 - query @ key))
    found = CacheModel().fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, shares / shares.sum(axis=1, keepdims=True), atol=1e-12)


def test_a_cache_model_without_sharpness_knows_the_class_shares_alone():
    rows, names, asked, _ = task(3)
    np.testing.assert_allclose(
        CacheModel(beta=1e-9).fit(rows, names).predict_proba(asked), np.tile([0.3, 0.2, 0.5], (13, 1)), atol=1e-8
    )


def test_the_cache_model_is_knn_with_all_rows_voting():
    rows, names, asked, _ = task(5)
    knn = KNNClassifier(k=len(rows), temperature=1 / 5.5, device="cpu").fit(rows, names)
    np.testing.assert_allclose(CacheModel().fit(rows, names).predict_proba(asked), knn.predict_proba(asked), atol=1e-5)


# ---- label propagation


def propagated_by_hand(rows, names, asked, k, alpha, sigma):
    points = unit(np.concatenate([rows, asked]))
    m, classes = len(points), np.unique(names)
    distance = 2 - 2 * points @ points.T
    near = [sorted((j for j in range(m) if j != i), key=lambda j, i=i: (distance[i, j], j))[:k] for i in range(m)]
    width = np.mean([distance[i, j] for i in range(m) for j in near[i]]) if sigma is None else sigma**2
    W = np.zeros((m, m))
    for i in range(m):
        for j in near[i]:
            W[i, j] = W[j, i] = np.exp(-distance[i, j] / (2 * width))
    D = W.sum(axis=1)
    S = np.array([[W[i, j] / np.sqrt(D[i] * D[j]) for j in range(m)] for i in range(m)])
    Y = np.concatenate([(names[:, None] == classes).astype(float), np.zeros((len(asked), len(classes)))])
    F = Y.copy()
    for _ in range(20_000):  # the paper's iteration, to its limit
        F = alpha * S @ F + (1 - alpha) * Y
    F = F[len(rows) :]
    return F / F.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("solver", ["dense", "sparse"])
@pytest.mark.parametrize(("k", "alpha", "sigma"), [(5, 0.99, None), (3, 0.5, 0.7), (50, 0.9, 0.4)])
def test_label_propagation_is_the_limit_of_the_papers_iteration(k, alpha, sigma, solver, monkeypatch):
    if solver == "sparse":
        monkeypatch.setattr(label_propagation, "_LARGEST_DENSE", 0)
    rows, names, asked, _ = task(3)
    found = LabelPropagation(k=k, alpha=alpha, sigma=sigma).fit(rows, names).predict_proba(asked)
    expected = propagated_by_hand(rows, names, asked, min(k, len(rows) + len(asked) - 1), alpha, sigma)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_share_of_the_neighbours_no_label_spreads():
    rows, names, asked, _ = task(3)
    np.testing.assert_allclose(LabelPropagation(alpha=0).fit(rows, names).predict_proba(asked), 1 / 3, atol=1e-12)


def test_labels_follow_a_chain_that_class_means_cut():
    angle = np.linspace(0, np.pi, 41)
    arcs = np.concatenate(
        [np.stack([np.cos(angle), np.sin(angle), np.full(41, height)], axis=1) for height in (0.35, -0.35)]
    )
    labels = np.repeat([3, 7], 41)
    ends = [0, 81]  # of each arc, one end only
    kept = {kind: kind().fit(arcs[ends], labels[ends]).score(arcs, labels) for kind in (LabelPropagation, Centroid)}
    assert kept[LabelPropagation] == 1
    assert kept[Centroid] < 0.7


def test_a_query_that_no_label_reaches_is_uniform():
    rows = np.array([[1.0, 0, 0], [0.99, 0.1, 0], [0, 1.0, 0], [0.1, 0.99, 0]])
    asked = np.array([[0, 0, 1.0], [0, 0.01, 1.0], [0.9, 0.05, 0]])
    found = LabelPropagation(k=1).fit(rows, [3, 3, 7, 7]).predict_proba(asked)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.5, 0.5], [1, 0]], atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "sparse"])
def test_label_propagation_is_even_where_the_kernel_is_too_narrow_for_any_neighbour(solver, monkeypatch):
    if solver == "sparse":
        monkeypatch.setattr(label_propagation, "_LARGEST_DENSE", 0)
    rows, names, asked, _ = task(3)
    asked[4] = 2 * rows[4]  # at no distance from a row of class 7
    found = LabelPropagation(sigma=1e-3).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, np.where(np.arange(13)[:, None] == 4, [0, 1, 0], 1 / 3), atol=1e-9)


# ---- BD-CSPN


@pytest.mark.parametrize(("candidates", "epsilon"), [(0, 10.0), (2, 10.0), (8, 10.0), (3, 0.0)])
def test_bd_cspn_is_shift_then_weighted_means_of_support_and_surest_queries(candidates, epsilon):
    rows, names, asked, _ = task(3)
    support, queries = unit(rows), unit(asked)
    queries = queries + support.mean(axis=0) - queries.mean(axis=0)
    basic = unit(means_by_hand(support, names))
    cosines = unit(queries) @ basic.T
    prototypes = []
    for c, name in enumerate([3, 7, 11]):
        own = sorted((q for q in range(len(queries)) if cosines[q].argmax() == c), key=lambda q, c=c: -cosines[q, c])
        members = np.concatenate([support[names == name], queries[own[:candidates]]])
        weights = np.exp(epsilon * unit(members) @ basic[c])
        prototypes.append((weights[:, None] * members).sum(axis=0) / weights.sum())
    expected = softmax(unit(queries) @ unit(np.array(prototypes)).T / 0.1)
    found = BDCSPN(candidates=candidates, epsilon=epsilon).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, expected, atol=1e-10)


# ---- LaplacianShot


def rectified_by_hand(support, names, queries):
    """Ziko et al.'s prototypes, row by row.

    The mean of what is labelled or nearest, each row weighted by its share of softmax(10 cosines).
    """
    means = means_by_hand(support, names)

    def shares(row):
        return softmax(np.array([10 * row @ mean / np.linalg.norm(row) / np.linalg.norm(mean) for mean in means]))

    prototypes = []
    for c, name in enumerate(np.unique(names)):
        members = [row for row, own in zip(support, names, strict=True) if own == name] + [
            q for q in queries if shares(q).argmax() == c
        ]
        prototypes.append(sum(shares(row)[c] * row for row in members) / sum(shares(row)[c] for row in members))
    return np.array(prototypes)


@pytest.mark.parametrize("scale", ["spread", "none"])
@pytest.mark.parametrize("rectify", [False, True])
def test_laplacian_shot_is_the_papers_update_neighbour_by_neighbour(rectify, scale):
    rows, names, asked, _ = task(3, noise=2.0)
    support, moved = unit(rows), unit(asked)
    prototypes = means_by_hand(support, names)
    if rectify:
        moved = moved + support.mean(axis=0) - moved.mean(axis=0)
        prototypes = rectified_by_hand(support, names, moved)
    a = squared_distances(moved, prototypes)
    if scale == "spread":
        a = a / np.mean([sum((row - moved.mean(axis=0)) ** 2) for row in moved])
    cosines = unit(asked) @ unit(asked).T
    near = [
        sorted((p for p in range(len(asked)) if p != q), key=lambda p, q=q: -cosines[q, p])[:3]
        for q in range(len(asked))
    ]
    y = softmax(-a)
    for _ in range(20):
        y = np.array([softmax(-a[q] + 0.8 * sum(y[p] for p in near[q])) for q in range(len(asked))])
    found = LaplacianShot(lambd=0.8, rectify=rectify, scale=scale).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, y, atol=1e-8)


def test_laplacian_shot_without_agreement_and_rectification_is_the_nearest_centroid():
    rows, names, asked, _ = task(3)
    nearest = Centroid(metric="euclidean", temperature=1).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(
        LaplacianShot(lambd=0, rectify=False, scale="none").fit(rows, names).predict_proba(asked), nearest, atol=1e-10
    )


def test_laplacian_shot_without_updates_is_the_softmax_of_the_distances():
    rows, names, asked, _ = task(3)
    nearest = LaplacianShot(lambd=0, rectify=False).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(
        LaplacianShot(steps=0, rectify=False).fit(rows, names).predict_proba(asked), nearest, atol=1e-12
    )


def test_the_rows_agreement_is_with_are_those_nearest_in_angle_whatever_their_length():
    """By hand: two classes on the axes, a doubtful query whose one neighbour in angle is sure of the first class."""
    rows, asked = np.eye(2), np.array([[1.0, 1.001], [3.0, 1.0], [0.9, 1.3]])
    own = -squared_distances(unit(asked), rows)
    y = softmax(own)
    for _ in range(20):  # the second query is at 26 degrees from the first, the third at 10
        y = np.array([softmax(own[q] + 2.0 * y[p]) for q, p in enumerate((2, 0, 0))])
    found = LaplacianShot(lambd=2.0, k=1, rectify=False, scale="none").fit(rows, [3, 7]).predict_proba(asked)
    np.testing.assert_allclose(found, y, atol=1e-9)


@pytest.mark.parametrize("rectify", [False, True])
def test_laplacian_shot_measures_distances_by_the_queries_spread_however_far_off_they_lie(rectify):
    """An offset across all directions of the rows shrinks their angles by one factor, nearly."""
    rows, names, asked, _ = task(3, noise=0.5)
    answers = []
    for far in (1e3, 1e4):
        support, queries = (np.pad(side, ((0, 0), (0, 1)), constant_values=far) for side in (rows, asked))
        answers.append(LaplacianShot(rectify=rectify).fit(support, names).predict_proba(queries))
    np.testing.assert_allclose(answers[0], answers[1], atol=0.02)
    assert answers[0].max(axis=1).min() > 0.5


# ---- alpha-TIM


def tim_objective(W, support, labels, queries, alpha, tau):
    """The objective of one episode, term by term."""

    def shares(rows):
        return softmax(-tau / 2 * squared_distances(rows, W))

    def entropy(p):
        return -sum(v * np.log(v) for v in p) if alpha == 1 else (1 - sum(v**alpha for v in p)) / (alpha - 1)

    fit = -np.mean([np.log(p[c]) for p, c in zip(shares(support), labels, strict=True)])
    asked = shares(queries)
    return fit + np.mean([entropy(p) for p in asked]) - entropy(asked.mean(axis=0))


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_alpha_tim_takes_adam_steps_down_the_papers_objective(alpha):
    rows, names, asked, _ = task(3, counts=(2, 1), queries=5, width=3)
    support, queries, labels = unit(rows), unit(asked), np.searchsorted([3, 7], names)
    W = means_by_hand(support, names)
    first, second = np.zeros_like(W), np.zeros_like(W)
    for step in range(1, 6):
        gradient = np.zeros_like(W)
        for at in np.ndindex(W.shape):  # central differences
            sides = []
            for sign in (1, -1):
                moved = W.copy()
                moved[at] += sign * 1e-6
                sides.append(tim_objective(moved, support, labels, queries, alpha, 15.0))
            gradient[at] = (sides[0] - sides[1]) / 2e-6
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        W = W - 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    expected = softmax(-15 / 2 * squared_distances(queries, W))
    found = AlphaTIM(alpha=alpha, learning_rate=0.01, steps=5).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_alpha_tim_without_steps_is_the_nearest_centroid():
    rows, names, asked, _ = task(3)
    nearest = Centroid(metric="euclidean", temperature=2 / 15).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(AlphaTIM(steps=0).fit(rows, names).predict_proba(asked), nearest, atol=1e-10)


def test_shares_of_exactly_nothing_have_no_entropy():
    rows, names, asked, _ = (side.astype(np.float32) for side in task(3))
    nearest = Centroid(metric="euclidean").fit(rows, names).predict(asked)
    for alpha in (1.0, 0.5):
        shares = AlphaTIM(alpha=alpha, tau=1e4, steps=3).fit(rows, names).predict_proba(asked)
        assert (shares == 0).any()
        np.testing.assert_array_equal(np.array([3, 7, 11])[shares.argmax(axis=1)], nearest)


def test_alpha_near_one_is_shannon():
    rows, names, asked, _ = task(3)
    found = [
        AlphaTIM(alpha=a, steps=31, learning_rate=0.01).fit(rows, names).predict_proba(asked) for a in (1.0, 1.0 + 1e-6)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


# ---- PT-MAP


def plan_by_hand(affinity, mass, rounds=500):
    M = np.exp(affinity)
    for _ in range(rounds):
        M = M * (mass / M.sum(axis=0))
        M = M / M.sum(axis=1, keepdims=True)
    return M


def test_sinkhorn_s_plan_has_its_marginals_and_its_form():
    stream = np.random.default_rng(3)
    affinity, mass = 3 * stream.standard_normal((2, 13, 3)), np.array([[5.0, 1.0, 7.0], [2.0, 4.0, 7.0]])
    plan = sinkhorn(torch.tensor(affinity), torch.tensor(mass), 500).numpy()
    np.testing.assert_allclose(plan.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), mass, atol=1e-6)
    cross = np.log(plan) - affinity  # u + v: its mixed differences vanish
    np.testing.assert_allclose(cross - cross[:, :1] - cross[:, :, :1] + cross[:, :1, :1], 0, atol=1e-9)
    for e in range(2):
        np.testing.assert_allclose(plan[e], plan_by_hand(affinity[e], mass[e]), atol=1e-9)


def one_round_by_hand(affinity, mass):
    plan = np.exp(affinity) / np.exp(affinity).sum(axis=1, keepdims=True)
    plan = plan * mass / plan.sum(axis=0)
    return plan / plan.sum(axis=1, keepdims=True)


def test_a_round_of_sinkhorn_is_rows_then_columns_and_rows_come_last():
    affinity, mass = np.random.default_rng(5).standard_normal((7, 3)), np.array([1.0, 2.0, 4.0])
    found = sinkhorn(torch.tensor(affinity[None]), torch.tensor(mass[None]), 1)[0]
    np.testing.assert_allclose(found, one_round_by_hand(affinity, mass), atol=1e-12)


def test_pt_map_without_moves_is_a_plan_to_the_class_means_of_the_roots():
    rows, names, asked, _ = task(3)
    support, queries = (unit(np.sign(side) * np.sqrt(np.abs(side) + 1e-6)) for side in (rows, asked))
    wanted = one_round_by_hand(
        -10 * squared_distances(queries, means_by_hand(support, names)), 13 * np.array([0.3, 0.2, 0.5])
    )
    found = PTMAP(steps=0, sinkhorn_steps=1, centering=False).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_sinkhorn_survives_affinities_that_no_exponential_holds():
    plan = sinkhorn(torch.tensor([[[0.0, -2e4], [-3e4, 0.0], [0.0, -1e4]]]), torch.tensor([[1.5, 1.5]]), 50)
    assert torch.isfinite(plan).all()
    np.testing.assert_allclose(plan.sum(dim=2), 1, atol=1e-6)


@pytest.mark.parametrize(("centering", "negative"), [(True, "signed"), (False, "signed"), (False, "refuse")])
def test_pt_map_is_algorithm_1_by_hand(centering, negative):
    rows, names, asked, _ = task(3)
    rows[1, 2], rows[2, 1], asked[3, 4] = 0.0, 1e-6, 2e-6  # where the small addend counts
    if negative == "refuse":
        rows, asked = np.abs(rows), np.abs(asked)

    def transformed(x):
        x = unit(np.where(x < 0, -1, 1) * (np.abs(x) + 1e-6) ** 0.5)
        return unit(x - x.mean(axis=0)) if centering else x

    support, queries = transformed(rows), transformed(asked)
    share = np.array([(names == c).mean() for c in (3, 7, 11)]) * len(asked)
    centres = means_by_hand(support, names)
    for _ in range(20):
        M = plan_by_hand(-10 * squared_distances(queries, centres), share)
        for c, name in enumerate((3, 7, 11)):
            total = support[names == name].sum(axis=0) + sum(M[q, c] * queries[q] for q in range(len(queries)))
            centres[c] += 0.2 * (total / ((names == name).sum() + M[:, c].sum()) - centres[c])
    expected = plan_by_hand(-10 * squared_distances(queries, centres), share)
    found = PTMAP(centering=centering, negative=negative, sinkhorn_steps=500).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pt_map_refuses_negative_features_when_told_to_keep_the_papers_domain():
    rows, names, asked, _ = task(3)
    asked = np.abs(asked)
    asked[3, 2] = -1e-3
    with pytest.raises(NumericalError, match="negative"):
        PTMAP(negative="refuse").fit(np.abs(rows), names).predict_proba(asked)


def test_pt_map_gives_each_class_its_share_of_the_queries():
    rows, names, asked, _ = task(3, counts=(2, 2, 2), queries=12)
    shares = PTMAP(sinkhorn_steps=500).fit(rows, names).predict_proba(asked)
    np.testing.assert_allclose(shares.sum(axis=0), 4, atol=2e-3)


# ---- what transduction is for


@pytest.mark.parametrize("kind", [k for k in TRANSDUCTIVE if k is not LabelPropagation])  # the chain above is its case
def test_on_clusters_away_from_their_support_transduction_beats_class_means(kind):
    stream = np.random.default_rng(7)
    episodes, ways, shots, asked, width = 31, 5, 1, 11, 23
    centres = stream.standard_normal((episodes, ways, 1, width))
    shift = 2.0 * stream.standard_normal((episodes, 1, 1, width))
    support = (centres + shift + 1.1 * stream.standard_normal((episodes, ways, shots, width))).reshape(
        episodes, -1, width
    )
    queries = (centres + 0.8 * stream.standard_normal((episodes, ways, asked, width))).reshape(episodes, -1, width)
    labels, targets = torch.arange(ways).repeat_interleave(shots), torch.arange(ways).repeat_interleave(asked)

    def accuracy(classifier) -> float:
        found = classifier.probabilities(torch.tensor(support), labels, torch.tensor(queries), ways).argmax(dim=2)
        return float((found == targets).double().mean())

    assert accuracy(quick(kind)) > accuracy(Centroid()) + 0.03


# label propagation has no class means to start from and forgets how many labels a class has; alpha-TIM's steps of 1e-4
# are as long wherever rows lie, so that near together they leave the class means far behind: docs/episodes.md says so
BELOW = {LabelPropagation: 0.2, AlphaTIM: 0.12}


@pytest.mark.parametrize("kind", TRANSDUCTIVE)
@pytest.mark.parametrize("ways", [2, 5])
@pytest.mark.parametrize(
    "far", [0.0, 30.0]
)  # at 30 from the origin in each of 23 directions all cosines are above 0.99
def test_transduction_does_not_fall_below_class_means_where_cosines_nearly_agree(kind, ways, far):
    stream = np.random.default_rng(7)
    episodes, shots, asked, width = 11, 5, 11, 23
    centres = far + stream.standard_normal((episodes, ways, 1, width))
    support, queries = (
        torch.tensor(centres + stream.standard_normal((episodes, ways, each, width))).flatten(1, 2)
        for each in (shots, asked)
    )
    labels, targets = (torch.arange(ways).repeat_interleave(each) for each in (shots, asked))

    def accuracy(classifier) -> float:
        found = classifier.probabilities(support, labels, queries, ways).argmax(dim=2)
        return float((found == targets).double().mean())

    # fewer of its steps than by default, for time
    classifier = AlphaTIM(steps=300) if kind is AlphaTIM else kind()
    assert accuracy(classifier) > accuracy(Centroid(metric="euclidean")) - BELOW.get(kind, 0.02)
