"""How strange a picture is to a set of labelled ones: one file for each score, each answers for itself. NumPy only.

Confidence says which of the known classes is most probable; strangeness says whether it is of any of them. A score is
the class in `fewvit/strangeness/NAME.py`: its `of(rows)` is a number for each row, higher where it is stranger, and
`learns` what it is made of: arrays that take more rows and classes, and that a file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np

from .. import plugins
from ..models.graph import Graph

DEFAULT = "blend"  # unless another is clearly better at telling classes that were left out


class Learnt(Protocol):
    """What a score keeps of the rows it was fitted on."""

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Learnt:
        """Learnt of scaled rows (N, D), whose labels (N,) are numbers below `n_classes`."""

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], width: int, n_classes: int) -> Learnt:
        """What `arrays` gave, of so many columns and classes. Raises ValueError for anything else."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, to be stored."""

    def with_more(self, rows: np.ndarray, labels: np.ndarray, n_classes: int) -> Learnt:
        """As if these rows (N, D) had been there from the start; `n_classes` counts new classes too."""


class Score(Protocol):
    """How strange rows are, beside what was learnt."""

    learns: ClassVar[type[Learnt]]
    learnt: Learnt

    def __init__(self, learnt: Learnt): ...

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The strangeness (Q,) of scaled rows (Q, D), higher is stranger."""

    def graph(self) -> Graph:
        """`of`, of scaled rows in float64, for a file that other programs run."""


def scaled(features: np.ndarray) -> np.ndarray:
    """Rows (N, D) float64 of unit length, as the classifiers compare them; a row of zeros stays."""
    rows = np.asarray(features, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def score_names() -> list[str]:
    """The scores there are, sorted."""
    return plugins.names("strangeness")


def find_score(name: str) -> type[Score]:
    """The score's class; hyphens are accepted. Raises UnknownName."""
    return plugins.find("strangeness", name)


def fitted(name: str, features: np.ndarray, labels: np.ndarray, n_classes: int) -> Score:
    """The score of that name, of features (N, D) as a backbone gave them and labels (N,) below `n_classes`."""
    kind = find_score(name)
    return kind(kind.learns.of(scaled(features), labels, n_classes))
