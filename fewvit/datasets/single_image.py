"""One image file, unlabelled: what `predict` is asked about most often."""

from __future__ import annotations

import os

import numpy as np

from ..digests import identity_of
from . import Dataset, Listing
from ._listing import FileReader, is_image, name_of


class SingleImage:
    """`image.jpg`, or a file with any other ending of an image; its id is its name."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether it is a file that is called as an image."""
        return is_image(source) and os.path.isfile(source)

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """A data set of this one image, unlabelled. Of `listing` the size of an image alone matters."""
        folder, name = os.path.split(os.path.abspath(source))
        reader = FileReader(folder, [name], identity_of(os.stat(source)), listing.max_bytes)
        return Dataset(name_of(source), [name], np.full(1, -1, np.int64), [], reader)
