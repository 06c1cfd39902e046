"""A folder with images directly in it: unlabelled, or labelled by a ground-truth list in it or in its parent."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, counted, from_os_error, printable, some
from . import Dataset, Listing
from ._classes import numbered, twins
from ._columns import NoPaths
from ._devkit import DEVKIT, synsets_by_id
from ._listing import FileReader, image_tree, kind_of_folder, name_of, refuse_nothing, tables_beside
from ._text_table import read_text

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


class Flat:
    """`root/image.jpg`, as ImageNet's validation images come; also Tiny-ImageNet's `val`, whose images are in
    `val/images`.
    """

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether an image lies directly in the folder, or it is Tiny-ImageNet's `val`."""
        return kind_of_folder(source) == "flat" or _is_tiny_imagenet_val(source)

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The images below the folder, labelled where a list of the ground truth is found.

        Raises DataError as `Format.open`.
        """
        tree = image_tree(source, listing.follow_links)
        refuse_nothing(source, tree.ids, tree.left_out)
        folders = sorted({os.path.dirname(name) for name in tree.ids}, key=os.fsencode)
        if len(folders) > 1:
            loose = next((name for name in tree.ids if "/" not in name), tree.ids[0])
            what = (
                f"images directly in the folder ({printable(loose)}, …) and in sub-folders "
                f"({some([f for f in folders if f], 3)})"
            )
            raise DataError(
                what, file=source, fix="Move the loose images into a class folder, or the sub-folders elsewhere."
            )
        labels, classes, notes = _labels(source, tree.ids, listing)
        reader = FileReader(os.path.abspath(source), tree.ids, tree.identities, listing.max_bytes)
        return Dataset(name_of(source), tree.ids, labels, classes, reader, tree.left_out, notes, tree.examples)


def _is_tiny_imagenet_val(source: str) -> bool:
    return (
        os.path.isfile(os.path.join(source, "val_annotations.txt"))
        and kind_of_folder(os.path.join(source, "images")) == "flat"
    )


# ---- ground-truth lists ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Truth:
    """A list: the file it came from, and (image name, class name) in its order."""

    path: str
    rows: list[tuple[str, str | None]]
    notes: list[str]


def _labels(source: str, ids: list[str], listing: Listing) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels (N,), classes and notes: by the list in the folder, else by one in its parent that names at least one of
    the images.
    """
    own = _find_truth(source, ids, listing)
    if isinstance(own, _Truth):
        return _apply(own, ids)
    unlabelled = np.full(len(ids), -1, np.int64)
    if own is not None:
        return unlabelled, [], [own]
    parent = os.path.normpath(os.path.join(os.path.abspath(source), os.pardir))
    other = _find_truth(parent, ids, listing)
    if isinstance(other, _Truth):
        listed = {os.path.basename(name) for name, _ in other.rows}
        if any(_key(name, listed) in listed for name in ids):
            return _apply(other, ids)
        other = f"{printable(other.path)} names none of these images and was not used"
    return unlabelled, [], [*([] if other is None else [other]), *tables_beside(source)]


def _find_truth(folder: str, ids: list[str], listing: Listing) -> _Truth | str | None:
    """The list in `folder`, by the first of the known names; a line on why it is not used where it is a table of other
    things; None if there is none.

    Raises DataError for one that cannot be read.
    """
    for name in (*_LISTS, *_TABLES):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            try:
                if name in _TABLES:
                    return _Truth(path, *_read_table(path, listing))
                return _Truth(path, [*_LISTS[name](path, ids)], [])
            except NoPaths as error:
                return f"{printable(path)} was not used: {error.what}"
            except OSError as error:
                raise from_os_error(error, "reading the list of labels") from error
            except (csv.Error, UnicodeError, ValueError) as error:
                raise DataError(f"not a list of labels: {printable(error)}", file=path) from error
    return None


