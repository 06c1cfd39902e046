"""ImageNet-R: paintings, toys and other renditions of 200 of ImageNet's classes. Source: Hendrycks et al. 2021."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._imagenet import of_wnid_folders, synsets


class ImageNetR:
    """Folders are called by 200 wnids. What is learnt of all 1000 classes is asked for the best of these 200."""

    about = About(
        title="ImageNet-R",
        home="https://github.com/hendrycks/imagenet-r",
        licence="see the home",
        layout=("DIR/n01443537/*.jpg and so on: a folder for each of 200 wnids",),
        parts={"test": Part(30_000, 200)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images, classes being wnids. Raises DataError as `PublicSet.open`."""
        return of_wnid_folders("imagenet-r", folder, listing, synsets("imagenet_r"), "ImageNet-R", masked=True)
