"""Split files: the published lists of MSN and SimCLR, and the tables that `--save-split` writes."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import DataError, are, counted, from_os_error, printable
from ..files import replacing
from ..labels import Listed
from ..splits import Split

_COLUMNS = ["shots", "trial", "id", "label"]


def save_splits(path: str | os.PathLike[str], splits: Sequence[Split], train: Listed) -> None:
    """Replace `path` by a CSV of `shots,trial,id,label`; labels are class names. Odd characters of ids are escaped."""
    with replacing(path, "w") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for split in splits:
            for row in split.train.tolist():
                writer.writerow(
                    [split.shots, split.trial, printable(train.ids[row]), printable(train.classes[train.labels[row]])]
                )


def read_splits(
    paths: Sequence[str], train: Listed, *, allow_fewer: bool = False, notify: Callable[[str], None] = lambda line: None
) -> list[Split]:
    """The splits in list files and split tables, in their order; lists with equal shots are trials of one another.

    A list has one file name per line. How many shots it is follows from its lines, not from its name: a published
    5-shot list is called 3imgs_class.txt. The same images given twice are one trial, and `notify` gets a line on it.
    Raises DataError counting and naming images that `train` has not, unless `allow_fewer`.
    """
    splits: list[Split] = []
    known: dict[tuple[int | str, frozenset[int]], str] = {}  # shots and rows -> the file that had them first
    for path in paths:
        lines = _lines(Path(path))
        found = _from_table(lines, path) if _is_table(lines, path) else {("", 0): [(line, "") for line in lines]}
        for (shots, trial), wanted in found.items():
            rows = _rows(wanted, train, path, allow_fewer, notify)
            name = _shots_of(rows, train, path) if shots == "" else int(shots) if shots.isdecimal() else shots
            # not by what a list is called
            key = ("" if shots == "" and isinstance(name, str) else name, frozenset(rows.tolist()))
            if key in known:
                what = path if shots == "" else f"{path}, shots {shots}, trial {trial}"
                notify(f"{what}: the same images as in {known[key]}, counted once")
                continue
            known[key] = path
            taken = {split.trial for split in splits if split.shots == name}
            free = next(number for number in itertools.count() if number not in taken)
            splits.append(Split(rows, name, free if shots == "" or trial in taken else trial))
    return splits


def _shots_of(rows: np.ndarray, train: Listed, path: str) -> int | str:
    """How many images of each class a list has; its name where they differ."""
    counts = np.unique(train.labels[rows], return_counts=True)[1]
    return int(counts[0]) if (counts == counts[0]).all() else Path(path).stem


def _is_table(lines: Sequence[str], path: str) -> bool:
    """Whether a file is what `save_splits` wrote, and no list. Raises DataError for tables of other columns."""
    columns = lines[0].replace(" ", "")
    if columns == ",".join(_COLUMNS):
        return True
    if Path(path).suffix.lower() in (".csv", ".tsv") and ("," in columns or "\t" in columns):
        raise DataError(
            f"no saved split: it has the columns {printable(columns)}, not {','.join(_COLUMNS)}",
            file=path,
            fix="Give what --save-split wrote, or a list with one file name per line.",
        )
    return False


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except IsADirectoryError as error:
        raise DataError(
            "a folder, not a list of file names", file=path, fix="Give a file with one name per line."
        ) from error
    except OSError as error:
        raise from_os_error(error, "reading the list") from error
    except UnicodeDecodeError as error:
        raise DataError("not a list of file names: it is no text", file=path) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError("the list is empty", file=path)
    return lines


def _from_table(lines: Sequence[str], path: str) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """(shots, trial) -> (id, class name) of a table that `save_splits` wrote."""
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for number, row in enumerate(csv.reader(lines[1:]), start=2):
        if len(row) != len(_COLUMNS) or not row[1].isdecimal():
            raise DataError(f"line {number} is not {','.join(_COLUMNS)}", file=path)
        found.setdefault((row[0], int(row[1])), []).append((row[2], row[3]))
    return found


def _rows(
    wanted: Sequence[tuple[str, str]], train: Listed, path: str, allow_fewer: bool, notify: Callable[[str], None]
) -> np.ndarray:
    """Rows of (id or file name, class name or nothing); each must be there once, and of that class."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(map(printable, train.ids)):
        places.setdefault(name, []).append(row)
        places.setdefault(name.rpartition("/")[2], []).append(row)
    rows, missing = [], []
    classes = set(map(printable, train.classes))
    for name, label in wanted:
        at = places.get(name) or places.get(PurePosixPath(name).name, [])
        synset = label or (name.partition("_")[0] if "/" not in name else "")
        if label or synset in classes:  # else classes are not called by the names that stand in the files
            at = [row for row in at if train.labels[row] >= 0 and printable(train.classes[train.labels[row]]) == synset]
        if at:
            rows.append(at[0])
        else:
            missing.append(name)
    if missing and not (allow_fewer and rows):
        shown = ", ".join(map(printable, missing[:5]))
        raise DataError(
            f"{len(missing)} of its {counted(len(wanted), 'image')} {are(len(missing))} not among the train images: "
            f"{shown}{' …' if len(missing) > 5 else ''}",
            file=path,
            fix="Is it a list of another data set? --allow-fewer goes on without them.",
        )
    if missing:
        notify(
            f"{path}: {len(missing)} of {counted(len(wanted), 'listed image')} {are(len(missing))} not there and "
            "left out"
        )
    if len(set(rows)) < len(rows):
        raise DataError(
            counted(len(rows) - len(set(rows)), "image is listed twice", "images are listed twice"), file=path
        )
    unlabelled = int((train.labels[rows] < 0).sum())
    if unlabelled:
        raise DataError(counted(unlabelled, "listed image has no label", "listed images have no label"), file=path)
    return np.array(rows, dtype=np.int64)
