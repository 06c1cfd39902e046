"""Food-101. Source: Bossard et al. 2014."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._files import first_there, of_list, rows_of


class Food101:
    """The lists' own split; training images have wrong labels among them, as the authors say."""

    about = About(
        title="Food-101",
        home="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence="the images are Foodspotting's; use beyond scientific fair use is to be settled with their owners",
        layout=("DIR/images/apple_pie/1005649.jpg and so on", "DIR/meta/train.txt and test.txt"),
        parts={"train": Part(75_750, 101), "test": Part(25_250, 101)},
        pair=("train", "test"),
        lists={"meta/train.txt": "", "meta/test.txt": ""},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        path = first_there(folder, (os.path.join("meta", f"{part}.txt"),), "list")
        return of_list("food101", os.path.join(folder, "images"), rows_of(path, _row), listing, path)


def _row(line: str) -> tuple[str, str] | None:
    """`apple_pie/1005649`, without an ending"""
    dish, slash, _ = line.partition("/")
    return (f"{line}.jpg", dish) if slash and dish else None
