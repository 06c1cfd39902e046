"""`digits`: the 1,797 handwritten digits that scikit-learn carries, 8 x 8 pixels; for tests and first steps without a
download.
"""

from __future__ import annotations

import numpy as np

from . import Dataset, Listing
from ._pixels import Pixels

# two thirds, one third
_ROWS = {"digits": slice(None), "digits/train": slice(0, 1198), "digits/test": slice(1198, None)}


class Digits:
    """Source `digits`, `digits/train` (the first 1,198 rows) or `digits/test` (the other 599).

    A folder of that name is `./digits`.
    """

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether the source is `digits`, `digits/train` or `digits/test`."""
        return source in _ROWS

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The digits of that part, in the order of their ids. `listing` changes nothing."""
        from sklearn.datasets import load_digits

        digits, rows = load_digits(), _ROWS[source]
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0..16
        ids = [f"digit/{row:04d}" for row in range(len(grey))]
        return Dataset(
            "digits", ids[rows], digits.target[rows].astype(np.int64), list("0123456789"), Pixels(grey[rows])
        )
