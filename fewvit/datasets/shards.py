"""WebDataset shards: tar files whose members share a key up to the first dot of the base name.

Read in place, by offset.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..digests import identity_of, part_identity
from ..errors import DataError, are, counted, from_os_error, printable, refuse_out_of_memory, some
from ..files import refuse_size
from ..untrusted.texts import json_of, require_file_text
from . import Dataset, Listing
from ._classes import class_folders, numbered, twins
from ._columns import LABELS, class_name, folded
from ._listing import (
    EXAMPLES,
    IMAGE_EXTENSIONS,
    IRREGULAR,
    OTHER,
    is_image,
    kind_of_folder,
    name_of,
    refuse_nothing,
    unwanted,
)

_TAR = (".tar", ".tar.gz", ".tgz")  # the compressed ones are accepted to be refused with advice
_BRACES = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_SHARDS = 1_000_000  # that a pattern may stand for
_BLOCK = 512  # bytes; a tar file is made of them
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json member
_DIGITS = 18  # of a label that is a number: as many fit into 64 bits
_SECOND = "second image of a sample"
_DOTS = "image beyond the first dot of its name, where a sample's name ends"
_NO_RECORD = ".json without a record"


class Shards:
    """A `.tar` file, a folder of them, or `name-{000..012}.tar`.

    The label is in `key.cls`, or `label` or a synonym of it in `key.json`; where no sample has one, the folders in the
    shards are the classes if there are two or more. The id is `shard/key.ext`. Labels that are numbers index the lines
    of a `classes.txt` beside the shards, or are class names as they stand.
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
        paths = _paths(source)
        containers = {path: identity_of(os.stat(path)) for path in paths}
        content = _Content(listing)
        for path in paths:
            content.add(path)
        samples = sorted(content.samples, key=lambda sample: os.fsencode(sample.id))
        ids, left_out = [sample.id for sample in samples], dict(content.left_out)
        refuse_nothing(source, ids, left_out)
        repeated = [first for first, second in itertools.pairwise(ids) if first == second]
        if repeated:
            raise DataError(
                f"{counted(len(repeated), 'sample occurs', 'samples occur')} more than once: {some(repeated)}",
                file=source,
            )
        labels, classes, notes = _labelled(source, samples)
        return Dataset(
            name_of(_BRACES.sub("", source)),
            ids,
            labels,
            classes,
            _Reader(samples, containers, listing.max_bytes),
            left_out,
            [*content.notes(), *notes],
            content.examples,
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
    max_bytes: int

    def read(self, i: int) -> bytes:
        sample = self.samples[i]
        refuse_size(sample.size, self.max_bytes, sample.path)
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
        paths = [source] if os.path.isfile(source) else _expanded(source)
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


def _expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for. Raises DataError where these are none, or more than anybody has."""
    folder, name = os.path.split(pattern)
    if not os.path.isdir(folder):  # else its braces are a part of its name
        folder, name = "", pattern
    count = math.prod(int(last) - int(first) + 1 for first, last in _BRACES.findall(name))
    if any(int(last) < int(first) for first, last in _BRACES.findall(name)) or count > _MOST_SHARDS:
        number = "no shard: the last number is below the first" if count <= _MOST_SHARDS else f"{count} shards"
        raise DataError(f"stands for {number}", file=pattern, fix="Give the first and the last number that there are.")
    return [os.path.join(folder, one) for one in _expand(name)]


def _expand(pattern: str) -> Iterator[str]:
    """The names that `{000..012}` stands for, each pair of braces in turn; leading zeros are kept."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


class _Content:
    """What shards hold, one after another: samples that have an image, and what was passed over."""

    def __init__(self, listing: Listing):
        self._listing = listing
        self.samples: list[_Sample] = []
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}  # reason -> the first names
        self._read: Counter[str] = Counter()  # keys of .json records that labels were in
        self._unread: Counter[str] = Counter()  # and the other ones

    def add(self, path: str) -> None:
        """The samples of one shard. Raises DataError if the file is damaged or cut short."""
        shard = os.path.basename(path)[: -len(".tar")]
        samples: dict[str, _Sample] = {}
        for member in _members(path):
            name = os.path.normpath(member.name)
            folder, base = os.path.split(name)
            key, _, extension = base.partition(".")
            extension = extension.lower()
            if reason := next(filter(None, map(unwanted, name.split("/"))), None):
                self._leave(reason, name)
            elif member.isdir():
                continue
            elif not member.isreg() or member.issparse():
                self._leave(IRREGULAR, name)
            elif f".{extension}" in IMAGE_EXTENSIONS:
                sample = samples.setdefault(os.path.join(folder, key), _Sample(path))
                if sample.id:
                    self._leave(_SECOND, name)
                else:
                    sample.id, sample.offset, sample.size = f"{shard}/{name}", member.offset_data, member.size
            elif extension in ("cls", "json"):
                sample = samples.setdefault(os.path.join(folder, key), _Sample(path))
                sample.label = self._label(path, member, extension) or sample.label
            else:
                self._leave(_DOTS if is_image(base) else OTHER, name)
        for key, sample in samples.items():
            if not sample.id:
                self._leave("label without an image", key)
        self.samples += [sample for sample in samples.values() if sample.id]

    def _leave(self, reason: str, name: str) -> None:
        self.left_out[reason] += 1
        if self.left_out[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append(name)

    def _label(self, path: str, member: tarfile.TarInfo, extension: str) -> str | None:
        """The label in a `.cls` or `.json` member, as text; None if it has none. Raises DataError for what is none."""
        name = printable(member.name)
        if member.size > _LARGEST_LABEL:
            raise DataError(f"the label {name} has {member.size} bytes", file=path)
        text = _pread(path, member.offset_data, member.size).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        try:
            label = class_name(text if extension == "cls" else self._of_record(text))
            require_file_text(label or "")
        except ValueError as error:
            said = f"cannot be read: {printable(error)}"
            raise DataError(f"the label {name} {said}", file=path) from error
        if label is not None and len(label) > _DIGITS and label.isdigit():
            raise DataError(
                f"the label {name} is a number of {len(label)} digits", file=path, fix=f"At most {_DIGITS} are read."
            )
        return label

    def _of_record(self, text: str) -> object:
        """What a JSON record gives for a label."""
        content = json_of(text)
        if not isinstance(content, dict):
            self.left_out[_NO_RECORD] += 1
            return None
        spelled = {folded(key): key for key in reversed(content)}  # of two that are folded alike, the first
        asked = self._listing.label_column
        wanted = LABELS if asked is None else (folded(asked),)
        key = asked if asked in content else next((spelled[name] for name in wanted if name in spelled), None)
        self._unread.update(other for other in content if other != key)
        if key is None:
            return None
        self._read[key] += 1
        return content[key]

    def notes(self) -> list[str]:
        """A line on the keys that labels were taken from, unless that is `label`, and one on the other keys."""
        keys = " and ".join(map(printable, self._read))
        lines = [f"labels from key {keys} of .json"] if self._read.keys() - {LABELS[0]} else []
        unread = sorted(self._unread.keys() - self._read.keys())
        if unread:
            advice = "" if self._read else "; --label-column names one that holds labels"
            lines.append(f"{'key' if len(unread) == 1 else 'keys'} of .json left unread: {some(unread, 12)}{advice}")
        return lines


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
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        refuse_out_of_memory(error, "reading the shard", os.path.getsize(path))
        raise DataError(f"not a tar file, or a damaged one: {printable(error)}", file=path) from error
    return members


def _labelled(source: str, samples: list[_Sample]) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels (N,), class names, and what to know of them."""
    if not any(sample.label for sample in samples):
        inside = [sample.id.partition("/")[2] for sample in samples]
        while len({name.partition("/")[0] for name in inside}) == 1 and all(name.count("/") > 1 for name in inside):
            inside = [name.partition("/")[2] for name in inside]  # a folder around all of them
        folders = sorted({name.partition("/")[0] for name in inside}, key=os.fsencode)
        if len(folders) > 1 and all("/" in name for name in inside):
            labels, classes, notes = class_folders(source, inside, folders, allow_empty_class=False)
            return labels, classes, ["labels from the folders in it, as no sample has one of its own", *notes]
    labels, classes = _classes([sample.label for sample in samples], samples[0].path)
    return labels, classes, twins(classes)


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
