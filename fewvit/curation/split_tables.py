"""The parts of a set as tables that every command reads: one of all images, and one for each part."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..datasets._columns import class_name
from ..errors import DataError, UsageError, some
from ..files import replacing
from .splitting import Parts

COLUMNS = ("path", "label", "part", "shots")  # of the table of all images
WHOLE = "split"  # what it is called in a folder


def tables_at(out: Path, parts: Parts, shots: Sequence[int]) -> dict[str, Path]:
    """The file of each part, of each number of shots, and last, under an empty name, of all images."""
    names = [*parts.names, *(f"{n}-shot" for n in sorted(set(shots)))]
    if out.suffix.lower() == ".csv":
        return {**{name: out.with_suffix(f".{name}.csv") for name in names}, "": out}
    return {**{name: out / f"{name}.csv" for name in names}, "": out / f"{WHOLE}.csv"}


def save_parts(files: dict[str, Path], images: Dataset, parts: Parts) -> dict[str, int]:
    """Write the tables, that of all images last; how many rows each has, by the names of `tables_at`.

    Paths are relative to the tables. Raises UsageError where a file is there that no table of all images stands beside,
    DataError for images that are no files, and for class names that a table cannot hold.
    """
    _require_free(files)
    require_tabular(images.classes)
    paths = paths_from(images, files[""].parent)
    labels = [images.classes[c] if c >= 0 else "" for c in images.labels.tolist()]
    written = {}
    for name, file in files.items():
        rows = _rows(name, parts)
        lines = [[paths[row], labels[row]] for row in rows]
        if not name:
            shots = parts.shots[rows].tolist()
            of = parts.of[rows].tolist()
            lines = [[*line, parts.names[p], str(n or "")] for line, p, n in zip(lines, of, shots, strict=True)]
        write_table(file, COLUMNS if not name else COLUMNS[:2], lines)
        written[name] = len(lines)
    return written


def _rows(name: str, parts: Parts) -> list[int]:
    if not name:
        return list(range(len(parts.of)))
    if name in parts.names:
        return parts.rows(list(parts.names).index(name)).tolist()
    most = int(name.partition("-")[0])
    return np.flatnonzero((parts.shots > 0) & (parts.shots <= most)).tolist()


def _require_free(files: dict[str, Path]) -> None:
    if files[""].exists():  # made before: `--out` was checked to be one
        return
    there = [str(file) for file in files.values() if file.exists()]
    if there:
        raise UsageError(f"would replace {some(there, 3)}", fix="Give --out another name, or remove them.")


def paths_from(images: Dataset, folder: Path) -> list[str]:
    """The path (N) of each image from a folder. Raises DataError for images that lie in a file of many, or in none."""
    found, start = [], os.path.abspath(folder)
    for row in range(len(images)):
        place = images.reader.place(row)
        if place is None or not os.path.isfile(place):
            raise DataError(
                f"the images of {images.name} are no files of their own, and a table names files",
                fix="Unpack them first: `fewvit data convert SRC --out FOLDER`.",
            )
        found.append(os.path.relpath(os.path.abspath(place), start))
    return found


def require_tabular(classes: Sequence[str]) -> None:
    """Raise DataError for class names that would be others once they were read from a table."""
    odd = [name for name in classes if class_name(name) != name or "\0" in name]
    if odd:
        raise DataError(f"a table cannot hold class names with blanks around them: {some([repr(n) for n in odd])}")


def write_table(path: Path, columns: Sequence[str], lines: Sequence[Sequence[str]], mark: str = ",") -> None:
    """Replace a CSV, or with a tab as its `mark` a TSV; bytes of names that are not UTF-8 come back as they were."""
    odd = any("\r" in cell for line in lines for cell in line)  # the csv module would not quote it
    with replacing(path, "w") as handle:
        writer = csv.writer(
            handle, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
        )
        writer.writerow(columns)
        writer.writerows(lines)
