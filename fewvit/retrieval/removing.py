"""Which images of an index are meant by a user who wants them removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .opened import OnlyThese, OpenIndex
from .pictures import MISSING, Pictures


@dataclass(frozen=True)
class Unwanted:
    """What is to be removed: images by their ids, and those that are of one of the classes, in one of the folders."""

    ids: Sequence[str] = ()
    classes: Sequence[str] = ()  # none: of all
    folders: Sequence[str] = ()  # what their ids begin with; none: all
    missing: bool = False  # of all, or those of the classes and folders, the ones whose file is not there

    @property
    def is_nothing(self) -> bool:
        """Whether no image is named in any way."""
        return not (self.ids or self.classes or self.folders or self.missing)


def ids_of(index: OpenIndex, unwanted: Unwanted) -> list[str]:
    """The ids of all that is to be removed.

    Raises DataError for classes and folders without an image, and where a whole source is not there and what is missing
    is wanted; UnknownName for a class that the index does not know.
    """
    names = list(unwanted.ids)
    if not (unwanted.classes or unwanted.folders or unwanted.missing):
        return names
    found = [index.matching(OnlyThese(unwanted.classes, folder)) for folder in unwanted.folders or ("",)]
    for rows, folder in zip(found, unwanted.folders or ("",), strict=True):
        if len(rows) == 0 and (unwanted.classes or folder):
            raise DataError(f"no image of this index is {_told(unwanted.classes, folder)}", file=index.path)
    rows = np.unique(np.concatenate(found))
    if unwanted.missing:
        pictures = Pictures(index)
        pictures.require_sources()
        rows = rows[np.array([state == MISSING for state in pictures.states(rows)], bool)]
    return names + index.ids(rows)


def _told(classes: Sequence[str], folder: str) -> str:
    of = f"of class {' or '.join(classes)}" if classes else ""
    inside = f"one whose id begins with {folder!r}" if folder else ""
    return " and ".join(filter(None, (of, inside)))
