"""What is found: the examples' features, one search, and the rows of a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError, UsageError
from ..describe import Found, found_images
from ..examples import search_as_one
from .asking import DEEPEST, Asked, Example
from .loaded import Loaded
from .uploads import Upload, Uploads


@dataclass(frozen=True)
class Hit:
    """One image of an answer."""

    rank: int  # from 1, over all pages
    number: int  # in /thumb and /image
    found: Found


@dataclass(frozen=True)
class Answer:
    """The images of one page."""

    asked: Asked
    loaded: Loaded
    hits: Sequence[Hit]
    has_more: bool
    lost: Sequence[Example]  # examples that are not there any more
    seconds: float


def answer(loaded: Loaded, asked: Asked, uploads: Uploads) -> Answer:
    """What is nearest to the examples; without one, what the filter lets through.

    Raises UsageError where there are only images of what is not wanted, and as `OpenIndex.search`.
    """
    started = time.perf_counter()
    found = {example: _feature(loaded, example, uploads) for example in asked.examples}
    lost = [example for example, feature in found.items() if feature is None]
    wanted = [feature for example, feature in found.items() if feature is not None and example.is_wanted]
    unwanted = [feature for example, feature in found.items() if feature is not None and not example.is_wanted]
    first, last = (asked.page - 1) * asked.k, asked.page * asked.k
    if wanted:
        deep, others = min(last + 1, DEEPEST + 1), _stacked(unwanted, loaded)
        near = search_as_one(loaded.index, np.stack(wanted), others, deep, asked.combine, asked.only, asked.threshold)
        rows, scores = near.of(0)
    elif unwanted:
        raise UsageError("there are only images of what is not wanted: add one of what is looked for")
    else:
        rows, scores = _listed(loaded, asked), None
    here = slice(first, last)
    hits = _hits(loaded, rows[here], None if scores is None else scores[here], first + 1)
    return Answer(asked, loaded, hits, len(rows) > last, lost, time.perf_counter() - started)


def hit_of(loaded: Loaded, name: str) -> Hit:
    """An image of the index by its id. Raises DataError for one that is not in it."""
    return _hits(loaded, np.array([loaded.index.row_of(name)]), None, 1)[0]


def _feature(loaded: Loaded, example: Example, uploads: Uploads) -> np.ndarray | None:
    """The feature (D,) of an example; None where it is not there any more."""
    if example.is_upload:
        fingerprint = loaded.encoder.fingerprint if loaded.encoder is not None else ""
        upload: Upload | None = uploads.get(example.name, fingerprint)
        return None if upload is None else upload.feature
    try:
        return loaded.index.features(np.array([loaded.index.row_of(example.name)]))[0]
    except DataError:
        return None


def _stacked(features: Sequence[np.ndarray], loaded: Loaded) -> np.ndarray:
    return np.stack(features) if features else np.zeros((0, loaded.index.dimension), np.float32)


def _listed(loaded: Loaded, asked: Asked) -> np.ndarray:
    """Rows (n,) in their order; without a filter a selection from all of the index, enough for a page."""
    if asked.only.classes or asked.only.folder:
        return loaded.index.matching(asked.only)
    live = loaded.live
    if asked.page > 1 or len(live) <= asked.k:
        return live
    return live[np.linspace(0, len(live) - 1, asked.k).astype(np.int64)]


def _hits(loaded: Loaded, rows: np.ndarray, scores: np.ndarray | None, first: int) -> list[Hit]:
    every = found_images(loaded.index, loaded.pictures, rows, scores)
    return [Hit(first + at, loaded.number(one.row), one) for at, one in enumerate(every)]
