"""Bytes to uint8 RGB pixels under one policy, and the transform of a protocol.

`pil` gives the official pixels bit for bit: what `Image.open(f).convert("RGB")` and torchvision's Resize and CenterCrop
give, EXIF ignored, alpha dropped, 16-bit grey saturated. `fast` is what a viewer shows: EXIF orientation applied, white
under transparency, 16-bit grey scaled; it is 2.5 times faster on JPEG, at a mean difference of 0.004 grey levels where
neither of the three occurs. Under both policies an image is measured by its header before it is decoded, and one that
is damaged or cut short is a `BadImage`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from enum import IntFlag
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import UnknownName, printable, refuse_out_of_memory
from ..headers import jpeg_header, orientation_of
from ..preprocess import Preprocess
from .grey import clear_grey, eight_bit_grey, is_sixteen_bit, looks_like_twelve_bits
from .pillow import FORMATS as FORMATS
from .pillow import BadImage as BadImage
from .pillow import open_wholly, refuse_wide_values
from .resizing import resized

if TYPE_CHECKING:
    from PIL.Image import Image

POLICIES = ("fast", "pil")
MAX_PIXELS = 64_000_000  # Pillow keeps RGB in 4 bytes per pixel and converting needs a second copy: half a gigabyte
# of what this package does to pixels: raise it whenever they change, so that cached features are not taken for new ones
_REVISION = {"fast": 3, "pil": 1}


class Note(IntFlag):
    """What a reader of the features may want to know about one image; the same under both policies."""

    TURNED = 1  # its orientation, by EXIF or else XMP, is not 1
    TRANSPARENT = 2  # at least one pixel is not opaque
    SIXTEEN_BIT = 4  # grey in 16 bits
    FIRST_FRAME = 8  # there are more frames; the first one was taken
    LIKE_TWELVE_BIT = 16  # grey in 16 bits, no value over 4095, and nothing that says that this is white


# with one of these, `fast` and `pil` show different images
POLICIES_DIFFER = Note.TURNED | Note.TRANSPARENT | Note.SIXTEEN_BIT


def decode(
    data: bytes, preprocess: Preprocess, policy: str = "fast", max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, int]:
    """The image's uint8 RGB pixels (crop_h, crop_w, 3), and its `Note` bits. May be called from many threads at once.

    Where the transform has a `longest` side the pixels are (H, W, 3), of the image's own proportions. Raises BadImage
    for whatever cannot be decoded, whichever exception the decoder raised, and for more than `max_pixels` pixels;
    ResourceError where memory or threads ran out.
    """
    if policy not in POLICIES:
        raise UnknownName("decode policy", policy, POLICIES)
    read_jpeg = _jpeg_reader() if policy == "fast" else None
    try:
        header, pixels = jpeg_header(data) if read_jpeg else None, None
        if read_jpeg and header:
            _refuse_large(header.height, header.width, preprocess, max_pixels)
            pixels, orientation, notes = read_jpeg(data), header.orientation, Note(0)
        if pixels is None:
            image = open_wholly(data, lambda h, w: _refuse_large(h, w, preprocess, max_pixels))
            notes = _notes(image) | _turned(_orientation(image))
            return _of_pillow(image, preprocess, policy), int(notes)
        return _cover_and_crop(pixels, preprocess, orientation), int(notes | _turned(orientation))
    except BadImage:
        raise
    except Exception as error:  # the per-image boundary
        raise _refused(error, len(data) + 4 * max_pixels) from error


def pixels_of(image: Image, preprocess: Preprocess, policy: str = "fast", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels that `decode` gives of a file, of what Pillow opened of it.

    The same bit for bit, but for a JPEG under `fast`, which is decoded by simplejpeg there and by Pillow here. Raises
    BadImage as `decode` does.
    """
    if policy not in POLICIES:
        raise UnknownName("decode policy", policy, POLICIES)
    try:
        _refuse_large(image.height, image.width, preprocess, max_pixels)
        image.load()
        refuse_wide_values(image)
        return _of_pillow(image, preprocess, policy)
    except BadImage:
        raise
    except Exception as error:  # the per-image boundary
        raise _refused(error, 4 * max_pixels) from error


