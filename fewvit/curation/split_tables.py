"""The parts of a set as tables that every command reads: one of all images, and one for each part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..errors import DataError, UsageError, some
from ..files import replacing
from .earlier_split import COLUMNS, OF_PART, Earlier
from .splitting import Parts
from .tables import holds, require_tabular, table_text

WHOLE = "split"  # what it is called in a folder


@dataclass(frozen=True)
class Saved:
    """What was written, and what became of the tables of an earlier split in the same place."""

    rows: dict[str, int]  # how many each table has, by the names of `tables_at`
    removed: Sequence[Path] = ()  # tables of parts that there are no more
    left: Sequence[Path] = ()  # such that were changed since


def tables_at(out: Path, parts: Sequence[str], shots: Sequence[int]) -> dict[str, Path]:
    """The file of each part, of each number of shots, and last, under an empty name, of all images.

    Raises UsageError where two of them would have one name, in whatever case of letters.
    """
    names = [*parts, *(f"{n}-shot" for n in sorted(set(shots)))]
    beside = out.suffix.lower() == ".csv"
    files = [(name, out.with_suffix(f".{name}.csv") if beside else out / f"{name}.csv") for name in names]
    files.append(("", out if beside else out / f"{WHOLE}.csv"))
    taken: set[str] = set()
    for _, file in files:
        if str(file).casefold() in taken:
            raise UsageError("two tables would have one name", file=file, fix="Call the part otherwise in --parts.")
        taken.add(str(file).casefold())
    return dict(files)


def save_parts(files: dict[str, Path], images: Dataset, parts: Parts, source: str) -> Saved:
    """Write the tables, that of all images last, and remove those of an earlier split that are of no part any more.

    Paths are relative to the tables. Raises UsageError where a file is there that no earlier split wrote as it is, or
    that is the `source`, DataError for images that are no files, and for class names that a table cannot hold.
    """
    require_tabular(images.classes)
    texts, rows = _texts(files, images, parts)
    earlier = Earlier.at(files)
    removed, left = earlier.others(files)
    _refuse_source([*files.values(), *removed], source)
    _require_ours(files, texts, earlier)
    for name, file in files.items():
        if not name:
            for old in removed:
                old.unlink(missing_ok=True)
        with replacing(file, "w") as handle:
            handle.write(texts[name])
    return Saved(rows, removed, left)


def _texts(files: dict[str, Path], images: Dataset, parts: Parts) -> tuple[dict[str, str], dict[str, int]]:
    """The text of each table, and how many rows it has."""
    paths = paths_from(images, files[""].parent)
    labels = [images.classes[c] if c >= 0 else "" for c in images.labels.tolist()]
    texts, counts = {}, {}
    for name in files:
        rows = _rows(name, parts)
        lines = [[paths[row], labels[row]] for row in rows]
        if not name:
            shots = parts.shots[rows].tolist()
            of = parts.of[rows].tolist()
            lines = [[*line, parts.names[p], str(n or "")] for line, p, n in zip(lines, of, shots, strict=True)]
        texts[name], counts[name] = table_text(COLUMNS if not name else OF_PART, lines), len(lines)
    return texts, counts


def _rows(name: str, parts: Parts) -> list[int]:
    if not name:
        return list(range(len(parts.of)))
    if name in parts.names:
        return parts.rows(list(parts.names).index(name)).tolist()
    most = int(name.partition("-")[0])
    return np.flatnonzero((parts.shots > 0) & (parts.shots <= most)).tolist()


def _refuse_source(files: Sequence[Path], source: str) -> None:
    for file in files:
        if file.exists() and os.path.exists(source) and os.path.samefile(file, source):
            raise UsageError(
                "would replace or remove the table which is read", file=file, fix="Give --out another name."
            )


def _require_ours(files: dict[str, Path], texts: dict[str, str], earlier: Earlier) -> None:
    """Raise UsageError for a file that is there, but neither what an earlier split wrote nor what is to be written."""
    foreign = [
        str(file)
        for name, file in files.items()
        if os.path.lexists(file) and not (holds(file, texts[name]) or holds(file, "") or earlier.wrote(name, file))
    ]
    if foreign:
        raise UsageError(
            f"would replace {some(foreign, 3)}, which no earlier split wrote as it is",
            fix="Give --out another name, or remove what is there.",
        )


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
