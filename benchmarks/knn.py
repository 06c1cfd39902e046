"""k-NN evaluation for k = 10, 20, 100, 200: DINO's classifier, FAISS, scikit-learn and ours; accuracy and memory.

DINO's classifier runs once for each k. FAISS is its flat search alone: vectors normalised, database added, k = 200, no
vote; once as it comes, in a process of its own, and once beside fewvit, which on AMD CPUs makes it take wider kernels
than it would. scikit-learn is one KNeighborsClassifier with k = 200 on a fifth of the queries, times five. Ours starts
from raw features: it copies and normalises the bank, searches, settles ties, and votes for all k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fewvit.evaluate.knn import score_knn
from fewvit.features import FeatureSet
from fewvit.neighbors.certified import kind
from fewvit.neighbors.installed import faiss_library

from . import official
from .measure import Claim, Outcome, Timing, cores, in_fresh_process, main, peak_growth, round_robin, worker

WHAT = "k-NN evaluation, k = 10, 20, 100, 200, 1000 classes, width 384, all cores"
CLASSES, WIDTH = 1000, 384
DINO, FLAT, WIDE, SKLEARN, OURS = (
    "DINO: four passes",
    "FAISS IndexFlatIP search alone, k = 200",
    "the same FAISS, loaded by fewvit",
    "scikit-learn brute force, k = 200 only",
    "fewvit: one pass, all k",
)
GOALS = {"amx": ">= 2.5", "avx512_bf16": ">= 1.3"}  # by what products are made of
_SKLEARN_SHARE = 5  # it is timed on every fifth query
_MIB = 2**20


def clustered(rows: int, seed: int) -> FeatureSet:
    """Features around 1000 class centres, so noisy that about seven in ten queries find their class; lengths vary."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)
    labels = random.integers(0, CLASSES, size=rows)
    features = random.normal(size=(rows, WIDTH)).astype(np.float32)
    features *= 3.3
    features += centres[labels]
    features *= random.uniform(0.5, 2.0, size=(rows, 1)).astype(np.float32)
    return FeatureSet(features, labels, range(rows), [str(c) for c in range(CLASSES)])


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ours(train: FeatureSet, test: FeatureSet) -> dict[int, tuple[float, float]]:
    """k -> (top-1, top-5)."""
    scores = score_knn(train, test, official.KS, (official.TEMPERATURE,), device="cpu")
    return {score.k: (score.top1, score.top5) for score in scores}


def dino(train: FeatureSet, test: FeatureSet) -> Callable[[], dict[int, tuple[float, float]]]:
    bank, queries = torch.from_numpy(unit(train.features)), torch.from_numpy(unit(test.features))
    labels, targets = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    return lambda: official.knn_evaluation(bank, labels, queries, targets, CLASSES)


def flat_search(bank: int, queries: int) -> Callable[[], Any]:
    import faiss

    train, test = clustered(bank, 1), clustered(queries, 2)

    index, wanted = faiss.IndexFlatIP(WIDTH), unit(test.features)
    index.add(unit(train.features))
    return lambda: index.search(wanted, max(official.KS))


def sklearn_vote(train: FeatureSet, test: FeatureSet) -> Callable[[], Any]:
    """scikit-learn's classifier with DINO's weights: on unit vectors the cosine is 1 - distance^2 / 2."""
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance**2 / 2) / official.TEMPERATURE)

    model = KNeighborsClassifier(max(official.KS), algorithm="brute", weights=weights).fit(
        unit(train.features), train.labels
    )
    queries = unit(test.features[::_SKLEARN_SHARE])
    return lambda: model.predict_proba(queries)


def compare(bank: int, queries: int, rounds: int) -> tuple[list[Claim], list[dict[str, Any]], dict[str, Any]]:
    """Seconds of every variant, and whether the accuracies agree."""
    torch.set_num_threads(cores())
    train, test = clustered(bank, 1), clustered(queries, 2)
    faiss_library()  # with the kernels that WIDE is to show
    answers: dict[str, Any] = {OURS: ours(train, test)}
    with worker(flat_search, bank, queries) as flat:
        wide, sklearn = flat_search(bank, queries), sklearn_vote(train, test)
        runs = {DINO: dino(train, test), FLAT: flat, WIDE: wide, SKLEARN: sklearn, OURS: lambda: ours(train, test)}
        timing = round_robin(
            {name: lambda _, name=name: answers.update({name: runs[name]()}) for name in runs}, [None], rounds
        )
    timing = Timing({**timing.seconds, SKLEARN: [_SKLEARN_SHARE * seconds for seconds in timing.seconds[SKLEARN]]})
    theirs, found = answers[DINO], answers[OURS]
    top1 = max(abs(theirs[k][0] - found[k][0]) for k in official.KS)
    top5 = max(abs(theirs[k][1] - found[k][1]) for k in official.KS)
    claims = [
        Claim(
            f"k-NN, {bank} x {queries} x {WIDTH}, four k",
            "DINO's classifier, four passes",
            timing.ratio(OURS, DINO),
            "x",
            ">= 9",
        ),
        Claim(
            "The same, search, vote and all k",
            "FAISS's flat search alone",
            timing.ratio(OURS, FLAT),
            "x",
            GOALS.get(kind(), ">= 1"),
        ),
        Claim(
            "The same, time",
            "the same search with the kernels that fewvit makes FAISS take",
            1 / timing.ratio(OURS, WIDE),
            "x",
        ),
        Claim("The same, speed", "scikit-learn, one k", timing.ratio(OURS, SKLEARN), "x"),
        Claim("The same, largest difference of top-1", "DINO's classifier", top1, "points", "<= 0"),
        Claim("The same, largest difference of top-5", "DINO's classifier", top5, "points", "<= 0"),
    ]
    accuracy = {str(k): {"dino": theirs[k], "fewvit": found[k]} for k in official.KS}
    facts = {
        "bank": bank,
        "queries": queries,
        "threads": cores(),
        "products": kind(),
        "rounds": rounds,
        "top1_top5": accuracy,
        "sklearn": f"one k, every {_SKLEARN_SHARE}th query, scaled",
    }
    return claims, timing.rows(DINO, queries), facts


# ---- memory --------------------------------------------------------------------------------------------------------


def search_memory(variant: str, bank: int, queries: int) -> int:
    """Bytes at the peak of an evaluation beyond the given features and one normalised copy of them, the bank."""
    torch.set_num_threads(cores())
    train, test = clustered(bank, 1), clustered(queries, 2)
    small = clustered(2000, 3)
    if variant == OURS:
        ours(small, small)  # loads what it needs
        return peak_growth(lambda: ours(train, test)) - train.features.nbytes
    dino(small, small)()
    return peak_growth(lambda: dino(train, test)()) - train.features.nbytes - test.features.nbytes


def measure(quick: bool) -> Outcome:
    bank, queries = (5000, 500) if quick else (50_000, 5_000)
    claims, rows, facts = compare(bank, queries, rounds=2 if quick else 5)
    large = (20_000, 1_000) if quick else (200_000, 5_000)
    memory = {variant: in_fresh_process(search_memory, variant, *large) / _MIB for variant in (OURS, DINO)}
    claim = Claim(
        f"k-NN, memory beyond the bank at {large[0]} x {large[1]} x {WIDTH}", "nothing", memory[OURS], "MiB", "<= 64"
    )
    facts["memory_mib"] = {"bank and queries": large, **{variant: round(mib, 1) for variant, mib in memory.items()}}
    return Outcome([*claims, claim], rows, facts)


if __name__ == "__main__":
    main("knn", WHAT, measure)
