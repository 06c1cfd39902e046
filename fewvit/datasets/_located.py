"""From paths as a table writes them to files: as written, or in one of the ways that programs are known to write."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import unquote

import numpy as np

from ..digests import identity_of
from ..errors import DataError, are, counted, printable, some
from ..files import is_file
from . import Dataset, Listing
from ._classes import twins
from ._columns import Rows
from ._listing import EXAMPLES, FileReader, name_of

# an upload to Label Studio, which puts 8 digits before its name, or what lies below its folder of local files
_LABEL_STUDIO = re.compile(r".*?/data/(?:upload/\d+/(?:[0-9a-f]{8}-)?|local-files/\?d=)(.+)")


def _without_blanks(path: str) -> str:
    return path.strip()


def _with_slashes(path: str) -> str:
    return path.strip().replace("\\", "/")


def _of_label_studio(path: str) -> str:
    match = _LABEL_STUDIO.fullmatch(path.strip())
    return unquote(match[1]) if match else path


def _beside(path: str) -> str:
    """The name alone of an image of Label Studio, whose folders are those of its server."""
    found = _of_label_studio(path)
    return os.path.basename(found) if found != path else path


# tried in turn where there is no file as written -> what is said of the paths that name one in this way
_WAYS: dict[Callable[[str], str], str] = {
    _without_blanks: "",  # nothing a user need know
    _with_slashes: "read with / for \\",
    _of_label_studio: "read as Label Studio's",
    _beside: "read as Label Studio's, beside the table",
}


def of_paths(source: str, listing: Listing, rows: Rows, notes: Sequence[str]) -> Dataset:
    """The images that a table's rows name, by the bytes of their paths.

    Raises DataError for no row, for paths that name no file, and for a path that stands twice.
    """
    if not rows.paths:
        raise DataError(
            "no rows: the table ends after its first line",
            file=source,
            fix="Give a line with path and label for each image.",
        )
    labels, classes = rows.numbered()
    ids, labels, _ = _sorted(rows.paths, labels)
    rows.paths = []  # of a table of millions, one list at a time
    _refuse_repeated(source, ids)
    found, identities, how_found = _locate(source, ids)
    if found is not ids:
        ids, labels, order = _sorted(found, labels)
        identities = bytearray(np.frombuffer(identities, "V40")[order])
        _refuse_repeated(source, ids)
    reader = FileReader(os.path.dirname(os.path.abspath(source)), ids, identities, listing.max_bytes)
    return Dataset(name_of(source), ids, labels, classes, reader, {}, [*notes, *how_found, *twins(classes)])


def _sorted(paths: list[str], labels: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths and labels by the bytes of the paths, and where each stood."""
    # text is ordered as its UTF-8 is, but for the surrogates that stand for odd bytes
    plain = all(map(_is_utf8, paths))
    keys = np.array(paths if plain else [*map(os.fsencode, paths)], dtype=object)
    order = np.argsort(keys, kind="stable")
    return (keys[order].tolist() if plain else [paths[i] for i in order]), labels[order], order


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_repeated(source: str, ids: list[str]) -> None:
    repeated = sorted({first for first, second in itertools.pairwise(ids) if first == second}, key=os.fsencode)
    if repeated:
        raise DataError(
            f"{counted(len(repeated), 'path stands', 'paths stand')} in it more than once: {some(repeated)}",
            file=source,
            fix="Keep one row for each image.",
        )


def _locate(source: str, ids: list[str]) -> tuple[list[str], bytearray, list[str]]:
    """The ids of a table's rows by which files are found from its folder, their identities, 40 bytes each, and notes.

    An id is the path as written where that names a file. Raises DataError with the first paths that name none.
    """
    folder = os.path.dirname(os.path.abspath(source))
    identities = bytearray(40 * len(ids))
    missing: list[str] = []
    ways: Counter[str] = Counter()
    found = ids
    for i, written in enumerate(ids):
        identity = _identity(folder, written)
        if identity is None:
            name, identity, way = _otherwise(folder, written)
            if identity is None:
                missing.append(written)
                continue
            ways[way] += 1
            found = list(ids) if found is ids else found
            found[i] = name
        identities[40 * i : 40 * i + 40] = identity
    if missing:
        odd = next((name for name in missing[:EXAMPLES] if os.path.exists(os.path.join(folder, name))), None)
        said = f" {printable(odd)} is not a regular file." if odd is not None else ""
        raise DataError(
            f"{len(missing)} of {counted(len(ids), 'image')} {are(len(missing))} not there: {some(missing)}",
            file=source,
            fix=f"Paths are relative to {printable(folder)}.{said}",
        )
    return found, identities, [f"{counted(count, 'path')} {way}" for way, count in ways.items() if way]


def _otherwise(folder: str, written: str) -> tuple[str, bytes | None, str]:
    """The first other reading of a path that names a file, its identity, and what to say of it."""
    for way, said in _WAYS.items():
        name = way(written)
        if name != written and (identity := _identity(folder, name)) is not None:
            return name, identity, said
    return written, None, ""


def _identity(folder: str, name: str) -> bytes | None:
    """That of a file that can be read, else None."""
    try:
        status = os.stat(os.path.join(folder, name))
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return None
    return identity_of(status) if is_file(status) else None
