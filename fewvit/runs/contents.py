"""What was in the images of a run when it was begun: one digest for each set of them, and a few bytes for each image.

That images are others by now is told by the digests in `contents.json`; which ones, by `contents.npz`, whose damage or
loss costs no more than their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import printable
from ..files import replacing, write_json
from ..untrusted.arrays import arrays_of
from ..untrusted.texts import json_of

if TYPE_CHECKING:
    from ..digests import Contents

_BYTES = 8  # of each image's digest; for ImageNet 10 MB
_SHOWN = 3  # names of images in a message


class NotedContents:
    """The two files in a run's folder. Sets of images go by the names of their flags, such as train."""

    def __init__(self, folder: Path):
        self._digests, self._each = folder / "contents.json", folder / "contents.npz"

    def differing(self, sides: Mapping[str, Contents]) -> list[str]:
        """Names of the sets that were noted with another content."""
        before = self._noted()
        return [name for name, now in sides.items() if before.get(name, now.digest) != now.digest]

    def difference(self, sides: Mapping[str, Contents]) -> str:
        """How many images of each set changed and the first of them, behind a colon; empty where that is not known."""
        told = []
        former = self._images()
        for name, now in sides.items():
            if name in former and len(former[name]) == len(now.each):
                rows = np.flatnonzero((former[name] != now.each[:, :_BYTES]).any(axis=1)).tolist()
                told.append(f"{name} {len(rows)} of {len(now.each)} ({_listed([now.ids[row] for row in rows])})")
        return f": {'; '.join(told)}" if told else ""

    def note(self, sides: Mapping[str, Contents]) -> None:
        """Note these sets, beside others that are noted."""
        before = self._noted()
        digests = before | {name: now.digest for name, now in sides.items()}
        if digests != before or not self._each.exists():
            each: dict[str, Any] = self._images() | {name: now.each[:, :_BYTES] for name, now in sides.items()}
            with replacing(self._each) as handle:
                np.savez(handle, **each)
            write_json(self._digests, digests)

    def _noted(self) -> dict[str, str]:
        try:
            return dict(json_of(self._digests.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _images(self) -> dict[str, np.ndarray]:
        """Bytes (N, 8) of every image by the names of the sets, as far as they can be read."""
        try:
            arrays = arrays_of(self._each)
        except (OSError, ValueError):
            return {}
        return {name: one for name, one in arrays.items() if one.shape[1:] == (_BYTES,) and one.dtype == np.uint8}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
