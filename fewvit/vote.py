"""The weighted vote of neighbours, for one k or for several in one pass. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .errors import UnlabelledNeighbor, UsageError, are, counted
from .neighbors import Neighbors

MIN_TEMPERATURE = 0.002  # exp(1 / T) must be a float64, and exp(-1 / T) above zero


def check_temperature(temperature: float) -> None:
    """Raise UsageError unless the temperature can be voted with."""
    if not temperature >= MIN_TEMPERATURE:
        raise UsageError(
            f"temperature {temperature} is too small; use at least {MIN_TEMPERATURE} (the papers use 0.07)"
        )


def weighted_vote(neighbors: Neighbors, labels: np.ndarray, n_classes: int, temperature: float) -> np.ndarray:
    """Class scores (Q, C): the sum of exp(similarity / temperature) over the neighbours of each class.

    Source: Wu et al. 2018, section 3.4; Caron et al. 2021, appendix. Raises as `votes_at`, and UsageError for a
    temperature below 0.002.
    """
    check_temperature(temperature)
    k = neighbors.rows.shape[1]
    return next(votes for _, votes in votes_at(neighbors, labels, n_classes, temperature, [k]))


def votes_at(
    neighbors: Neighbors, labels: np.ndarray, n_classes: int, temperature: float, ks: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """(k, class scores (Q, C)) for each k, ascending; the one array grows from k to k, so use it before going on.

    Raises UnlabelledNeighbor if a label is -1, UsageError for labels beyond `n_classes` and for more neighbours than
    there are.
    """
    if not all(1 <= k <= neighbors.rows.shape[1] for k in ks):
        raise UsageError(
            f"votes of {', '.join(map(str, ks))} neighbours asked where "
            f"{counted(neighbors.rows.shape[1], 'was', 'were')} searched"
        )
    near = labels[neighbors.rows]  # (Q, k)
    if near.size and near.min() < 0:
        raise UnlabelledNeighbor(
            "an unlabelled image (label -1) is among the neighbours",
            fix="Leave unlabelled images out of the training set.",
        )
    if near.size and near.max() >= n_classes:
        raise UsageError(
            f"label {near.max()} is among the neighbours, but there {are(n_classes)} "
            f"{counted(n_classes, 'class', 'classes')}"
        )
    weight = np.exp(neighbors.scores.astype(np.float64) / temperature)  # (Q, k)
    cell = near + np.arange(len(near))[:, None] * n_classes  # place in the flat score table
    scores = np.zeros((len(near), n_classes))
    done = 0
    for k in sorted(set(ks)):
        np.add.at(scores.reshape(-1), cell[:, done:k].reshape(-1), weight[:, done:k].reshape(-1))
        done = k
        yield k, scores
