"""CIFAR-100: 60,000 images of 32 x 32 pixels in 100 classes. Source: Krizhevsky 2009."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._cifar import cifar

_BATCHES = {"train": ("train",), "test": ("test",)}


class Cifar100:
    """The python version, as a folder of pickles or the archive itself; or class folders.

    The fine labels, of 100 classes, are read.
    """

    about = About(
        title="CIFAR-100",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="see the home",
        layout=(
            "DIR/cifar-100-python/ with train and so on, or DIR/cifar-100-python.tar.gz as it is published",
            "or DIR/train/CLASS/*.png and DIR/test/CLASS/*.png",
        ),
        parts={"train": Part(50_000, 100), "test": Part(10_000, 100)},
        pair=("train", "test"),
        lists={
            "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
            "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
        },
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`, IntegrityError for a pickle that is no data."""
        return cifar(
            "cifar100",
            folder,
            part,
            listing,
            inner="cifar-100-python",
            batches=_BATCHES[part],
            meta="meta",
            labels="fine_labels",
            names="fine_label_names",
        )
