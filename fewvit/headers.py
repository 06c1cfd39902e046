"""What the first bytes of an image file say: size, components, orientation; read without decoding.

Standard library only.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple


class JpegHeader(NamedTuple):
    """What a JPEG's header says of its image."""

    height: int  # pixels, as stored
    width: int
    orientation: int  # 1-8


_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # Huffman coding: baseline, extended, progressive
_SKIPPED = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, comments, application data


_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # begins a JPEG's segment of XMP; of several the last one counts, as in Pillow


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Size and orientation of a plain JPEG: 8 bits, one or three components, well-formed up to its first scan.

    None for anything else.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, size, exif, xmp = 2, None, b"", b""
    while at + 4 <= len(data):
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if data[at] != 0xFF or length < 2:
            return None
        if marker == 0xDA:
            return JpegHeader(*size, orientation_of(exif, xmp)) if size else None
        if marker in _FRAMES:
            if size or length < 8 or at + 10 > len(data) or data[at + 4] != 8 or data[at + 9] not in (1, 3):
                return None
            size = (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8])
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = exif or data[at + 4 : at + 2 + length]
        elif marker == 0xE1 and data.startswith(_XMP, at + 4):
            xmp = data[at + 4 + len(_XMP) : at + 2 + length]
        elif marker not in _SKIPPED:
            return None
        at += 2 + length
    return None


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation (1-8) that a file's EXIF block gives, or its XMP where EXIF has none; 1 where neither does.

    So does Pillow's `ImageOps.exif_transpose`. A damaged block turns nothing, as viewers do.
    """
    found = _exif_orientation(exif)
    if found is None and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        found = int(match[1])
    return found if found is not None and 1 <= found <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if not order:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
                return int(value)
    except struct.error:
        pass
    return None


def _webp_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a WebP file, whose decoder reserves the canvas when it is made; (1, 1) for any other bytes."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 1, 1
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
