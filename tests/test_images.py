"""Decoding: the official pixels bit for bit, what a viewer shows, and what must be refused."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from fewvit.errors import UnknownName
from fewvit.headers import jpeg_header
from fewvit.images import (
    FORMATS,
    POLICIES,
    POLICIES_DIFFER,
    BadImage,
    Note,
    center_crop,
    covering_size,
    decode,
    decode_whole,
    decoder_version,
)
from fewvit.preprocess import Preprocess

SHARED = Path(os.environ.get("FEWVIT_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
REAL_IMAGES, PARITY = SHARED / "data" / "imagenet18.zip", SHARED / "parity" / "preprocess.npz"
needs_images = pytest.mark.skipif(not REAL_IMAGES.exists(), reason=f"no {REAL_IMAGES.name}: set FEWVIT_SHARED")
needs_parity = pytest.mark.skipif(
    not (REAL_IMAGES.exists() and PARITY.exists()), reason=f"no {PARITY.name}: set FEWVIT_SHARED"
)

SMALL = Preprocess(cover=(37, 37), crop=(31, 31))
both = pytest.mark.parametrize("policy", POLICIES)


def smooth(height: int = 53, width: int = 41) -> np.ndarray:
    """RGB (H, W, 3) without symmetry or sharp edges, so that lossy formats and resampling stay within 2 levels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 120 + 100 * np.sin(x / 9) * np.cos(y / 11)], axis=2).astype(
        np.uint8
    )


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block with two entries: the image's width, then its orientation."""
    value = struct.pack(order + ("I" if kind == 4 else "H2x"), orientation)
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 99) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def official(data: bytes, preprocess: Preprocess) -> np.ndarray:
    """torchvision's own transform of Pillow's own decoding."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    transform = Compose(
        [Resize(preprocess.cover[0], InterpolationMode(preprocess.interpolation)), CenterCrop(preprocess.crop)]
    )
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(transform(image.convert("RGB")))


def shown(image: Image.Image | np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """The official pixels of an upright, opaque 8-bit image: what `fast` must come near."""
    return official(encoded(image, "PNG"), preprocess)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


def real_images() -> list[bytes]:
    with zipfile.ZipFile(REAL_IMAGES) as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith(".JPEG")]


# ---- pixels --------------------------------------------------------------------------------------------------------


@needs_images
def test_pil_gives_torchvisions_pixels_bit_for_bit_and_fast_comes_within_a_hundredth_of_a_level():
    difference = []
    for data in real_images()[::5]:
        expected = official(data, Preprocess())
        assert np.array_equal(decode(data, Preprocess(), "pil")[0], expected)
        difference.append(np.abs(decode(data, Preprocess(), "fast")[0].astype(int) - expected).mean())
    assert np.mean(difference) <= 0.01  # 0.0036 on average over all 242 images


@needs_parity
def test_the_pixels_of_the_official_codes_come_out():
    stored = np.load(PARITY)
    protocols = {
        "dino": Preprocess(),
        "msn": Preprocess(interpolation="bilinear"),
        "dinov2_logreg224_first2": Preprocess(cover=(224, 224)),
    }
    with zipfile.ZipFile(REAL_IMAGES) as archive:
        images = [archive.read(str(name)) for name in stored["file_names"]]
    for name, preprocess in protocols.items():
        for data, expected in zip(images, stored[name]):  # the last protocol has the first two images only
            assert np.array_equal(decode(data, preprocess, "pil")[0], expected)
            assert np.abs(decode(data, preprocess, "fast")[0].astype(int) - expected).mean() < 0.01


@pytest.mark.parametrize("size", [(7, 61), (61, 7), (31, 31), (200, 37), (36, 37), (211, 67), (1, 1)])
@pytest.mark.parametrize("cover", [23, 31, 37])
def test_resizing_cropping_and_padding_round_as_torchvision_does(size, cover):
    # a cover of 23 is padded to the crop, which torchvision does with black
    preprocess = Preprocess(cover=(cover, cover), crop=(31, 31))
    data = encoded(smooth(*size), "PNG")
    assert np.array_equal(decode(data, preprocess, "pil")[0], official(data, preprocess))
    assert (
        np.abs(decode(data, preprocess, "fast")[0].astype(int) - official(data, preprocess)).mean() < 0.05
    )  # a wrong offset is 1 level or more


def test_a_crop_that_is_no_square_is_the_middle_by_hand():
    pixels = np.arange(13 * 11 * 3, dtype=np.uint8).reshape(13, 11, 3)
    assert np.array_equal(center_crop(pixels, (5, 3)), pixels[4:9, 4:7])
    assert np.array_equal(center_crop(pixels, (3, 9)), pixels[5:8, 1:10])
    padded = center_crop(pixels, (7, 14))  # three columns are missing: one on the left, two on the right
    assert np.array_equal(padded[:, 1:12], pixels[3:10])
    assert not padded[:, [0, 12, 13]].any()


SHRUNK = Preprocess(longest=37, interpolation="lanczos")


@both
@pytest.mark.parametrize(
    ("size", "wanted"), [((53, 41), (37, 29)), ((41, 53), (29, 37)), ((37, 12), (37, 12)), ((9, 11), (9, 11))]
)
def test_the_longer_side_shrinks_and_nothing_grows_or_is_cropped(size, wanted, policy):
    """53 x 41 to 37: 41 * 37 / 53 = 28.6 -> 29."""
    pixels, _ = decode(encoded(smooth(*size), "PNG"), SHRUNK, policy)
    assert pixels.shape == (*wanted, 3)
    if wanted == size:
        np.testing.assert_array_equal(pixels, smooth(*size))


@both
def test_a_shrunk_image_is_pillows_thumbnail_bit_for_bit(policy):
    for size in ((530, 410), (211, 97)):
        official_pixels = Image.fromarray(smooth(*size))
        official_pixels.thumbnail((37, 37), Image.Resampling.LANCZOS)
        pixels, _ = decode(encoded(smooth(*size), "PNG"), SHRUNK, policy)
        np.testing.assert_array_equal(pixels, np.asarray(official_pixels))
        assert pixels.flags.writeable


def test_a_shrunk_image_is_seen_upright_by_fast_only():
    data = encoded(smooth(53, 41), "JPEG", quality=95, exif=exif(6))
    assert decode(data, SHRUNK, "fast")[0].shape == (29, 37, 3)
    assert decode(data, SHRUNK, "pil")[0].shape == (37, 29, 3)


@both
def test_a_long_and_narrow_image_is_shrunk_where_covering_would_be_refused(policy):
    data = encoded(np.zeros((3, 60_000, 3), np.uint8), "PNG")
    with pytest.raises(BadImage, match="too long and narrow"):
        decode(data, Preprocess(), policy)
    assert decode(data, SHRUNK, policy)[0].shape == (1, 37, 3)


@both
def test_a_stretched_image_has_the_sides_asked_for_whatever_its_own(policy):
    stretched = Preprocess(cover=(31, 31), crop=(31, 31), stretched=True)
    wanted = Image.fromarray(smooth(53, 41)).resize((31, 31), Image.Resampling.BICUBIC)
    pixels, _ = decode(encoded(smooth(53, 41), "PNG"), stretched, policy)
    np.testing.assert_allclose(pixels.astype(int), np.asarray(wanted).astype(int), atol=0 if policy == "pil" else 1)


def test_a_cover_that_is_no_square_is_covered_by_the_smaller_side():
    assert covering_size(100, 50, (60, 40)) == (80, 40)
    assert covering_size(50, 100, (60, 40)) == (60, 120)
    assert covering_size(60, 40, (60, 40)) == (60, 40)
    for height, width in [
        (375, 500),
        (500, 375),
        (333, 334),
        (64, 64),
        (97, 1009),
    ]:  # torchvision: short side, then int(size * long / short)
        short, long = sorted((height, width))
        assert sorted(covering_size(height, width, (256, 256))) == sorted((256, int(256 * long / short)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 31}])
def test_every_kind_of_jpeg_has_the_same_pixels_under_both_policies(mode, options):
    data = encoded(Image.fromarray(smooth()).convert(mode), "JPEG", **options)
    assert np.array_equal(decode(data, SMALL, "pil")[0], official(data, SMALL))
    assert distance(decode(data, SMALL, "fast")[0], official(data, SMALL)) <= 2
    assert (jpeg_header(data) is None) == (mode == "CMYK")  # four components are Pillow's


@pytest.mark.parametrize("kind", [name for name in FORMATS if name not in ("JPEG", "GIF")])
@both
def test_every_format_is_known_by_its_content(kind, policy):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    pixels, notes = decode(encoded(smooth(), kind, **options), SMALL, policy)
    assert distance(pixels, shown(smooth(), SMALL)) <= (3 if kind == "AVIF" else 1)  # AVIF has lost a level or two
    assert notes == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr"])
@both
def test_other_colour_modes_become_rgb_as_pillow_converts_them(mode, policy):
    data = encoded(Image.fromarray(smooth()).convert(mode), "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert distance(decode(data, SMALL, policy)[0], official(data, SMALL)) <= 1


# ---- where the policies differ -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(53, 41), (38, 67)])  # sizes that leave an odd number of pixels around the crop
def test_fast_shows_a_turned_image_upright_and_pil_ignores_the_turn(orientation, kind, size):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = encoded(smooth(*size), kind, exif=exif(orientation), **options)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    fast, notes = decode(data, SMALL, "fast")
    pil, pil_notes = decode(data, SMALL, "pil")
    assert distance(fast, shown(upright, SMALL)) <= 2
    assert np.array_equal(pil, official(data, SMALL))
    assert notes == pil_notes == (0 if orientation == 1 else Note.TURNED)
    assert (distance(fast, pil) > 20) == bool(notes & POLICIES_DIFFER)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(53, 41), (38, 67)])
def test_fast_fits_a_turned_image_into_a_rectangle_as_its_upright_twin(orientation, size):
    wide = Preprocess(cover=(37, 61), crop=(31, 53))
    data = encoded(smooth(*size), "PNG", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as image:
        upright = encoded(ImageOps.exif_transpose(image), "PNG")
    assert distance(decode(data, wide)[0], decode(upright, wide, "pil")[0]) <= 1


@pytest.mark.parametrize(("order", "kind"), [("<", 3), (">", 3), ("<", 4), (">", 4)])
def test_the_orientation_is_read_in_either_byte_order_and_width(order, kind):
    data = encoded(smooth(), "JPEG", exif=exif(6, order, kind))
    assert jpeg_header(data) == (53, 41, 6)


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"Exif\0\0II*\0", exif(6)[:30], exif(0), exif(9), exif(6).replace(b"II*\0", b"XX*\0")]
)
def test_a_damaged_exif_block_turns_nothing(block):
    pixels, notes = decode(encoded(smooth(), "JPEG", exif=block), SMALL)
    assert notes == 0
    assert np.array_equal(pixels, decode(encoded(smooth(), "JPEG"), SMALL)[0])


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {}</rdf:Description></rdf:RDF></x:xmpmeta>'
)
XMP_WAYS = ('tiff:Orientation="{}">', "><tiff:Orientation>{}</tiff:Orientation>")


def with_xmp(kind: str, orientation: int, way: str, **options: object) -> bytes:
    xmp = XMP.format(way.format(orientation))
    image = Image.fromarray(smooth())
    if kind != "PNG":
        return encoded(image, kind, xmp=xmp.encode(), **options)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    return encoded(image, "PNG", pnginfo=info, **options)


@pytest.mark.parametrize("way", XMP_WAYS, ids=["attribute", "element"])
@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_turns_as_pillow_turns_it_and_pil_ignores_it(kind, orientation, way):
    data = with_xmp(kind, orientation, way)
    seen = shown(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), SMALL)
    pixels, notes = decode(data, SMALL, "fast")
    assert distance(pixels, seen) <= 2
    assert np.array_equal(decode(data, SMALL, "pil")[0], official(data, SMALL))
    assert notes == decode(data, SMALL, "pil")[1] == (Note.TURNED if 2 <= orientation <= 8 else 0)
    assert np.array_equal(
        decode_whole(data).shape[:2], np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).shape[:2]
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_comes_before_xmp(kind):
    data = with_xmp(kind, 6, XMP_WAYS[0], exif=exif(1))
    assert decode(data, SMALL)[1] == 0
    without_orientation = struct.pack("<2sHIH", b"II", 42, 8, 0) + bytes(4)
    assert decode(with_xmp(kind, 6, XMP_WAYS[0], exif=without_orientation), SMALL)[1] == Note.TURNED


def test_a_tiff_is_turned_once_whichever_tag_says_so():
    image = Image.fromarray(smooth())
    xmp = XMP.format(XMP_WAYS[0].format(6)).encode()
    upright = shown(image.transpose(Image.Transpose.ROTATE_270), SMALL)
    for tags in ({274: 6}, {700: xmp}, {274: 6, 700: xmp}):
        pixels, _ = decode(encoded(image, "TIFF", tiffinfo=tags), SMALL)
        assert distance(pixels, upright) <= 2


def test_fast_puts_white_under_transparency_and_pil_shows_the_hidden_colour():
    alpha = np.zeros((53, 41), np.uint8)
    alpha[:, 20:] = 255
    alpha[:9] = 51
    hidden = np.dstack([smooth(), alpha])
    seen = np.round(smooth() * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)).astype(np.uint8)
    for kind in ("PNG", "WEBP", "TIFF"):
        data = encoded(hidden, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        fast, notes = decode(data, SMALL, "fast")
        pil, pil_notes = decode(data, SMALL, "pil")
        assert distance(fast, shown(seen, SMALL)) <= 2
        assert distance(pil, shown(smooth(), SMALL)) == 0
        assert notes == pil_notes == Note.TRANSPARENT


def test_what_is_wholly_transparent_is_wholly_white():
    clear = np.dstack([smooth(), np.zeros((53, 41), np.uint8)])
    assert (decode(encoded(clear, "PNG"), SMALL)[0] == 255).all()


def test_the_policies_differ_by_the_turn_by_transparency_and_by_sixteen_bits_but_not_by_the_frame():
    notes = (Note.TURNED, Note.TRANSPARENT, Note.SIXTEEN_BIT, Note.FIRST_FRAME)
    assert [bool(note & POLICIES_DIFFER) for note in notes] == [True, True, True, False]


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_a_transparent_palette_entry_is_white(transparency):
    index = (np.arange(53 * 41).reshape(53, 41) // 300 % 7).astype(np.uint8)
    image = Image.frombytes("P", (41, 53), index.tobytes())
    palette = [(30 * k, 255 - 30 * k, 17) for k in range(7)]
    image.putpalette([value for colour in palette for value in colour])
    data = encoded(image, "PNG", transparency=transparency)
    seen = np.array(palette, np.uint8)[index]
    pil, pil_notes = decode(data, SMALL, "pil")
    assert np.array_equal(pil, shown(seen, SMALL))
    seen[index == 3] = 255
    fast, notes = decode(data, SMALL, "fast")
    assert distance(fast, shown(seen, SMALL)) <= 2
    assert notes == pil_notes == Note.TRANSPARENT


@both
def test_an_alpha_channel_without_a_transparent_pixel_is_no_transparency(policy):
    opaque = np.dstack([smooth(), np.full((53, 41), 255, np.uint8)])
    pixels, notes = decode(encoded(opaque, "PNG"), SMALL, policy)
    assert notes == 0
    assert distance(pixels, shown(smooth(), SMALL)) <= 1


def sixteen_bit(kind: str) -> bytes:
    """The smooth image's red as 16-bit grey, v * 257 + 40: near its 8-bit twin, and not equal to it."""
    values = np.minimum(smooth()[:, :, 0].astype(np.uint32) * 257 + 40, 65535).astype(np.uint16)
    if kind == "PGM":
        return b"P5 41 53 65535\n" + values.astype(">u2").tobytes()
    return encoded(Image.fromarray(values), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_is_scaled_by_fast_and_saturates_under_pil(kind):
    twin = np.repeat(smooth()[:, :, :1], 3, axis=2)
    fast, notes = decode(sixteen_bit(kind), SMALL, "fast")
    pil, pil_notes = decode(sixteen_bit(kind), SMALL, "pil")
    assert distance(fast, shown(twin, SMALL)) <= 2
    assert np.array_equal(pil, official(sixteen_bit(kind), SMALL))
    assert pil.mean() > 240
    assert notes == pil_notes == Note.SIXTEEN_BIT


def test_sixteen_bits_are_divided_by_257_and_rounded_and_the_transparent_grey_is_white():
    same = Preprocess(cover=(31, 31), crop=(31, 31))  # nothing is resized
    values = np.arange(31 * 31, dtype=np.uint32).reshape(31, 31) * 68 + 3
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    clear = int(values[5, 7])
    for before, white in ((b"", False), (chunk(b"tRNS", struct.pack(">H", clear)), True)):
        expected = np.floor(values / 257 + 0.5).astype(np.uint8)
        expected[5, 7] = 255 if white else expected[5, 7]
        pixels, notes = decode(png(31, 31, depth=16, rows=rows, before=before), same)
        assert np.array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))
        assert notes == Note.SIXTEEN_BIT | (Note.TRANSPARENT if white else 0)


