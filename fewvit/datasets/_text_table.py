"""The rows of a CSV or TSV file: its encoding, its first line, and a line for each image."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator, Sequence

from ..errors import DataError, counted, printable
from . import Listing
from ._columns import Columns, Rows, choose_columns, class_name

# what programs put between columns
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_MARKS = {  # the longer first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ONE_OF_MANY = "_classes.csv"  # what Roboflow calls a table with a column for each class


def read_text(source: str, listing: Listing) -> tuple[Rows, list[str]]:
    """The rows of a CSV or TSV file, and what a user should know about its columns.

    Raises DataError for a missing column, and, with the line, for an empty path, fields beyond the last column and
    bytes that are not of its encoding; OSError as the operating system does.
    """
    with open(source, "rb") as binary:
        encoding = _encoding(binary.read(4096))
    # bytes that are not UTF-8 may be those of a file's name
    odd = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    with open(source, encoding=encoding, errors=odd, newline="") as handle:
        try:
            first = handle.readline()
            handle.seek(0)
            mark = "\t" if source.lower().endswith(".tsv") else ","
            # `path, label` is how people write by hand: the blank belongs to no field, and quotes may follow it
            spaced = first.count(mark) > 0 and first.count(mark) == first.count(f"{mark} ")
            lines = _Lines(csv.reader(handle, delimiter=mark, skipinitialspace=spaced))
            try:
                return _rows(source, lines, listing)
            except csv.Error as error:
                raise DataError(f"after line {lines.number}: {error}", file=source) from error
        except UnicodeError as error:
            raise DataError(
                f"not the text that its first bytes promise ({encoding})",
                file=source,
                fix="Save it as UTF-8.",
            ) from error


def _encoding(head: bytes) -> str:
    """What a text file is written in: UTF-8 unless its first bytes say otherwise, by their mark or by their zeros."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" in head[:2]:  # a first letter in two bytes, without a mark
        return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    return "utf-8-sig"


class _Lines:
    """The rows of a csv reader, and the number of the line in which the last one ended."""

    def __init__(self, reader: Iterator[list[str]]):
        self._reader, self.number = reader, 0

    def __iter__(self) -> Iterator[list[str]]:
        for fields in self._reader:
            self.number = self._reader.line_num  # type: ignore[attr-defined]
            yield fields


def _rows(source: str, lines: _Lines, listing: Listing) -> tuple[Rows, list[str]]:
    """What stands below the first line."""
    below = iter(lines)
    names = next(below, [])
    _refuse_separator(source, names)
    columns = choose_columns(source, names, listing)
    rows, path, label = Rows(), columns.path, columns.label
    hot = _OneHot(source, columns)
    known: dict[str, str | None] = {}  # a label as written -> the class: most rows repeat one
    for fields in below:
        if not fields:
            continue
        if len(fields) > len(names):
            raise DataError(
                f"{counted(len(fields), 'field')} in line {lines.number}, and {counted(len(names), 'column')}",
                file=source,
                fix="Put a field that has the separator in it between double quotes.",
            )
        if len(fields) <= path or not fields[path].strip():
            raise DataError(f"no path in line {lines.number}", file=source)
        if label is None:
            rows.add(fields[path], hot.class_of(fields, lines.number))
            continue
        written = fields[label] if label < len(fields) else ""
        if written not in known:
            known[written] = class_name(written)
        rows.add(fields[path], known[written])
    if hot.holds:
        return rows, [f"paths from column {printable(names[path].strip())}, {hot.note()}"]
    if label is None:
        rows.unlabel()
    return rows, columns.notes()


class _OneHot:
    """A table with a column for each class and 1 in that of the image: what Roboflow writes."""

    def __init__(self, source: str, columns: Columns):
        self._source, self._names = source, [name.strip() for name in columns.names]
        self._places = columns.others if columns.label is None else []
        self.holds = len(self._places) > 1  # until a row says otherwise

    def class_of(self, fields: Sequence[str], line: int) -> str | None:
        """The class of a row. Raises DataError where several are marked in a file that is called as Roboflow's."""
        if not self.holds:
            return None
        marks = [fields[i].strip() if i < len(fields) else "" for i in self._places]
        ones = [self._names[i] for i, mark in zip(self._places, marks, strict=True) if mark == "1"]
        if not set(marks) <= {"0", "1"}:
            self.holds = False
        elif len(ones) > 1:
            if os.path.basename(self._source).casefold() == _ONE_OF_MANY:
                raise DataError(
                    f"line {line} marks {counted(len(ones), 'class', 'classes')}; an image has one here",
                    file=self._source,
                    fix="Keep one of them, or write a table with the columns path and label.",
                )
            self.holds = False
        return ones[0] if ones and self.holds else None

    def note(self) -> str:
        """What was taken for labels."""
        return f"labels from the column that holds 1, of {len(self._places)}"


def _refuse_separator(source: str, names: Sequence[str]) -> None:
    """Raise DataError for a first line that is one column with the separator of the file's ending, not with another."""
    word = next((word for mark, word in _SEPARATORS.items() if mark in names[0]), None) if len(names) == 1 else None
    if word is not None:
        raise DataError(
            f"its columns seem to be separated by {word}: {printable(names[0])[:80]}",
            file=source,
            fix="Commas separate the columns of a .csv, tabs those of a .tsv: write it so, or name it so.",
        )
