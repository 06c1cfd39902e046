"""Labelled rows, kept as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ._arrays import require_arrays


@dataclass(frozen=True)
class Rows:
    """The rows that others are compared with."""

    rows: np.ndarray  # (N, D) float32, scaled

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Rows:
        """Those rows (N, D); their labels do not matter."""
        return cls(rows.astype(np.float32))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], width: int, n_classes: int) -> Rows:
        """What `arrays` gave. Raises ValueError unless it has rows of `width` columns."""
        require_arrays(arrays, {"rows": (None, width)}, np.float32)
        if not len(arrays["rows"]):
            raise ValueError("the strangeness score has no rows")
        return cls(arrays["rows"])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The rows by name."""
        return {"rows": self.rows}

    def with_more(self, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Rows:
        """Old and new rows."""
        return Rows(np.concatenate([self.rows, rows.astype(np.float32)]))
