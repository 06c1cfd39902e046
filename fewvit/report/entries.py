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
from .read import Record
from .rows import Line

AXES = ("backbone", "method")  # columns that name what is compared
_METRICS = ("top1", "accuracy", "map")  # of which more is better, and of which a setting has one
_WHERE = (
    "method",
    "layer",
    "setting",
    "k",
    "temperature",
    "ways",
    "queries",
    "shots",
    "metric",
)  # what tells apart rows
Columns = tuple[tuple[str, Any], ...]  # column, value


@dataclass(frozen=True)
class System:
    """What is compared. One name under two protocols is two systems, and neither is averaged into the other."""

    name: str
    protocol: str


@dataclass(frozen=True)
class Setting:
    """What is the same for all that are compared with one another, but for the data."""

    columns: Columns

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return dict(self.columns)

    def __str__(self) -> str:
        plain = ("task", "method", "backbone", "protocol")  # whose value says what it is
        return ", ".join(str(value) if name in plain else f"{name} {value}" for name, value in self.columns)


@dataclass(frozen=True)
class Entry:
    """What one system reached in one setting on one data set."""

    record: Record
    where: Mapping[str, Any]  # the columns that tell its rows from others of its record
    values: Mapping[int, float]  # draw -> percent; a single number, such as a mean of episodes, is draw 0
    n_train: int | None
    n_test: int | None


Entries = dict[Setting, dict[str, dict[System, Entry]]]  # by setting and data set
_Key = tuple[Setting, str, System]


def axis_of(lines: Sequence[Line], names: Sequence[str]) -> str:
    """The column that holds all of these names. Raises UsageError for fewer than two or one twice, and UnknownName."""
    if len(names) < 2:
        raise UsageError(f"--compare takes two names or more, with commas between them; here is {len(names)}")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--compare has {printable(name)} twice, and a thing cannot be compared with itself")
    known = {axis: dict.fromkeys(one for line in lines for one in names_of(line.row, axis)) for axis in AXES}
    for axis in AXES:
        if set(names) <= set(known[axis]):
            return axis
    for axis in AXES:
        if set(names) & set(known[axis]):
            wrong = next(name for name in names if name not in known[axis])
            raise UnknownName(axis, wrong, known[axis], fix="--compare takes backbones alone, or methods alone.")
    raise UnknownName("backbone or method", names[0], [name for axis in AXES for name in known[axis]])


def names_of(row: Mapping[str, Any], axis: str) -> list[str]:
    """What a row can be called: its backbone; its method alone, or behind its task as in `lowshot.knn`."""
    name = str(row.get(axis) or "")
    return [] if not name else [name] if axis == "backbone" else [name, f"{row['task']}.{name}"]


def gather(lines: Sequence[Line], names: Sequence[str], axis: str) -> tuple[Entries, list[str]]:
    """The entries of the systems named, and a line for each that contradicts another one and is left out."""
    by_key: dict[_Key, dict[int, list[Line]]] = {}  # of each record apart
    for line in lines:
        if line.row["metric"] in _METRICS:
            for name in names_of(line.row, axis):
                if name in names:
                    key = _key(line.row, axis, name)
                    by_key.setdefault(key, {}).setdefault(id(line.record), []).append(line)
    found: Entries = {}
    left_out: list[tuple[str, str]] = []
    for (setting, data, system), by_record in by_key.items():
        entries = sorted(map(_entry, by_record.values()), key=lambda entry: entry.record.cell is None)  # cells first
        found.setdefault(setting, {}).setdefault(data, {})[system] = entries[0]
        left_out += [
            (
                f"other numbers stand in {printable(one.record.path)} than in {printable(entries[0].record.path)}, and "
                "are left out",
                f"{printable(system.name)} on {printable(data)} ({setting})",
            )
            for one in entries[1:]
            if one.values != entries[0].values
        ]
    return found, [f"{where}: {what}" for what, where in _gathered(left_out)]


