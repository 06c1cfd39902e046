"""What an earlier split left in the place of a new one, known by its table of all images.

A file counts as written by it only where it holds what that table says of its part, byte for byte: other files, and
those that were changed since, are somebody's own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .tables import holds, table_text

COLUMNS = ("path", "label", "part", "shots")  # of the table of all images
OF_PART = COLUMNS[:2]
_SHOTS = re.compile(r"([1-9][0-9]{0,8})-shot")


@dataclass(frozen=True)
class Earlier:
    """An earlier split: its table of all images, and a line of `COLUMNS` for each image; none where there was none."""

    whole: Path
    begin: str  # of the names of its other tables, before what they are of
    lines: Sequence[Sequence[str]] = field(default_factory=list)
    there: bool = False  # the table is there, and it is one of a split

    @staticmethod
    def at(files: Mapping[str, Path]) -> Earlier:
        """The split in the place of one with these files, those of `tables_at`; an empty one where there is none."""
        whole, (name, first) = files[""], next(iter(files.items()))
        none = Earlier(whole, first.name.removesuffix(f"{name}.csv"))
        if not whole.is_file():
            return none
        with open(whole, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            try:
                header, *lines = list(csv.reader(handle)) or [[]]
            except (csv.Error, UnicodeDecodeError):  # no table of ours
                return none
        is_ours = tuple(header) == COLUMNS and all(len(line) == len(COLUMNS) for line in lines)
        return replace(none, lines=lines, there=True) if is_ours else none

    def wrote(self, name: str, file: Path) -> bool:
        """Whether a table, of all images where the name is empty, is as the earlier split wrote it."""
        if not name:
            return self.there
        lines = self._lines_of(name)
        return lines is not None and holds(file, table_text(OF_PART, lines))

    def others(self, files: Mapping[str, Path]) -> tuple[list[Path], list[Path]]:
        """Its tables that are none of these files: those as it wrote them, and those that were changed since."""
        new = {file.name.casefold() for file in files.values()}
        as_written, changed = [], []
        for name, file in sorted(self._beside().items()):
            if file.name.casefold() in new:
                continue
            if self.wrote(name, file):
                as_written.append(file)
            elif name in self._parts():
                changed.append(file)
        return as_written, changed

    def _parts(self) -> set[str]:
        return {line[2] for line in self.lines}

    def _lines_of(self, name: str) -> list[Sequence[str]] | None:
        """`OF_PART` of the images of a part or a number of shots; None where it says nothing of them."""
        shots = _SHOTS.fullmatch(name)
        if name in self._parts():
            lines = [line for line in self.lines if line[2] == name]
        elif shots:
            numbers = [int(line[3]) if line[3].isdecimal() else 0 for line in self.lines]
            lines = [line for line, n in zip(self.lines, numbers, strict=True) if 0 < n <= int(shots[1])]
        else:
            return None
        return [line[: len(OF_PART)] for line in lines] or None

    def _beside(self) -> dict[str, Path]:
        """The files that are called as a table of a part or of shots would be, by that name."""
        if not self.there:
            return {}
        found = {}
        for file in self.whole.parent.iterdir():
            name = file.name.removeprefix(self.begin).removesuffix(".csv")
            called = file.name == f"{self.begin}{name}.csv"
            if called and file.is_file() and (name in self._parts() or _SHOTS.fullmatch(name)):
                found[name] = file
        return found
