"""INRIA Copydays: each altered image has one original, which distractors hide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from ...errors import DataError, counted, printable
from ...labels import Listed
from ...results import Row
from ..measures.average_precision import by_trapezoid
from ..names import name_of
from .ranking import Parts, require_some, rows_of

_ORIGINALS = "original"  # the folder of the images that were altered
_PREFIX = 4  # characters of a name that an image and its altered copies share: 200101 is made of 200100


@dataclass(frozen=True)
class Copydays:
    """The original of each altered image, which is called by the folder that it lies in: strong, jpegqual/3."""

    queries: np.ndarray
    originals: np.ndarray  # (Q,) rows of the index
    blocks: Sequence[str]  # Q folders
    depth: int = 20
    own: None = None

    @classmethod
    def bound(cls, queries: Listed, index: Listed) -> Copydays:
        """By folders and names. Raises DataError for an altered image whose original is not in the index."""
        originals = {name_of(id_)[:_PREFIX]: row for row, id_ in enumerate(index.ids) if _is_original(id_)}
        asked = [row for row, id_ in enumerate(queries.ids) if not _is_original(id_)]
        require_some(len(asked), "is an altered image of one")
        lost = [queries.ids[row] for row in asked if name_of(queries.ids[row])[:_PREFIX] not in originals]
        if lost:
            raise DataError(
                f"{counted(len(lost), 'altered image has', 'altered images have')} no original in the index, such as "
                f"{printable(lost[0])}",
                fix="The index has to hold the folder `original`; names share their first four characters.",
            )
        return cls(
            np.array(asked),
            np.array([originals[name_of(queries.ids[row])[:_PREFIX]] for row in asked]),
            [str(PurePosixPath(queries.ids[row]).parent) for row in asked],
        )

    def measure(self, parts: Parts) -> list[Row]:
        """mAP of each folder of altered images, over the first twenty places."""
        found: dict[str, list[float]] = {}
        for part, near in parts:
            for original, block, ranking in zip(self.originals[part], self.blocks[part], near.rows, strict=True):
                ranks = np.flatnonzero(ranking[: self.depth] == original)
                found.setdefault(block, []).append(100 * by_trapezoid(ranks, 1))
        return [
            row
            for block, values in sorted(found.items())
            for row in rows_of({"map": float(np.mean(values))}, len(values), setting=block)
        ]


def _is_original(id_: str) -> bool:
    return _ORIGINALS in PurePosixPath(id_).parts[:-1]
