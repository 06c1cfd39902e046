"""Sweep folders whose numbers follow from predictions that are drawn here: cells as `SweepFolder` writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.calibration import expected_calibration_error
from fewvit.datasets import open_dataset
from fewvit.evaluate.details import Details, EpisodeScores
from fewvit.evaluate.predictions import Predicted
from fewvit.metrics import mean_and_interval
from fewvit.results import Result, Row
from fewvit.sweep.folder import FinishedCell, SweepFolder, digest_of

VERSIONS = {"fewvit": "0.1.0", "numpy": "2.4.6"}


def contents_of(data: str) -> str:
    return hashlib.sha256(data.encode("utf-8", "surrogateescape")).hexdigest()


def cell_of(evaluation: str, backbone: str = "fewvit_tiny mean", data: str = "digits", **more: Any) -> dict[str, Any]:
    """What a sweep asks for in one cell; its `request` follows from it, as in a plan."""
    asked = {
        "evaluation": evaluation,
        "method": None,
        "shots": None,
        "trials": None,
        "episodes": None,
        "seed": 0,
        "backbone": {
            "label": backbone,
            "name": backbone.split(" ")[0],
            "weights": None,
            "pool": None,
            "protocol": None,
        },
        "data": {"label": data, "data": data, "train": None, "test": None, "listing": contents_of("list of " + data)},
        "command": f"fewvit {evaluation} --backbone {backbone.split(' ')[0]} --data {data} --format json",
        **more,
    }
    return {"request": digest_of(asked), **asked}


def write(
    folder: Path, cell: Mapping[str, Any], rows: Sequence[Row], run: Mapping[str, Any] | None = None,
    details: Details | None = None, *, contents: str | None = None, seconds: float = 1.5,
) -> FinishedCell:  # fmt: skip
    """Put a finished cell into a sweep's folder."""
    whole = {
        **cell,
        "data": {**cell["data"], "contents": contents or contents_of(cell["data"]["label"])},
        "seconds": seconds,
    }
    named = {"dataset": cell["data"]["label"], "backbone": cell["backbone"]["label"]}
    facts = {"protocol": "mae/1", "seconds": {"extract": 0.1}, "versions": VERSIONS, **(run or {})}
    name = digest_of({"request": cell["request"], "contents": whole["data"]["contents"]})
    result = Result(cell["evaluation"], [{**named, **row} for row in rows], facts)
    return SweepFolder(folder).write_cell(name, whole, result, details or Details())


def guesses(which: Mapping[str, Any], share: float, seed: int, data: str = "digits/test") -> Predicted:
    """Predictions for a data set of which about so large a share is right; class 1 is the hardest by far."""
    dataset, random = open_dataset(data), np.random.default_rng(seed)
    labels, n = dataset.labels, len(dataset.classes)
    chance = np.where(labels == 1, share / 3, share)
    right = random.random(len(labels)) < chance
    others = (labels + random.integers(1, n, len(labels))) % n
    confidence = np.clip(random.normal(0.55 + 0.25 * right, 0.15), 1 / n, 1)
    return Predicted(which, dataset.ids, labels, np.where(right, labels, others), confidence, dataset.classes)


def rows_of(draws: Sequence[Predicted], **columns: Any) -> list[Row]:
    """The rows that a command gives for predictions: each draw, and the mean."""
    rows: list[Row] = []
    found: dict[str, list[float]] = {"top1": [], "ece": []}
    for trial, one in enumerate(draws):
        right = one.predictions == one.labels
        both = np.stack([one.probabilities, np.zeros_like(one.probabilities)], axis=1)
        values = {"top1": 100 * right.mean(), "ece": expected_calibration_error(both, np.where(right, 0, 1))}
        for metric, value in values.items():
            found[metric].append(float(value))
            rows.append({**columns, "trial": trial, "metric": metric, "value": float(value), "n_test": len(right)})
    for metric, values_of in found.items():
        mean = mean_and_interval(values_of)
        rows.append(
            {
                **columns,
                "trial": "mean",
                "metric": metric,
                "value": mean.pop("mean"),
                **mean,
                "n_test": len(draws[0].labels),
            }
        )
    return rows


def lowshot_cell(
    folder: Path, backbone: str, method: str, shots: int, share: float, *, seed: int = 0, data: str = "digits",
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write a low-shot cell of three draws on digits; the cell as a plan names it."""
    cell = cell_of("lowshot", backbone, data, method=method, shots=shots, trials=3)
    draws = [
        guesses({"method": method, "shots": shots, "trial": trial}, share, 100 * seed + 10 * shots + trial)
        for trial in range(3)
    ]
    rows = rows_of(draws, method=method, shots=shots, n_train=10 * shots)
    write(folder, cell, rows, details=Details(draws), **more)
    return cell


def sweep(folder: Path) -> list[dict[str, Any]]:
    """A finished sweep of two backbones: low-shot, k-NN over k, episodes. Its cells."""
    cells = []
    for at, (backbone, skill) in enumerate((("fewvit_tiny cls", 0.0), ("fewvit_tiny mean", 0.06))):
        for method, more in (("centroid", 0.0), ("logistic", 0.03)):
            for shots, share in ((1, 0.45), (2, 0.55), (5, 0.7)):
                cells.append(
                    lowshot_cell(folder, backbone, method, shots, share + skill + more, seed=at, seconds=at + shots)
                )
        cell = cell_of("knn", backbone)
        rows = [
            {"method": "knn", "k": k, "temperature": 0.07, "metric": "top1", "value": 80 + 3 * at - abs(k - 10) / 5}
            for k in (5, 10, 20, 100)
        ]
        write(folder, cell, rows, {"parameters": 21_600_000 + at})
        cells.append(cell)
        cell = cell_of("episodes", backbone, "digits/train", method="centroid", shots=1, episodes=200)
        accuracies = np.clip(np.random.default_rng(at).normal(55 + 5 * at, 12, 200), 0, 100)
        mean = mean_and_interval(accuracies.tolist())
        row = {"method": "centroid", "ways": 5, "shots": 1, "metric": "accuracy", "trial": "mean"}
        row |= {"value": mean.pop("mean"), **mean}
        scores = EpisodeScores({"method": "centroid", "ways": 5, "shots": 1}, accuracies)
        write(folder, cell, [row], details=Details(episodes=[scores]))
        cells.append(cell)
    SweepFolder(folder).write_plan({"name": "made"}, cells)
    return cells
