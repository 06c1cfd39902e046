"""CIFAR-10: 60,000 images of 32 x 32 pixels in 10 classes. Source: Krizhevsky 2009."""

from __future__ import annotations

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._cifar import cifar

_BATCHES = {
    "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test": ("test_batch",),
}


class Cifar10:
    """The python version, as a folder of pickles or the archive itself; or class folders."""

    about = About(
        title="CIFAR-10",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="see the home",
        layout=(
            "DIR/cifar-10-batches-py/ with data_batch_1 and so on, or DIR/cifar-10-python.tar.gz as it is published",
            "or DIR/train/CLASS/*.png and DIR/test/CLASS/*.png",
        ),
        parts={"train": Part(50_000, 10), "test": Part(10_000, 10)},
        pair=("train", "test"),
        lists={
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
            "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`, IntegrityError for a pickle that is no data."""
        return cifar(
            "cifar10",
            folder,
            part,
            listing,
            inner="cifar-10-batches-py",
            batches=_BATCHES[part],
            meta="batches.meta",
            labels="labels",
            names="label_names",
        )
