"""ImageNet-Sketch: black and white sketches of all of ImageNet's classes. Source: Wang et al. 2019."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._imagenet import of_wnid_folders, synsets


class ImageNetSketch:
    """Folders are called by ImageNet's 1000 wnids."""

    about = About(
        title="ImageNet-Sketch",
        home="https://github.com/HaohanWang/ImageNet-Sketch",
        licence="MIT (the repository); the images were found on the web",
        layout=("DIR/n01443537/*.jpg and so on: a folder for each of 1000 wnids",),
        parts={"test": Part(50_889, 1000)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images, classes being wnids. Raises DataError as `PublicSet.open`."""
        return of_wnid_folders("imagenet-sketch", folder, listing, synsets("imagenet"), "ImageNet-Sketch", masked=False)
