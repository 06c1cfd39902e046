"""One image file, unlabelled: what `predict` is asked about most often."""

from __future__ import annotations

import os

import numpy as np

from ..digests import identity_of
from . import Dataset, Listing
from ._listing import FileReader, is_image, name_of


class Picture:
    """`image.jpg`, or a file with any other ending of an image; its id is its name."""

    @staticmethod
    def accepts(source: str) -> bool:
        return is_image(source) and os.path.isfile(source)

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        folder, name = os.path.split(os.path.abspath(source))
        reader = FileReader(folder, [name], identity_of(os.stat(source)))
        return Dataset(name_of(source), [name], np.full(1, -1, np.int64), [], reader)
