"""Panels of a figure as one picture, PNG or SVG, on a light ground."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingExtra, UsageError, printable
from ..files import replacing
from .axes import LETTER, Margins, Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")
LIGHT = Palette(
    ink="#1c1f2b",
    soft="#4a4f5e",
    rule="#d5d8e0",
    ground="#ffffff",
    heat="#2f3cb5",
    on_heat="#ffffff",
    series=("#3b49c9", "#c8452f", "#14806a", "#b07a00", "#8b3fb0", "#0f7fb8", "#6b7280", "#b83280"),
)
_FONT = 8.5  # points
_LINE = 12  # points from one line of text to the next
_POINTS = 72  # of an inch
_DOTS = 200  # of an inch, of a PNG
_EDGE = 12  # points around everything
_STYLE: Any = {  # matplotlib's names of settings
    **{"svg.fonttype": "none", "svg.hashsalt": "fewvit", "text.parse_math": False, "font.family": "sans-serif"},
    **{"font.size": _FONT, "lines.linewidth": 1.6, "lines.markersize": 4.5, "text.color": LIGHT.ink},
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes with the words above and below it."""

    title: str
    draw: Callable[[Axes], None]
    width: float  # points, margins included
    height: float
    margins: Margins
    note: str = ""  # under the title
    legend: Sequence[tuple[int, str]] = ()  # number of a colour, words; a line each, below


def check_picture(path: str | os.PathLike[str], flag: str) -> None:
    """Raise UsageError for an ending that is no picture's, MissingExtra without matplotlib, DataError for a place where
    nothing can be written. To be called before the work.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{flag} writes a picture", file=path, fix=f"Let the name end in {' or '.join(ENDINGS)}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra(f"{flag} needs matplotlib", fix="Install it with `pip install 'fewvit[plots]'`.")
    place = next(one for one in Path(os.path.abspath(path)).parents if one.exists())
    if not place.is_dir():
        raise DataError(f"{flag} cannot be written: this is no folder", file=place, fix=f"Give {flag} another place.")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:  # permissions alone do not tell: root may write where no file can be made
        raise DataError(
            f"{flag} cannot be written: no file can be made in this folder ({error.strerror})",
            file=place,
            fix=f"Give {flag} another place.",
        ) from error


def save_picture(path: str | os.PathLike[str], panels: Sequence[Panel], columns: int) -> None:
    """Replace `path` by a picture of the panels, row by row; the same bytes for the same panels. Raises as `replacing`.

    PNG, or SVG whose words are text, by the ending.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    widths = [max(row[at].width for row in rows if at < len(row)) for at in range(min(columns, len(panels)))]
    heights = [max(map(_height, row)) for row in rows]
    width, height = sum(widths) + 2 * _EDGE, sum(heights) + 2 * _EDGE
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs that matplotlib's font lacks are drawn as boxes
        figure = Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_DOTS, facecolor=LIGHT.ground)
        FigureCanvasAgg(figure)
        top = height - _EDGE
        for row, tall in zip(rows, heights, strict=True):
            for at, panel in enumerate(row):
                _place(figure, panel, _EDGE + sum(widths[:at]), top, (width, height))
            top -= tall
        svg = Path(path).suffix.lower() == ".svg"
        about = {"Creator": "fewvit", "Date": None} if svg else {"Software": "fewvit"}
        with replacing(path) as handle:
            figure.savefig(handle, format="svg" if svg else "png", metadata=about)


def _title(panel: Panel) -> list[tuple[str, str]]:
    """The lines above a panel and their colours, none longer than it is wide."""
    letters = max(12, int((panel.width - _EDGE) / LETTER))
    lines = [(line, LIGHT.ink) for line in textwrap.wrap(printable(panel.title), letters)]
    return lines + [(line, LIGHT.soft) for line in textwrap.wrap(printable(panel.note), letters)]


def _height(panel: Panel) -> float:
    return panel.height + _LINE * (len(_title(panel)) + len(panel.legend)) + 2 * _EDGE


def _place(figure: Figure, panel: Panel, left: float, top: float, size: tuple[float, float]) -> None:
    """Put a panel with its words where its upper left corner is, in points from the figure's lower left one."""
    from matplotlib.lines import Line2D

    width, height = size
    for line, colour in _title(panel):
        top -= _LINE
        figure.text(left / width, top / height, line, color=colour)
    top -= _EDGE / 2
    room = panel.margins
    across, up = panel.width - room.left - room.right, panel.height - room.top - room.bottom
    box = ((left + room.left) / width, (top - panel.height + room.bottom) / height, across / width, up / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    panel.draw(axes)
    top -= panel.height
    for series, words in panel.legend:
        top -= _LINE
        line_of = [(left + room.left) / width, (left + room.left + 14) / width]
        at = [(top + 3) / height] * 2
        figure.add_artist(Line2D(line_of, at, color=LIGHT.series[series], linewidth=2))
        figure.text((left + room.left + 19) / width, top / height, printable(words))
