"""Text in the width of a terminal: lines that wrap, columns whose cells wrap or that have no room."""

from __future__ import annotations

import contextlib
import os
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

GAP = "  "  # between two columns
_NARROWEST = 12  # characters of a column that had to give room
_USUAL = 80  # columns of a terminal that does not tell


def shown_width(text: str) -> int:
    """Columns of a terminal that a text takes: two for each wide East Asian letter, none for a mark over another."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def padded(text: str, width: int, *, right: bool) -> str:
    """A text with spaces up to `width` columns, before it where it is to stand on the right."""
    spaces = " " * (width - shown_width(text))
    return spaces + text if right else text + spaces


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream writes to, as $COLUMNS or it tells; None where it is no terminal."""
    if not stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    return _USUAL


def wrapped(line: str, width: int | None, indent: str = "  ") -> str:
    """A line in lines of `width` characters, all but the first indented; None: as it is.

    A word that is longer, such as a path, stays whole: broken it could not be copied.
    """
    if width is None or len(line) <= width:
        return line
    own = line[: len(line) - len(line.lstrip())]
    text, after = line.strip(), own + indent
    return textwrap.fill(
        text, width, initial_indent=own, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )


def beside(name: str, value: str, width: int | None) -> str:
    """A value behind a name, in lines of `width` characters that all stand behind it, long words broken too."""
    line = name + value
    if width is None or len(line) <= width:
        return line
    after = " " * len(name)
    return textwrap.fill(value, width, initial_indent=name, subsequent_indent=after, break_on_hyphens=False)


def command_line(words: Sequence[str], width: int | None, indent: str = "  ") -> str:
    """Words of a shell, quoted already, in lines of `width` characters that a shell reads as one."""
    lines = [indent + words[0]]
    for word in words[1:]:
        if width is not None and len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"{indent}    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


@dataclass(frozen=True)
class Listing:
    """A table that was given a width, its header first."""

    cells: list[list[str]]
    shared: dict[str, str]  # of columns that had no room, what all lines say in them: column -> value
    dropped: list[str]  # columns that had no room and differ from line to line


def with_room(table: Sequence[Sequence[str]], width: int) -> Listing:
    """A table without the columns that have no room even if cells wrap: those that say one thing, then from the right.

    The first column stays.
    """
    columns = [list(cells) for cells in zip(*table, strict=True)]
    shared: dict[str, str] = {}
    dropped: list[str] = []

    def too_wide() -> bool:
        return len(columns) > 1 and _total([min(_natural(cells), _least(cells)) for cells in columns]) > width

    for cells in [cells for cells in columns[1:] if len(set(cells[1:]) - {""}) == 1]:
        if too_wide():
            [value] = set(cells[1:]) - {""}
            shared[cells[0]] = value if "" not in cells[1:] else f"{value} (where there is one)"
            columns.remove(cells)
    while too_wide():
        dropped.insert(0, columns.pop()[0])
    return Listing([list(line) for line in zip(*columns, strict=True)], shared, dropped)


def fitted_widths(table: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """The width of each column, the widest made narrower until a line has `width` characters, as far as it goes."""
    columns = [list(cells) for cells in zip(*table, strict=True)]
    widths = [_natural(cells) for cells in columns]
    if width is None:
        return widths
    least = [min(_natural(cells), _least(cells)) for cells in columns]
    while _total(widths) > width:
        give = [i for i, (now, end) in enumerate(zip(widths, least, strict=True)) if now > end]
        if not give:
            break
        widths[max(give, key=lambda i: widths[i])] -= 1
    return widths


def cell_lines(cell: str, width: int) -> list[str]:
    """A cell in lines of its column's width."""
    if shown_width(cell) <= width:
        return [cell]
    if shown_width(cell) <= len(cell):
        return textwrap.wrap(cell, width, break_on_hyphens=False)
    lines = [""]
    for letter in cell:  # scripts of wide letters have no spaces to break at
        lines[-1:] = [lines[-1] + letter] if shown_width(lines[-1] + letter) <= width else [lines[-1], letter]
    return lines


def is_number(text: str) -> bool:
    """Whether a cell is a number, or empty."""
    return text == "" or text.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit()


def _natural(cells: Sequence[str]) -> int:
    return max(map(shown_width, cells))


def _least(cells: Sequence[str]) -> int:
    """As narrow as a column can be: numbers never wrap."""
    return _natural(cells) if all(map(is_number, cells[1:])) else max(_NARROWEST, shown_width(cells[0]))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)
