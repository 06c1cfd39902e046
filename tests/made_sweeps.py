"""Sweep folders whose every prediction is made by hand or drawn from a seed: three classes, 33 test images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewvit.evaluate.details import Details
from fewvit.evaluate.predictions import Predicted
from fewvit.results import Result
from fewvit.sweep.folder import SweepFolder, digest_of

CLASSES = ["bee", "cat", "dog"]
IDS = [f"{name}/{number}.png" for name in CLASSES for number in range(11)]
LABELS = np.repeat(np.arange(3), 11)


def predictions(skill: float, seed: int, draws: int) -> np.ndarray:
    """(R, 33): the label where an image is easy enough, else another class."""
    stream = np.random.default_rng(seed)
    wrong = (LABELS + 1 + stream.integers(0, 2, (draws, 33))) % 3
    return np.where(stream.random((draws, 33)) < skill, LABELS, wrong)


def put(
    folder: Path,
    backbone: str,
    predicted: np.ndarray,
    *,
    data: str = "tiny",
    contents: str = "00",
    method: str = "logistic",
    shots: int = 5,
    protocol: str = "dino/1",
    seed: int = 0,
    keep: bool = True,
    order: Sequence[int] = range(33),
    ids: Sequence[str] = IDS,
    labels: np.ndarray = LABELS,
) -> None:
    """A cell of a sweep: lowshot on three classes, each row of `predicted` (R, 33) a draw."""
    which = [{"method": method, "shots": shots, "trial": trial} for trial in range(len(predicted))]
    values = [100 * float((one == labels).mean()) for one in predicted]
    same = {"dataset": data, "backbone": backbone, "method": method, "shots": shots, "metric": "top1"}
    same |= {"n_train": 3 * shots, "n_test": 33}
    rows = [{**same, "trial": trial, "value": value} for trial, value in enumerate(values)]
    rows.append({**same, "trial": "mean", "value": float(np.mean(values))})
    order = list(order)
    details = Details(
        [
            Predicted(one, [ids[row] for row in order], labels[order], found[order], np.full(33, 0.5), CLASSES)
            for one, found in zip(which, predicted, strict=True)
        ]
    )
    cell = {"evaluation": "lowshot", "method": method, "shots": shots, "seed": seed, "backbone": {"label": backbone}}
    cell |= {"data": {"label": data, "contents": contents}, "protocol": protocol}
    cell["request"] = digest_of(cell)
    run = {"protocol": protocol, "seed": seed}
    SweepFolder(folder).write_cell(
        digest_of({**cell, "at": contents}), cell, Result("lowshot", rows, run), details if keep else Details()
    )


def many(folder: Path, skills: dict[str, float], data_sets: int) -> np.ndarray:
    """Sweeps of several data sets; the means (N, S) of what was put there."""
    means = np.zeros((data_sets, len(skills)))
    for number, (at, (name, skill)) in itertools.product(range(data_sets), enumerate(skills.items())):
        found = predictions(skill - 0.05 * number, 31 * number + at, 3)
        means[number, at] = 100 * (found == LABELS).mean()
        put(folder, name, found, data=f"set{number}", contents=f"c{number}")
    return means


def planned(folder: Path) -> Path:
    """The folder, with a plan of all its cells."""
    sweep = SweepFolder(folder)
    sweep.write_plan({}, [cell.cell for cell in sweep.finished()])
    return folder
