"""Labels of any kind as numbers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def numbered(y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(classes (C,) in order, number (N,) of each label). Raises ValueError for what are no class labels."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The number of unique classes", UserWarning
        )  # few images per class are what we are about
        check_classification_targets(y)
    classes, numbers = np.unique(y, return_inverse=True)
    return classes, numbers
