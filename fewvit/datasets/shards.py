"""WebDataset shards: tar files whose members share a key up to the first dot of the base name.

Read in place, by offset.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..digests import identity_of, part_identity
from ..errors import DataError, are, counted, from_os_error, printable
from . import Dataset, Listing
from ._listing import (
    IMAGE_EXTENSIONS,
    IRREGULAR,
    OTHER,
    kind_of_folder,
    name_of,
    numbered,
    refuse_nothing,
    some,
    twins,
    unwanted,
)

_TAR = (".tar", ".tar.gz", ".tgz")  # the compressed ones are accepted to be refused with advice
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BLOCK = 512  # bytes; a tar file is made of them
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json member
_SECOND = "second image of a sample"


class Shards:
    """A `.tar` file, a folder of them, or `name-{000..012}.tar`.

    The label is in `key.cls`, or `label` in `key.json`; the id is `shard/key.ext`. Labels that are numbers index the
    lines of a `classes.txt` beside the shards, or are class names as they stand.
    """

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether it is a tar file, a pattern of them, or a folder that holds tar files and no image."""
        if source.lower().endswith(_TAR):
            return bool(_BRACES.search(source)) or os.path.isfile(source)
        return kind_of_folder(source) == "shards"

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The samples that have an image, labelled.

        Raises DataError as `Format.open`, also for damaged and compressed shards.
        """
        left_out: Counter[str] = Counter()
        samples: list[_Sample] = []
        paths = _paths(source)
        containers = {path: identity_of(os.stat(path)) for path in paths}
        for path in paths:
            samples += _samples(path, left_out)
        samples.sort(key=lambda sample: os.fsencode(sample.id))
        ids = [sample.id for sample in samples]
        refuse_nothing(source, ids, left_out)
        repeated = [first for first, second in itertools.pairwise(ids) if first == second]
        if repeated:
            raise DataError(
                f"{counted(len(repeated), 'sample occurs', 'samples occur')} more than once: {some(repeated)}",
                file=source,
            )
        labels, classes = _classes([sample.label for sample in samples], samples[0].path)
        return Dataset(
            name_of(_BRACES.sub("", source)),
            ids,
            labels,
            classes,
            _Reader(samples, containers),
            dict(left_out),
            twins(classes),
        )


@dataclass
class _Sample:
    """Where the image of a sample lies, and its label as written."""

    path: str
    id: str = ""  # empty until its image is found
    offset: int = 0  # bytes
    size: int = 0
    label: str | None = None


@dataclass(frozen=True)
class _Reader:
    samples: list[_Sample] = field(repr=False)
    containers: dict[str, bytes] = field(repr=False)  # identity of each tar file when it was indexed

    def read(self, i: int) -> bytes:
        sample = self.samples[i]
        return _pread(sample.path, sample.offset, sample.size)

    def identity(self, i: int) -> bytes | None:
        return part_identity(self.containers[self.samples[i].path], self.samples[i].offset)

    def place(self, i: int) -> str | None:
        return f"{self.samples[i].path}/{self.samples[i].id.partition('/')[2]}"


def _pread(path: str, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`. Opened each time (10 us): no handle is shared by threads or inherited by a fork."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _paths(source: str) -> list[str]:
    """The shards of a source. Raises DataError for compressed ones and for one that is not there."""
    if os.path.isdir(source):
        with os.scandir(source) as entries:
            paths = sorted(
                (e.path for e in entries if not unwanted(e.name) and e.name.lower().endswith(_TAR)), key=os.fsencode
            )
    else:
        paths = [source] if os.path.isfile(source) else list(_expand(source))
    packed = [path for path in paths if not path.lower().endswith(".tar")]
    if packed:
        raise DataError(
            "a compressed tar file cannot be read in any order",
            file=packed[0],
            fix="Unpack it with gunzip; images are compressed already.",
        )
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(
            f"{len(missing)} of {counted(len(paths), 'shard')} {are(len(missing))} not there: {some(missing)}",
            file=source,
        )
    return [os.path.abspath(path) for path in paths]


def _expand(pattern: str) -> Iterator[str]:
    """The names that `{000..012}` stands for, each pair of braces in turn; leading zeros are kept."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


def _samples(path: str, left_out: Counter[str]) -> list[_Sample]:
    """The samples of one shard that have an image. Raises DataError if the file is damaged or cut short."""
    shard = os.path.basename(path)[: -len(".tar")]
    samples: dict[str, _Sample] = {}
    for member in _members(path):
        folder, base = os.path.split(member.name)
        key, _, extension = base.partition(".")
        if not member.isreg() or member.issparse():
            left_out[IRREGULAR] += not member.isdir()
        elif reason := unwanted(base):
            left_out[reason] += 1
        elif f".{extension.lower()}" in IMAGE_EXTENSIONS:
            sample = samples.setdefault(os.path.join(folder, key), _Sample(path))
            if sample.id:
                left_out[_SECOND] += 1
            else:
                sample.id, sample.offset, sample.size = (
                    f"{shard}/{os.path.normpath(member.name)}",
                    member.offset_data,
                    member.size,
                )
        elif extension in ("cls", "json"):
            sample = samples.setdefault(os.path.join(folder, key), _Sample(path))
            sample.label = _label(path, member, extension) or sample.label
        else:
            left_out[OTHER] += 1
    without = [key for key, sample in samples.items() if not sample.id]
    left_out["label without an image"] += len(without)
    return [sample for sample in samples.values() if sample.id]


def _members(path: str) -> list[tarfile.TarInfo]:
    """What a tar file holds. Unlike tarfile, takes no damaged header for the end: the end is a block of zeros."""
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            members = tar.getmembers()
        last = max((m.offset_data + -(-(m.size if m.isreg() else 0) // _BLOCK) * _BLOCK for m in members), default=0)
        if _pread(path, last, _BLOCK) != bytes(_BLOCK):
            raise DataError(
                "damaged or cut short: no end after its last readable member",
                file=path,
                fix="Download or write it again.",
            )
    except OSError as error:
        raise from_os_error(error, "reading the shard") from error
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"not a tar file, or a damaged one: {error}", file=path) from error
    return members


def _label(path: str, member: tarfile.TarInfo, extension: str) -> str | None:
    """The label in a `.cls` or `.json` member, as text; None if it has none."""
    if member.size > _LARGEST_LABEL:
        raise DataError(f"the label {printable(member.name)} has {member.size} bytes", file=path)
    text = _pread(path, member.offset_data, member.size).decode("utf-8", "surrogateescape").strip()
    if extension == "cls":
        return text or None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{printable(member.name)} is no JSON: {error}", file=path) from error
    label = content.get("label") if isinstance(content, dict) else None
    return None if label is None or label == "" else str(label)


def _classes(labels: Sequence[str | None], shard: str) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) and class names: numbers index classes.txt if there is one, and are sorted as numbers; other labels
    are sorted as text.
    """
    given = {label for label in labels if label is not None}
    if not given or not all(label.isascii() and label.isdigit() for label in given):
        return numbered(labels)
    numbers = np.array([-1 if label is None else int(label) for label in labels], np.int64)
    path = os.path.join(os.path.dirname(shard), "classes.txt")
    if not os.path.isfile(path):
        found = np.unique(numbers[numbers >= 0])
        return np.where(numbers < 0, -1, np.searchsorted(found, numbers)), [str(number) for number in found]
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
        classes = [line.strip() for line in handle if line.strip()]
    if numbers.max() >= len(classes):
        raise DataError(f"label {numbers.max()} is beyond its {counted(len(classes), 'line')}", file=path)
    return numbers, classes
