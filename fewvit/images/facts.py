"""What a picture's header says, without its pixels being decoded; and whether all of its pixels are of one colour."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import refuse_out_of_memory
from ..headers import _webp_size, orientation_of
from . import MAX_PIXELS, decode_whole
from .grey import is_sixteen_bit
from .heic import is_heic
from .pillow import BadImage, _hide_pillow_warnings, _opened_tiff, _plugins

if TYPE_CHECKING:
    from PIL.Image import Image

_PLAIN = ("BMP", "PPM", "TIFF")  # their size says nothing of what is in them
_MOST_BITS = 1.5  # bits a pixel of one colour takes at most, where Huffman codes are as bad as they may be
# grey levels within which one colour comes back: a WebP of quality 20 spreads it over 19
_ROUNDED = {"WEBP": 20}
_EXACT = 1
_APART = 17  # pixels between those that are looked at first
_SPARE = 1024  # bytes of headers of a small picture
_MODES = {"I;16B": "I;16", "I;16L": "I;16", "I;16N": "I;16", "I;12": "I;16"}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header says. Raises nothing: of a damaged picture it has what could be read."""

    format: str = ""  # `JPEG`, …: by the content; empty: none that is known
    width: int = 0  # pixels, as stored; 0: unknown
    height: int = 0
    mode: str = ""  # Pillow's; `I;16` for all grey of more than 8 bits
    orientation: int = 1  # 1-8, by EXIF or else XMP
    is_animated: bool = False
    has_alpha: bool = False  # or a colour that is declared transparent


def format_of(data: bytes) -> str:
    """The format that the first bytes are of, among those that are read; empty for any other."""
    if is_heic(data):
        return "HEIC"
    return next((name for name, (_, accept) in _plugins().items() if data and accept(data[:16]) is not False), "")


def facts_of(data: bytes) -> ImageFacts:
    """What the header of a picture says; of one that cannot be opened the format alone. From any thread."""
    name = format_of(data)
    if name in ("", "HEIC"):  # pillow-heif, where it is there, decodes when it opens
        return ImageFacts(name)
    height, width = _webp_size(data)
    if height * width > MAX_PIXELS:  # its canvas would be reserved
        return ImageFacts(name, width, height)
    _hide_pillow_warnings()
    try:
        opener = _plugins()[name][0]
        image = _opened_tiff(opener, data) if name == "TIFF" else opener(io.BytesIO(data), "")
        return _facts(image, name)
    except Exception as error:  # the per-image boundary: decoders raise what they like
        refuse_out_of_memory(error, "reading an image's header", len(data))
        return ImageFacts(name)


def _facts(image: Image, name: str) -> ImageFacts:
    xmp = image.info.get("xmp", b"") or image.info.get("XML:com.adobe.xmp", "")
    orientation = orientation_of(
        image.info.get("exif", b""), xmp.encode("utf-8", "replace") if isinstance(xmp, str) else bytes(xmp)
    )
    if name == "TIFF":
        orientation = int(getattr(image, "tag_v2", {}).get(0x0112, 1) or 1)
    mode = "I;16" if is_sixteen_bit(image) else _MODES.get(image.mode, image.mode)
    # the second image of a JPEG (format MPO) is a preview or a gain map, no frame
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return ImageFacts(name, image.width, image.height, mode, orientation, animated, bool(image.has_transparency_data))


def is_blank(data: bytes, facts: ImageFacts, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether every pixel is of one colour, as a viewer shows it; False for what cannot be decoded.

    Only what is packed as tightly as one colour is gets decoded: few photographs are.
    """
    if not 0 < facts.width * facts.height <= max_pixels or not _may_be_blank(data, facts):
        return False
    try:
        return one_colour(decode_whole(data, max_pixels), facts)
    except BadImage:
        return False


def one_colour(pixels: np.ndarray, facts: ImageFacts) -> bool:
    """Whether all pixels (H, W, 3) are the same, but for what decoders round."""
    spread = _ROUNDED.get(facts.format, _EXACT)
    # a few pixels decide about nearly every picture; all of them take as long as decoding
    return _within(pixels[::_APART, ::_APART], spread) and _within(pixels, spread)


def _within(pixels: np.ndarray, spread: int) -> bool:
    channels = (pixels[..., c] for c in range(pixels.shape[2]))
    return all(int(channel.max()) - int(channel.min()) <= spread for channel in channels)


def _may_be_blank(data: bytes, facts: ImageFacts) -> bool:
    if facts.format in _PLAIN or facts.has_alpha:  # what is transparent may hide anything
        return True
    packed = {"JPEG": _jpeg_scan, "PNG": _png_data}.get(facts.format, len)(data)
    return 8 * (packed - _SPARE) <= _MOST_BITS * facts.width * facts.height


def _jpeg_scan(data: bytes) -> int:
    """Bytes from the first scan on: what comes before may be a camera's preview."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return len(data) - at
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return len(data)


def _png_data(data: bytes) -> int:
    """Bytes of the compressed pixels."""
    at, found = 8, 0
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found += size if data[at + 4 : at + 8] == b"IDAT" else 0
        at += 12 + size
    return found
