"""The pictures behind an index's rows: where they are, whether they are still what was indexed, and their bytes."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

import numpy as np

from ..datasets import Dataset, Listing, open_dataset
from ..digests import identity_of
from ..errors import DataError, refuse_out_of_memory
from ..files import is_file, whole
from .opened import OpenIndex
from .segment import UNKNOWN

_SIZE = 2  # its place in an identity
THERE, MISSING, CHANGED, NO_FILE = "there", "missing", "changed", ""


class Pictures:
    """The pictures of an index. None is ever taken for another: what is not the indexed one is said to be changed."""

    def __init__(self, index: OpenIndex):
        self._index = index

    def path(self, row: int) -> str | None:
        """Where the file of a row is; None for what is in no file of its own."""
        [record] = self._index.records(np.array([row]))
        source = int(record["source"])
        root = self._index.manifest.sources[source].root if source >= 0 else None
        return None if root is None else os.path.join(root, self._index.ids(np.array([row]))[0])

    def require_sources(self) -> None:
        """Raise DataError where a whole source is not there: then its images are not known to be gone."""
        for source in self._index.manifest.sources:
            place = source.root or source.place
            if os.path.isabs(place) and not os.path.exists(place):
                raise DataError(
                    "this source of the index is not there, so its images may be elsewhere and not gone",
                    file=place,
                    fix="Bring it back, or give its new place to `fewvit index add --data`.",
                )

    def states(self, rows: np.ndarray) -> list[str]:
        """Of each row (n,) whether its file is `there`, `missing` or `changed`; empty for what has no file.

        A file whose size and time stamps are those of its row is not read.
        """
        records, ids = self._index.records(rows), self._index.ids(rows)
        sources = self._index.manifest.sources
        return [
            NO_FILE
            if source < 0 or (root := sources[source].root) is None
            else _state(os.path.join(root, name), digest, identity)
            for source, name, digest, identity in zip(
                records["source"].tolist(), ids, records["digest"].tolist(), records["identity"], strict=True
            )
        ]

    def read(self, row: int) -> bytes:
        """The bytes that were indexed. Raises DataError where they are not there any more, or were never known.

        So an index that somebody made up opens no file whose bytes its maker did not have.
        """
        [name], [record] = self._index.ids(np.array([row])), self._index.records(np.array([row]))
        digest, source = record["digest"].tobytes(), int(record["source"])
        if source >= 0 and digest == UNKNOWN:
            raise DataError("the index does not know what bytes the image had, so no file is shown as it", file=name)
        path = self.path(row)
        try:
            data = self._from_source(source, name) if path is None else whole(path, _bound(record["identity"]))
        except (OSError, ValueError) as error:
            refuse_out_of_memory(error, "reading an image")
            why = getattr(error, "strerror", None) or error
            raise DataError(f"the image cannot be read ({why})", file=name) from error
        if hashlib.sha256(data).digest() != digest:
            raise DataError("the image is not the one that was indexed", file=name)
        return data

    def _from_source(self, source: int, name: str) -> bytes:
        if source < 0:
            raise DataError("the index was built of features, so it knows no image", file=name)
        images, row_of = _opened(self._index.manifest.sources[source].place)
        if name not in row_of:
            raise DataError("the image is not in its source any more", file=name)
        return images.read(row_of[name])


@lru_cache(maxsize=4)
def _opened(place: str) -> tuple[Dataset, dict[str, int]]:
    """A source that keeps its images in files of its own making, and the row of each id."""
    images = open_dataset(place, Listing())
    return images, {name: row for row, name in enumerate(images.ids)}


def _bound(identity: np.ndarray) -> int:
    """Bytes of a picture's file that are read at most: as many as it had when it was indexed, if that was many."""
    return max(Listing.max_bytes, int(identity[_SIZE]))


def _state(path: str, digest: bytes, identity: np.ndarray) -> str:
    try:
        found = os.stat(path)
        if not is_file(found):
            return MISSING
        if identity_of(found) == identity.tobytes():
            return THERE
        if identity.any() and found.st_size != identity[_SIZE]:
            return CHANGED
        return THERE if hashlib.sha256(whole(path, _bound(identity))).digest() == digest else CHANGED
    except (OSError, ValueError):  # ValueError: a name with a zero byte, which no file has
        return MISSING
