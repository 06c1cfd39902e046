"""From paths and names to classes: how folders become them, how they are numbered, and what looks wrong about them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError, printable, some
from ..spellings import split_of


def class_folders(
    source: str, ids: Sequence[str], folders: Sequence[str], allow_empty_class: bool, *, links: bool = False
) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels (N,), class names and notes of images in class folders: the first folder of an id is its class.

    `folders` are all folders of the root; `links`: some lead elsewhere and were not followed. Raises DataError for
    images beside the class folders, for a folder without an image, and for two sets instead of classes.
    """
    of_image = [name.partition("/")[0] if "/" in name else None for name in ids]
    used = {name for name in of_image if name is not None}
    if None in of_image and used:
        loose, first = ids[of_image.index(None)], min(used, key=os.fsencode)
        what = f"images directly in the folder ({printable(loose)}, …) beside class folders ({printable(first)}, …)"
        raise DataError(what, file=source, fix="Move the loose images into a class folder, or out of it.")
    refuse_two_parts(source, folders)
    empty = [name for name in folders if name not in used]
    if empty and not allow_empty_class:
        follow = "Give --follow-links, if its images are links. " if links else ""
        raise DataError(
            f"no image in class {some(empty)}",
            file=source,
            fix=f"{follow}Fill or remove it, or give --allow-empty-class.",
        )
    if None in of_image:
        return np.full(len(ids), -1, np.int64), [], []
    classes = sorted({*folders, *used}, key=os.fsencode)
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[name] for name in of_image if name is not None], np.int64)
    return labels, classes, [*twins(classes), *_called_as_sets(classes), *_only_one(ids, classes)]


def numbered(names: Iterable[str | None]) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) and sorted class names from each image's class name; None is unlabelled, -1."""
    names = list(names)
    classes = sorted({name for name in names if name is not None}, key=os.fsencode)
    number: dict[str | None, int] = {None: -1, **{name: k for k, name in enumerate(classes)}}
    return np.array([number[name] for name in names], np.int64), classes


def refuse_two_parts(source: str, folders: Sequence[str]) -> None:
    """Raise DataError if the only sub-folders are those of a training set and others: sets, not classes."""
    splits = [split_of(name) for name in folders]
    if "train" in splits and len(folders) > 1 and None not in splits:
        inside = " and ".join(f"{printable(name)}/" for name in folders)
        raise DataError(
            f"holds {inside}, which are sets, not classes",
            file=source,
            fix=f"Give one of them: {printable(os.path.join(source, folders[splits.index('train')]))}.",
        )


def _called_as_sets(classes: Sequence[str]) -> list[str]:
    """A line on classes whose names are those of sets, where there are other classes too."""
    sets = [name for name in classes if split_of(name)] if len(classes) > 1 else []
    return [f"taken for {'a class' if len(sets) == 1 else 'classes'}, not for sets: {some(sets)}"] if sets else []


def twins(classes: Sequence[str]) -> list[str]:
    """A line for each pair of classes whose names differ only by case or by Unicode form."""
    seen: dict[str, str] = {}
    lines = []
    for name in classes:
        other = seen.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
        if other != name:
            lines.append(f"classes {other!a} and {name!a} differ only by case or Unicode form")
    return lines


def _only_one(ids: Sequence[str], classes: Sequence[str]) -> list[str]:
    """A line if all images are of one class but lie in several sub-folders: these were probably meant."""
    below = {name.split("/")[1] for name in ids if name.count("/") >= 2}
    if len(classes) != 1 or len(below) < 2:
        return []
    return [
        f"one class, {printable(classes[0])}, with images in {len(below)} sub-folders; if these are the classes, "
        f"give {printable(classes[0])} as the source"
    ]