def tiff(values: np.ndarray, *, order: str = "<", tags: dict[int, tuple[str, list[int]]] | None = None) -> bytes:
    """A TIFF of (H, W) or (H, W, bands) values, written by hand: no library writes the rare ones. BlackIsZero."""
    h, w, bands = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    entries: dict[int, tuple[str, list[int]]] = {
        **{256: ("I", [w]), 257: ("I", [h]), 258: ("H", [8 * values.dtype.itemsize] * bands), 259: ("H", [1])},
        **{262: ("H", [1]), 273: ("I", [8]), 277: ("H", [bands]), 278: ("I", [h]), 279: ("I", [len(body)])},
        **{339: ("H", [kind] * bands)},
        **(tags or {}),
    }
    start = 8 + len(body) + len(body) % 2
    places, table, tail = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (code, numbers) in sorted(entries.items()):
        raw = struct.pack(order + code * len(numbers), *numbers)
        head = struct.pack(order + "HHI", tag, {"B": 1, "H": 3, "I": 4}[code], len(numbers))
        table += head + (struct.pack(order + "I", places + len(tail)) if len(raw) > 4 else raw.ljust(4, b"\0"))
        tail += raw + bytes(len(raw) % 2) if len(raw) > 4 else b""
    begin = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, start)
    return begin + body + bytes(len(body) % 2) + struct.pack(order + "H", len(entries)) + table + bytes(4) + tail