def _apply(truth: _Truth, ids: list[str]) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels, classes and notes of `ids` by a list. Raises DataError unless list and folder name the same images."""
    label_of = {os.path.basename(name): label for name, label in truth.rows}  # Caffe's lists have folders
    if not any(label_of.values()):
        return np.full(len(ids), -1, np.int64), [], [f"no labels in {printable(truth.path)}", *truth.notes]
    keys = [_key(name, label_of) for name in ids]
    missing = sorted(label_of.keys() - set(keys), key=os.fsencode)
    unlisted = [name for name, key in zip(ids, keys, strict=True) if key not in label_of]
    wrong = (
        [f"{counted(len(missing), 'of its images is', 'of its images are')} missing ({some(missing)})"]
        if missing
        else []
    )
    wrong += [f"{counted(len(unlisted), 'image is', 'images are')} not in it ({some(unlisted)})"] if unlisted else []
    twice = len(truth.rows) - len(label_of)
    wrong += [f"{counted(twice, 'of its images is', 'of its images are')} named twice"] if twice else []
    if wrong:
        raise DataError("; ".join(wrong), file=truth.path, fix="Complete the folder, or correct or remove the list.")
    labels, classes = numbered(label_of[key] for key in keys)
    return labels, classes, [f"labels from {printable(truth.path)}", *truth.notes, *twins(classes)]


def _key(name: str, label_of: Container[str]) -> str:
    """The name under which a list may have an image: its base name, or that without extension (Kaggle)."""
    base = os.path.basename(name)
    return base if base in label_of else os.path.splitext(base)[0]


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
        return [line.rstrip("\r\n") for line in handle if line.strip()]


def _read_table(path: str, listing: Listing) -> tuple[list[tuple[str, str | None]], list[str]]:
    """A table that lies beside its images, and what to know of its columns."""
    rows, notes = read_text(path, listing)
    labels, classes = rows.numbered()
    names = [classes[k] if k >= 0 else None for k in labels.tolist()]
    return list(zip(map(str.strip, rows.paths), names, strict=True)), notes


def _read_annotations(path: str, ids: list[str]) -> list[tuple[str, str]]:
    """Tiny-ImageNet: `val_0.JPEG<TAB>n03444034<TAB>0<TAB>32<TAB>44<TAB>62`."""
    return _pairs(line.split("\t")[:2] for line in _lines(path))


def _read_kaggle(path: str, ids: list[str]) -> list[tuple[str, str]]:
    """Kaggle: `ImageId,PredictionString`, the string being a synset and its boxes."""
    rows = csv.DictReader(_lines(path))
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise ValueError(
            f"its columns are {', '.join(rows.fieldnames or ()) or 'none'}, expected ImageId,PredictionString"
        )
    return _pairs([row["ImageId"], *(row["PredictionString"] or "").split()[:1]] for row in rows)


def _read_plain(path: str, ids: list[str]) -> list[tuple[str, str]]:
    """`name label` a line; numbers count the lines of synsets.txt or synset_words.txt beside it, from 0 (Caffe)."""
    rows = _pairs(line.rsplit(maxsplit=1) for line in _lines(path))
    if not all(label.isascii() and label.isdigit() for _, label in rows):
        return rows
    for name in ("synsets.txt", "synset_words.txt"):
        beside = os.path.join(os.path.dirname(path), name)
        if os.path.isfile(beside):
            synsets = [line.split()[0] for line in _lines(beside)]
            beyond = [name for name, label in rows if int(label) >= len(synsets)]
            if beyond:
                raise ValueError(
                    f"a label of {printable(beyond[0])} is beyond the {counted(len(synsets), 'line')} of {name}"
                )
            return [(name, synsets[int(label)]) for name, label in rows]
    return rows


def _read_ilsvrc(path: str, ids: list[str]) -> list[tuple[str, str]]:
    """ImageNet's devkit: a line per image in the order of the names, holding the ILSVRC2012_ID of meta.mat."""
    synsets = synsets_by_id(path)
    lines = _lines(path)
    if len(lines) != len(ids):
        raise ValueError(f"{counted(len(lines), 'line')} for {counted(len(ids), 'image')}; it labels them by position")
    unknown = sorted({line for line in lines if line.strip() not in synsets})
    if unknown:
        raise ValueError(f"no synset in meta.mat for {some(unknown)}")
    return [(name, synsets[line.strip()]) for name, line in zip(ids, lines, strict=True)]


def _pairs(rows: Iterable[list[str]]) -> list[tuple[str, str]]:
    """Rows of two words; raises ValueError for the first of another length."""
    pairs = []
    for row in rows:
        if len(row) != 2 or not all(row):
            raise ValueError(f"no name and label in {printable(' '.join(row))[:80]!r}")
        pairs.append((row[0].strip(), row[1].strip()))
    return pairs


_LISTS: dict[str, Callable[[str, list[str]], list[tuple[str, str]]]] = {
    "val_annotations.txt": _read_annotations,
    "LOC_val_solution.csv": _read_kaggle,
    "val.txt": _read_plain,
    "val_list.txt": _read_plain,
    "validation.txt": _read_plain,
    _GROUND_TRUTH: _read_ilsvrc,
    os.path.join(DEVKIT, _GROUND_TRUTH): _read_ilsvrc,
}
_TABLES = ("metadata.csv", "_classes.csv")  # as the Hugging Face hub and Roboflow put them beside images
