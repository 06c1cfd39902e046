"""The images that a run is monitored on, and the training images that are not among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import images as pixels_of
from ..datasets import Dataset
from ..errors import BadImages, DataError
from ..images import BadImage
from ..preprocess import Preprocess
from ..seeds import generator

if TYPE_CHECKING:
    from ..digests import Contents
    from .request import PretrainingEffort, PretrainingRequest

_LABELLED = 5000  # images of a monitor; k-NN among more takes longer than it is worth
_UNLABELLED = 512  # training images whose features' spread and rank are measured where there is no monitor


@dataclass(frozen=True)
class MonitorImages:
    """Images whose features are evaluated again and again; never trained on if they have labels."""

    pixels: np.ndarray  # (N, H, W, 3) uint8, as the evaluation's transform gives them
    labels: np.ndarray | None = None  # (N,); None: only spread and rank are measured
    n_classes: int = 0


def labelled_monitor_images(
    dataset: Dataset, preprocess: Preprocess, request: PretrainingRequest, effort: PretrainingEffort
) -> MonitorImages:
    """The monitor's labelled images, decoded once; a seeded sample of a large set.

    Raises DataError for fewer than two classes.
    """
    rows = np.flatnonzero(dataset.labels >= 0)
    if len(np.unique(dataset.labels[rows])) < 2:
        what = "a monitor needs labelled images of at least two classes"
        raise DataError(what, file=request.monitor, fix="Give --monitor another SRC, or off.")
    rows = np.sort(generator(request.seed, "watched").permutation(rows)[:_LABELLED])
    pixels = _evaluation_pixels(dataset, rows, preprocess, effort)
    return MonitorImages(pixels, dataset.labels[rows], len(dataset.classes))


def unlabelled_monitor_images(
    dataset: Dataset,
    rows: np.ndarray,
    preprocess: Preprocess,
    request: PretrainingRequest,
    effort: PretrainingEffort,
) -> MonitorImages:
    """A seeded sample of the training images with numbers `rows` (N,), decoded once."""
    sample = generator(request.seed, "watched").permutation(rows)[:_UNLABELLED]
    return MonitorImages(_evaluation_pixels(dataset, np.sort(sample), preprocess, effort))


def _evaluation_pixels(
    dataset: Dataset, rows: np.ndarray, preprocess: Preprocess, effort: PretrainingEffort
) -> np.ndarray:
    """Pixels (N, H, W, 3) of some images as an evaluation sees them. Raises BadImages for a broken one."""
    pixels = []
    for row in rows.tolist():
        try:
            pixels.append(pixels_of.decode(dataset.read(row), preprocess, "fast", effort.max_pixels)[0])
        except BadImage as error:
            what = f"{dataset.ids[row]} cannot be decoded: {error.reason}"
            raise BadImages(what, fix="Repair or remove it.") from error
    return np.stack(pixels)


def without_monitor_images(
    dataset: Dataset, contents: Contents, monitor: Contents | None, notify: Callable[[str], None]
) -> np.ndarray:
    """Rows (N,) of the training images that are not among the monitor's: no image that evaluates is trained on.

    Raises DataError where all of them are.
    """
    held_out = set(map(bytes, monitor.each)) if monitor is not None else set()
    others = [row for row, digest in enumerate(map(bytes, contents.each)) if digest not in held_out]
    if not others and len(dataset):
        raise DataError(
            f"all {len(dataset)} images of {dataset.name} are the monitor's too: nothing is left to train on",
            fix="Give --monitor other images than --data.",
        )
    if len(others) < len(dataset):
        notify(f"{len(dataset) - len(others)} of {len(dataset)} images are the monitor's too and are not trained on")
    return np.array(others, np.int64)


def require_different_images(dataset: Dataset, contents: Contents, rows: np.ndarray) -> None:
    """Raise DataError when all images with numbers `rows` (N,) of a data set are one and the same."""
    if len(rows) > 1 and bool((contents.each[rows] == contents.each[rows[0]]).all()):
        raise DataError(f"all images of {dataset.name} are the same image", fix="Look at what --data names.")
