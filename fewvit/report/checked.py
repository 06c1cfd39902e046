"""What rows and a manifest may hold, checked once where a result is read: whatever uses them need not ask again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeGuard

from ..errors import DataError, printable
from ..results import Facts, Row

AGAIN = "Make the result again."


class NothingMeasured(DataError):
    """A result whose rows are no measurements, such as a listing."""


def manifest_of(value: object, path: Path) -> Facts:
    """A manifest as it is. Raises DataError for one that is none."""
    if not isinstance(value, dict):
        raise DataError("its manifest is not an object", file=path, fix=AGAIN)
    if not isinstance(value.get("seed"), int | None):
        raise DataError("the seed in its manifest is not a whole number", file=path, fix=AGAIN)
    return value


def measurements_of(rows: object, path: Path) -> list[Row]:
    """The rows that measure something. Raises DataError where there is none, or rows are no rows."""
    if not isinstance(rows, list | tuple) or not all(isinstance(row, dict) for row in rows):
        raise DataError("its rows are not rows", file=path, fix=AGAIN)
    found = [row for row in rows if isinstance(row.get("metric"), str) and row.get("value") is not None]
    if not found:
        raise NothingMeasured("it measures nothing: none of its rows has a metric and a value", file=path)
    for row in found:
        for name, value in row.items():
            if not _KINDS.get(name, _is_plain)(value):
                shown = printable(json.dumps(value))
                raise DataError(
                    f"{printable(name)} of one of its rows cannot be {shown[:60]}{'…' if len(shown) > 60 else ''}",
                    file=path,
                    fix=AGAIN,
                )
    return found


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number with which one can reckon."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_number_or_none(value: object) -> bool:
    return value is None or is_number(value)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_trial(value: object) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _is_interval(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or is_number(value)


_LARGEST = 1e100  # what is beyond has no square that is a number
_KINDS = {  # what a column of a row may hold; of others one plain value
    **{"value": is_number, "ci95": _is_interval, "trial": _is_trial},
    **dict.fromkeys(("task", "dataset", "backbone", "protocol", "method", "metric"), _is_text),
    **dict.fromkeys(("std", "k", "temperature", "n_train", "n_test", "n_queries"), _is_number_or_none),
}
