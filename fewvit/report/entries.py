"""What each system reached in each setting on each data set, gathered from records for a comparison.

A system is a backbone's setting by its label, or a classifier by its name: whichever the names given are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, UnknownName, UsageError, printable
from ..evaluate.details import Details
from .read import Record, walk

AXES = ("backbone", "method")  # columns that name what is compared
_METRICS = ("top1", "accuracy", "map")  # of which more is better, and of which a result has one
_COLUMNS = ("method", "layer", "setting", "k", "temperature", "ways", "queries", "shots", "metric")  # of a setting
Columns = tuple[tuple[str, Any], ...]  # column, value


@dataclass(frozen=True)
class Data:
    """A data set: cells of one name and other images are of other data."""

    name: str
    contents: str  # digest of the images' bytes; empty where a result does not tell it


@dataclass(frozen=True)
class System:
    """What is compared. One name under two protocols is two systems, and neither is averaged into the other."""

    name: str
    protocol: str


@dataclass(frozen=True)
class Setting:
    """What is the same for all that are compared with one another, but for the data."""

    task: str
    columns: Columns
    seed: int | None

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return dict(self.columns)

    def __str__(self) -> str:
        words = [self.task, *(f"{name} {value}" for name, value in self.columns if name != "metric")]
        return ", ".join(words) + (f", seed {self.seed}" if self.seed else "")


@dataclass(frozen=True)
class Entry:
    """What one system reached in one setting on one data set."""

    record: Record
    where: Mapping[str, Any]  # the columns of its rows that tell it from others of its record
    values: Mapping[int, float]  # draw -> percent; a single number, such as a mean of episodes, is draw 0
    n_train: int | None
    n_test: int | None


Entries = dict[Setting, dict[Data, dict[System, Entry]]]


def axis_of(records: Sequence[Record], names: Sequence[str]) -> str:
    """The column that holds all of these names. Raises UsageError for fewer than two or one twice, and UnknownName."""
    if len(names) < 2:
        raise UsageError(f"--compare takes two names or more, with commas between them; here is {len(names)}")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--compare has {printable(name)} twice, and a thing cannot be compared with itself")
    known = {axis: dict.fromkeys(str(row[axis]) for _, row in walk(records) if axis in row) for axis in AXES}
    for axis in AXES:
        if set(names) <= set(known[axis]):
            return axis
    for axis in AXES:
        if set(names) & set(known[axis]):
            wrong = next(name for name in names if name not in known[axis])
            raise UnknownName(axis, wrong, known[axis], fix="--compare takes backbones alone, or methods alone.")
    raise UnknownName("backbone or method", names[0], [name for axis in AXES for name in known[axis]])


def gather(records: Sequence[Record], names: Sequence[str], axis: str) -> tuple[Entries, list[str]]:
    """The entries of the systems named, and a line for each that contradicts another one and is left out."""
    found: Entries = {}
    left_out: list[str] = []
    for record in records:
        for key, rows in _by_place(record, names, axis).items():
            setting, data, system = key
            entry = _entry(record, rows)
            systems = found.setdefault(setting, {}).setdefault(data, {})
            if system in systems and systems[system].values != entry.values:
                left_out.append(
                    f"{printable(system.name)} on {printable(data.name)} ({setting}) stands in "
                    f"{printable(systems[system].record.path)}, and with other numbers in {printable(record.path)}, "
                    "which is left out: names must tell settings apart, as those of a sweep do"
                )
            elif system not in systems or systems[system].record.cell is None:  # a cell has more to show
                systems[system] = entry
    return found, left_out


def _by_place(
    record: Record, names: Sequence[str], axis: str
) -> dict[tuple[Setting, Data, System], list[Mapping[str, Any]]]:
    """The rows of one record by the setting, data set and system that they are of."""
    other = "method" if axis == "backbone" else "backbone"
    seed = record.asked.get("seed", record.run.get("seed"))
    found: dict[tuple[Setting, Data, System], list[Mapping[str, Any]]] = {}
    for row in record.rows:
        if str(row.get(axis)) not in names or row["metric"] not in _METRICS:
            continue
        protocol = record.protocol_of(row)
        columns = {name: row[name] for name in (other, *_COLUMNS) if name not in (axis,) and row.get(name) is not None}
        if axis == "method" and protocol:
            columns["protocol"] = protocol
        key = (
            Setting(record.task, tuple(columns.items()), seed),
            Data(str(row.get("dataset", "")), record.contents),
            System(str(row[axis]), protocol),
        )
        found.setdefault(key, []).append(row)
    return found


def _entry(record: Record, rows: Sequence[Mapping[str, Any]]) -> Entry:
    """The draws among the rows of one place; where there is a mean alone, that."""
    draws = {int(row["trial"]): float(row["value"]) for row in rows if _is_draw(row)}
    where = {name: rows[-1][name] for name in _COLUMNS if name in rows[-1]}
    return Entry(record, where, draws or {0: float(rows[-1]["value"])}, rows[-1].get("n_train"), rows[-1].get("n_test"))


def _is_draw(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("trial"), int) and not isinstance(row.get("trial"), bool)


# ---- image by image


@dataclass(frozen=True)
class Scores:
    """What a system scored in each draw on each test image, or in each episode."""

    of: str  # images or episodes
    draws: Sequence[int]  # R
    ids: Sequence[str]  # Q; of episodes their numbers
    labels: Sequence[str]  # Q class names; of episodes empty
    values: np.ndarray  # (R, Q) percent: of an image 100 where it is right, else 0

    def at(self, draws: Sequence[int]) -> np.ndarray:
        """The rows (len(draws), Q) of these draws."""
        return self.values[[self.draws.index(draw) for draw in draws]]


def scores_of(entry: Entry) -> Scores | None:
    """What stands behind an entry; None where nothing is kept of it. Raises DataError where its file is damaged."""
    details = entry.record.details()
    return _of_images(details, entry) or _of_episodes(details, entry)


def _of_images(details: Details, entry: Entry) -> Scores | None:
    chosen = {int(one.which.get("trial", 0)): one for one in details.predicted if _is_of(one.which, entry)}
    draws = sorted(chosen.keys() & entry.values.keys())
    if not draws or entry.where["metric"] != "top1":
        return None
    first = chosen[draws[0]]
    known = np.flatnonzero(first.labels >= 0)
    order = known[np.argsort([first.ids[row] for row in known], kind="stable")]  # images are matched by id
    right = np.stack([chosen[draw].predictions[order] == first.labels[order] for draw in draws])
    ids, labels = [first.ids[row] for row in order], [first.classes[first.labels[row]] for row in order]
    return Scores("images", draws, ids, labels, 100.0 * right)


def _of_episodes(details: Details, entry: Entry) -> Scores | None:
    chosen = [one for one in details.episodes if _is_of(one.which, entry)]
    if len(chosen) != 1 or entry.where["metric"] != "accuracy":
        return None
    numbers = list(map(str, range(len(chosen[0].accuracies))))
    return Scores("episodes", [0], numbers, [""] * len(numbers), chosen[0].accuracies[None])


def _is_of(which: Mapping[str, Any], entry: Entry) -> bool:
    """Whether predictions are those of an entry: they agree in every column that both name."""
    return all(which[name] == value for name, value in entry.where.items() if name in which)


def require_one_test_set(a: Scores, b: Scores) -> None:
    """Raise DataError unless both are of the same images with the same labels, or of as many episodes."""
    if a.of != b.of or len(a.ids) != len(b.ids):
        raise DataError(f"one has {len(a.ids)} {a.of}, the other {len(b.ids)} {b.of}")
    if list(a.ids) != list(b.ids):
        alone = sorted(set(a.ids) ^ set(b.ids))
        raise DataError(f"their test images differ: {len(alone)} are in one alone, such as {printable(alone[0])}")
    if list(a.labels) != list(b.labels):
        wrong = next(i for i, labels in enumerate(zip(a.labels, b.labels, strict=True)) if labels[0] != labels[1])
        here, there = printable(a.labels[wrong]), printable(b.labels[wrong])
        raise DataError(f"{printable(a.ids[wrong])} is {here} in one and {there} in the other")
