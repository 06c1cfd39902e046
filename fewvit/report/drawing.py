"""Figures as SVG whose words are text, whose colours are the page's, and whose bytes depend on what is drawn alone."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..figures.axes import Margins, Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# colours that stand for variables of the page, so that light and dark are its own choice
INK, SOFT, RULE, GROUND, HEAT, ON_HEAT = (f"#01010{number}" for number in range(1, 7))
SERIES = tuple(f"#0102{number:02x}" for number in range(8))
PAGE = Palette(INK, SOFT, RULE, GROUND, HEAT, ON_HEAT, SERIES)
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
