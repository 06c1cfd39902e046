"""Episodes of 5 ways and 15 queries: easyfsl's classifiers, one by one, and ours, blocks of episodes at once.

Both get the same features and the same episodes: drawing is not timed, and no network runs. easyfsl is taken where it
is installed (`pip install --no-deps easyfsl`); without it ours is measured by the clock alone. The whole command is
timed in a process of its own, imports, reading and drawing included.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewvit.evaluate.episode_draws import Episodes, draw_episodes
from fewvit.evaluate.episodes import accuracies
from fewvit.features import FeatureSet
from fewvit.plugins import find

from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "5-way episodes of 15 queries per class, width 384, all cores"
CLASSES, PER_CLASS, WIDTH, SHOTS = 64, 60, 384, 5
# classifier -> (our options, easyfsl's class of the same method and its options); its PTMAP is left out, for its plan's
# rows do not sum to one (version 1.5.0) and what it answers is near chance
METHODS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "centroid": ({"metric": "euclidean"}, "PrototypicalNetworks", {"feature_normalization": 2}),
    "bd_cspn": ({}, "BDCSPN", {"feature_normalization": 2}),
    "laplacian_shot": ({}, "LaplacianShot", {"feature_normalization": 2}),
}


def clustered() -> FeatureSet:
    """Features as behind a ReLU, around 64 class centres.

    About nine in ten queries are nearest to the mean of their class.
    """
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    features = np.maximum(
        0, 0.5 * random.normal(size=(CLASSES, WIDTH))[labels] + 1.5 * random.normal(size=(len(labels), WIDTH))
    )
    return FeatureSet(features.astype(np.float32), labels, range(len(labels)), [str(c) for c in range(CLASSES)])


def drawn(features: FeatureSet, count: int) -> Episodes:
    members = [np.flatnonzero(features.labels == c) for c in range(CLASSES)]
    return draw_episodes(members, 5, SHOTS, 15, count, seed=0)


def peer(features: FeatureSet, episodes: Episodes, name: str, options: dict[str, Any]) -> Callable[[], np.ndarray]:
    """Accuracies (E,) in percent by easyfsl, whose classifiers keep one episode's prototypes at a time."""
    import easyfsl.methods

    model = getattr(easyfsl.methods, name)(backbone=torch.nn.Identity(), **options)
    rows = torch.from_numpy(features.features)
    support, labels, queries, targets = map(
        torch.from_numpy, (episodes.support, episodes.support_labels, episodes.queries, episodes.query_labels)
    )

    def run() -> np.ndarray:
        right = []
        for e in range(len(episodes)):
            with torch.no_grad():
                model.process_support_set(rows[support[e]], labels[e])
                right.append((model(rows[queries[e]]).argmax(dim=1) == targets[e]).double().mean())
        return 100 * torch.stack(right).numpy()

    return run


def compare(
    features: FeatureSet, method: str, count: int, rounds: int
) -> tuple[list[Claim], list[dict[str, Any]], dict[str, float]]:
    """Seconds and accuracy of one method, beside the peer's where it is here."""
    options, theirs, their_options = METHODS[method]
    episodes, estimator = drawn(features, count), find("classifiers", method)(**options)
    runs: dict[str, Callable[[], np.ndarray]] = {
        f"fewvit: {method}": lambda: accuracies(features.features, episodes, estimator, method)
    }
    if importlib.util.find_spec("easyfsl") is not None:
        runs[f"easyfsl: {theirs}"] = peer(features, episodes, theirs, their_options)
    answers: dict[str, np.ndarray] = {}
    timing = round_robin({key: lambda _, key=key: answers.update({key: runs[key]()}) for key in runs}, [None], rounds)
    claims = (
        [Claim(f"{count} episodes, {method}", f"easyfsl's {theirs}", timing.ratio(*runs), "x")]
        if len(runs) == 2
        else []
    )
    return (
        claims,
        timing.rows(list(runs)[-1], count),
        {key: round(float(found.mean()), 2) for key, found in answers.items()},
    )


def command(features: FeatureSet, method: str, count: int) -> float:
    """Seconds of the whole command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npz"
        FeatureSet(features.features, features.labels, [str(i) for i in features.ids], features.classes).save(file)
        words = [
            "episodes",
            "--data",
            file,
            "--shots",
            SHOTS,
            "--episodes",
            count,
            "--classifier",
            method,
            "--format",
            "json",
        ]
        code = "import sys; from fewvit_cli.main import run; sys.exit(run(sys.argv[1:]))"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)
        return time.perf_counter() - started


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(cores())
    features = clustered()
    few, many = (60, 100) if quick else (600, 1000)
    found = {method: compare(features, method, few, rounds=1 if quick else 5) for method in METHODS}
    claims = [claim for own, _, _ in found.values() for claim in own]
    own = next(row for row in found["centroid"][1] if row["variant"] == "fewvit: centroid")
    claims.append(
        Claim(
            f"{few} episodes of 5 ways and {SHOTS} shots, centroid, from features in memory",
            "the clock",
            own["median_s"],
            "s",
            "<= 3",
        )
    )
    for method, count, goal in (("centroid", few, ""), ("pt_map", many, "<= 300"), ("alpha_tim", few // 10, "")):
        seconds = min(command(features, method, count) for _ in range(1 if quick else 3))
        claims.append(
            Claim(
                f"`fewvit episodes`, {count} of 5 ways and {SHOTS} shots, {method}, start-up included",
                "the clock",
                seconds,
                "s",
                goal,
            )
        )
    facts = {
        "images": len(features),
        "shots": SHOTS,
        "threads": cores(),
        "accuracy": {m: right for m, (_, _, right) in found.items()},
    }
    return Outcome(claims, [row for _, own, _ in found.values() for row in own], facts)


if __name__ == "__main__":
    main("episodes", WHAT, measure)
