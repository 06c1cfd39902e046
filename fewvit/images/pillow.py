"""Reading strictly with Pillow: known formats only, and a file that is cut short or damaged raises."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import types
import warnings
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from ..errors import printable
from ..headers import _webp_size
from .heic import heic, is_heic
from .tiff import MOST_SAMPLES, PHOTOMETRIC, described, samples, tags_of, with_black_as_zero

if TYPE_CHECKING:
    from PIL.Image import Image

_Opener = Callable[[IO[bytes], str], "Image"]
_Accept = Callable[[bytes], bool | str]  # of a file's first bytes; a text says why a known format cannot be read
# what may be decoded, whatever a file is called; Pillow reads more
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_PNG_BEGIN, _PNG_AROUND = b"\x89PNG\r\n\x1a\n", 12  # a file's first bytes; length, name and checksum of each chunk
_PILLOW = re.compile(r"PIL\.")  # its modules


class BadImage(Exception):  # not a FewvitError: whoever reads images decides how many bad ones are an error
    """One image that cannot be decoded; `reason` is one short line.

    Caught image by image. Keep the reason, not the exception: its traceback holds the image.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


def open_wholly(data: bytes, admit: Callable[[int, int], None]) -> Image:
    """The image in `data`, its pixels loaded, once `admit` has let its height and width (pixels) pass by not raising.

    Raises BadImage for an unknown format, a cut file or 32-bit values. The plug-in is called, not Image.open: that one
    warns about sizes, and warnings cannot be caught in threads.
    """
    admit(*_webp_size(data))
    if is_heic(data):
        return heic(data, admit, BadImage)
    opener = _opener(data[:16])
    _hide_pillow_warnings()
    image = _opened_tiff(opener, data) if data[:2] in (b"II", b"MM") else opener(io.BytesIO(data), "")
    admit(image.height, image.width)
    refuse_wide_values(image)
    if image.format == "PNG" and data.rfind(b"IEND\xaeB`\x82") < 0:  # Pillow does without; a cut file should not pass
        raise BadImage("cut short: PNG without its end")
    if image.format == "PNG":
        _require_png_checksums(data)
    _load_wholly(image)
    return image


def _require_png_checksums(data: bytes) -> None:
    """Raise BadImage where the compressed pixels are not those that were written: Pillow passes their checksums over.

    zlib's own checksum does not help: one bit may end the stream where the picture is full, before it is compared.
    """
    view, at = memoryview(data), len(_PNG_BEGIN)
    while at + _PNG_AROUND <= len(view):
        end = at + _PNG_AROUND + int.from_bytes(view[at : at + 4])
        if end > len(view):
            return  # cut: decoding says so
        body, checksum = view[at + 4 : end - 4], int.from_bytes(view[end - 4 : end])
        if bytes(body[:4]) == b"IDAT" and zlib.crc32(body) != checksum:
            raise BadImage("damaged: a checksum (CRC) of the PNG does not fit its pixels")
        at = end


def _opened_tiff(opener: _Opener, data: bytes) -> Image:
    """A TIFF, not yet loaded. Raises BadImage with what it holds where Pillow does not read that."""
    tags = tags_of(data)
    if tags is not None and samples(tags) > MOST_SAMPLES:  # Pillow would log a line
        raise BadImage(f"TIFF with {described(tags)} {_NO_COLOURS}")
    try:
        return opener(io.BytesIO(data), "")
    except SyntaxError:
        if tags is None:
            raise
        turned = with_black_as_zero(data, tags)
        with contextlib.suppress(SyntaxError):
            if turned is not None:
                image: Any = opener(io.BytesIO(turned), "")
                image.tag_v2[PHOTOMETRIC] = 0  # as in the file
                return image
        raise BadImage(f"TIFF with {described(tags)} {_NO_COLOURS}") from None


_NO_COLOURS = "is not read; save what is to be seen as grey or RGB with 8 bits"


def refuse_wide_values(image: Image) -> None:
    """Raise BadImage for values of 32 bits or with a sign, which have no scale."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "float" if image.mode == "F" else "signed 16-bit" if _is_short(image) else "32-bit integer"
        raise BadImage(
            f"{kind} values (mode {image.mode}): nothing says which is black and which is white; "
            "save it with 8 or 16 bits"
        )


def _is_short(image: Any) -> bool:
    return "16" in str(image.tile[0][3]) if image.format == "TIFF" and image.tile else False


def _opener(prefix: bytes) -> _Opener:
    """The Pillow plug-in that a file's first bytes call for, if its format is one of `FORMATS`."""
    if not prefix:
        raise BadImage("empty file")
    for name, (factory, accept) in _plugins().items():
        answer = accept(prefix)
        if isinstance(answer, str):  # the format is known, its decoder is not built in
            raise BadImage(f"{name}: {answer}")
        if answer:
            return factory
    raise BadImage(
        f"not an image of a known format ({', '.join(FORMATS)}); starts with "
        f"'{printable(prefix[:8].decode('latin-1'))}'"
    )


@functools.cache
def _plugins() -> dict[str, tuple[_Opener, _Accept]]:
    """Format name -> (plug-in, test of the first 16 bytes), of the formats that may be decoded."""
    from PIL import Image

    Image.init()
    found = ((name, Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)
    return {name: (opener, accept) for name, (opener, accept) in found if accept is not None}


def _load_wholly(image: Any) -> None:  # a method of it is replaced
    """Decode a Pillow image; raises for a file that ends too soon or is damaged, whatever LOAD_TRUNCATED_IMAGES says.

    Another library may have set that flag for the process. So reading past the end raises here, and Pillow's own loop
    runs with the flag as it was delivered; the global is neither trusted nor changed, since threads of that library may
    be at work.
    """
    from PIL import ImageFile, JpegImagePlugin

    # JPEG's load_read invents an end marker under the flag, so it is passed over
    read = (
        image.load_read
        if hasattr(image, "load_read") and not isinstance(image, JpegImagePlugin.JpegImageFile)
        else None
    )

    def read_or_raise(size: int) -> bytes:
        block = read(size) if read else image.fp.read(size)
        if not block:
            raise BadImage("cut short: the file ends before the image does")
        return block

    image.load_read = read_or_raise
    try:
        if type(image).load is ImageFile.ImageFile.load:
            _strict_load()(image)
        else:  # TIFF, WebP, AVIF: decoders that know no such flag
            image.load()
    finally:
        del image.load_read  # the function holds the image: the pixels would wait for the garbage collector


@functools.cache
def _strict_load() -> Callable[[Image], object]:
    """ImageFile.load with LOAD_TRUNCATED_IMAGES = False in its globals."""
    from PIL import ImageFile

    return types.FunctionType(ImageFile.ImageFile.load.__code__, {**vars(ImageFile), "LOAD_TRUNCATED_IMAGES": False})


def _hide_pillow_warnings() -> None:
    """Hide Pillow's warnings about odd metadata from now on; its DecompressionBombWarning is of another kind and stays.

    `warnings.catch_warnings` replaces the filters of all threads, so one filter is added and stays.
    """
    if not any(kind == "ignore" and module == _PILLOW for kind, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", category=UserWarning, module=_PILLOW.pattern)
