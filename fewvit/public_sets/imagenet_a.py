"""ImageNet-A: photographs of 200 of ImageNet's classes that a ResNet-50 gets wrong. Source: Hendrycks et al. 2021."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._imagenet import of_wnid_folders, synsets


class ImageNetA:
    """Folders are called by 200 wnids. What is learnt of all 1000 classes is asked for the best of these 200."""

    about = About(
        title="ImageNet-A",
        home="https://github.com/hendrycks/natural-adv-examples",
        licence="MIT (the repository)",
        layout=("DIR/n01498041/*.jpg and so on: a folder for each of 200 wnids",),
        parts={"test": Part(7_500, 200)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images, classes being wnids. Raises DataError as `PublicSet.open`."""
        return of_wnid_folders("imagenet-a", folder, listing, synsets("imagenet_a"), "ImageNet-A", masked=True)
