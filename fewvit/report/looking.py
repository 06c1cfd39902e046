"""Which results are looked at closely: the best with details, of each data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..evaluate.details import Details
from ..evaluate.predictions import Predicted
from .read import Found, Record
from .rows import Line

MOST_DATASETS = 4
_WHICH = ("method", "shots", "k", "temperature", "ways", "layer")


@dataclass(frozen=True)
class Looked:
    """One number of the table with the predictions behind it."""

    line: Line
    draws: Sequence[Predicted]  # of the same test images, one for each draw

    @property
    def words(self) -> str:
        """Which backbone and method it is of."""
        row = self.line.row
        few = row.get("shots")
        shots = ["all labels" if few is None else f"{few} per class" if isinstance(few, int) else str(few)]
        k = [f"k {row['k']}"] if row.get("k") is not None else []
        draws = [f"{len(self.draws)} draws"] if len(self.draws) > 1 else []
        return " · ".join([str(row["backbone"]), str(row.get("method") or ""), *shots, *k, *draws])

    @property
    def confusion(self) -> np.ndarray:
        """Counts (C, C) over all draws: a row per true class."""
        return np.sum([one.confusion for one in self.draws], axis=0)

    @property
    def judged(self) -> tuple[np.ndarray, np.ndarray]:
        """Confidence (n,) of each prediction about a labelled image, and whether it is right (n,), of all draws."""
        known = [one.labels >= 0 for one in self.draws]
        confidence = [one.probabilities[mask] for one, mask in zip(self.draws, known, strict=True)]
        right = [(one.predictions == one.labels)[mask] for one, mask in zip(self.draws, known, strict=True)]
        return np.concatenate(confidence).astype(np.float64), np.concatenate(right)


class DetailsOf:
    """Reads details once; those that are damaged join what is left out."""

    def __init__(self, found: Found):
        self._found, self._read = found, {}  # type: tuple[Found, dict[Any, Details]]

    def __call__(self, record: Record) -> Details:
        if record.path not in self._read:
            try:
                self._read[record.path] = record.details()
            except DataError as error:
                self._found.damaged.append(error)
                self._read[record.path] = Details()
        return self._read[record.path]


def best_of_each(lines: Sequence[Line], details: DetailsOf, most: int = 1) -> dict[str, list[Looked]]:
    """What is looked at -> the results with the highest top-1 that have predictions, one of each backbone and method.

    That is a data set with few labels, and after it with all of them, where it has results of both.
    """
    candidates: dict[str, dict[bool, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line.row["metric"] == "top1" and not line.is_trial and line.record.cell is not None:
            candidates[str(line.row["dataset"])][line.row.get("shots") is not None].append(line)
    looked: dict[str, list[Looked]] = {}
    for dataset, kinds in list(candidates.items())[:MOST_DATASETS]:
        found = {few: _take(_predicted(kinds[few], details), most) for few in (True, False) if few in kinds}
        found = {few: one for few, one in found.items() if one}
        for few, one in found.items():
            looked[f"{dataset}, {'few labels' if few else 'all labels'}" if len(found) > 1 else dataset] = one
    return looked


def _take(looked: Iterator[Looked], most: int) -> list[Looked]:
    found: dict[tuple[str, ...], Looked] = {}
    for one in looked:
        found.setdefault(tuple(str(one.line.row.get(name)) for name in ("backbone", "protocol", "method")), one)
        if len(found) == most:
            break
    return list(found.values())


def _predicted(lines: Sequence[Line], details: DetailsOf) -> Iterator[Looked]:
    for line in sorted(lines, key=lambda line: -line.row["value"]):
        draws = [one for one in details(line.record).predicted if _belongs(one.which, line.row)]
        if draws and (draws[0].labels >= 0).any():
            yield Looked(line, draws)


def _belongs(which: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(which[name] == row.get(name) for name in _WHICH if name in which)
