"""The few-shot benchmarks' lists over ImageNet's images: `filename,label` in train.csv, val.csv and test.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

from ..datasets import Dataset, Listing
from ..errors import DataError
from ._files import first_there, lines_of, of_list


def of_csv(name: str, folder: str, part: str, listing: Listing) -> Dataset:
    """The images of a list, which lie in images/, in folders called by wnids there or in DIR, or in DIR itself.

    Raises DataError for a list of other columns, and for images that are not there.
    """
    path = first_there(folder, (f"{part}.csv", os.path.join("splits", f"{part}.csv")), "list")
    rows = list(_rows(path))
    ways = (
        lambda file, label: os.path.join("images", file),
        lambda file, label: os.path.join("images", label, file),
        lambda file, label: os.path.join(part, label, file),
        lambda file, label: os.path.join(label, file),
        lambda file, label: file,
    )
    way = next((one for one in ways if os.path.isfile(os.path.join(folder, one(*rows[0])))), ways[0])
    return of_list(name, folder, [(way(file, label), label) for file, label in rows], listing, path)


def _rows(path: str) -> Iterator[tuple[str, str]]:
    """(file, label) of each line. Raises DataError."""
    lines = lines_of(path)
    if not lines or lines[0].replace(" ", "") != "filename,label":
        raise DataError("its first line is not filename,label", file=path)
    if len(lines) == 1:
        raise DataError("names no image", file=path)
    for number, row in enumerate(_fields(lines[1:], path), 2):
        if len(row) != 2 or not all(row):
            raise DataError(f"line {number} is not a file and a label", file=path)
        yield row[0].strip(), row[1].strip()


def _fields(lines: list[str], path: str) -> Iterator[list[str]]:
    """The fields of each line. Raises DataError where they are no CSV, as a field of more than 131,072 characters."""
    try:
        yield from csv.reader(lines)
    except csv.Error as error:
        raise DataError(f"not a list: {error}", file=path) from error
