"""CIFAR's python archives: pickles of rows of pixels, read without running any of what a pickle may ask for."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..datasets import Dataset, Listing
from ..datasets._classes import numbered
from ..datasets._pixels import Pixels
from ..errors import DataError, some
from ..files import require_file
from ..untrusted.plain_pickle import plain_data
from ._files import NotThereError, bytes_of, of_class_folders, whole_numbers

_SIDE = 32  # pixels
# folder -> a pickle that it always has, and the archive that it is published in
_KNOWN = {
    "cifar-10-batches-py": ("batches.meta", "cifar-10-python.tar.gz"),
    "cifar-100-python": ("meta", "cifar-100-python.tar.gz"),
}
_MOST_BYTES = 512 << 20  # of a pickle; the largest that is published has 155 MB


def cifar(
    name: str,
    place: str,
    part: str,
    listing: Listing,
    *,
    inner: str,
    batches: Sequence[str],
    meta: str,
    labels: str,
    names: str,
) -> Dataset:
    """A part of a CIFAR: from `inner`, a folder of pickles, from its archive, or from class folders.

    `batches` are the part's pickles, `labels` and `names` the keys of the labels and of the classes' names in `meta`.
    Raises DataError for what is missing or of another shape, IntegrityError for a pickle that is no plain data.
    """
    if os.path.isdir(os.path.join(place, part)) and not os.path.exists(os.path.join(place, inner)):
        return of_class_folders(name, os.path.join(place, part), listing)
    pickles = _Pickles(place, inner)
    called = _names(_entry(pickles.read(meta), names, pickles.path(meta)), names, pickles.path(meta))
    parts = [_batch(pickles.read(one), labels, len(called), pickles.path(one)) for one in batches]
    ids = [f"{one}/{row:05d}" for one, (_, of_one) in zip(batches, parts, strict=True) for row in range(len(of_one))]
    numbers = np.concatenate([of_one for _, of_one in parts])
    of_images, classes = numbered(called[number] for number in numbers)
    pixels = np.concatenate([images for images, _ in parts])
    return Dataset(name, ids, of_images, classes, Pixels(pixels, pickles.path(part)))


def _batch(content: Any, labels: str, classes: int, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels (N,) of a pickle. A row is all of red, then green, then blue, row by row."""
    rows = _entry(content, "data", path)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * _SIDE**2:
        raise DataError(f"its `data` is not uint8 (N, {3 * _SIDE**2})", file=path)
    numbers = whole_numbers(_entry(content, labels, path), 0, classes - 1, f"`{labels}`", path)
    if len(numbers) != len(rows):
        raise DataError(f"has {len(rows)} images and {len(numbers)} labels", file=path)
    return rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), numbers


def _entry(content: Any, key: str, path: str) -> Any:
    """The value of a key, which Python 2 wrote as bytes. Raises DataError."""
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}, expected a dict", file=path)
    known = {_text(one): value for one, value in content.items()}
    if key not in known:
        raise DataError(f"has no `{key}`; it has {some(sorted(known))}", file=path)
    return known[key]


def _names(value: Any, key: str, path: str) -> list[str]:
    """The names of the classes. Raises DataError for no list of names, for none, and for one twice."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str | bytes) for one in value):
        raise DataError(f"its `{key}` is no list of names", file=path)
    if not value:
        raise DataError(f"its `{key}` is empty: it names no class", file=path)
    found = [_text(one) for one in value]
    if len(set(found)) < len(found):
        raise DataError(f"its `{key}` has a name twice", file=path)
    return found


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Pickles:
    """The pickles of a set, in a folder or in the archive that it is published as."""

    def __init__(self, place: str, inner: str):
        always, archive = _KNOWN[inner]
        folders = [os.path.join(place, inner), place]
        self._folder = next((one for one in folders if os.path.isfile(os.path.join(one, always))), None)
        packed = [place, os.path.join(place, archive)]
        self._archive = next((one for one in packed if os.path.isfile(one)), None)
        self._inner = inner
        if self._folder is None and self._archive is None:
            raise NotThereError(f"neither {inner}/{always} nor {archive} is there", file=place)

    def path(self, name: str) -> str:
        """Where a pickle is, for messages."""
        if self._folder is not None:
            return os.path.join(self._folder, name)
        return f"{self._archive}/{self._inner}/{name}"

    def read(self, name: str) -> Any:
        """The plain data of a pickle. Raises DataError, IntegrityError."""
        return plain_data(self._bytes(name), self.path(name))

    def _bytes(self, name: str) -> bytes:
        if self._folder is not None:
            return bytes_of(self.path(name), "the pickle", _MOST_BYTES)
        try:
            require_file(str(self._archive))
            with tarfile.open(self._archive) as archive:
                member = archive.getmember(f"{self._inner}/{name}")
                opened = archive.extractfile(member) if member.isfile() else None  # a link may lead to itself
                if opened is None:
                    raise DataError("is no file in the archive", file=self.path(name))
                if member.size > _MOST_BYTES:
                    raise DataError(f"more than {_MOST_BYTES >> 20} MiB", file=self.path(name))
                return opened.read(_MOST_BYTES)
        except KeyError as error:
            raise NotThereError("is not in the archive", file=self.path(name)) from error
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, OverflowError) as error:
            raise DataError(f"not a whole archive ({error})", file=self._archive, fix="Fetch it again.") from error