AS_IT_IS = Preprocess(cover=(31, 31), crop=(31, 31))  # of the ramps: nothing is resized
RAMP = np.tile(np.linspace(0, 65535, 31).astype(np.uint16), (31, 1))  # black on the left
WHITE_IS_ZERO = {262: ("H", [0])}
WHITE_IS_4095 = {281: ("H", [4095])}


def left_and_right(data: bytes, policy: str = "fast") -> tuple[int, int, int]:
    """The first and last grey level of a ramp's middle row, and its notes."""
    pixels, notes = decode(data, AS_IT_IS, policy)
    assert (pixels == pixels[:, :, :1]).all()
    return int(pixels[15, 0, 0]), int(pixels[15, -1, 0]), notes


@pytest.mark.parametrize("order", "<>")
def test_where_white_is_zero_sixteen_bits_are_turned_round_as_eight_are(order):
    eight = tiff((RAMP >> 8).astype(np.uint8), order=order, tags=WHITE_IS_ZERO)
    assert left_and_right(eight) == (255, 0, 0)
    assert left_and_right(tiff(RAMP, order=order, tags=WHITE_IS_ZERO)) == (255, 0, Note.SIXTEEN_BIT)
    assert left_and_right(tiff(RAMP, order=order)) == (0, 255, Note.SIXTEEN_BIT)


