"""Results that ask the same and differ in how many draws they have: the one with the most stands for all."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, counted, printable
from ..results import Row
from .parts import identity, key_of
from .read import Found, Record, walk
from .rows import source_of

# what a cell's request says beside its question: where things lie, and how many draws were asked for
_BESIDE = ("trials", "command", "request", "seconds", "data", "backbone")
_CLOSE = 1e-4  # percent points: sums in another order, not another draw


@dataclass
class _Part:
    """The rows of one record that ask one question, with the draws among them."""

    record: Record
    question: str  # what cells say beyond the columns of their rows; empty where it is no sweep's
    rows: list[Row]

    @property
    def draws(self) -> dict[tuple[str, int], float]:
        """(metric, number of the draw) -> value."""
        return {(row["metric"], row["trial"]): row["value"] for row in self.rows if isinstance(row.get("trial"), int)}

    @property
    def number(self) -> int:
        """How many draws there are."""
        return len({trial for _, trial in self.draws})

    @property
    def told(self) -> str:
        """What it is of, in words."""
        row = self.rows[0]
        shots = [f"shots {row['shots']}"] if row.get("shots") is not None else []
        names = [str(row[name]) for name in ("dataset", "backbone", "method") if row.get(name)]
        return printable(" · ".join([self.record.task, *names, *shots]))


def keep_most_draws(found: Found) -> None:
    """Take out of the records what another one says with more draws, and say in one line how many that are.

    Draws are numbered, and each follows from its number and the seed: fewer draws are the first ones of more. Cells of
    one question whose draws of one number differ contradict each other, and the smaller one joins what is damaged. Of
    results that are no sweep's it is not known whether they saw the same data: where they differ, both stay.
    """
    aside: list[tuple[_Part, _Part]] = []  # with the one that is kept for it
    for parts in _alike(found.records):
        kept: list[_Part] = []
        for part in sorted(parts, key=lambda one: (-one.number, one.record.cell is None)):
            same = next((one for one in kept if _holds(one, part)), None)
            against = next((one for one in kept if part.question == one.question != "" and _differing(one, part)), None)
            if same is not None:
                aside.append((part, same))
            elif against is not None:
                found.damaged.append(_contradiction(part, against))
                aside.append((part, against))
            else:
                kept.append(part)
    if not aside:
        return
    _leave_out(found, [part for part, _ in aside])
    fewer = [(part, by) for part, by in aside if _holds(by, part)]
    if fewer:
        found.notes.append(_line(fewer))


def _alike(records: Sequence[Record]) -> list[list[_Part]]:
    """Parts of several records that ask the same as far as their columns say, those with draws alone."""
    found: dict[tuple[Any, ...], dict[tuple[int, str], _Part]] = defaultdict(dict)
    for record, row in walk(records):
        columns = {**identity(row, ("dataset", "backbone")), "seed": record.seed_of(row)}
        key = (record.task, record.protocol_of(row), source_of(record, row), key_of(columns))
        question = _question(record, row)
        part = found[key].setdefault((id(record), question), _Part(record, question, []))
        part.rows.append(row)
    together = [list(parts.values()) for parts in found.values() if len(parts) > 1]
    return [drawn for parts in together if len(drawn := [one for one in parts if one.number]) > 1]


def _question(record: Record, row: Mapping[str, Any]) -> str:
    """What a cell asked: the same for two that differ in their number of draws, and in where their data lie."""
    if record.cell is None:
        return ""
    asked = {name: value for name, value in record.asked.items() if name not in _BESIDE}
    made = record.facts_of(row).get("fingerprint")
    return json.dumps([asked, record.asked["backbone"], record.contents, made], sort_keys=True, default=str)


def _holds(more: _Part, fewer: _Part) -> bool:
    """Whether all draws of one stand in the other one with the same values, on images that may be the same."""
    if more.question and fewer.question and more.question != fewer.question:
        return False
    return fewer.draws.keys() <= more.draws.keys() and not _differing(more, fewer)


def _differing(one: _Part, other: _Part) -> list[int]:
    """The draws of both that have other values."""
    there = other.draws
    return sorted({trial for (metric, trial), value in one.draws.items() if _is_far(value, there.get((metric, trial)))})


def _is_far(value: float, other: float | None) -> bool:
    return other is not None and not (value == other or math.isclose(value, other, rel_tol=0, abs_tol=_CLOSE))


def _contradiction(part: _Part, kept: _Part) -> DataError:
    return DataError(
        f"{part.told}: draw {_differing(part, kept)[0]} has other numbers here than in {printable(kept.record.path)}, "
        f"where the same was asked with {counted(kept.number, 'draw')}",
        file=part.record.path,
        fix="Remove one of the two files, and run the sweep again.",
    )


def _leave_out(found: Found, parts: Sequence[_Part]) -> None:
    """The records without the rows of these parts; without those that have none left."""
    gone: dict[int, set[int]] = defaultdict(set)
    for part in parts:
        gone[id(part.record)].update(map(id, part.rows))
    left = []
    for record in found.records:
        rows = [row for row in record.rows if id(row) not in gone.get(id(record), ())]
        if len(rows) == len(record.rows):
            left.append(record)
        elif rows:
            left.append(dataclasses.replace(record, rows=rows))
    found.records = left


def _line(aside: Sequence[tuple[_Part, _Part]]) -> str:
    part, by = min(aside, key=lambda pair: pair[0].told)
    which = f"{part.number} of {by.number} draws" if part.number < by.number else f"the same {part.number} draws"
    more = "; and so on" if len(aside) > 1 else ""
    return (
        f"{counted(len(aside), 'result')} set aside, since another one has the same draws or more, these first: "
        f"{part.told} ({which}){more}"
    )
