"""Accuracy over shots, over k, over layers; against seconds and against parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..figures.axes import Margins, even_ticks, framed
from ..results import Row
from .checked import is_number
from .drawing import GROUND, PAGE, SERIES, drawn, tip
from .parts import MOST_SERIES, Figure, Section, identity, key_of, labels_of
from .rows import HEADLINES, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 320, 210  # points
_PANELS = 4  # figures of a section
_COSTLY = 1e18  # seconds or parameters: more is no cost that anything has
_TOLD = 40  # marks of a figure that say what they are when pointed at


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    interval: tuple[float, float] | None  # 95 %
    words: str


_Panel = tuple[str, ...]  # what a figure is about
_Series = dict[float, _Point]


@dataclass
class _Gathered:
    """The points of a section's figures."""

    points: dict[_Panel, dict[tuple[tuple[str, str], ...], _Series]]
    identities: dict[tuple[tuple[str, str], ...], Row]


def over_shots(lines: Sequence[Line]) -> Section:
    """Accuracy over labelled images per class."""
    section = Section("shots", "Accuracy over shots", "Labelled images per class, and the mean's 95 % interval.")
    return _curves(section, lines, "shots", "images per class")


def over_k(lines: Sequence[Line]) -> Section:
    """k-NN accuracy over the neighbours that vote."""
    section = Section("k", "k-NN over k", "Neighbours that vote.")
    return _curves(section, lines, "k", "neighbours k")


def over_layers(lines: Sequence[Line]) -> Section:
    """Accuracy of each block's class token."""
    section = Section(
        "layers", "Accuracy over layers", "The feature of one block after another, the first being block 1."
    )
    return _curves(section, lines, "layer", "block")


def _curves(section: Section, lines: Sequence[Line], column: str, label: str) -> Section:
    gathered = _gather(lines, column)
    shown = _best(gathered)
    section.legend = labels_of([gathered.identities[key] for key in shown])
    for panel, series in list(gathered.points.items())[:_PANELS]:
        drawable = {key: series[key] for key in shown if key in series}
        if not drawable:
            continue
        title = " · ".join(panel)
        numbered = [(shown.index(key), list(one.values())) for key, one in drawable.items()]
        draw = _line_drawer(numbered, label, column != "layer")
        section.figures.append(Figure(title, drawn(f"{section.title}: {title}", draw, _WIDTH, _HEIGHT, _ROOM)))
    _say_what_is_missing(section, len(gathered.identities), len(gathered.points))
    return section


_ROOM = Margins(left=34, right=10, top=20, bottom=34)


def _gather(lines: Sequence[Line], column: str) -> _Gathered:
    """Series with two points or more in some panel, by panel and identity."""
    gathered = _Gathered(defaultdict(lambda: defaultdict(dict)), {})
    for line in lines:
        row = line.row
        if line.is_trial or row["metric"] not in HEADLINES or not is_number(row.get(column)):
            continue
        who = identity(row, (column, "task", "dataset"))
        key = key_of(who)
        gathered.identities.setdefault(key, who)
        panel: _Panel = (str(row["dataset"]), str(row["task"]), str(row["metric"]))
        words = f"{who.get('backbone', '')} {who.get('method', '')}, {column} {row[column]}: {_shown(row)}"
        point = _Point(float(row[column]), float(row["value"]), _interval(row), words)
        gathered.points[panel][key].setdefault(point.x, point)
    for panel in list(gathered.points):
        if max(len(series) for series in gathered.points[panel].values()) < 2:
            del gathered.points[panel]  # one point each: the heat map shows them
    kept = {key for panel in gathered.points.values() for key in panel}
    gathered.identities = {key: who for key, who in gathered.identities.items() if key in kept}
    return gathered


def _best(gathered: _Gathered) -> list[tuple[tuple[str, str], ...]]:
    """As many series as can be told apart: those with the best values, in the table's order."""
    best: dict[Any, float] = defaultdict(lambda: -math.inf)
    for panel in gathered.points.values():
        for key, series in panel.items():
            best[key] = max(best[key], *(point.y for point in series.values()))
    chosen = sorted(gathered.identities, key=lambda key: -best[key])[:MOST_SERIES]
    return [key for key in gathered.identities if key in chosen]


def _say_what_is_missing(section: Section, series: int, panels: int) -> None:
    if section.figures and series > MOST_SERIES:
        section.notes.append(f"Shown are the best {MOST_SERIES} of {series} series; all of them stand in the table.")
    if panels > _PANELS:
        section.notes.append(f"Shown are {_PANELS} of {panels} figures; all numbers stand in the table.")


