"""A set in another form: class folders, an archive, shards, or a table of paths.

The bytes of images stay what they are. What is written appears whole, or not at all: it has a hidden name until it is
complete.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..datasets import Dataset, Listing, open_dataset
from ..datasets.shards import Shards
from ..errors import DataError, UsageError, counted, from_os_error, printable, refuse_out_of_memory, some
from ..files import locked, replacing, replacing_folder
from ..labels import refuse_marking
from .naming import Names, in_archive, in_class_folders, in_shards
from .split_tables import paths_from
from .tables import require_tabular, table_text

PER_SHARD = 10_000  # images of a shard
SUFFIXES = (".csv", ".tsv", ".parquet", ".zip", ".tar")
_TIME = (1980, 1, 1, 0, 0, 0)  # of members of an archive: the same images give the same bytes

Progress = Callable[[int, int], None]  # told how many images are written, and of how many


@dataclass(frozen=True)
class Converted:
    """What was written."""

    images: int
    classes: int
    files: int  # shards, archives, tables or images
    changed: Sequence[tuple[str, str]] = ()  # (id, name) of images that could not keep their names
    notes: Sequence[str] = ()


def convert_set(
    source: str,
    out: Path,
    listing: Listing,
    *,
    shards: bool = False,
    per_shard: int = PER_SHARD,
    announce: Callable[[Dataset], object] = lambda images: None,
    progress: Progress = lambda done, of: None,
) -> Converted:
    """Write a set in the form that the ending of `out` names; without one as class folders, or with `shards` as shards.

    Raises UsageError where `out` is there, and for a set whose predictions are marked otherwise than by one label,
    DataError for an image that cannot be read and for names that the form
    cannot hold, ResourceError on a full disk: then nothing is left.
    """
    _require_free(out)
    images = open_dataset(source, listing)
    refuse_marking(images, "a set in another form")
    announce(images)
    ids = [name.partition("/")[2] for name in images.ids] if Shards.accepts(source) else list(images.ids)
    suffix = out.suffix.lower() if out.suffix.lower() in SUFFIXES else ""
    with _alone(out):
        if suffix in (".csv", ".tsv", ".parquet"):
            return _to_table(images, out, suffix)
        if suffix == ".zip":
            converted, names = _to_zip(images, out, in_archive(images, ids), progress)
        elif suffix == ".tar" or shards:
            write = _to_tar if suffix == ".tar" else _to_shards
            converted, names = write(images, out, in_shards(images, ids), per_shard, progress)
        else:
            converted, names = _to_folders(images, out, in_class_folders(images, ids), progress)
        _require_same(images, names, out, listing)
    return converted


def _require_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()) and not out.is_symlink():
        return
    if os.path.lexists(out):
        raise UsageError("is there already, and nothing is replaced", file=out, fix="Give --out another name.")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While no other process writes to this place; what killed ones left of it is removed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making a folder", place="--out") from error
    with locked(out):
        _require_free(out)
        begin = f".{out.name[:100]}."
        for left in [one for one in out.parent.iterdir() if one.name.startswith(begin) and one.suffix == ".tmp"]:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield


def _bytes_of(images: Dataset, row: int) -> bytes:
    try:
        return images.read(row)
    except OSError as error:
        refuse_out_of_memory(error, "reading an image")
        raise DataError(
            f"cannot be read: {error.strerror or error}", file=images.place(row), fix="Repair it, or leave it out."
        ) from error


def _class_of(images: Dataset, row: int) -> str | None:
    label = int(images.labels[row])
    return images.classes[label] if label >= 0 else None


# ---- the forms


def _to_folders(images: Dataset, out: Path, names: Names, progress: Progress) -> tuple[Converted, Sequence[str]]:
    with replacing_folder(out) as folder:
        for name in images.classes:
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        for row, name in enumerate(names.of):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as handle:
                handle.write(_bytes_of(images, row))
            progress(row + 1, len(images))
    return Converted(len(images), len(images.classes), len(images), names.changed), names.of


def _to_zip(images: Dataset, out: Path, names: Names, progress: Progress) -> tuple[Converted, Sequence[str]]:
    """Members are stored, not packed: images are packed already."""
    with replacing(out, place="--out") as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for name in images.classes:
            archive.writestr(zipfile.ZipInfo(f"{name}/", _TIME), b"")
        for row, name in enumerate(names.of):
            archive.writestr(zipfile.ZipInfo(name, _TIME), _bytes_of(images, row))
            progress(row + 1, len(images))
    return Converted(len(images), len(images.classes), 1, names.changed), names.of


def _to_tar(
    images: Dataset, out: Path, names: Names, per_shard: int, progress: Progress
) -> tuple[Converted, Sequence[str]]:
    """One shard, its labels the names of classes. Raises DataError for numbers that would be read as others."""
    odd = [name for name in images.classes if name.isdigit() and str(int(name)) != name]
    if odd and all(name.isascii() and name.isdigit() for name in images.classes):
        raise DataError(
            f"classes are read from a shard as numbers, and {some(odd)} would lose its zeros",
            fix="Give --out a folder and --to shards: then a classes.txt has their names.",
        )
    with replacing(out, place="--out") as handle, _tar(handle) as tar:
        for row in range(len(images)):
            _add_sample(tar, names.of[row], _bytes_of(images, row), _class_of(images, row))
            progress(row + 1, len(images))
    return Converted(len(images), len(images.classes), 1, names.changed), names.of


def _to_shards(
    images: Dataset, out: Path, names: Names, per_shard: int, progress: Progress
) -> tuple[Converted, Sequence[str]]:
    """Shards in a folder, labels as places in their `classes.txt`: what WebDataset's tools write."""
    if any("\n" in name or name.strip() != name for name in images.classes):
        raise DataError("a class name with a line break or blanks around it has no place in classes.txt")
    starts = range(0, len(images), per_shard)
    with replacing_folder(out) as folder:
        if images.classes:
            text = "".join(f"{name}\n" for name in images.classes)
            (folder / "classes.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        for number, start in enumerate(starts):
            with open(folder / f"shard-{number:06d}.tar", "wb") as handle, _tar(handle) as tar:
                for row in range(start, min(start + per_shard, len(images))):
                    label = int(images.labels[row])
                    _add_sample(tar, names.of[row], _bytes_of(images, row), str(label) if label >= 0 else None)
                    progress(row + 1, len(images))
    return Converted(len(images), len(images.classes), len(starts), names.changed), names.of


def _tar(handle: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=handle, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape")


def _add_sample(tar: tarfile.TarFile, name: str, data: bytes, label: str | None) -> None:
    _add(tar, name, data)
    if label is not None:
        _add(tar, os.path.splitext(name)[0] + ".cls", label.encode("utf-8", "surrogateescape"))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _to_table(images: Dataset, out: Path, suffix: str) -> Converted:
    """A table of paths, relative to it: no image is copied."""
    require_tabular(images.classes)
    paths = paths_from(images, out.parent)
    labels = [_class_of(images, row) for row in range(len(images))]
    if suffix == ".parquet":
        _write_parquet(out, paths, labels)
    else:
        lines = [[path, label or ""] for path, label in zip(paths, labels, strict=True)]
        with replacing(out, "w", place="--out") as handle:
            handle.write(table_text(("path", "label"), lines, "\t" if suffix == ".tsv" else ","))
    empty = len(images.classes) - len({label for label in labels if label is not None})
    lost = f"{counted(empty, 'class', 'classes')} without an image cannot stand in a table"
    return Converted(len(images), len(images.classes) - empty, 1, (), [lost] if empty else [])


def _write_parquet(out: Path, paths: Sequence[str], labels: Sequence[str | None]) -> None:
    from ..datasets._arrow import require_arrow

    require_arrow(str(out), "writing Parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        table = pyarrow.table({"path": pyarrow.array(paths, "string"), "label": pyarrow.array(labels, "string")})
    except UnicodeEncodeError as error:
        raise DataError(
            "Parquet holds text in UTF-8, and a name is not", fix="Write a .csv, which keeps it."
        ) from error
    with replacing(out, place="--out") as handle:
        parquet.write_table(table, handle)


# ---- what was written is read again


def _require_same(images: Dataset, names: Sequence[str], out: Path, listing: Listing) -> None:
    """Raise DataError, and remove what was written, unless it is read as the same images under the same classes."""
    try:
        found = open_dataset(str(out), replace(listing, allow_empty_class=True, label_column=None, path_column=None))
        ids = [name.partition("/")[2] for name in found.ids] if Shards.accepts(str(out)) else list(found.ids)
        read = {name: _class_of(found, row) for row, name in enumerate(ids)}
        wanted = {name: _class_of(images, row) for row, name in enumerate(names)}
        wrong = [name for name in wanted if name not in read or read[name] != wanted[name]]
    except DataError as error:
        _remove(out)
        raise DataError(f"what was written cannot be read again ({printable(error.what)}), and was removed") from error
    if wrong or len(read) != len(wanted):
        _remove(out)
        raise DataError(
            f"{counted(len(wrong), 'image')} would be read under another name or class ({some(wrong, 3)}): what was "
            "written was removed",
            fix="Rename them, or write another form.",
        )


def _remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)
