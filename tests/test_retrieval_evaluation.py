"""Protocols on features, from files to rows, beside brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fewvit.errors import FingerprintMismatch, UsageError
from fewvit.features import FeatureSet
from fewvit.neighbors import Bank
from fewvit.retrieval.evaluation import evaluate_features
from fewvit.retrieval.ground_truth import QueryTruth, RevisitedTruth, save_revisited
from fewvit.retrieval.protocols import find_retrieval_protocol

from oracles import brute_neighbors, unit_rows


def features(ids: list[str], labels: list[int] | None = None, classes: str = "", seed: int = 7) -> FeatureSet:
    rows = np.random.default_rng(seed).normal(size=(len(ids), 11)).astype(np.float32)
    return FeatureSet(rows, np.array(labels or [-1] * len(ids)), ids, classes.split(), fingerprint="f")


def by_metric(rows, setting=None):
    return {row["metric"]: row["value"] for row in rows if row.get("setting") == setting}


def test_revisited_queries_are_searched_in_the_whole_index(tmp_path):
    names = [f"image_{i}" for i in range(53)]
    of_queries = [QueryTruth(None, (3, 7, 11), (13, 17), (19, 23))]
    of_queries += [QueryTruth(None, (), (i,), ()) for i in (5, 29)]
    truth = RevisitedTruth("toy", names, ["a", "b", "c"], of_queries)
    save_revisited(tmp_path / "gnd.json", truth)
    index = features([f"{name}.jpg" for name in [*names, "far_0", "far_1"]])
    queries = features(["c.jpg", "a.jpg", "b.jpg"], seed=3)
    rows = evaluate_features(find_retrieval_protocol("dino/1"), queries, index, tmp_path / "gnd.json", device="cpu")
    near, _ = brute_neighbors(index.features, queries.features, 55)
    aps = []
    # in the order of `queries`
    for ranking, right, junk in zip(near.tolist(), ({29}, {3, 7, 11, 13, 17}, {5}), (set(), {19, 23}, set())):
        kept = [image for image in ranking if image not in junk]
        ranks = [place for place, image in enumerate(kept) if image in right]
        area = [((found / rank if rank else 1) + (found + 1) / (rank + 1)) / 2 for found, rank in enumerate(ranks)]
        aps.append(sum(area) / len(right))
    assert by_metric(rows, "medium")["map"] == pytest.approx(100 * np.mean(aps), abs=1e-9)


def test_an_index_is_its_own_query_set_when_one_is_left_out():
    own = features([str(i) for i in range(13)], [0] * 7 + [1] * 5 + [2], "a b c")
    rows = evaluate_features(find_retrieval_protocol("labels/1"), own, own, leave_one_out=True, device="cpu")
    near, _ = brute_neighbors(own.features, own.features, 12, exclude=range(13))
    hits = own.labels[near] == own.labels[:, None]
    assert by_metric(rows)["recall@1"] == pytest.approx(100 * hits[:12, 0].mean())
    assert by_metric(rows)["recall@10"] == pytest.approx(100 * hits[:12, :10].any(axis=1).mean())
    assert (rows[0]["n_queries"], rows[0]["left_out"]) == (12, 1)
    seen = evaluate_features(find_retrieval_protocol("labels/1"), own, own, device="cpu")
    assert by_metric(seen)["recall@1"] == 100  # itself


def test_copies_are_searched_among_whitened_descriptors():
    originals, strong = [f"original/2{i:03d}00.jpg" for i in range(23)], [f"strong/2{i:03d}01.jpg" for i in range(23)]
    index, queries = features([*originals, *(f"far/{i}.jpg" for i in range(30))]), features(strong, seed=3)
    background = features([str(i) for i in range(97)], seed=5)
    background = dataclasses.replace(background, features=background.features * np.arange(1, 12) + 2)
    protocol = find_retrieval_protocol("copydays/1")
    rows = evaluate_features(protocol, queries, index, background=background, device="cpu")
    b = background.features.astype(float)
    values, vectors = np.linalg.eigh(b.T @ b / len(b))
    sides = [(one.features - b.mean(axis=0)) @ vectors / np.sqrt(values) for one in (index, queries)]
    scores = unit_rows(sides[1]) @ unit_rows(sides[0]).T
    ranks = (scores > np.diag(scores[:, :23])[:, None]).sum(axis=1)
    aps = [0 if rank >= 20 else (float(rank == 0) + 1 / (rank + 1)) / 2 for rank in ranks]
    assert 0 < (ranks < 20).sum() < 23
    assert by_metric(rows, "strong")["map"] == pytest.approx(100 * np.mean(aps), abs=1e-9)
    plain = evaluate_features(protocol, queries, index, device="cpu")
    assert by_metric(plain, "strong") != by_metric(rows, "strong")


def test_artworks_choose_their_numbers_on_other_queries():
    index = features([str(i) for i in range(31)], [i % 7 for i in range(31)], "a b c d e f g")
    queries = features(["p", "q", "r"], [0, 3, -1], "a b c d", seed=3)
    validation = features(["s", "t", "u", "v"], [1, 2, -1, 6], "a b c d e f g", seed=5)
    protocol = find_retrieval_protocol("met/1")
    chosen = evaluate_features(protocol, queries, index, validation=validation, device="cpu")[0]
    gap = {}
    for k in (1, 2, 3, 5, 7, 10, 15, 20, 50):
        for t in (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0):
            bound = dataclasses.replace(protocol.judge(None, validation, index), k=k, temperature=t)
            parts = Bank(index.features, device="cpu").chunks(validation.features, min(k, 31))
            gap[k, t] = bound.measure(parts)[0]["value"]
    assert (chosen["k"], chosen["temperature"]) == max(gap, key=gap.__getitem__)


def test_features_of_two_backbones_and_what_a_protocol_has_no_use_for_are_refused():
    one = features(["a", "b"], [0, 0], "cat")
    other = dataclasses.replace(one, fingerprint="g")
    with pytest.raises(FingerprintMismatch):
        evaluate_features(find_retrieval_protocol("labels/1"), other, one, device="cpu")
    with pytest.raises(UsageError, match="labels/1 whitens nothing"):
        evaluate_features(find_retrieval_protocol("labels/1"), one, one, background=one, device="cpu")
    with pytest.raises(UsageError, match="labels/1 has nothing to choose"):
        evaluate_features(find_retrieval_protocol("labels/1"), one, one, validation=one, device="cpu")
