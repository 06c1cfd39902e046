"""EuroSAT: Sentinel-2 pictures of ten kinds of land, in red, green and blue. Source: Helber et al. 2019."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._files import of_class_folders


class EuroSat:
    """Class folders without an official split: `data split` makes one, and VTAB-1k brings its own."""

    about = About(
        title="EuroSAT",
        home="https://github.com/phelber/EuroSAT",
        licence="MIT",
        layout=("DIR/AnnualCrop/*.jpg and so on, or these folders in DIR/2750/ or DIR/EuroSAT_RGB/",),
        parts={"all": Part(27_000, 10)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """All images. Raises DataError as `PublicSet.open`."""
        inside = [path for name in ("2750", "EuroSAT_RGB") if os.path.isdir(path := os.path.join(folder, name))]
        return of_class_folders("eurosat", (inside or [folder])[0], listing)
