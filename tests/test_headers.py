"""Headers put together byte by byte, as the formats' specifications have them."""

from __future__ import annotations

import struct

import pytest

from fewvit.headers import JpegHeader, _webp_size, jpeg_header, orientation_of


def segment(marker: int, content: bytes = b"", length: int | None = None) -> bytes:
    """A marker, the length of what follows with its own two bytes, and the content."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2 if length is None else length) + content


def frame(height: int = 0x0203, width: int = 0x0405, components: int = 3, bits: int = 8, marker: int = 0xC0) -> bytes:
    return segment(marker, struct.pack(">BHHB", bits, height, width, components) + b"\1\x11\0" * components)


def orientation(value: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block whose second entry is the orientation."""
    entries = [
        (0x0100, 4, 1, struct.pack(order + "I", 9)),
        (0x0112, kind, 1, struct.pack(order + "HI"[kind == 4], value).ljust(4, b"\0")),
    ]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return head + b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)


START, SCAN, TABLES = b"\xff\xd8", segment(0xDA, b"\3"), segment(0xDB, b"\0" * 65)
EXIF = b"Exif\0\0"


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2])
@pytest.mark.parametrize("components", [1, 3])
def test_the_size_of_a_jpeg_stands_in_its_frame(marker, components):
    data = START + segment(0xE0, b"JFIF\0") + TABLES + frame(marker=marker, components=components) + SCAN
    assert jpeg_header(data) == JpegHeader(0x0203, 0x0405, 1)
    assert jpeg_header(data[:-1]) == JpegHeader(0x0203, 0x0405, 1)  # where the scan begins is enough


def test_of_two_exif_blocks_the_first_one_counts_and_other_application_data_is_none():
    other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + orientation(3))
    blocks = [segment(0xE1, EXIF + orientation(value)) for value in (6, 8)]
    assert jpeg_header(START + other + blocks[0] + blocks[1] + frame() + SCAN) == (0x0203, 0x0405, 6)
    assert jpeg_header(START + other + frame() + SCAN) == (0x0203, 0x0405, 1)
    assert jpeg_header(START + segment(0xE2, EXIF + orientation(3)) + frame() + SCAN) == (0x0203, 0x0405, 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xd9" + frame() + SCAN, id="no start"),
        pytest.param(START + SCAN, id="no frame"),
        pytest.param(START + frame() + TABLES, id="no scan"),
        pytest.param(START + frame() + frame() + SCAN, id="two frames"),
        pytest.param(START + frame(bits=12) + SCAN, id="12 bits"),
        pytest.param(START + frame(components=4) + SCAN, id="four components"),
        pytest.param(START + frame(components=2) + SCAN, id="two components"),
        pytest.param(START + frame(marker=0xC3) + SCAN, id="lossless"),
        pytest.param(START + frame(marker=0xC9) + SCAN, id="arithmetic coding"),
        pytest.param(START + segment(0xC0, b"\x08\0\2\0\2", 7) + b"\3" + SCAN, id="a frame too short for its size"),
        pytest.param(START + frame()[:9], id="cut within the frame"),
        pytest.param(START + segment(0xDB, length=1) + frame() + SCAN, id="a length below its own two bytes"),
        pytest.param(START + TABLES + b"\0" + frame() + SCAN, id="no marker where one must be"),
    ],
)
def test_what_is_no_plain_jpeg_has_no_header(data):
    assert jpeg_header(data) is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_an_orientation_is_one_to_eight_and_anything_else_is_upright(order, kind):
    assert [orientation_of(EXIF + orientation(value, order, kind)) for value in range(11)] == [
        1,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        1,
        1,
    ]
    block = orientation(6, order, kind)
    assert [orientation_of(block[:end]) for end in (0, 3, 8, 20, len(block) - 4)] == [1] * 5
    assert orientation_of(block) == 6


def test_a_webps_size_is_read_in_each_of_its_three_forms():
    def riff(form: bytes, content: bytes) -> bytes:
        return b"RIFF" + bytes(4) + b"WEBP" + form + bytes(4) + content.ljust(14, b"\0")

    width, height = 0x123, 0x2345
    extended = riff(b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))
    lossless = riff(b"VP8L", b"\x2f" + (3 << 28 | (height - 1) << 14 | (width - 1)).to_bytes(4, "little"))
    plain = riff(b"VP8 ", bytes(6) + (2 << 14 | width).to_bytes(2, "little") + (1 << 14 | height).to_bytes(2, "little"))
    for data in (extended, lossless, plain):
        assert _webp_size(data) == (height, width)
        assert (
            _webp_size(data[:29]) == _webp_size(b"X" + data[1:]) == _webp_size(data[:8] + b"WAVE" + data[12:]) == (1, 1)
        )
