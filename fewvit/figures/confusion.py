"""Confusion matrices: what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .axes import Palette, shaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 12  # classes up to which a matrix shows its numbers
_UPRIGHT = 3  # letters that have room over a column


def most_confused(confusion: np.ndarray, most: int) -> list[int]:
    """Up to `most` classes (row numbers, ascending) of counts (C, C): those in most mistakes, on either side."""
    if len(confusion) <= most:
        return list(range(len(confusion)))
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    return sorted(int(c) for c in np.argsort(-wrong, kind="stable")[:most])


def draw_confusion(axes: Axes, palette: Palette, matrix: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw counts (n, n), a row per true class, shaded by their share of the `counts` (n,) of the whole row."""
    longest = max(map(len, names))
    axes.set_axis_off()
    axes.set_xlim(0, len(names))
    axes.set_ylim(len(names), 0)
    share = matrix / np.maximum(counts, 1)[:, None]
    there = list(zip(*(at.tolist() for at in np.nonzero(matrix)), strict=True))
    shaded(axes, palette, {(r, c): 0.06 + 0.84 * share[r, c] for r, c in there})
    axes.plot([0, len(names), len(names), 0, 0], [0, 0, len(names), len(names), 0], color=palette.heat, linewidth=0.5)
    for r, c in there if len(names) <= NUMBERED else ():
        colour = palette.on_heat if share[r, c] > 0.7 else palette.ink
        axes.text(c + 0.5, r + 0.54, str(matrix[r, c]), ha="center", va="center", color=colour, fontsize=7.5)
    for at, name in enumerate(names):
        axes.annotate(
            name, (0, at + 0.5), (-5, 0), textcoords="offset points", ha="right", va="center", color=palette.ink
        )
        axes.annotate(
            name, (at + 0.5, 0), (0, 5), textcoords="offset points", ha="center", va="bottom", color=palette.soft,
            rotation=90 if longest > _UPRIGHT else 0,
        )  # fmt: skip
