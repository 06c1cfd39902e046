"""What an evaluation found image by image and episode by episode, as one file for reports to draw from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, refuse_out_of_memory
from ..files import replacing, unpacked_size
from ..untrusted.arrays import arrays_of
from ..untrusted.texts import json_of
from .predictions import Predicted

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class EpisodeScores:
    """What one classifier got right in each episode."""

    which: Mapping[str, Any]  # method, shots, ways: the columns of its row
    accuracies: np.ndarray  # (E,) percent


@dataclass(frozen=True)
class Details:
    """What stands behind the rows of one result. The predictions are all of the same test images."""

    predicted: Sequence[Predicted] = ()
    episodes: Sequence[EpisodeScores] = ()

    def __bool__(self) -> bool:
        return bool(self.predicted) or bool(self.episodes)


Keep = Callable[[Details], None]  # takes what an evaluation found beside its rows


def keep_nothing(details: Details) -> None:
    """For whoever wants the rows alone."""


def both(first: Keep, second: Keep) -> Keep:
    """What hands the same details to two who want them."""

    def keep(details: Details) -> None:
        first(details)
        second(details)

    return keep


def save_details(path: _Path, details: Details) -> None:
    """Replace `path` by an .npz file: the same bytes for the same details.

    `predictions` (S, Q) and `probabilities` (S, Q) of S classifiers and trials on Q images, `ids` (Q), `labels` (Q),
    or (S, Q) where several classes of an image are right, `classes` (C); `accuracies` (T, E) percent of T classifiers
    in E episodes; `which` as JSON: the columns of each.
    """
    arrays: dict[str, np.ndarray] = {}
    if details.predicted:
        first = details.predicted[0]
        arrays["predictions"] = np.stack([one.predictions for one in details.predicted]).astype(np.int32)
        arrays["probabilities"] = np.stack([one.probabilities for one in details.predicted]).astype(np.float32)
        of_each = np.stack([one.labels for one in details.predicted]).astype(np.int32)
        arrays["labels"] = of_each if any(one.several_right for one in details.predicted) else of_each[0]
        arrays["ids"], arrays["classes"] = _text(first.ids), _text(first.classes)
    if details.episodes:
        arrays["accuracies"] = np.stack([one.accuracies for one in details.episodes]).astype(np.float64)
    which = {
        "predicted": [dict(one.which) for one in details.predicted],
        "episodes": [dict(one.which) for one in details.episodes],
    }
    arrays["which"] = _text([json.dumps(which, sort_keys=True)])
    with replacing(path) as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)


def load_details(path: _Path) -> Details:
    """What `save_details` wrote. Raises DataError for a file that is missing, damaged or of another kind."""
    try:
        arrays = arrays_of(path)
        which = json_of(_words(arrays["which"])[0])
        columns = {name: [_columns(one) for one in which[name]] for name in ("predicted", "episodes")}
        return Details(_predicted(arrays, columns["predicted"]), _episodes(arrays, columns["episodes"]))
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except _DAMAGED as error:
        refuse_out_of_memory(error, "reading the details of a result", unpacked_size(path))
        raise DataError(
            f"not the details of a result, or damaged: {error}", file=path, fix="Run what made it again."
        ) from error


# what arrays and JSON of another kind make of the code below
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def _predicted(arrays: Mapping[str, np.ndarray], which: Sequence[Mapping[str, Any]]) -> list[Predicted]:
    if not which:
        return []
    ids, classes, labels = _words(arrays["ids"]), _words(arrays["classes"]), arrays["labels"].astype(np.int64)
    predictions, probabilities = arrays["predictions"].astype(np.int64), arrays["probabilities"].astype(np.float32)
    shape = (len(which), len(ids))
    if (
        probabilities.dtype.kind != "f"
        or predictions.shape != shape
        or probabilities.shape != shape
        or labels.shape not in (shape, shape[1:])
    ):
        raise ValueError("its arrays do not fit each other")
    named = np.concatenate([predictions.ravel(), labels[labels != -1]])
    if named.size and not (named.min() >= 0 and named.max() < len(classes)):
        raise ValueError("it names classes that are none")
    several = labels.ndim == 2
    return [
        Predicted(one, ids, labels[row] if several else labels, predictions[row], probabilities[row], classes, several)
        for row, one in enumerate(which)
    ]


def _episodes(arrays: Mapping[str, np.ndarray], which: Sequence[Mapping[str, Any]]) -> list[EpisodeScores]:
    if not which:
        return []
    if arrays["accuracies"].ndim != 2 or len(arrays["accuracies"]) != len(which):
        raise ValueError("its arrays do not fit each other")
    if not np.isfinite(arrays["accuracies"]).all():
        raise ValueError("its accuracies are not numbers")
    return [EpisodeScores(one, arrays["accuracies"][row]) for row, one in enumerate(which)]


def _columns(which: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of what is kept. Raises ValueError for a draw that has no number."""
    if not isinstance(which.get("trial", 0), int):
        raise ValueError("a draw has no number")
    return dict(which)


def _text(words: Sequence[str]) -> np.ndarray:
    """Words as the bytes of a JSON list: odd file names come back whole, and a long one costs itself alone."""
    return np.frombuffer(json.dumps(list(words)).encode("ascii"), np.uint8)


def _words(array: np.ndarray) -> list[str]:
    return list(map(str, json_of(array.astype(np.uint8).tobytes())))
