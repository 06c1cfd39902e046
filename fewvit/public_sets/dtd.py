"""Describable Textures: 47 kinds, ten official splits. Source: Cimpoi et al. 2014."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._files import first_there, of_list, rows_of

_SPLITS = range(1, 11)


class Dtd:
    """A third each to train, validate and test on, ten times over; the first split is the one that papers report."""

    about = About(
        title="DTD",
        home="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="for research purposes, as the home says",
        layout=("DIR/images/banded/*.jpg and so on", "DIR/labels/train1.txt, val1.txt, test1.txt, up to 10"),
        parts={f"{name}{split}": Part(1_880, 47) for split in _SPLITS for name in ("train", "val", "test")},
        pair=("train1", "test1"),
        lists={f"labels/{name}1.txt": "" for name in ("train", "val", "test")},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a list. Raises DataError as `PublicSet.open`."""
        path = first_there(folder, (os.path.join("labels", f"{part}.txt"),), "list")
        return of_list("dtd", os.path.join(folder, "images"), rows_of(path, _row), listing, path)


def _row(line: str) -> tuple[str, str] | None:
    """`banded/banded_0002.jpg`"""
    kind, slash, _ = line.partition("/")
    return (line, kind) if slash and kind else None
