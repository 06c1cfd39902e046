"""Whether a transductive classifier ends far below the nearest class mean, which it could have stayed with."""

from __future__ import annotations

import numpy as np

from ..calibration import Estimator
from ..plugins import find

_FAR = 5.0  # percent points


def nearest_mean() -> Estimator:
    """The classifier that they are held against, with its defaults."""
    estimator: Estimator = find("classifiers", "centroid")()
    return estimator


def below_start(method: str, found: np.ndarray, start: np.ndarray, where: str) -> str:
    """A line for accuracies (N,) in percent that are far below those of `centroid` on the same tasks (N,); else empty.

    `where`: the tasks, as a user knows them.
    """
    lost = float(np.mean(start) - np.mean(found))
    if lost <= _FAR:
        return ""
    return (
        f"{method}, {where}: {np.mean(found):.1f} % is {lost:.1f} points below the nearest class mean on the same "
        f"tasks (centroid, {np.mean(start):.1f} %): these features do not suit it; take centroid, or other options by "
        "--set"
    )
