"""What every figure is made of: colours, room, ticks and rules. matplotlib is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LETTER = 4.9  # points of width, about, of a letter in a figure's font


@dataclass(frozen=True)
class Palette:
    """The colours of a figure, as matplotlib takes them."""

    ink: str  # words
    soft: str  # words about numbers
    rule: str  # lines across
    ground: str
    heat: str  # of which a cell has more the more there is
    on_heat: str  # words on it
    series: Sequence[str]


@dataclass(frozen=True)
class Margins:
    """Room around the axes, in points."""

    left: float = 40
    right: float = 8
    top: float = 6
    bottom: float = 32


def shortened(text: str, longest: int = 26) -> str:
    """A name with its middle left out where it is longer, as it may stand in a figure."""
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"


def framed(
    axes: Axes,
    palette: Palette,
    x: Mapping[float, str],
    y: Mapping[float, str],
    labels: tuple[str, str] = ("", ""),
    *,
    rules: str = "y",
) -> None:
    """Put ticks (place -> words), what the axes are called, and rules across them for `rules` `x`, `y` or both.

    Drawn by hand, since matplotlib's own axes take nine tenths of a figure's time.
    """
    from matplotlib.collections import LineCollection

    axes.set_axis_off()
    for which, ticks, across in (("x", x, axes.get_xaxis_transform()), ("y", y, axes.get_yaxis_transform())):
        if which in rules and ticks:
            lines = [[(at, 0), (at, 1)] if which == "x" else [(0, at), (1, at)] for at in ticks]
            axes.add_collection(
                LineCollection(lines, colors=palette.rule, linewidths=0.7, transform=across, zorder=0), autolim=False
            )
        for at, words in ticks.items():
            if which == "x":
                axes.annotate(
                    words,
                    (at, 0),
                    (0, -5),
                    across,
                    "offset points",
                    ha="center",
                    va="top",
                    color=palette.soft,
                    annotation_clip=False,
                )
            else:
                axes.annotate(
                    words,
                    (0, at),
                    (-5, 0),
                    across,
                    "offset points",
                    ha="right",
                    va="center",
                    color=palette.soft,
                    annotation_clip=False,
                )
    if labels[0]:
        axes.annotate(
            labels[0], (0.5, 0), (0, -18), "axes fraction", "offset points", ha="center", va="top", color=palette.soft
        )
    if labels[1]:
        axes.annotate(
            labels[1], (0, 1), (-5, 9), "axes fraction", "offset points", ha="left", va="bottom", color=palette.soft
        )


def even_ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """Round numbers between two, with as many decimals as they need."""
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        high = low + 1
    found = [float(at) for at in MaxNLocator(most).tick_values(low, high) if low <= at <= high]
    return {at: f"{at:.10g}" for at in found}


def shaded(axes: Axes, palette: Palette, cells: Mapping[tuple[int, int], float], room: float = 0.03) -> None:
    """Fill cells (row, column) of unit size with as much of the colour as each asks for, 0 to 1."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    low, high = room, 1 - room
    corners = [(low, low), (high, low), (high, high), (low, high)]
    shapes = [[(c + x, r + y) for x, y in corners] for r, c in cells]
    colours = [to_rgba(palette.heat, round(float(strength), 3)) for strength in cells.values()]
    axes.add_collection(PolyCollection(shapes, facecolors=colours, linewidths=0), autolim=False)
