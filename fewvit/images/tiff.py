"""What a TIFF holds, by its tags: what Pillow cannot read is named, what it reads turned round is read.

Without this Pillow says `unknown pixel mode`, or logs a line of its own for many bands.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

BITS, PHOTOMETRIC, _SAMPLES, _FORMAT = 258, 262, 277, 339
_LOOKS = {0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_KINDS = {1: "", 2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}
MOST_SAMPLES = 6  # that Pillow reads
_BEGINS = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")  # the last two: BigTIFF


def tags_of(data: bytes) -> Mapping[int, Any] | None:
    """The tags of a TIFF's first picture; None for other files, and where the tags cannot be read."""
    if data[:4] not in _BEGINS:
        return None
    from PIL import TiffImagePlugin

    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
        handle = io.BytesIO(data)
        handle.seek(tags.next)
        tags.load(handle)
        return {tag: tags[tag] for tag in (BITS, PHOTOMETRIC, _SAMPLES, _FORMAT) if tag in tags}
    except Exception:  # of the image boundary: whatever is wrong with it, opening it says so
        return None


def samples(tags: Mapping[int, Any]) -> int:
    """How many values each pixel has."""
    found = tags.get(_SAMPLES, 1)
    return found if isinstance(found, int) else 1


def described(tags: Mapping[int, Any]) -> str:
    """`5 bands of 8 bits each (BlackIsZero)`: what a TIFF holds, in a few words."""
    bits, kinds = first_of(tags.get(BITS, 1)), _KINDS.get(first_of(tags.get(_FORMAT, 1)), "unknown ")
    look = _LOOKS.get(first_of(tags.get(PHOTOMETRIC, -1)), "without a photometric interpretation that is known")
    number = samples(tags)
    return f"{number} bands of {kinds}{bits} bits each ({look})" if number > 1 else f"{kinds}{bits} bits ({look})"


def with_black_as_zero(data: bytes, tags: Mapping[int, Any]) -> bytes | None:
    """The same file that says BlackIsZero; None unless it is grey in 12 or 16 bits, WhiteIsZero and unsigned."""
    grey = samples(tags) == 1 and first_of(tags.get(BITS, 1)) in (12, 16) and first_of(tags.get(_FORMAT, 1)) == 1
    if not grey or first_of(tags.get(PHOTOMETRIC, -1)) != 0 or 43 in data[2:4]:
        return None
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    number = lambda at, size: int.from_bytes(data[at : at + size], order)  # noqa: E731
    start = number(4, 4) + 2
    for entry in range(start, start + 12 * number(start - 2, 2), 12):
        if number(entry, 2) == PHOTOMETRIC:
            return data[: entry + 8] + (1).to_bytes(2, order) + data[entry + 10 :]
    return None


def first_of(value: Any) -> Any:
    """A tag's value, or the first of several."""
    return value[0] if isinstance(value, tuple) and value else value
