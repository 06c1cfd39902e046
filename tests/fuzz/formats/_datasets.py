"""What a source of images holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewvit.datasets import open_dataset


def read_whole(source: Path) -> list[Any]:
    """Ids, labels, classes, digest, and the bytes of each picture, or the error's number of one that cannot be read."""
    data = open_dataset(str(source))
    found: list[Any] = [list(data.ids), data.labels, list(data.classes), data.digest]
    for row in range(len(data)):
        try:
            found.append(data.read(row))
        except OSError as error:  # it is left out with a count
            found.append(error.errno)
    return found
