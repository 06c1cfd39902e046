"""AP, precision and whitening beside the evaluation code of DINO, which is that of revisited Oxford and Paris."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewvit.neighbors import Bank
from fewvit.retrieval.ground_truth import QueryTruth, RevisitedTruth
from fewvit.retrieval.measures.revisited import query_measures, ranks_without_junk
from fewvit.retrieval.measures.whitening import projection_of
from fewvit.retrieval.relevance.revisited import Revisited

KS = (1, 5, 10, 50)
EXACT = 1e-12


class Images:
    """N images without labels, called by their numbers."""

    def __init__(self, prefix: str, n: int):
        self.ids = [f"jpg/{prefix}{i}.jpg" for i in range(n)]
        self.labels = np.full(n, -1)
        self.classes: list[str] = []


@pytest.fixture(scope="module")
def truth(parity):
    return json.loads((parity.folder / "retrieval.json").read_text())


def test_no_stored_array_is_forgotten(parity):
    settings = {f"feat/{setting}/{what}" for setting in ("medium", "hard") for what in ("map", "aps", "pr", "prs")}
    rest = {"ranks", "map", "aps", "pr", "prs", "feat/database", "feat/queries", "feat/ranks"}
    assert settings | rest | {"pca/cov", "pca/x", "pca/abs_projected"} == set(parity.arrays("retrieval.npz"))


def test_ap_and_precision_of_every_query_are_those_of_dino(parity, truth):
    stored = parity.arrays("retrieval.npz")
    found = [
        query_measures(ranks_without_junk(ranking, np.array(one["ok"]), np.array(one["junk"])), len(one["ok"]), KS)
        if one["ok"]
        else dict.fromkeys(("map", *(f"mp@{k}" for k in KS)), np.nan)
        for ranking, one in zip(stored["ranks"].T, truth["gnd"], strict=True)
    ]
    aps = np.array([one["map"] for one in found]) / 100
    precisions = np.array([[one[f"mp@{k}"] for k in KS] for one in found]) / 100
    np.testing.assert_allclose(aps, stored["aps"], atol=EXACT)
    np.testing.assert_allclose(precisions, stored["prs"], atol=EXACT)
    np.testing.assert_allclose(np.nanmean(aps), stored["map"], atol=EXACT)
    np.testing.assert_allclose(np.nanmean(precisions, axis=0), stored["pr"], atol=EXACT)


@pytest.fixture(scope="module")
def relevance(parity, truth):
    """The stored benchmark, bound to an index whose rows are its images in their order."""
    images, queries = Images("image", 200), Images("query", 12)
    names = [[id_[4:-4] for id_ in side.ids] for side in (images, queries)]
    entries = [QueryTruth(None, *(tuple(one[kind]) for kind in ("easy", "hard", "junk"))) for one in truth["revisited"]]
    return Revisited.bound(RevisitedTruth("toy", *names, entries), queries, images)


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_an_evaluation_from_features_gives_the_settings_of_dino(parity, relevance, engine):
    stored = parity.arrays("retrieval.npz")
    bank = Bank(stored["feat/database"], engine=engine, device="cpu")
    assert relevance.depth == 200
    rows = relevance.measure(bank.chunks(stored["feat/queries"], relevance.depth))
    found = {(row["setting"], row["metric"]): row["value"] / 100 for row in rows}
    for setting in ("medium", "hard"):
        assert found[setting, "map"] == pytest.approx(float(stored[f"feat/{setting}/map"]), abs=EXACT)
        wanted = stored[f"feat/{setting}/pr"]
        assert [found[setting, f"mp@{k}"] for k in (1, 5, 10)] == pytest.approx(wanted.tolist(), abs=EXACT)
    assert {row["n_queries"] for row in rows} == {12}


def test_the_stored_ranking_is_that_of_the_features(parity):
    stored = parity.arrays("retrieval.npz")
    found = Bank(stored["feat/database"], engine="faiss", device="cpu").search(stored["feat/queries"], 200)
    parity.check("retrieval.npz", "feat/ranks", found.rows.T)


def test_whitening_projects_as_dino_does(parity):
    stored = parity.arrays("retrieval.npz")
    projected = np.abs(stored["pca/x"] @ projection_of(stored["pca/cov"], 6).T)
    parity.check("retrieval.npz", "pca/abs_projected", projected)
