"""tiered-ImageNet: 608 of ImageNet's classes, parts being far apart in WordNet. Source: Ren et al. 2018."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._csv_lists import of_csv


class TieredImageNet:
    """Its parts share no class (351, 97 and 160), so a part is for `fewvit episodes`, which needs one set."""

    about = About(
        title="tiered-ImageNet",
        home="https://github.com/renmengye/few-shot-ssl-public",
        licence="the images: ImageNet's terms of access",
        layout=(
            "DIR/train.csv, val.csv and test.csv, with filename,label in the first line and wnids for labels",
            "DIR/images/FILE, or DIR/WNID/FILE as in ImageNet's own folders",
        ),
        parts={"train": Part(448_695, 351), "val": Part(124_261, 97), "test": Part(206_209, 160)},
        lists={"train.csv": "", "val.csv": "", "test.csv": ""},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        return of_csv("tiered-imagenet", folder, part, listing)
