"""A sweep's folder, as a report reads it: cells, details, what failed, the plan."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.evaluate.details import Details, EpisodeScores
from fewvit.report.read import read
from fewvit.sweep.folder import SweepFolder, _digest

import made_results
from fuzz.judging import TOLD, Mutant
from fuzz.mutations import changed_json, damaged, written_json


class _Cell:
    codes = frozenset({3, 4})

    def make(self, folder: Path) -> None:
        sweep = folder / "sweep"
        cells = []
        for method in ("centroid", "logistic"):
            cell = made_results.cell_of("episodes", data="toy", method=method, shots=1, episodes=5)
            scores = EpisodeScores({"method": method, "ways": 5, "shots": 1}, np.linspace(50, 60, 5))
            row = {"method": method, "ways": 5, "shots": 1, "metric": "accuracy", "trial": "mean", "value": 55.0}
            made_results.write(sweep, cell, [{**row, "ci95": [54.0, 56.0]}], details=Details(episodes=[scores]))
            cells.append(cell)
        cells.append(made_results.cell_of("episodes", data="toy", method="knn", shots=1, episodes=5))
        SweepFolder(sweep).write_failed(cells[-1], "knn: no", 5)
        SweepFolder(sweep).write_plan({"name": "made"}, cells)

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        data, kind = files[name], stream.random()
        checked = "/cells/" in name or "/details/" in name
        if kind < 0.5 or name.endswith(".npz"):
            return Mutant({name: damaged(data, stream)}, checked, how=f"bytes of {name}")
        if kind < 0.6 or not checked:
            return Mutant({name: written_json(json.loads(data), stream)}, checked, how=f"JSON of {name}")
        value = changed_json(json.loads(data), stream)
        if isinstance(value, dict):
            value["sha256"] = _digest({key: one for key, one in value.items() if key != "sha256"})
        return Mutant({name: json.dumps(value).encode()}, checked=False, how=f"signed JSON of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found = read([folder / "sweep"])
        if found.damaged:
            raise found.damaged[0]
        if found.notes:
            return TOLD
        told: list[Any] = []
        for record in found.records:
            told += [record.task, list(record.rows), record.run, record.details(), record.seconds]
            told += [(record.protocol_of(row), record.seed_of(row)) for row in record.rows]
        return told


FORMAT = _Cell()
