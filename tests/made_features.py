"""Feature sets of noisy classes, made from seeds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fewvit.features import FeatureSet


def made(
    width: int, spread: float, counts: Mapping[int, tuple[int, int]], seed: int = 11
) -> tuple[FeatureSet, FeatureSet]:
    """Train and test features (N, width) float32 around a centre for each class, in mixed order.

    `counts`: label -> how many rows it has in the train and in the test set.
    """
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(counts), width))
    classes = [f"c{label}" for label in range(max(counts) + 1)]
    sets = []
    for side, name in enumerate(("train", "test")):
        places = random.permutation(np.repeat(np.arange(len(counts)), [both[side] for both in counts.values()]))
        rows = (centres[places] + spread * random.normal(size=(len(places), width))).astype(np.float32)
        ids = [f"{name}/{row}" for row in range(len(places))]
        sets.append(FeatureSet(rows, np.array(list(counts))[places], ids, classes, name=name))
    return sets[0], sets[1]