def test_under_pil_sixteen_bits_stay_what_pillow_makes_of_them():
    data = tiff(RAMP, tags=WHITE_IS_ZERO)
    assert np.array_equal(decode(data, AS_IT_IS, "pil")[0], official(data, AS_IT_IS))


def packed_in_twelve_bits(values: np.ndarray) -> bytes:
    """Rows of 12-bit values, each row from a new byte on. Source: TIFF 6.0, FillOrder 1."""
    rows = ("".join(f"{int(v):012b}" for v in row) for row in values)
    return b"".join(
        int(row.ljust(-len(row) % 8 + len(row), "0"), 2).to_bytes((len(row) + 7) // 8, "big") for row in rows
    )


@pytest.mark.parametrize(("tags", "seen"), [({}, (0, 255)), (WHITE_IS_ZERO, (255, 0))], ids=["black", "white"])
def test_twelve_bits_reach_white(tags, seen):
    body = packed_in_twelve_bits(RAMP >> 4)
    counted_bytes = {258: ("H", [12]), 279: ("I", [len(body)])}
    rows = np.frombuffer(body.ljust(-len(body) % 2 + len(body)), np.uint8).reshape(1, -1)
    data = tiff(rows, tags={256: ("I", [31]), 257: ("I", [31]), 278: ("I", [31]), **counted_bytes, **tags})
    assert left_and_right(data) == (*seen, Note.SIXTEEN_BIT)


@pytest.mark.parametrize("order", "<>")
def test_a_tag_decides_that_4095_is_white(order):
    twelve = RAMP >> 4
    assert left_and_right(tiff(twelve, order=order, tags=WHITE_IS_4095)) == (0, 255, Note.SIXTEEN_BIT)
    both_tags = {**WHITE_IS_4095, **WHITE_IS_ZERO}
    assert left_and_right(tiff(twelve, order=order, tags=both_tags)) == (255, 0, Note.SIXTEEN_BIT)
    pixels, _ = decode(tiff(twelve, order=order, tags=WHITE_IS_4095), AS_IT_IS)
    assert np.array_equal(pixels[7, :, 0], np.floor(twelve[7] / 4095 * 255 + 0.5).astype(np.uint8))


def test_what_may_be_twelve_bits_and_does_not_say_so_is_shown_as_it_is_and_noted():
    doubtful = Note.SIXTEEN_BIT | Note.LIKE_TWELVE_BIT
    assert left_and_right(tiff(RAMP >> 4)) == (0, 16, doubtful)  # 4095 / 257
    assert left_and_right(encoded(Image.fromarray(RAMP >> 4), "PNG")) == (0, 16, doubtful)
    assert left_and_right(tiff((RAMP >> 4) + np.uint16(1))) == (0, 16, Note.SIXTEEN_BIT)  # 4096 is in it
    assert left_and_right(tiff(RAMP * np.uint16(0))) == (0, 0, Note.SIXTEEN_BIT)  # black in any number of bits
    assert left_and_right(b"P5 31 31 4095\n" + (RAMP >> 4).astype(">u2").tobytes()) == (0, 255, Note.SIXTEEN_BIT)


def test_a_greatest_value_that_is_no_limit_of_bits_or_not_true_is_a_figure_of_the_picture():
    assert left_and_right(tiff(RAMP >> 4, tags={281: ("H", [4000])}))[:2] == (0, 16)
    assert left_and_right(tiff(RAMP, tags=WHITE_IS_4095))[:2] == (0, 255)
    assert left_and_right(tiff(RAMP >> 4, tags={281: ("H", [65535])}))[:2] == (0, 16)


REFUSED_TIFFS = {
    "float": (np.zeros((5, 7), np.float32), {}, "float values (mode F)"),
    "double": (np.zeros((5, 7), np.float64), {}, "TIFF with float 64 bits (BlackIsZero)"),
    "float colours": (
        np.zeros((5, 7, 3), np.float32),
        {262: ("H", [2])},
        "TIFF with 3 bands of float 32 bits each (RGB)",
    ),
    "signed": (np.zeros((5, 7), np.int16), {}, "signed 16-bit values (mode I)"),
    "5 bands": (np.zeros((5, 7, 5), np.uint8), {338: ("H", [0] * 4)}, "TIFF with 5 bands of 8 bits each (BlackIsZero)"),
    "13 bands": (
        np.zeros((5, 7, 13), np.uint16),
        {338: ("H", [0] * 12)},
        "TIFF with 13 bands of 16 bits each (BlackIsZero)",
    ),
}


@pytest.mark.parametrize("case", REFUSED_TIFFS)
@pytest.mark.parametrize("order", "<>")
@both
def test_a_tiff_that_is_no_picture_for_the_eye_is_refused_by_what_it_holds_with_the_way_out(case, order, policy, capfd):
    values, tags, words = REFUSED_TIFFS[case]
    with pytest.raises(BadImage) as caught:
        decode(tiff(values, order=order, tags=tags), SMALL, policy)
    assert caught.value.reason.startswith(words)
    assert re.search("save .* 8", caught.value.reason)
    assert len(caught.value.reason) < 160
    assert capfd.readouterr().err == ""  # Pillow logs a line of its own for many bands


# ---- HEIC ------------------------------------------------------------------------------------------------------------

HEIC_BOX = b"\0\0\0\x1cftyp%s\0\0\0\0mif1%smiaf" + bytes(64)


@pytest.mark.parametrize(
    "brands", [(b"heic", b"heic"), (b"mif1", b"heic"), (b"msf1", b"hevc"), (b"heix", b"mif1")], ids=str
)
def test_heic_is_named_with_the_extra_that_reads_it(brands, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"^HEIC: .*pip install 'fewvit\[heic\]'"):
        decode(HEIC_BOX % brands, SMALL)


@pytest.mark.parametrize("orientation", [1, 6])
@both
def test_heic_is_read_upright_with_the_extra(orientation, policy):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    stored = smooth()
    written = pillow_heif.from_pillow(Image.fromarray(stored))
    written.info["exif"] = exif(orientation)
    file = io.BytesIO()
    written.save(file, quality=95, chroma=444)
    upright = ImageOps.exif_transpose(turned_by_exif(stored, orientation))
    pixels, notes = decode(file.getvalue(), SMALL, policy)
    assert distance(pixels, shown(upright, SMALL)) <= 4
    assert notes == 0
    with pytest.raises(BadImage, match="more than --max-pixels"):
        decode(file.getvalue(), SMALL, policy, max_pixels=53 * 41 - 1)
    with pytest.raises(BadImage):
        decode(file.getvalue()[:-500], SMALL, policy)


def turned_by_exif(pixels: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.info["exif"] = exif(orientation)
    return image


@both
def test_sixteen_bit_colour_comes_near_its_eight_bit_twin(policy):
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in smooth().astype(np.uint16))
    pixels, notes = decode(png(41, 53, depth=16, colour=2, rows=rows), SMALL, policy)
    assert distance(pixels, shown(smooth(), SMALL)) <= 2
    assert notes == 0


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
@both
def test_of_an_animation_the_first_frame_is_taken_and_that_is_noted(kind, policy):
    flat = [np.full((53, 41, 3), colour, np.uint8) for colour in ((200, 30, 90), (10, 250, 20), (7, 7, 200))]
    first, *others = [Image.fromarray(frame) for frame in flat]
    data = encoded(first, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    pixels, notes = decode(data, SMALL, policy)
    assert distance(pixels, shown(flat[0], SMALL)) <= 2
    assert notes == Note.FIRST_FRAME


# ---- what is refused -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 1, colour: int = 0, rows: bytes = b"", before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def black(side: int) -> bytes:
    """A square 1-bit PNG: some kB, and a quarter of a gigabyte or more once decoded to RGB."""
    return png(side, side, rows=bytes((side // 8 + 1) * side))


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = encoded(smooth(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def webp_that_claims_its_limit(kind: bytes) -> bytes:
    """16,383 x 16,383 in the header: Pillow's decoder would reserve 2 gigabytes when it is made."""
    options = {b"VP8 ": {}, b"VP8L": {"lossless": True}, b"VP8X": {"exif": exif(1)}}[kind]
    data = bytearray(encoded(smooth(), "WEBP", **options))
    place, value = {
        b"VP8 ": (26, struct.pack("<HH", 16383, 16383)),
        b"VP8L": (21, struct.pack("<I", 16382 | 16382 << 14)),
        b"VP8X": (24, (16382).to_bytes(3, "little") * 2),
    }[kind]
    assert data[12:16] == kind
    data[place : place + len(value)] = value
    return bytes(data)


def bad_crc() -> bytes:
    data = bytearray(encoded(smooth(), "PNG"))
    data[data.index(b"IDAT") + 30] ^= 1
    return bytes(data)


ZTXT_BOMB = png(
    41, 53, depth=8, rows=bytes(42 * 53), before=chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(80_000_000)))
)
BAD = {
    "nothing": (b"", "empty"),
    "text": (b"this is no picture, whatever its name says\n", "known format"),
    "bytes that are no letters": (b"hi\n\x00 \\", r"starts with 'hi\n\x00 \'"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "known format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "known format"),
    "a format that is not allowed": (encoded(smooth(), "ICO"), "known format"),
    "20 bytes of a PNG": (encoded(smooth(), "PNG")[:20], ""),
    "a PNG with a bad checksum": (bad_crc(), ""),
    "a PNG without a width": (png(0, 53), ""),
    "a text bomb": (ZTXT_BOMB, "too large"),
    "float values": (encoded(Image.fromarray(smooth()[:, :, 0] / np.float32(255)), "TIFF"), "float values"),
    "32-bit values": (encoded(Image.fromarray(smooth()[:, :, 0].astype(np.int32)), "TIFF"), "32-bit integer values"),
    "a float PFM": (b"Pf\n41 53\n-1.0\n" + bytes(4 * 41 * 53), "float values"),
    "a bomb of 100 megapixels": (black(10_000), "10000 x 10000"),
    "a bomb of 169 megapixels": (black(13_000), "13000 x 13000"),
    "a bomb of 400 megapixels": (black(20_000), "20000 x 20000"),
    "a PNG that claims 60,000 x 60,000": (png(60_000, 60_000), "60000 x 60000"),
    "a JPEG that claims 60,000 x 60,000": (jpeg_that_claims(60_000, 60_000), "60000 x 60000"),
    "a lossy WebP that claims its limit": (webp_that_claims_its_limit(b"VP8 "), "16383 x 16383"),
    "a lossless WebP that claims its limit": (webp_that_claims_its_limit(b"VP8L"), "16383 x 16383"),
    "a WebP with EXIF that claims its limit": (webp_that_claims_its_limit(b"VP8X"), "16383 x 16383"),
    "a JPEG of no height": (jpeg_that_claims(41, 0), ""),
    "a picture that is one pixel wide": (encoded(np.zeros((60_000, 1, 3), np.uint8), "PNG"), "too long and narrow"),
    "a JPEG that is one pixel high": (encoded(np.zeros((1, 60_000, 3), np.uint8), "JPEG"), "too long and narrow"),
}


@pytest.mark.parametrize("case", BAD)
@both
def test_what_is_no_sound_image_is_refused_with_one_line(case, policy):
    data, reason = BAD[case]
    with pytest.raises(BadImage) as caught:
        decode(data, Preprocess(), policy)
    assert reason in caught.value.reason
    assert 0 < len(caught.value.reason) < 200
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("set_by_others", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "CMYK", "PNG", "WEBP", "TIFF", "PPM", "AVIF"])
@both
def test_an_image_cut_anywhere_is_refused_whatever_another_library_told_pillow(
    kind, policy, set_by_others, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", set_by_others)
    image = Image.fromarray(smooth())
    if kind in ("progressive", "CMYK"):
        data = encoded(image.convert("CMYK" if kind == "CMYK" else "RGB"), "JPEG", progressive=kind == "progressive")
    else:
        data = encoded(image, kind)
    decode(data, SMALL, policy)  # it is sound as a whole
    lengths = {*range(0, len(data), 61), len(data) // 2, *range(len(data) - 13, len(data))}
    accepted = []
    for length in lengths:
        try:
            decode(data[:length], SMALL, policy)
            accepted.append(len(data) - length)
        except BadImage:
            pass
    assert accepted == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is set_by_others  # and its setting is left to that library


@pytest.mark.parametrize("set_by_others", [False, True])
@both
def test_a_damaged_stream_with_a_good_checksum_is_refused(policy, set_by_others, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", set_by_others)
    rows = b"".join(b"\0" + row.tobytes() for row in smooth())
    stream = zlib.compress(rows)
    sound = png(41, 53, depth=8, colour=2, rows=rows)
    head, tail = sound.split(chunk(b"IDAT", stream))
    assert distance(decode(sound, SMALL, policy)[0], shown(smooth(), SMALL)) <= 1
    for damaged in (
        stream[: len(stream) // 2],
        stream[:2] + b"\x07" + stream[3:],
    ):  # cut short; a block of a type that does not exist
        with pytest.raises(BadImage):
            decode(head + chunk(b"IDAT", damaged) + tail, SMALL, policy)


@both
def test_no_bit_of_a_png_s_pixels_can_turn_without_a_word(policy):
    noise = np.random.default_rng(3).integers(0, 256, (53, 41, 3), dtype=np.uint8)
    for level in (0, 6):  # stored as they are, and compressed
        data = encoded(Image.fromarray(noise), "PNG", compress_level=level)
        first = data.index(b"IDAT") + 4
        for place in np.random.default_rng(4).integers(first, len(data) - 16, 100).tolist():
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            with pytest.raises(BadImage):
                decode(bytes(damaged), SMALL, policy)
        wrong = bytearray(data)
        wrong[data.index(b"IEND") - 5] ^= 1  # the checksum itself
        with pytest.raises(BadImage, match="CRC"):
            decode(bytes(wrong), SMALL, policy)


def test_the_limit_counts_the_pixels_of_the_file():
    for kind in ("JPEG", "PNG"):
        data = encoded(smooth(), kind)
        decode(data, SMALL, max_pixels=53 * 41)
        with pytest.raises(BadImage, match="41 x 53 pixels, more than --max-pixels 2172"):
            decode(data, SMALL, max_pixels=53 * 41 - 1)


MEMORY = """
import re, resource, sys
limit = 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from fewvit.images import BadImage, decode
from fewvit.preprocess import Preprocess
for path in sys.argv[1:]:
    try:
        decode(open(path, "rb").read(), Preprocess(), "pil")
        sys.exit(f"{path} was decoded")
    except BadImage as error:
        if "pixels" not in error.reason and "too large" not in error.reason:
            sys.exit(f"{path}: {error.reason}")
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss would count the parent
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_bombs_are_refused_by_their_header_within_a_tenth_of_a_gigabyte(tmp_path):
    paths = []
    for number, (data, _) in enumerate(value for case, value in BAD.items() if "bomb" in case or "claims" in case):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(data)
    run = subprocess.run([sys.executable, "-c", MEMORY, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert len(paths) == 9
    assert int(run.stdout) < 100_000  # kB; numpy and Pillow alone take 50 MB


def test_the_header_is_asked_first_by_every_format():
    for kind in FORMATS:
        data = encoded(smooth(), kind)
        for policy in POLICIES:
            with pytest.raises(BadImage, match="more than --max-pixels 7"):
                decode(data, SMALL, policy, max_pixels=7)


# ---- being called --------------------------------------------------------------------------------------------------


def test_many_threads_get_what_one_gets_and_no_warning_comes_out():
    turned = encoded(smooth(), "JPEG", exif=exif(6))
    # Pillow warns when it is converted
    palette = encoded(Image.fromarray(smooth()).convert("P"), "PNG", transparency=bytes([0, 9, 255]))
    odd_tiff = encoded(smooth(), "TIFF", software="x" * 97).replace(
        struct.pack("<HHI", 0x0131, 2, 98), struct.pack("<HHI", 0x0131, 2, 1 << 20)
    )
    # and about this animation of no frames
    wrong_apng = png(41, 53, depth=8, rows=bytes(42 * 53), before=chunk(b"acTL", bytes(8)))
    kinds = [
        turned,
        palette,
        odd_tiff,
        wrong_apng,
        *(encoded(smooth(), kind) for kind in FORMATS),
        b"text",
        turned[:-5],
    ]
    jobs = [(data, policy) for data in kinds for policy in POLICIES] * 11

    def answer(job: tuple[bytes, str]) -> tuple[bytes, int] | str:
        try:
            pixels, notes = decode(job[0], SMALL, job[1])
            return pixels.tobytes(), notes
        except BadImage as error:
            return error.reason

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(13) as pool:
            together = list(pool.map(answer, jobs))
    assert [str(warning.message) for warning in caught] == []
    assert together == [answer(job) for job in jobs]
    assert sum(isinstance(result, str) for result in together) == 4 * 11


def test_pixels_can_be_written_to_and_belong_to_no_other_image():
    data = encoded(smooth(), "JPEG")
    for policy in POLICIES:
        pixels, _ = decode(data, SMALL, policy)
        pixels[:] = 3
        assert pixels.flags.c_contiguous
        assert decode(data, SMALL, policy)[0].mean() > 50


def test_an_image_is_freed_without_the_garbage_collector():
    def images() -> int:
        return sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects())

    jobs = [encoded(smooth(), kind) for kind in FORMATS] + [encoded(smooth(), "PNG")[:-70]]
    gc.collect()
    gc.disable()
    try:
        before = images()
        for data in jobs:
            with contextlib.suppress(BadImage):
                decode(data, SMALL, "pil")
        assert images() == before
    finally:
        gc.enable()


def test_unknown_policies_and_interpolations_are_the_callers_mistake():
    with pytest.raises(UnknownName):
        decode(b"", SMALL, "quick")
    with pytest.raises(UnknownName):
        decoder_version("quick")
    with pytest.raises(UnknownName):
        Preprocess(interpolation="lanczos")


def test_the_versions_of_what_decodes_are_known_without_importing_it():
    script = (
        "import sys; from fewvit.images import decoder_version as v; print(v('fast')); print(v('pil'));"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    fast, pil, imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert imported == "[]"
    assert f"Pillow {PIL.__version__}" in pil
    assert fast.startswith("fast/")
    assert pil.startswith("pil/")
    assert version("simplejpeg") in fast
    assert version("simplejpeg") not in pil


def test_a_jpeg_with_stray_bytes_is_read_by_both_policies():
    """As some of ImageNet's are: libjpeg warns of them, and every pixel is there."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(stream, "JPEG")
    clean = stream.getvalue()
    stray = clean[:-2] + b"\x11" * 9 + clean[-2:]
    own = Preprocess(cover=(24, 24), crop=(24, 24))
    for policy in ("fast", "pil"):
        np.testing.assert_array_equal(decode(stray, own, policy)[0], decode(clean, own, policy)[0])
    np.testing.assert_array_equal(decode_whole(stray), decode_whole(clean))
