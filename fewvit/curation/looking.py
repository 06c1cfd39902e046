"""What is known of each picture of a set: its header, its digest, and why it cannot be read.

Every file is read once: while features are made the reader of the data set is watched, and what that did not read,
because its features are stored, is read afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..cpu import in_threads
from ..datasets import Dataset, Reader
from ..errors import refuse_out_of_memory
from ..images import MAX_PIXELS, BadImage, decode_whole
from ..images.facts import ImageFacts, facts_of, is_blank, one_colour

_UNKNOWN = ImageFacts()
_AT_ONCE = 256  # pictures whose bytes may be in memory, at most: those of as many threads as there are cores

Progress = Callable[[int, int], None]  # told how many pictures are done, and of how many


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of one picture."""

    digest: bytes  # 32, sha256 of its bytes; empty: they cannot be read
    facts: ImageFacts = _UNKNOWN
    blank: bool = False
    reason: str = ""  # why it cannot be read or decoded, where that was tried


def look(data: bytes, max_pixels: int = MAX_PIXELS) -> Look:
    """What the bytes say without being decoded; a picture that may be of one colour alone is decoded for that."""
    facts = facts_of(data)
    return Look(hashlib.sha256(data).digest(), facts, is_blank(data, facts, max_pixels))


def look_closely(data: bytes, max_pixels: int = MAX_PIXELS) -> Look:
    """As `look`, and the picture is decoded: `reason` says why it cannot be."""
    digest, facts = hashlib.sha256(data).digest(), facts_of(data)
    try:
        return Look(digest, facts, one_colour(decode_whole(data, max_pixels), facts))
    except BadImage as error:
        return Look(digest, facts, False, error.reason)


@dataclass
class Looks:
    """What is known of the pictures of a set, by row, as far as they were read."""

    images: Dataset
    max_pixels: int = MAX_PIXELS
    found: dict[int, Look] = field(default_factory=dict)

    def watched(self) -> Dataset:
        """The set: whatever is read of it is looked at on the way."""
        return replace(self.images, reader=_Watched(self.images.reader, self))

    def complete(self, *, closely: bool, progress: Progress = lambda done, of: None) -> list[Look]:
        """A look at every picture, in order; those that were not read are read now, on all cores.

        `closely`: they are decoded.
        """
        left = [row for row in range(len(self.images)) if row not in self.found]
        how = look_closely if closely else look
        for start in range(0, len(left), _AT_ONCE):
            rows = left[start : start + _AT_ONCE]
            for row, one in zip(rows, in_threads(lambda row: self._read(row, how), rows), strict=True):
                self.found[row] = one
            progress(start + len(rows), len(left))
        return [self.found[row] for row in range(len(self.images))]

    def _read(self, row: int, how: Callable[[bytes, int], Look]) -> Look:
        try:
            data = self.images.read(row)
        except OSError as error:
            refuse_out_of_memory(error, "reading an image")
            return Look(b"", reason=(error.strerror or str(error)).lower())  # as extraction says it
        return how(data, self.max_pixels)


def with_reasons(looks: Sequence[Look], ids: Sequence[str], skipped: Sequence[dict[str, str]]) -> list[Look]:
    """The looks, with what an extraction said of the pictures that it skipped: `id` and `reason` of each."""
    reasons = {one["id"]: one["reason"] for one in skipped}
    return [
        replace(one, reason=reasons[name]) if name in reasons else one for name, one in zip(ids, looks, strict=True)
    ]


@dataclass(frozen=True)
class _Watched:
    """A reader that looks at what it reads. Each row is read by one thread."""

    reader: Reader
    looks: Looks

    def read(self, i: int) -> bytes:
        data = self.reader.read(i)
        self.looks.found[i] = look(data, self.looks.max_pixels)
        return data

    def identity(self, i: int) -> bytes | None:
        return self.reader.identity(i)

    def place(self, i: int) -> str | None:
        return self.reader.place(i)
