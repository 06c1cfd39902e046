"""k-NN votes, predictions, accuracies beside DINO's `eval_knn.py` and DINOv2's `eval/knn.py` on the same features."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fewvit import neighbors
from fewvit.classifiers.knn import KNNClassifier
from fewvit.evaluate.knn import KNNOptions, evaluate_knn
from fewvit.features import FeatureSet
from fewvit.metrics import rank_of_target, top_k_accuracy
from fewvit.neighbors import Bank
from fewvit.splits import dinov2_subset
from fewvit.vote import votes_at, weighted_vote

KS, N_CLASSES, T = (10, 20, 100, 200), 20, 0.07
DINOV2_PERCENT = 1e-5  # it computes percentages in float32; one of 500 images is 0.2
FEW = [(n, trial) for n in (1, 5, 20) for trial in range(3)]
both_engines = pytest.mark.parametrize("engine", ["faiss", "torch"])


@pytest.fixture(scope="module")
def stored(parity) -> SimpleNamespace:
    arrays = parity.arrays("knn.npz")
    sides = {}
    for side in ("train", "test"):
        features, labels = arrays[f"{side}_features"], arrays[f"{side}_labels"]
        sides[side] = FeatureSet(
            features, labels, [str(i) for i in range(len(labels))], [f"class {c}" for c in range(N_CLASSES)]
        )
    return SimpleNamespace(arrays=arrays, **sides)


def few_ks(arrays, n: int, trial: int) -> list[int]:
    return arrays[f"dinov2/fewshot/n{n}_try{trial}/k_list"].tolist()


def test_no_stored_array_is_forgotten(stored):
    inputs = {f"{side}_{what}" for side in ("train", "test") for what in ("features", "labels")}
    dino = {f"dino/k{k}/{what}" for k in KS for what in ("pred", "top5_scores", "top1_top5_percent")}
    dinov2 = {f"dinov2/full/k{k}/{what}" for k in KS for what in ("pred", "class_probs_sum", "top1_top5_percent")}
    few = {f"dinov2/fewshot/n{n}_try{t}/{what}" for n, t in FEW for what in ("train_indices", "k_list")}
    few |= {
        f"dinov2/fewshot/n{n}_try{t}/k{k}/{what}"
        for n, t in FEW
        for k in few_ks(stored.arrays, n, t)
        for what in ("pred", "top1_percent")
    }
    assert inputs | dino | dinov2 | few == set(stored.arrays)


@both_engines
def test_votes_rank_and_score_classes_as_dino_and_dinov2_do(stored, parity, engine):
    near = Bank(stored.train.features, engine=engine).search(stored.test.features, max(KS))
    votes = {k: scores.copy() for k, scores in votes_at(near, stored.train.labels, N_CLASSES, T, KS)}
    # DINOv2's softmax runs over the largest k, whichever k is then kept
    whole = votes[max(KS)].sum(axis=1, keepdims=True)
    for k in KS:
        prediction = votes[k].argmax(axis=1)
        parity.check("knn.npz", f"dino/k{k}/pred", prediction)
        parity.check("knn.npz", f"dinov2/full/k{k}/pred", prediction)
        parity.check("knn.npz", f"dino/k{k}/top5_scores", np.sort(votes[k], axis=1)[:, :-6:-1])
        parity.check("knn.npz", f"dinov2/full/k{k}/class_probs_sum", votes[k] / whole)
        rank = rank_of_target(votes[k], stored.test.labels)
        percent = np.array([top_k_accuracy(rank, 1), top_k_accuracy(rank, 5)])
        parity.check("knn.npz", f"dino/k{k}/top1_top5_percent", percent)
        np.testing.assert_allclose(percent, stored.arrays[f"dinov2/full/k{k}/top1_top5_percent"], atol=DINOV2_PERCENT)


@both_engines
@pytest.mark.parametrize("k", KS)
def test_the_classifier_predicts_what_dino_predicts(stored, parity, engine, k):
    classifier = KNNClassifier(k=k, engine=engine).fit(stored.train.features, stored.train.labels)
    parity.check("knn.npz", f"dino/k{k}/pred", classifier.predict(stored.test.features))
    score = 100 * classifier.score(stored.test.features, stored.test.labels)
    assert score == pytest.approx(stored.arrays[f"dino/k{k}/top1_top5_percent"][0], abs=1e-6)


def use(engine: str, monkeypatch) -> None:
    """Make `auto` mean this engine."""
    monkeypatch.setattr(neighbors, "faiss_is_here", lambda: engine == "faiss")
    assert Bank(np.eye(3, dtype=np.float32), device="cpu").engine == engine


@both_engines
def test_the_evaluation_reports_dinos_and_dinov2s_percentages(stored, engine, monkeypatch):
    use(engine, monkeypatch)
    rows, _ = evaluate_knn(stored.train, stored.test, KNNOptions(device="cpu"))
    found = {(row["k"], row["metric"]): row["value"] for row in rows}
    for k in KS:
        for source, atol in (("dino", 1e-6), ("dinov2/full", DINOV2_PERCENT)):
            wanted = stored.arrays[f"{source}/k{k}/top1_top5_percent"]
            np.testing.assert_allclose([found[k, "top1"], found[k, "top5"]], wanted, atol=atol)
    assert len(rows) == 2 * len(KS)


@pytest.mark.parametrize(("n", "trial"), FEW)
def test_the_few_shot_rows_are_dinov2s(stored, parity, n, trial):
    parity.check(
        "knn.npz", f"dinov2/fewshot/n{n}_try{trial}/train_indices", dinov2_subset(stored.train.labels, n, trial)
    )


@both_engines
@pytest.mark.parametrize(("n", "trial"), FEW)
def test_few_shot_predictions_are_dinov2s(stored, parity, engine, n, trial):
    bank = stored.train.select(stored.arrays[f"dinov2/fewshot/n{n}_try{trial}/train_indices"])
    ks = few_ks(stored.arrays, n, trial)
    near = Bank(bank.features, engine=engine).search(stored.test.features, max(ks))
    for k in ks:
        first = neighbors.Neighbors(near.rows[:, :k], near.scores[:, :k])
        votes = weighted_vote(first, bank.labels, N_CLASSES, T)
        parity.check("knn.npz", f"dinov2/fewshot/n{n}_try{trial}/k{k}/pred", votes.argmax(axis=1))
        classifier = KNNClassifier(k=k, engine=engine).fit(bank.features, bank.labels)
        parity.check("knn.npz", f"dinov2/fewshot/n{n}_try{trial}/k{k}/pred", classifier.predict(stored.test.features))


@both_engines
def test_few_shot_evaluation_has_dinov2s_ks_and_percentages(stored, engine, monkeypatch):
    use(engine, monkeypatch)
    rows, _ = evaluate_knn(stored.train, stored.test, KNNOptions(shots=(1, 5, 20), trials=3, device="cpu"))
    top1 = {
        (r["shots"], r["trial"], r["k"]): r["value"] for r in rows if r["metric"] == "top1" and r["trial"] != "mean"
    }
    wanted = {
        (n, t, k): float(stored.arrays[f"dinov2/fewshot/n{n}_try{t}/k{k}/top1_percent"])
        for n, t in FEW
        for k in few_ks(stored.arrays, n, t)
    }
    assert top1 == pytest.approx(wanted, abs=DINOV2_PERCENT)
