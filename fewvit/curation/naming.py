"""What images are called where they are written: names that stay inside, that are read again, and that differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..datasets import Dataset
from ..datasets._listing import is_image, unwanted
from ..errors import DataError, counted, some
from ..images.facts import format_of

_ENDING = {"JPEG": ".jpg", "TIFF": ".tif", "PPM": ".ppm"}  # others end as they are called
_FOLDERS_FIX = "Write a table or shards (.csv, .parquet, .tar), where a class may have any name."


@dataclass(frozen=True)
class Names:
    """The name of each image, and those that could not stay."""

    of: Sequence[str]  # N, with / between folders; relative, without `..`
    changed: Sequence[tuple[str, str]]  # (id, name)


def in_class_folders(images: Dataset, source_ids: Sequence[str]) -> Names:
    """Names in a folder for each class, or all in one where nothing is labelled; an id that says its class is kept.

    Raises DataError where some images are labelled and others are not, and for classes that cannot be folders.
    """
    labels = images.labels.tolist()
    if -1 in labels and max(labels) >= 0:
        none = counted(labels.count(-1), "image has", "images have")
        raise DataError(f"{none} no label, and class folders have no place for them", fix=_FOLDERS_FIX)
    used = [images.classes[c] for c in sorted({c for c in labels if c >= 0})]
    bad = [name for name in used if not _may_be_folder(name)]
    if bad:
        raise DataError(f"no folder can be called {some([repr(name) for name in bad])}", fix=_FOLDERS_FIX)
    names = []
    for row, (name, label) in enumerate(zip(source_ids, labels, strict=True)):
        folder = images.classes[label] if label >= 0 else ""
        kept = name if _is_safe(name) and name.partition("/")[0] == folder and "/" in name else None
        base = kept or "/".join(filter(None, [folder, os.path.basename(name.replace("\\", "/")) or "image"]))
        names.append(base if _is_safe(base) and is_image(base) else _with_ending(images, row, base))
    return _distinct(source_ids, names)


def in_archive(images: Dataset, source_ids: Sequence[str]) -> Names:
    """As `in_class_folders`, in UTF-8, which is what an archive's names are: other bytes become `%FF`.

    Raises DataError for a class whose name is not UTF-8.
    """
    odd = [name for name in images.classes if _escaped(name) != name]
    if odd:
        raise DataError(f"an archive's names are UTF-8, and {some(odd)} is not", fix=_FOLDERS_FIX)
    names = in_class_folders(images, source_ids)
    return _distinct(source_ids, [_escaped(name) for name in names.of])


def _escaped(name: str) -> str:
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)


def in_shards(images: Dataset, source_ids: Sequence[str]) -> Names:
    """Names whose first dot begins the ending, and that no other image has without it: a sample is known by that."""
    names, nothing = [], bool((images.labels < 0).all())
    for row, name in enumerate(source_ids):
        # where nothing is labelled, folders in a shard would be read as classes
        inside = name if _is_safe(name) and not nothing else os.path.basename(name.replace("\\", "/")) or "image"
        if not is_image(inside) or not _is_safe(inside):
            inside = _with_ending(images, row, inside)
        stem, ending = os.path.splitext(inside)
        folder, base = os.path.split(stem)
        names.append(os.path.join(folder, base.replace(".", "_")) + ending)
    return _distinct(source_ids, names, by_stem=True)


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or unwanted(part) for part in parts)


def _may_be_folder(name: str) -> bool:
    return "/" not in name and _is_safe(name) and len(os.fsencode(name)) <= 255


def _with_ending(images: Dataset, row: int, name: str) -> str:
    """A name that is read as an image's: with the ending of what is in it, without what hides a file."""
    folder, base = os.path.split(name)
    base = base.lstrip(".").replace("\0", "_") or "image"
    if not is_image(base) or unwanted(base):
        kind = format_of(images.read(row))
        if not kind:
            raise DataError(f"{images.place(row)} has no image's name, and is no image", fix="Remove it, or name it.")
        base += _ENDING.get(kind, f".{kind.lower()}")
    return os.path.join(folder, base)


def _distinct(ids: Sequence[str], names: Sequence[str], *, by_stem: bool = False) -> Names:
    """The names, those after the first of equal ones with a number that makes a name nobody has."""
    wished = {_key(name, by_stem) for name in names}
    taken: set[str] = set()
    found, changed = [], []
    for id_, wish in zip(ids, names, strict=True):
        stem, ending = os.path.splitext(wish)
        name, number = wish, 1
        while (key := _key(name, by_stem)) in taken or (number > 1 and key in wished):
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(key)
        found.append(name)
        if name != id_:
            changed.append((id_, name))
    return Names(found, changed)


def _key(name: str, by_stem: bool) -> str:
    return os.path.splitext(name)[0] if by_stem else name
