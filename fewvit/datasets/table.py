"""A CSV, TSV or Parquet table with the columns `path` and, if the images are labelled, `label`."""

from __future__ import annotations

import csv
import itertools
import os
import stat
from collections.abc import Sequence

from ..digests import identity_of
from ..errors import DataError, MissingExtra, are, counted, from_os_error, printable
from . import Dataset, Listing
from ._listing import FileReader, name_of, numbered, some, twins

Rows = list[tuple[str, str | None]]  # path as written, class name
# what programs put between columns
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}


class Table:
    """Paths are relative to the table's folder, or absolute; an id is the path as written; an empty label is none."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether it is a file that ends in .csv, .tsv or .parquet."""
        return source.lower().endswith((".csv", ".tsv", ".parquet")) and os.path.isfile(source)

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """A row per image, by the bytes of its path.

        Raises DataError as `Format.open`, MissingExtra without pyarrow.
        """
        try:
            rows = _read_parquet(source) if source.lower().endswith(".parquet") else _read_text(source)
        except OSError as error:
            raise from_os_error(error, "reading the table") from error
        rows.sort(key=lambda row: os.fsencode(row[0]))
        ids = [path for path, _ in rows]
        if not ids:
            raise DataError(
                "no rows: the table ends after its first line",
                file=source,
                fix="Give a line with path and label for each image.",
            )
        _refuse_repeated(source, ids)
        folder = os.path.dirname(os.path.abspath(source))
        labels, classes = numbered(label for _, label in rows)
        reader = FileReader(folder, ids, _identities(source, folder, ids))
        return Dataset(name_of(source), ids, labels, classes, reader, {}, twins(classes))


def _read_text(source: str) -> Rows:
    """The rows of a CSV or TSV file. Raises DataError for a missing column or an empty path, naming the line."""
    with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        table = csv.DictReader(handle, delimiter="\t" if source.lower().endswith(".tsv") else ",")
        rows: Rows = []
        try:
            _refuse_separator(source, table.fieldnames or ())
            _refuse_columns(source, table.fieldnames or ())
            for row in table:
                if not row["path"]:
                    raise DataError(f"no path in line {table.line_num}", file=source)
                rows.append((row["path"], row.get("label") or None))
        except csv.Error as error:
            raise DataError(f"after line {table.line_num - 1}: {error}", file=source) from error
    return rows


def _read_parquet(source: str) -> Rows:
    """The rows of a Parquet file; numbers become text."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("reading Parquet needs pyarrow", file=source, fix="pip install 'fewvit[table]'") from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            _refuse_columns(source, names)
            columns = file.read(columns=[name for name in ("path", "label") if name in names]).to_pydict()
    except pyarrow.ArrowException as error:
        raise DataError(f"not a Parquet file that can be read: {str(error).splitlines()[0]}", file=source) from error
    paths = columns["path"]
    if not all(paths):
        raise DataError(f"no path in row {next(i for i, path in enumerate(paths) if not path)}", file=source)
    return [
        (os.fsdecode(path), _text(label))
        for path, label in zip(paths, columns.get("label") or [None] * len(paths), strict=True)
    ]


def _text(label: object) -> str | None:
    """A class name: 3.0 is '3', as pandas writes integers beside missing values; None, NaN and '' are no label."""
    if label is None or label == "" or label != label:
        return None
    if isinstance(label, bytes):
        return os.fsdecode(label)
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _refuse_columns(source: str, names: Sequence[str]) -> None:
    if "path" not in names:
        raise DataError(
            f"no column `path`; its columns are {some(list(names), 12) or 'none'}",
            file=source,
            fix="Name the columns path and label in the first line.",
        )


def _refuse_separator(source: str, names: Sequence[str]) -> None:
    """Raise DataError for a first line that is one column with the separator of the file's ending, not with another."""
    word = next((word for mark, word in _SEPARATORS.items() if mark in names[0]), None) if len(names) == 1 else None
    if word is not None:
        raise DataError(
            f"its columns seem to be separated by {word}: {printable(names[0])[:80]}",
            file=source,
            fix="Commas separate the columns of a .csv, tabs those of a .tsv: write it so, or name it so.",
        )


def _refuse_repeated(source: str, ids: list[str]) -> None:
    repeated = sorted({first for first, second in itertools.pairwise(ids) if first == second}, key=os.fsencode)
    if repeated:
        raise DataError(
            f"{counted(len(repeated), 'path stands', 'paths stand')} in it more than once: {some(repeated)}",
            file=source,
            fix="Keep one row for each image.",
        )


def _identities(source: str, folder: str, ids: list[str]) -> bytes:
    """40 bytes per image. Raises DataError with the first paths that are no regular file."""
    found, missing = [], []
    for name in ids:
        try:
            status = os.stat(os.path.join(folder, name))
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            missing.append(name)
            continue
        if stat.S_ISREG(status.st_mode):
            found.append(identity_of(status))
        else:
            missing.append(name)
    if missing:
        raise DataError(
            f"{len(missing)} of {counted(len(ids), 'image')} {are(len(missing))} not there: {some(missing)}",
            file=source,
            fix=f"Paths are relative to {printable(folder)}.",
        )
    return b"".join(found)