def _gathered(told: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(what, where), once for each what: the first place, and how many more there are."""
    places: dict[str, list[str]] = {}
    for what, where in told:
        places.setdefault(what, []).append(where)
    return [
        (what, all_of[0] + (f" and {len(all_of) - 1} more" if len(all_of) > 1 else ""))
        for what, all_of in places.items()
    ]


def _key(row: Mapping[str, Any], axis: str, name: str) -> _Key:
    """The setting, data set and system that a row is of, the system by the name that it was asked for."""
    protocol = str(row.get("protocol") or "")
    other = "method" if axis == "backbone" else "backbone"
    columns = {
        name: row[name] for name in ("task", other, *_WHERE, "seed") if name != axis and row.get(name) is not None
    }
    if axis == "method" and protocol:
        columns["protocol"] = protocol
    return Setting(tuple(columns.items())), str(row["dataset"]), System(name, protocol)


def _entry(lines: Sequence[Line]) -> Entry:
    """The draws among the rows of one place; where there is a mean alone, that."""
    rows = [line.row for line in lines]
    draws = {row["trial"]: float(row["value"]) for row, line in zip(rows, lines, strict=True) if line.is_trial}
    where = {name: rows[-1][name] for name in _WHERE if name in rows[-1]}
    values = draws or {0: float(rows[-1]["value"])}
    return Entry(lines[0].record, where, values, rows[-1].get("n_train"), rows[-1].get("n_test"))


# ---- image by image


@dataclass(frozen=True)
class Scores:
    """What a system scored in each draw on each test image, or in each episode."""

    of: str  # images or episodes
    draws: Sequence[int]  # R
    ids: Sequence[str]  # Q; of episodes their numbers
    labels: Sequence[str]  # Q class names; of episodes empty
    values: np.ndarray  # (R, Q) percent: of an image 100 where it is right, else 0
    predicted: np.ndarray  # (R, Q) class of each image, by which repeated draws are known; of episodes the values

    def at(self, draws: Sequence[int]) -> np.ndarray:
        """The rows (len(draws), Q) of these draws."""
        return self.values[self._rows(draws)]

    def predicted_at(self, draws: Sequence[int]) -> np.ndarray:
        """What was predicted (len(draws), Q) in these draws."""
        return self.predicted[self._rows(draws)]

    def _rows(self, draws: Sequence[int]) -> list[int]:
        return [self.draws.index(draw) for draw in draws]


def scores_of(entry: Entry, details: Details) -> Scores | None:
    """What stands behind an entry among the details of its record; None where nothing is kept of it."""
    return _of_images(details, entry) or _of_episodes(details, entry)


def _of_images(details: Details, entry: Entry) -> Scores | None:
    chosen = {int(one.which.get("trial", 0)): one for one in details.predicted if _is_of(one.which, entry)}
    draws = sorted(chosen.keys() & entry.values.keys())
    if not draws or entry.where["metric"] != "top1":
        return None
    first = chosen[draws[0]]
    known = np.flatnonzero(first.labels >= 0)
    order = sorted(known.tolist(), key=lambda row: first.ids[row])  # images are matched by id
    predicted = np.stack([chosen[draw].predictions[order] for draw in draws])
    right = predicted == first.labels[order]
    ids, labels = [first.ids[row] for row in order], [first.classes[first.labels[row]] for row in order]
    return Scores("images", draws, ids, labels, 100.0 * right, predicted)


def _of_episodes(details: Details, entry: Entry) -> Scores | None:
    chosen = [one for one in details.episodes if _is_of(one.which, entry)]
    if len(chosen) != 1 or entry.where["metric"] != "accuracy":
        return None
    numbers = list(map(str, range(len(chosen[0].accuracies))))
    return Scores("episodes", [0], numbers, [""] * len(numbers), *[chosen[0].accuracies[None]] * 2)


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
