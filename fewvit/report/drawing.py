"""Figures as SVG whose words are text, whose colours are the page's, and whose bytes depend on what is drawn alone."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# colours that stand for variables of the page, so that light and dark are its own choice
INK, SOFT, RULE, GROUND, HEAT, ON_HEAT = (f"#01010{number}" for number in range(1, 7))
SERIES = tuple(f"#0102{number:02x}" for number in range(8))
_VARIABLES = {
    **{INK: "--ink", SOFT: "--soft", RULE: "--line", GROUND: "--sheet", HEAT: "--heat", ON_HEAT: "--on-heat"},
    **{colour: f"--s{number}" for number, colour in enumerate(SERIES)},
}
_FONT = 8.5  # points; a figure is shown at about its own size, on a phone too
_POINTS = 72  # of an inch
_TIP = "tip:"  # what a mark's id begins with that says something when it is pointed at
_STYLE: Any = {  # matplotlib's names of settings
    **{"svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": _FONT},
    **{"axes.edgecolor": RULE, "axes.labelcolor": SOFT, "axes.linewidth": 0.8, "axes.facecolor": "none"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.labelsize": _FONT},
    **{"xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT},
    **{"xtick.major.width": 0.8, "ytick.major.width": 0.8, "grid.color": RULE, "grid.linewidth": 0.6},
    **{"text.color": INK, "lines.linewidth": 1.6, "lines.markersize": 4.5, "path.simplify": False},
}


@dataclass(frozen=True)
class Margins:
    """Room around the axes, in points."""

    left: float = 40
    right: float = 8
    top: float = 6
    bottom: float = 32


def drawn(name: str, draw: Callable[[Axes], None], width: float, height: float, margins: Margins | None = None) -> str:
    """What `draw` puts on axes, as an <svg> element of `width` x `height` points. `name` is spoken in place of it.

    Two figures of a page need different names: ids inside them are made from it.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    room = margins or Margins()
    with rc_context({**_STYLE, "svg.hashsalt": printable(name)}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs that matplotlib's font lacks: the browser draws them
        figure = Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_POINTS)
        FigureCanvasSVG(figure)
        box = (room.left / width, room.bottom / height)
        size = ((width - room.left - room.right) / width, (height - room.top - room.bottom) / height)
        draw(figure.add_axes((*box, *size)))
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _for_page(file.getvalue(), name)


def tip(text: str) -> str:
    """An id for a mark, which becomes the words that are shown when it is pointed at."""
    return _TIP + printable(text)


def shortened(text: str, longest: int = 26) -> str:
    """A name with its middle left out where it is longer, as it may stand in a figure."""
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"


def _for_page(svg: str, name: str) -> str:
    """matplotlib's file as an element of a page: no header, no size in points, the page's colours, ids of its own."""
    svg = svg[svg.index("<svg ") :]
    head, _, body = svg.partition(">")
    box = head.partition('viewBox="')[2].partition('"')[0]
    width = box.split()[2]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(rf"<g id=([\"']){_TIP}(.*?)\1>", r"<g><title>\2</title>", body)
    body = re.sub(r"<[^>]*>", lambda found: _tag_for_page(found[0]), body)
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg class="plot" role="img" aria-label="{escape(printable(name), quote=True)}" viewBox="{box}" '
        f'style="max-width: {float(width) * 1.35:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">{body.strip()}'
    )


def _tag_for_page(tag: str) -> str:
    """A tag with the page's colours and hundredths of a point; what stands between tags is the users' words."""
    tag = re.sub(r' id="[a-z0-9.]+_\d+"', "", tag, flags=re.IGNORECASE)  # figure_1, axes_1, …: the same in every one
    tag = re.sub(r"#0[12a-f0-9]{5}\b", lambda found: _variable(found[0]), tag)
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    return re.sub(r"(?<=\d\.\d{2})\d+", "", tag)


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour


# ---- axes


def framed(
    axes: Axes, x: Mapping[float, str], y: Mapping[float, str], labels: tuple[str, str] = ("", ""), *, rules: str = "y"
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
                LineCollection(lines, colors=RULE, linewidths=0.7, transform=across, zorder=0), autolim=False
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
                    color=SOFT,
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
                    color=SOFT,
                    annotation_clip=False,
                )
    if labels[0]:
        axes.annotate(
            labels[0], (0.5, 0), (0, -18), "axes fraction", "offset points", ha="center", va="top", color=SOFT
        )
    if labels[1]:
        axes.annotate(labels[1], (0, 1), (-5, 9), "axes fraction", "offset points", ha="left", va="bottom", color=SOFT)


def even_ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """Round numbers between two, with as many decimals as they need."""
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        high = low + 1
    found = [float(at) for at in MaxNLocator(most).tick_values(low, high) if low <= at <= high]
    return {at: f"{at:.10g}" for at in found}
