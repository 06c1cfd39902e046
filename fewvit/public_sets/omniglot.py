"""Omniglot: 1,623 handwritten characters, twenty drawings each. Source: Lake et al. 2015."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._files import first_there, of_class_folders


class Omniglot:
    """A class is a character, alphabet/character01; read as class folders, the alphabets would be the classes.

    The published one-shot runs are `fewvit episodes --omniglot-runs`.
    """

    about = About(
        title="Omniglot",
        home="https://github.com/brendenlake/omniglot",
        licence="MIT",
        layout=(
            "DIR/images_background/Balinese/character01/*.png and so on",
            "DIR/images_evaluation/Angelic/character01/*.png and so on",
        ),
        parts={"background": Part(19_280, 964), "evaluation": Part(13_180, 659)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        root = first_there(folder, (f"images_{part}", os.path.join("python", f"images_{part}")), "folder")
        return of_class_folders("omniglot", root, listing, depth=2)
