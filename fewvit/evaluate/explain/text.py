"""An explanation as lines to read, at most 100 characters wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import counted
from ...results import WIDTH
from .check import DIFFERS, OK, UNKNOWN

_GAP = "  "
_HEADER = {"verdict": "", "check": "", "here": "here", "published": "published"}


def explanations(run: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """(backbone, rows) of every explanation in a run's manifest; the name is empty where there is one backbone."""
    if "explain" in run:
        yield "", run["explain"]
    for name, facts in run.get("backbones", {}).items():
        if "explain" in facts:
            yield name, facts["explain"]


def lines(rows: Sequence[Mapping[str, Any]], name: str = "", *, whole: bool = False) -> list[str]:
    """The checks as a table, with what they mean below each one that is not ok; `whole`: below every one."""
    widths = _widths(rows)
    title = f"Why the number may differ from the published one{f', {name}' if name else ''}:"
    found = [title, *_line(_HEADER, widths)]
    for row in rows:
        found += _line(row, widths)
        if whole or row["verdict"] != OK:
            indent = " " * (widths[0] + len(_GAP) + 2)
            found += textwrap.wrap(row["meaning"], WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [*found, _total(rows, whole)]


def _total(rows: Sequence[Mapping[str, Any]], whole: bool) -> str:
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (OK, DIFFERS, UNKNOWN)}
    told = f"{counted(len(rows), 'check')}: {counts[OK]} ok, {counts[DIFFERS]} differ, {counts[UNKNOWN]} unknown"
    return told if whole or not counts[OK] else f"{told}; -v says what the others mean"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [_text(row[column]) for column in _HEADER]


def _text(value: object) -> str:
    """A value as it is shown: large whole numbers with commas, a dash for none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _widths(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Of the columns: what they need, the last two sharing evenly what the line has for both."""
    needed = [max(map(len, column)) for column in zip(*map(_cells, [_HEADER, *rows]), strict=True)]
    room = WIDTH - sum(needed[:2]) - 3 * len(_GAP)
    here = min(needed[2], max(room // 2, room - needed[3]))
    return [*needed[:2], here, min(needed[3], room - here)]


def _line(row: Mapping[str, Any], widths: Sequence[int]) -> list[str]:
    """One row of the table; what is too long for its column goes on in the next line."""
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(_cells(row), widths, strict=True)]
    return [
        _GAP.join(
            (part[number] if number < len(part) else "").ljust(width)
            for part, width in zip(wrapped, widths, strict=True)
        ).rstrip()
        for number in range(max(map(len, wrapped)))
    ]
