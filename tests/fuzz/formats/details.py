"""What was found image by image, beside a sweep's cell: bytes that changed, and arrays that are others."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.evaluate.details import Details, EpisodeScores, load_details, save_details
from fewvit.evaluate.predictions import Predicted

from fuzz.formats.features import other_npz
from fuzz.judging import Mutant

_FILE = "d.npz"


class _Details:
    codes = frozenset({3})

    def make(self, folder: Path) -> None:
        stream = np.random.default_rng(3)
        ids, classes = [f"i{row}" for row in range(7)], ["a", "b", "c"]
        labels = np.array([0, 1, 2, -1, 0, 1, 2])
        draws = [
            Predicted({"method": "knn", "trial": t}, ids, labels, stream.integers(0, 3, 7), stream.random(7), classes)
            for t in range(2)
        ]
        save_details(folder / _FILE, Details(draws, [EpisodeScores({"method": "knn"}, stream.random(5))]))

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        return other_npz(_FILE, files[_FILE], stream)

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        return load_details(folder / _FILE)


FORMAT = _Details()
