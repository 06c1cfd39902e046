"""The images that a run is watched on, and the training images that are not among them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import images as pixels_of
from ..datasets import Dataset, select
from ..errors import BadImages, DataError
from ..images import BadImage, Preprocess
from ..seeds import generator
from .request import PretrainingEffort, PretrainingRequest

_MONITORED = 5000  # pictures of a monitor; k-NN among more takes longer than it tells
_UNLABELLED = 512  # training pictures whose features' spread and rank are looked at where there is no monitor


def labelled_monitor_images(dataset: Dataset, preprocess: Preprocess, request: PretrainingRequest, effort: PretrainingEffort) -> Any:
    """The monitor's labelled pictures, decoded once; a seeded sample of a large set. Raises DataError for fewer than two classes."""
    from .monitor import MonitorImages

    rows = np.flatnonzero(dataset.labels >= 0)
    if len(np.unique(dataset.labels[rows])) < 2:
        raise DataError(
            "a monitor needs labelled images of at least two classes", file=request.monitor, fix="Give --monitor another SRC, or off."
        )
    rows = np.sort(generator(request.seed, "watched").permutation(rows)[:_MONITORED])
    return MonitorImages(evaluation_pixels(dataset, rows, preprocess, effort), dataset.labels[rows], len(dataset.classes))


def evaluation_pixels(dataset: Dataset, rows: np.ndarray, preprocess: Preprocess, effort: PretrainingEffort) -> np.ndarray:
    """Pixels (N, H, W, 3) of some images as an evaluation sees them. Raises BadImages for the first that cannot be decoded."""
    pixels = []
    for row in rows.tolist():
        try:
            pixels.append(pixels_of.decode(dataset.read(row), preprocess, "fast", effort.max_pixels)[0])
        except BadImage as error:
            raise BadImages(f"{dataset.ids[row]} cannot be decoded: {error.reason}", fix="Repair or remove it.") from error
    return np.stack(pixels)


def without_monitor_images(dataset: Dataset, watched: Dataset, say: Callable[[str], None]) -> Dataset:
    """The training images that are not among the monitor's: what is judged by is never trained on."""
    held_out = {_digest(watched, row) for row in range(len(watched))}
    kept = [row for row in range(len(dataset)) if _digest(dataset, row) not in held_out]
    if len(kept) == len(dataset):
        return dataset
    say(f"{len(dataset) - len(kept)} of {len(dataset)} images are the monitor's too and are not trained on")
    return select(dataset, kept)


def require_different_images(dataset: Dataset, rows: np.ndarray) -> None:
    """Raise DataError when a sample of the images is one picture again and again: nothing can be learnt from it."""
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, _UNLABELLED).astype(np.int64))] if len(rows) else rows
    if len(sample) > 1 and len({_digest(dataset, row) for row in sample.tolist()}) == 1:
        raise DataError(f"all images of {dataset.name} are the same picture", fix="Look at what --data names.")


def _digest(dataset: Dataset, row: int) -> bytes:
    return hashlib.sha256(dataset.read(row)).digest()
