"""Small pictures of test images that were taken for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..datasets import Dataset, open_dataset
from ..errors import FewvitError, UsageError
from ..images import BadImage
from ..retrieval.thumbnails import thumbnail
from ..sources import Given, is_features
from .looking import Looked
from .parts import Gallery, Picture

_SIDE = 112  # pixels of the longer side
_OF_EACH = 8  # pictures of a class
_ROOM = 1_200_000  # bytes of all pictures of a page


class Pictures:
    """Reads test images where a result says they are; opens each source once."""

    def __init__(self) -> None:
        self._sources: dict[str, Dataset | str] = {}  # place -> the images, or why there are none
        self._rows: dict[str, dict[str, int]] = {}
        self._room = _ROOM

    def of_class(self, dataset: str, looked: Looked, number: int) -> Gallery:
        """Images of a class that were taken for another: the surest mistakes first."""
        classes = looked.draws[0].classes
        title = f"{dataset}: {classes[number]}"
        place = _test_place(looked.line.record.asked["data"])
        source = self._opened(place)
        if isinstance(source, str):
            return Gallery(title, [], f"No pictures: {source}")
        found, lost = [], 0
        for id_, taken_for, probability in _mistakes(looked, number):
            small = self._small(place, source, id_)
            if small is None:
                lost += 1
            elif self._room >= len(small):
                self._room -= len(small)
                found.append(Picture(small, id_, f"{classes[taken_for]} ({100 * probability:.0f} %)"))
            if len(found) == _OF_EACH:
                break
        return Gallery(title, found, "" if found else _why_none(lost))

    def _opened(self, place: str) -> Dataset | str:
        if place not in self._sources:
            try:
                if is_features(place):
                    raise UsageError("features were given, and no images")
                dataset = open_dataset(place)
                self._rows[place] = {id_: row for row, id_ in enumerate(dataset.ids)}
                self._sources[place] = dataset
            except (FewvitError, OSError) as error:
                self._sources[place] = " ".join(str(error).split())
        return self._sources[place]

    def _small(self, place: str, source: Dataset, id_: str) -> bytes | None:
        row = self._rows[place].get(id_)
        if row is None:
            return None
        try:
            return thumbnail(source.read(row), _SIDE)
        except (BadImage, OSError, FewvitError):
            return None


def _test_place(data: Mapping[str, Any]) -> str:
    """Where the test images are: those of one set are its own."""
    given = Given(data.get("data"), data.get("train"), data.get("test"))
    try:
        return given.sides()[1]
    except FewvitError:
        return str(data.get("test") or data.get("data") or "")


def _mistakes(looked: Looked, number: int) -> Sequence[tuple[str, int, float]]:
    """(id, what it was taken for, how surely) of the class's images that some draw got wrong, the surest first."""
    surest: dict[str, tuple[float, int]] = {}
    for draw in looked.draws:
        for row in np.flatnonzero((draw.labels == number) & (draw.predictions != number)).tolist():
            mistake = (float(draw.probabilities[row]), int(draw.predictions[row]))
            surest[draw.ids[row]] = max(surest.get(draw.ids[row], mistake), mistake)
    order = sorted(surest.items(), key=lambda one: (-one[1][0], one[0]))
    return [(id_, taken_for, probability) for id_, (probability, taken_for) in order]


def _why_none(lost: int) -> str:
    if lost:
        return "No pictures: its images are not where they were, or cannot be decoded."
    return "No pictures: the page has no room for more."
