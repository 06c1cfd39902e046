"""Reliability diagrams: accuracy over confidence. Source: Guo et al. 2017, section 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..calibration import Reliability
from .axes import Palette, even_ticks, framed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """One line of a diagram."""

    series: int  # its colour's number in the palette
    bins: Reliability
    gid: str | None = None  # id of its marks in an SVG


def draw_reliability(axes: Axes, palette: Palette, curves: Sequence[Curve]) -> None:
    """Draw accuracy over mean confidence of each bin that is not empty, percent, beside the line where both are equal.

    A mark's size is the bin's share of the predictions.
    """
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.plot([0, 100], [0, 100], color=palette.soft, linewidth=0.9, linestyle=(0, (4, 3)))
    for curve in curves:
        bins, colour = curve.bins, palette.series[curve.series]
        full = np.flatnonzero(bins.counts > 0)
        x, y = bins.confidence[full], bins.accuracy[full]
        axes.plot(x, y, color=colour)
        sizes = (3 + 7 * (bins.counts[full] / bins.counts.sum()) ** 0.5) ** 2
        marks = axes.scatter(
            x, y, sizes, color=colour, edgecolors=palette.ground, linewidths=0.7, zorder=3, clip_on=False
        )
        if curve.gid is not None:
            marks.set_gid(curve.gid)
    framed(axes, palette, even_ticks(0, 100), even_ticks(0, 100), ("confidence, %", "% right"), rules="xy")
