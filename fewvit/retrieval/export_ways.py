"""The ways to export an index, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UnknownName
from .exported import Files, Way
from .to_lance import Lance
from .to_qdrant import Qdrant

WAYS: Mapping[str, Way] = {"files": Files(), "qdrant": Qdrant(), "lance": Lance()}


def find_way(name: str) -> Way:
    """The way of that name. Raises UnknownName."""
    if name not in WAYS:
        raise UnknownName("way to export", name, WAYS)
    return WAYS[name]
