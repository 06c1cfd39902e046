"""A comparison on the page: its tables, and the diagram of critical differences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import counted
from ..figures.axes import Margins, shortened
from ..paired import ALPHA, RESAMPLES
from ..results import Result
from .comparison import Comparison, Ranked
from .drawing import GROUND, INK, RULE, SERIES, SOFT, drawn, tip
from .parts import Figure, Section, Table
from .read import REPORT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS = 500  # of a table on the page
_WIDTH, _SIDE = 360, 112  # points: of a diagram, and of the names on either side
_AXIS, _LINE, _BAR = 44, 15, 8  # points: from the top to the axis, from name to name, from bar to bar


def comparing(found: Comparison) -> Section:
    """What can be told apart, and what cannot."""
    section = Section(
        "comparing",
        "Comparing",
        "Differences in percent points, the first named less the second, on the same test images and draws. Intervals "
        f"are 95 %, of {RESAMPLES:,} resamples; p_holm is adjusted for all pairs of one data set and setting.",
    )
    section.figures += [_diagram(one) for one in found.ranked]
    section.tables += [_table(title, result, len(result.rows)) for title, result in results_of(found)]
    section.notes += found.notes
    return section


def results_of(found: Comparison) -> Iterator[tuple[str, Result]]:
    """The tables of a comparison, each as a result of its own, with their titles."""
    for title, rows in found.tables():
        yield title, Result(REPORT, rows)


def _table(title: str, result: Result, number: int) -> Table:
    cells = result.to_table()
    shared = ", ".join(f"{name} {value}" for name, value in result.left_out(cells).items())
    more = f"; {number - _MOST_ROWS} more rows stand in the JSON and CSV" if number > _MOST_ROWS else ""
    caption = f"{title[0].upper()}{title[1:]}{f' (in all rows: {shared})' if shared else ''}{more}"
    return Table(caption, cells[0], cells[1 : _MOST_ROWS + 1])


# ---- the diagram


def _diagram(ranked: Ranked) -> Figure:
    """Mean ranks on a line, best on the left; bars join systems that cannot be told apart. Source: Demšar 2006."""
    found = ranked.ranking
    note = f"Friedman p {found.p:.2g} over {counted(found.data_sets, 'data set')}. "
    if found.is_significant:
        near = f"Nemenyi's critical difference, {_two(found.critical_difference)}"
        note += f"A bar joins systems whose mean ranks lie within {near}."
    else:
        note += f"It sees no difference at {ALPHA}, so one bar joins all."
    return Figure(ranked.title, critical_difference(ranked), note)


def critical_difference(ranked: Ranked) -> str:
    """The diagram as an <svg> element for the page, the same bytes for the same ranks."""
    bars = [group for group in ranked.ranking.groups if len(group) > 1]
    rows = math.ceil(len(ranked.names) / 2)
    height = _AXIS + _BAR * (len(bars) + 1) + _LINE * rows + 4

    def draw(axes: Axes) -> None:
        last = len(ranked.names)
        axes.set_xlim(1, max(last, 1 + ranked.ranking.critical_difference))
        axes.set_ylim(height, 0)  # points from the top
        axes.set_axis_off()
        _draw_scale(axes, ranked.ranking.critical_difference, last)
        for number, group in enumerate(bars):
            ranks = [ranked.ranking.mean_ranks[one] for one in group]
            at, slack = _AXIS + _BAR * (number + 1), 0.02 * (last - 1)
            joined = ", ".join(ranked.names[one] for one in group)
            axes.plot(
                [min(ranks) - slack, max(ranks) + slack], [at, at], color=SERIES[0], linewidth=3.5, clip_on=False,
                gid=tip(f"cannot be told apart: {joined}"),
            )  # fmt: skip
        _draw_systems(axes, ranked, _AXIS + _BAR * (len(bars) + 1) + _LINE / 2)

    return drawn(f"Critical differences: {ranked.title}", draw, _WIDTH, height, Margins(_SIDE, _SIDE, 0, 0))


def _draw_scale(axes: Axes, difference: float, last: int) -> None:
    """The line of ranks, its numbers, and how long the critical difference is."""
    axes.plot([1, last], [_AXIS, _AXIS], color=SOFT, linewidth=1, clip_on=False)
    for rank in range(1, last + 1):
        axes.plot([rank, rank], [_AXIS - 4, _AXIS], color=SOFT, linewidth=1, clip_on=False)
        axes.text(rank, _AXIS - 7, str(rank), ha="center", va="bottom", color=SOFT)
    axes.plot([1, 1 + difference], [18, 18], color=INK, linewidth=1, marker="|", clip_on=False)
    axes.text(1 + difference / 2, 13, f"critical difference {_two(difference)}", ha="center", va="bottom", color=INK)


def _draw_systems(axes: Axes, ranked: Ranked, first: float) -> None:
    """Each system's mark on the line of ranks, led to its name: the better half's on the left."""
    ranks = ranked.ranking.mean_ranks
    order = sorted(range(len(ranks)), key=lambda one: (ranks[one], one))
    half = math.ceil(len(order) / 2)
    low, high = axes.get_xlim()
    for place, one in enumerate(order):
        on_left = place < half
        row = place if on_left else len(order) - 1 - place
        at, edge = first + _LINE * row, low if on_left else high
        axes.plot([ranks[one], ranks[one], edge], [_AXIS, at, at], color=RULE, linewidth=0.8, clip_on=False, zorder=0)
        words = f"{ranked.names[one]}: mean rank {_two(ranks[one])}"
        axes.plot(
            [ranks[one]], [_AXIS], "o", color=INK, markeredgecolor=GROUND, markeredgewidth=0.8, clip_on=False,
            zorder=3, gid=tip(words),
        )  # fmt: skip
        axes.annotate(
            f"{shortened(ranked.names[one], 17)} {_two(ranks[one])}", (edge, at), (-4 if on_left else 4, 0),
            textcoords="offset points", ha="right" if on_left else "left", va="center", annotation_clip=False,
        )  # fmt: skip


def _two(number: float) -> str:
    return f"{number:.2f}"


def names_in(text: str) -> Sequence[str]:
    """The names that --compare was given: what stands between commas, but for commas in a name's own parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]