def _line_drawer(
    series: Sequence[tuple[int, list[_Point]]], label: str, is_logarithmic: bool
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        places = sorted({point.x for _, points in series for point in points})
        low, high = _range([point for _, points in series for point in points])
        axes.set_ylim(low, high)
        if is_logarithmic and places[0] > 0:
            axes.set_xscale("log")
        for number, points in series:
            points = sorted(points, key=lambda point: point.x)
            colour = SERIES[number]
            axes.plot([p.x for p in points], [p.y for p in points], color=colour, zorder=2)
            for point in points:
                if point.interval is not None:
                    axes.plot([point.x] * 2, point.interval, color=colour, linewidth=0.9, alpha=0.75, zorder=2)
                axes.plot(
                    [point.x], [point.y], "o", color=colour, markeredgecolor=GROUND, markeredgewidth=0.8,
                    zorder=3, gid=tip(point.words),
                )  # fmt: skip
        framed(axes, PAGE, _spaced(places, logarithmic=axes.get_xscale() == "log"), even_ticks(low, high), (label, "%"))

    return draw


def _range(points: Sequence[_Point]) -> tuple[float, float]:
    ends = [end for point in points for end in (point.interval or (point.y, point.y))] + [point.y for point in points]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 1.0)
    return max(low - room, 0.0) if low >= 0 else low - room, high + room


def _spaced(places: Sequence[float], *, logarithmic: bool) -> dict[float, str]:
    """The places that have room for their number."""
    at = [math.log(place) if logarithmic else place for place in places]
    least = (at[-1] - at[0]) / 9 or 1.0
    kept = [0]
    for number in range(1, len(at)):
        if at[number] - at[kept[-1]] >= least:
            kept.append(number)
    return {places[number]: f"{places[number]:.10g}" for number in kept}


# ---- cost


def against_cost(lines: Sequence[Line]) -> Section:
    """Accuracy against seconds, and against parameters."""
    section = Section(
        "cost",
        "Accuracy against cost",
        "Seconds of a cell or command as a whole, on the machine and with the cache that it found; parameters of the "
        "backbone. A mark is one number of the table.",
    )
    points: dict[_Panel, dict[str, list[_Point]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        row = line.row
        if line.is_trial or row["metric"] not in HEADLINES or "layer" in row:
            continue
        known = {"seconds": line.record.seconds, "parameters": line.record.facts_of(row).get("parameters")}
        for what, x in known.items():
            if is_number(x) and 0 < x < _COSTLY:
                words = f"{row['backbone']} {row.get('method') or ''}: {_shown(row)}, {x:.4g} {what}"
                panel: _Panel = (str(row["dataset"]), str(row["task"]), _of_shots(row), what)
                points[panel][str(row["backbone"])].append(_Point(float(x), float(row["value"]), None, words))
    backbones = _most_often(points)
    chosen = [panel for panel, groups in points.items() if len({p.x for one in groups.values() for p in one}) > 1]
    for panel in chosen[:_PANELS]:
        shown = {backbones.index(name): found for name, found in points[panel].items() if name in backbones}
        if shown:
            title = " · ".join(part for part in panel if part)
            svg = drawn(f"{section.title}: {title}", _mark_drawer(shown, panel[-1]), _WIDTH, _HEIGHT, _ROOM)
            section.figures.append(Figure(title, svg))
    section.legend = backbones if section.figures else []
    _say_what_is_missing(section, 0, len(chosen))
    if section.figures and not any(panel[-1] == "parameters" for panel in points):
        section.notes.append("None of these results says how many parameters its backbone has.")
    return section


def _of_shots(row: Mapping[str, Any]) -> str:
    return f"{row['shots']} per class" if row.get("shots") is not None else ""


def _most_often(points: Mapping[_Panel, Mapping[str, Sequence[_Point]]]) -> list[str]:
    count: dict[str, int] = defaultdict(int)
    for groups in points.values():
        for name, found in groups.items():
            count[name] += len(found)
    return sorted(sorted(count, key=lambda name: (-count[name], name))[:MOST_SERIES])


def _mark_drawer(groups: Mapping[int, Sequence[_Point]], label: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        found = [point for points in groups.values() for point in points]
        low, high = _range(found)
        axes.set_ylim(low, high)
        axes.set_xscale("log")
        left, right = min(point.x for point in found), max(point.x for point in found)
        axes.set_xlim(left / 1.25, right * 1.25)
        for number, points in groups.items():
            for point in points if len(found) <= _TOLD else ():
                axes.plot(
                    [point.x], [point.y], "o", color=SERIES[number], markersize=6, markeredgecolor=GROUND,
                    markeredgewidth=0.8, gid=tip(point.words),
                )  # fmt: skip
            if len(found) > _TOLD:  # a drawing of each would take seconds
                x, y = [point.x for point in points], [point.y for point in points]
                axes.scatter(x, y, 22, color=SERIES[number], edgecolors=GROUND, linewidths=0.6)
        framed(axes, PAGE, _powers(left / 1.25, right * 1.25), even_ticks(low, high), (label, "%"), rules="xy")

    return draw


def _powers(low: float, high: float) -> dict[float, str]:
    """1, 2 and 5 times powers of ten between two numbers, as many as have room."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        found = [step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 6:
            break
    else:
        found = found[:: -(-len(found) // 6)]
    return {at: _short(at) for at in found or [low]}


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {letter}"
    return f"{number:.4g}"


# ---- rows


def _interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    ends = row.get("ci95")
    return (float(ends[0]), float(ends[1])) if ends is not None else None


def _shown(row: Mapping[str, Any]) -> str:
    ends = _interval(row)
    return f"{row['value']:.2f} %" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")
