"""The data sets of the papers: one file each, with the layout that is published, its sizes, and how it is read.

A source `NAME:DIR@PART` is one of them: NAME as the file is called, hyphens for underscores, DIR the folder that
`fewvit data fetch NAME` tells about, PART one of the set's parts. Classes go by their names, ImageNet's by their wnids,
never by the order of folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .. import plugins
from ..datasets import Dataset, Listing
from ._about import About
from ._checking import CheckedSet, check_public

__all__ = ["About", "CheckedSet", "PublicSet", "check_public", "public_sets"]


class PublicSet(Protocol):
    """What a file in this folder offers: one public class with these two."""

    about: About

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError for what is missing and for what is laid out otherwise."""


def public_sets() -> Iterator[tuple[str, type[PublicSet]]]:
    """Every set's name, as users spell it, and class."""
    for name in plugins.names("public_sets"):
        yield plugins.spelled("public_sets", name), plugins.find("public_sets", name)
