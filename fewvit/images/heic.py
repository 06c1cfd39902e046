"""HEIC, what phones write: read where `pillow-heif` is installed, named with the extra that brings it where it is not.

Whoever has the extra has no other features than whoever has not, so its version is no part of the decoder's: HEVC fixes
the samples that a decoder gives, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
MISSING = "HEIC: not read without pillow-heif; pip install 'fewvit[heic]', or save it as JPEG"


def is_heic(data: bytes) -> bool:
    """Whether a file says, in its first box, that it holds pictures coded by HEVC; AVIF is another such format."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : max(12, min(int.from_bytes(data[:4], "big"), 256))]
    brands = {box[at : at + 4] for at in (0, *range(8, len(box), 4))}  # the first, its version, the others
    return bool(brands & _BRANDS) and not box.startswith(b"avif")


def heic(data: bytes, admit: Callable[[int, int], None], refused: Callable[[str], Exception]) -> Image:
    """The primary picture, upright, once `admit` has let its height and width pass; raises `refused` without the extra.

    The decoder turns it, and Exif in the file says nothing of that any more.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise refused(MISSING) from error
    opened = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    admit(opened.size[1], opened.size[0])
    return opened.to_pillow()
