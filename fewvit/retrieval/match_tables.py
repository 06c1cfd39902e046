"""The tables that say which images match: DISC21's `query_id,reference_id` and Google Landmarks' `id,images,Usage`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import DataError, counted, from_os_error, printable

_COPIES, _LANDMARKS = ("query_id", "reference_id"), ("id", "images", "Usage")
_USAGES = ("Public", "Private", "Ignored")


@dataclass(frozen=True)
class CopyTable:
    """Which reference each query is a copy of, by names; a query of none is listed too."""

    queries: Sequence[str]  # in the order of the table, each once
    pairs: Sequence[tuple[str, str]]  # (query, reference), each once


@dataclass(frozen=True)
class LandmarkTable:
    """The images of the index that show what a query shows, by names; without the queries that are ignored."""

    images: dict[str, Sequence[str]]  # query -> images, at least one
    usage: dict[str, str]  # query -> public, private


def read_copies(path: str | os.PathLike[str]) -> CopyTable:
    """The ground truth of DISC21 in a CSV. Raises DataError for other columns, and for a pair that stands there twice,
    naming its line.
    """
    queries: dict[str, None] = {}
    pairs: dict[tuple[str, str], int] = {}  # -> its line
    for line, (query, reference) in _rows(path, _COPIES):
        queries[query] = None
        if not reference:
            continue
        if (query, reference) in pairs:
            raise DataError(
                f"line {line} repeats the pair {printable(query)}, {printable(reference)} of line "
                f"{pairs[query, reference]}",
                file=path,
                fix="Keep one line for each pair.",
            )
        pairs[query, reference] = line
    if not pairs:
        raise DataError("no query has a reference: there is nothing to find", file=path)
    return CopyTable(list(queries), list(pairs))


def read_landmarks(path: str | os.PathLike[str]) -> LandmarkTable:
    """The retrieval solution of Google Landmarks v2 in a CSV. Raises DataError for other columns or words, naming the
    line.
    """
    images: dict[str, Sequence[str]] = {}
    usage: dict[str, str] = {}
    for line, (query, names, used) in _rows(path, _LANDMARKS):
        if used not in _USAGES:
            raise DataError(f"line {line}: the usage {printable(used)!r} is not {', '.join(_USAGES)}", file=path)
        if used == "Ignored":
            continue
        if query in images:
            raise DataError(f"line {line} repeats the query {printable(query)}", file=path)
        if not names.split():
            raise DataError(f"line {line}: the query {printable(query)} has no images, but is not Ignored", file=path)
        images[query], usage[query] = list(dict.fromkeys(names.split())), used.lower()
    if not images:
        raise DataError("every query is ignored: there is nothing to find", file=path)
    return LandmarkTable(images, usage)


def _rows(path: str | os.PathLike[str], columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells of `columns`) of each row. Raises DataError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            table = csv.DictReader(handle)
            missing = [column for column in columns if column not in (table.fieldnames or ())]
            if missing:
                shown = ", ".join(map(printable, table.fieldnames or ())) or "none"
                raise DataError(
                    f"no {counted(len(missing), 'column')} {', '.join(missing)}; its columns are {shown[:200]}",
                    file=path,
                    fix=f"The first line has to be {','.join(columns)}.",
                )
            for row in table:
                cells = [(row[column] or "").strip() for column in columns]
                if not cells[0]:
                    raise DataError(f"no {columns[0]} in line {table.line_num}", file=path)
                yield table.line_num, cells
    except OSError as error:
        raise from_os_error(error, "reading the ground truth") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a table that can be read: {error}", file=path) from error
