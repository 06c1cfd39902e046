"""The pictures of a page: made anew from the bytes that were indexed, or a placeholder that says why there is none."""

from __future__ import annotations

import functools
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ...images import BadImage
from ..pictures import CHANGED, MISSING
from ..segment import UNKNOWN
from .loaded import Loaded
from .workers import Decoders

THUMB, WHOLE = 360, 1600  # longest side in pixels: on a page, and alone
_KEPT_BYTES = 64 << 20
_SAYS = {MISSING: "missing", CHANGED: "changed since\nit was indexed"}


@dataclass(frozen=True)
class Picture:
    """What is sent for a picture."""

    data: bytes
    kind: str  # media type
    tag: str  # the same for the same content; empty for a placeholder

    @property
    def is_placeholder(self) -> bool:
        """Whether the picture itself is not to be had."""
        return not self.tag


class Thumbnails:
    """Makes pictures of rows and keeps the latest small ones, 64 MiB of them. May be called from many threads."""

    def __init__(self, decoders: Decoders):
        self._decoders = decoders
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def tag(self, loaded: Loaded, row: int, longest: int) -> str:
        """The tag that a row's picture will have."""
        [record] = loaded.index.records(np.array([row]))
        return f"{record['digest'].tobytes().hex()[:32]}-{longest}"

    def picture(self, loaded: Loaded, row: int, longest: int) -> Picture:
        """The picture of a row; a placeholder where its file is gone, another one than was indexed, or unreadable."""
        [record] = loaded.index.records(np.array([row]))
        if int(record["source"]) < 0 or record["digest"].tobytes() == UNKNOWN:
            return placeholder("no picture: the index\nwas built of features")
        [state] = loaded.pictures.states(np.array([row]))
        if state in _SAYS:
            return placeholder(_SAYS[state])
        tag = self.tag(loaded, row, longest)
        data = self._recall(tag)
        if data is None:
            try:
                data = self._decoders.jpeg(loaded.pictures.read(row), longest)
            except DataError:
                return placeholder(_SAYS[CHANGED] if state else _SAYS[MISSING])
            except BadImage:
                return placeholder("cannot be shown")
            if longest == THUMB:
                self._keep(tag, data)
        return Picture(data, "image/jpeg", tag)

    def _recall(self, tag: str) -> bytes | None:
        with self._lock:
            data = self._kept.get(tag)
            if data is not None:
                self._kept.move_to_end(tag)
            return data

    def _keep(self, tag: str, data: bytes) -> None:
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = data
                self._bytes += len(data)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


@functools.lru_cache(maxsize=16)
def placeholder(text: str) -> Picture:
    """A grey PNG with a text, readable on a light and on a dark page."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (THUMB, THUMB), (92, 96, 104))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, THUMB - 9, THUMB - 9), outline=(140, 145, 155), width=2)
    draw.multiline_text(
        (THUMB / 2, THUMB / 2), text, (235, 237, 240), anchor="mm", align="center", font_size=28, spacing=8
    )
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture(file.getvalue(), "image/png", "")
