"""JSON and TOML out of files that anyone may have written: a value, or a ValueError whatever is wrong. No torch."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError

_DEEPEST = 100  # lists and tables in one another; ours have six, and Python's own repr gives up near a thousand


def json_of(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is none, also for one that is nested beyond reason and for numbers of 5000 digits.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _refuse_depth(value)
    return value


def toml_of(path: Path) -> tuple[dict[str, Any], str]:
    """The values of a TOML file and its text. Raises DataError for a missing file, UsageError for one that is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a NUL
        raise UsageError(f"not a text file: {error}", file=path) from error
    try:
        values = tomllib.loads(text)
        _refuse_depth(values)
    except RecursionError as error:
        raise UsageError("not TOML: nested too deep", file=path) from error
    except ValueError as error:  # not a TOMLDecodeError alone: a number of 5000 digits
        last = f"at line {len(text.splitlines())}, where the file ends"
        raise UsageError(f"not TOML: {error}".replace("at end of document", last), file=path) from error
    return values, text


def require_file_text(*texts: str) -> None:
    """Raise ValueError for half a character (JSON's \\ud800), which no name of a file has, so that no sort takes it."""
    for text in texts:
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{text[:40].encode('ascii', 'backslashreplace').decode()} holds half a character"
            ) from error


def _refuse_depth(value: object) -> None:
    """Raise ValueError for lists and tables that are nested deeper than any of ours."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deep")
