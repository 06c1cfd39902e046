"""Which rows are labelled and which are tested: seeded subsets of a labelled set. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import DataError, UsageError


@dataclass(frozen=True)
class Split:
    """Row numbers of one trial."""

    train: np.ndarray  # (n,) int64 rows of the training set
    test: np.ndarray  # (m,) int64 rows of the test set
    shots: int
    seed: int


def dinov2_subset(labels: np.ndarray, shots: int, trial: int) -> np.ndarray:
    """Row numbers of DINOv2's n-per-class subset: classes ascending, in each the first `shots` of a random permutation.

    The generator is torch's, seeded with the trial, as in DINOv2's k-NN evaluation: its published few-shot numbers hang on
    that stream. Unlabelled rows (-1) are left out. Raises UsageError for less than one shot,
    DataError for a class with fewer images.
    """
    if shots < 1:
        raise UsageError(f"{shots} images per class are none to learn from; ask for one or more")
    import torch

    stream = torch.Generator().manual_seed(trial)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) == 0:
        raise DataError("no row has a label, so there is nothing to choose shots from")
    short = classes[counts < shots]
    if len(short):
        raise DataError(
            f"{len(short)} classes have fewer than {shots} images (the first: class {short[0]} has {counts[counts < shots][0]})",
            fix="Ask for fewer shots.",
        )
    chosen = [
        np.flatnonzero(labels == c)[torch.randperm(n, generator=stream)[:shots].numpy()]
        for c, n in zip(classes, counts.tolist(), strict=True)
    ]
    return np.concatenate(chosen)