def _of_pillow(image: Image, preprocess: Preprocess, policy: str) -> np.ndarray:
    """(crop_h, crop_w, 3) of a loaded Pillow image."""
    if policy == "pil":
        return _official(image, preprocess)
    return _cover_and_crop(_rgb_as_seen(image), preprocess, _orientation(image))


def decode_whole(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image's uint8 RGB pixels (H, W, 3) under the policy `fast`, neither resized nor cropped.

    May be called from many threads at once. Raises BadImage as `decode` does.
    """
    try:
        header, pixels = jpeg_header(data), None
        if header:
            _refuse_large(header.height, header.width, _AS_IT_IS, max_pixels)
            pixels, orientation = _jpeg_reader()(data), header.orientation
        if pixels is None:
            image = open_wholly(data, lambda h, w: _refuse_large(h, w, _AS_IT_IS, max_pixels))
            pixels, orientation = _rgb_as_seen(image), _orientation(image)
        return np.ascontiguousarray(_turn(pixels, orientation))
    except BadImage:
        raise
    except Exception as error:  # the per-image boundary
        raise _refused(error, len(data) + 4 * max_pixels) from error


_AS_IT_IS = Preprocess(cover=(1, 1), crop=(1, 1))  # nothing is resized, so no shape is too long


@functools.cache
def decoder_version(policy: str) -> str:
    """What decides about pixels besides the image: the policy, its revision and the decoders' versions.

    Part of the cache key; imports no torch.
    """
    from PIL import features

    if policy not in POLICIES:
        raise UnknownName("decode policy", policy, POLICIES)
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    words = [f"{policy}/{_REVISION[policy]}", f"Pillow {version('Pillow')}", f"libjpeg {libjpeg}"]
    if policy == "fast":
        words += [f"simplejpeg {version('simplejpeg')}"]
    return ", ".join(words)


def covering_size(height: int, width: int, cover: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of the smallest copy of the image that covers `cover`.

    For a square: torchvision's Resize(int), its rounding included.
    """
    if cover[0] * width >= cover[1] * height:  # the height decides
        return cover[0], max(cover[1], int(cover[0] * width / height))
    return max(cover[0], int(cover[1] * height / width)), cover[1]


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """The (height, width) that an image has before it is cropped."""
    return preprocess.cover if preprocess.stretched else covering_size(height, width, preprocess.cover)


def center_crop(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle (crop_h, crop_w, 3) of (H, W, 3), as torchvision's CenterCrop.

    What is missing is black; offsets are rounded half to even.
    """
    missing = [max(0, want - have) for want, have in zip(crop, pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, [*((m // 2, (m + 1) // 2) for m in missing), (0, 0)])
    top, left = _middle(pixels.shape[:2], crop)
    return np.ascontiguousarray(pixels[top : top + crop[0], left : left + crop[1]])


def _middle(size: Sequence[int], crop: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the middle of a picture of that height and width; halves are rounded to even."""
    return round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)


def _refuse_large(height: int, width: int, preprocess: Preprocess, max_pixels: int) -> None:
    """Raise BadImage for too many pixels, as the header has them or once resized (1 x 60,000 at 256: 4 gigapixels)."""
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels, more than --max-pixels {max_pixels}")
    if height <= 0 or width <= 0:
        raise BadImage(f"{width} x {height} pixels")
    if preprocess.longest:  # nothing grows
        return
    resized = _resized(height, width, preprocess)
    if resized[0] * resized[1] > max(max_pixels, 16 * preprocess.cover[0] * preprocess.cover[1]):
        raise BadImage(
            f"{width} x {height} pixels would be {resized[1]} x {resized[0]} after resizing: too long and narrow"
        )


@functools.cache
def _jpeg_reader() -> Callable[[bytes], np.ndarray | None]:
    """A function from the bytes of a JPEG to its RGB pixels (H, W, 3); None where libjpeg has something to say of it.

    Pillow then tells what is cut short from what is read all the same, such as ImageNet's files with stray bytes.
    """
    from simplejpeg import decode_jpeg

    def pixels_of(data: bytes) -> np.ndarray | None:
        try:
            return np.asarray(decode_jpeg(data, "RGB"))
        except ValueError:
            return None

    return pixels_of


def _cover_and_crop(pixels: np.ndarray, preprocess: Preprocess, orientation: int) -> np.ndarray:
    """Pixels (crop_h, crop_w, 3) of `pixels` (H, W, 3) turned as EXIF `orientation` wants them, resized by torch."""
    if preprocess.longest:
        from PIL import Image

        return _shrunk(Image.fromarray(np.ascontiguousarray(_turn(pixels, orientation))), preprocess)
    height, width = _resized(*_seen(pixels.shape[0], pixels.shape[1], orientation), preprocess)
    crop_height, crop_width = preprocess.crop
    if orientation == 1 and crop_height <= height and crop_width <= width:
        window = (*_middle((height, width), preprocess.crop), crop_height, crop_width)
        return resized(pixels, (height, width), preprocess.interpolation, window)
    whole = resized(pixels, _seen(height, width, orientation), preprocess.interpolation)
    return center_crop(_turn(whole, orientation), preprocess.crop)


def _seen(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width after (or before) an EXIF orientation: 5 to 8 lie on their side."""
    return (width, height) if orientation >= 5 else (height, width)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of (H, W, 3) as EXIF orientation 1-8 wants it seen. Source: Exif 2.32, table 6."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _rgb_as_seen(image: Image) -> np.ndarray:
    """RGB (H, W, 3) of a loaded Pillow image, white under transparency, 16-bit grey scaled; writable."""
    from PIL import Image

    if is_sixteen_bit(image):
        return np.repeat(eight_bit_grey(image)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, (255, 255, 255))
        image.paste(layer, mask=layer)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _official(image: Image, preprocess: Preprocess) -> np.ndarray:
    """(crop_h, crop_w, 3): what convert("RGB") and torchvision's Resize and CenterCrop make of a Pillow image."""
    from PIL import Image

    rgb = image.convert("RGB")
    if preprocess.longest:
        return _shrunk(rgb, preprocess)
    height, width = _resized(rgb.height, rgb.width, preprocess)
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling[preprocess.interpolation.upper()])
    return center_crop(np.asarray(rgb), preprocess.crop)


def _shrunk(rgb: Image, preprocess: Preprocess) -> np.ndarray:
    """(H, W, 3) of an RGB image whose longer side is `longest` at most: Pillow's thumbnail, as DINO's retrieval has it.

    Of what is over four times as large, its averages over whole pixels are resized (`reducing_gap`, Pillow's default).
    """
    from PIL import Image

    rgb.thumbnail((preprocess.longest, preprocess.longest), Image.Resampling[preprocess.interpolation.upper()])
    return np.array(rgb)


def _notes(image: Image) -> Note:
    """The notes on a loaded Pillow image, but for its orientation."""
    # the second image of a JPEG (format MPO) is a preview or a gain map, no frame
    notes = Note.FIRST_FRAME if getattr(image, "is_animated", False) and image.format != "MPO" else Note(0)
    if is_sixteen_bit(image):
        notes |= Note.SIXTEEN_BIT | (Note.TRANSPARENT if clear_grey(image).any() else Note(0))
        notes |= Note.LIKE_TWELVE_BIT if looks_like_twelve_bits(image) else Note(0)
    elif image.has_transparency_data:
        layer = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        notes |= Note.TRANSPARENT if cast("tuple[int, int]", layer.getchannel("A").getextrema())[0] < 255 else Note(0)
    return notes


def _orientation(image: Image) -> int:
    """The orientation (1-8) of an image that Pillow has loaded; a TIFF's was applied by Pillow, and is 1 then."""
    xmp = image.info.get("xmp", b"") or image.info.get("XML:com.adobe.xmp", "")
    return orientation_of(
        image.info.get("exif", b""), xmp.encode("utf-8", "replace") if isinstance(xmp, str) else bytes(xmp)
    )


def _turned(orientation: int) -> Note:
    return Note.TURNED if orientation != 1 else Note(0)


def _refused(error: Exception, size: int) -> BadImage:
    """What whatever a decoder raises says of an image: they raise what they like (ValueError, struct.error, ...).

    Raises ResourceError for what is no fault of the image, which takes `size` bytes at most.
    """
    refuse_out_of_memory(error, "decoding an image", size)
    return BadImage(_one_line(error))


def _one_line(error: Exception) -> str:
    """The first line of an error's message, at most 160 characters."""
    # where the decoder's source stood helps nobody
    lines = re.sub(r"[\w/.+-]+\.(cpp|h):\d+:?\s*", "", str(error)).strip().splitlines()
    return printable(lines[0][:160]) if lines else type(error).__name__
