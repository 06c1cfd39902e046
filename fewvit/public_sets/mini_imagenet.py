"""mini-ImageNet: 600 images each of 100 of ImageNet's classes, in the lists of Ravi and Larochelle 2017."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._csv_lists import of_csv


class MiniImageNet:
    """Its parts share no class (64, 16 and 20), so a part is for `fewvit episodes`, which needs one set."""

    about = About(
        title="mini-ImageNet",
        home="https://github.com/twitter-research/meta-learning-lstm",
        licence="the images: ImageNet's terms of access",
        layout=(
            "DIR/train.csv, val.csv and test.csv, with filename,label in the first line and wnids for labels",
            "DIR/images/FILE, or DIR/WNID/FILE as in ImageNet's own folders",
        ),
        parts={"train": Part(38_400, 64), "val": Part(9_600, 16), "test": Part(12_000, 20)},
        lists={"train.csv": "", "val.csv": "", "test.csv": ""},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        return of_csv("mini-imagenet", folder, part, listing)
