"""A computation on features in torch's operations: what a file for other programs holds of a classifier. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """What is computed of features (B, D) float32, and from which constants.

    Each row's answer is a function of that row alone. `of` takes the features and the constants under their names, and
    uses operations that a traced program can hold: no branch on a value, B of any size.
    """

    constants: Mapping[str, Tensor | np.ndarray]
    of: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
