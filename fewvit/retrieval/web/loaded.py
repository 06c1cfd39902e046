"""The version of the index that is served, and how a newer one takes its place."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ...errors import FewvitError
from ...sources import Notify
from ..opened import OpenIndex
from ..pictures import Pictures
from .encoder import Encoder

_ROW_BITS = 32
_LOOK_EVERY_S = 1.0
_AGAIN_S = 60.0  # a version that could not be taken is tried again after so long: a full memory or disk may pass
_WAIT_S = 0.25  # a request waits so long for the version that it found; a larger one is taken by a later request
_SUGGESTED = 1000  # classes and folders that a page lists

MakeEncoder = Callable[[OpenIndex], Encoder | None]


class Loaded:
    """One version of an index, its pictures, and its backbone; it stays what it is while another one is written."""

    def __init__(self, index: OpenIndex, encoder: Encoder | None):
        self.index, self.encoder = index, encoder
        self.pictures = Pictures(index)
        self.version = index.manifest.version
        self._content = _content_number(index)

    def number(self, row: int) -> int:
        """What a row is called in an address: no other version's row has the same number."""
        return self._content << _ROW_BITS | row

    def row(self, number: int) -> int | None:
        """The row of a number, or of a bare row; None where this version has no such live row."""
        content, row = number >> _ROW_BITS, number & ((1 << _ROW_BITS) - 1)
        is_here = content in (0, self._content) and row < self.index.manifest.rows
        return row if is_here and self.index.is_live(row) else None

    @functools.cached_property
    def classes(self) -> list[str]:
        """Names of classes to suggest."""
        return sorted(self.index.classes)[:_SUGGESTED]

    @functools.cached_property
    def folders(self) -> list[str]:
        """The topmost folders of the ids, with their slash, to suggest."""
        found: dict[bytes, None] = {}
        for segment in self.index.segments:
            row = 0
            while row < segment.rows and len(found) < _SUGGESTED:
                folder, slash, _ = segment.ids.raw(row).partition(b"/")
                if slash:
                    found[folder + slash] = None
                    row = segment.ids.beginning(os.fsdecode(folder + slash)).stop
                else:
                    row += 1 if segment.rows <= 100_000 else segment.rows  # a flat folder has nothing to suggest
        return sorted(map(os.fsdecode, found))

    @functools.cached_property
    def live(self) -> np.ndarray:
        """All live rows (n,)."""
        return self.index.live

    def prepare(self) -> None:
        """Do what the first search would have to."""
        for segment in self.index.segments:
            _ = segment.candidates
        if len(self.live):
            self.index.search(self.index.features(self.live[:1]), 1)


def _content_number(index: OpenIndex) -> int:
    """A number of 32 bits, not 0, of what a version holds: an index that was made anew counts versions from 1 again."""
    text = index.manifest.to_text().encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) or 1


class Serving:
    """The version that requests get, and the one before for pages that are still open.

    `CURRENT` is looked at with a request, at most once a second. A version that cannot be opened, is damaged or whose
    backbone cannot be had is told, and tried again after a while; what is served stays.
    """

    def __init__(self, path: Path, make_encoder: MakeEncoder, notify: Notify):
        self._path, self._make_encoder, self._notify = path, make_encoder, notify
        self._seen = self._named()
        index = OpenIndex.open(path)
        self._now = Loaded(index, make_encoder(index))
        self._now.prepare()
        self._before: Loaded | None = None
        self._looked, self._failed = 0.0, 0.0
        self._told = ""
        self._loading: asyncio.Future[None] | None = None
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def now(self) -> Loaded:
        """What is served, without a look at the disk."""
        return self._now

    async def current(self) -> Loaded:
        """What is served, after a look whether there is something newer."""
        loop = asyncio.get_running_loop()
        if self._loading is None and loop.time() - self._looked >= _LOOK_EVERY_S:
            self._looked = loop.time()
            named = self._named()
            failed_once = self._failed and loop.time() - self._failed >= _AGAIN_S
            if named and (named != self._seen or failed_once):
                self._seen, self._failed = named, 0.0
                self._loading = loop.run_in_executor(self._loader, self._load)
                self._loading.add_done_callback(self._settled)
                await asyncio.wait({self._loading}, timeout=_WAIT_S)
        return self._now

    def of_number(self, number: int) -> tuple[Loaded, int] | None:
        """The version and row of a picture's number; None for a number of no version that is still here."""
        versions = (self._now, self._before) if number >> _ROW_BITS else (self._now,)
        for loaded in versions:
            if loaded is not None and (row := loaded.row(number)) is not None:
                return loaded, row
        return None

    def close(self) -> None:
        """Wait for a version that is being loaded."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _settled(self, _: asyncio.Future[None]) -> None:
        self._loading = None

    def _named(self) -> bytes:
        """What `CURRENT` says; empty where it cannot be read."""
        try:
            return (self._path / "CURRENT").read_bytes()
        except OSError:
            return b""

    def _load(self) -> None:
        """Put the version on disk in place of the one that is served. In a thread of its own."""
        try:
            index = OpenIndex.open(self._path)
            loaded = Loaded(index, self._encoder_for(index))
            loaded.prepare()
        except (FewvitError, OSError, MemoryError) as error:
            self._failed = time.monotonic()  # the loop's own clock
            line = f"a new version of the index is not taken, version {self._now.version} stays: {error}"
            if line != self._told:
                self._told = line
                self._notify(line)
            return
        self._told = ""
        self._before, self._now = self._now, loaded
        self._notify(f"version {loaded.version} of the index is served from now on: {len(index)} images")

    def _encoder_for(self, index: OpenIndex) -> Encoder | None:
        """The backbone that is loaded, if it is the new version's too; else the new version's own."""
        same = (index.manifest.fingerprint, index.manifest.recipe) == (
            self._now.index.manifest.fingerprint,
            self._now.index.manifest.recipe,
        )
        return self._now.encoder if same else self._make_encoder(index)
