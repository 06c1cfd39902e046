"""Backbones by data sets as heat maps, and numbers beside those of the papers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.axes import LETTER, Margins, shaded, shortened
from .drawing import INK, ON_HEAT, PAGE, SOFT, drawn
from .parts import Figure, Section, Table, identity, key_of, labels_of
from .rows import HEADLINES, Line, place_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETTING = ("task", "method", "shots", "ways", "k", "temperature", "transductive", "metric")
_QUESTION = ("task", "shots", "ways", "metric")  # settings that are equal in these compete for one map
_MAPS, _ROWS, _COLUMNS = 4, 24, 12  # as many as there is room for
_CELL = (52, 17)  # points
_FAINT, _STRONG = 0.08, 0.85  # how much of the colour the worst and the best have

_Key = tuple[tuple[str, str], ...]


def backbones_by_data(lines: Sequence[Line]) -> Section:
    """Heat maps of backbones x data sets, one for each setting."""
    section = Section(
        "heat",
        "Backbones by data sets",
        "Accuracy in percent. Within a column, the stronger the colour the better, and the best is bold. Numbers of "
        "different protocols stand in rows of their own; none is an average over data sets.",
    )
    settings = _settings(lines)
    for setting, found in sorted(settings[:_MAPS], key=lambda one: place_of(one[1][0].row)):
        title = " · ".join(_words(setting))
        rows, columns, values = _grid(found)
        section.figures.append(Figure(title, grid_figure(f"{section.title}: {title}", rows, columns, values)))
        if len(rows) > _ROWS or len(columns) > _COLUMNS:
            section.notes.append(
                f"{title}: the first {_ROWS} rows and {_COLUMNS} columns of {len(rows)} x {len(columns)}"
            )
    if len(settings) > len(section.figures):
        section.notes.append(
            f"Shown are {len(section.figures)} of {len(settings)} settings: of each number of labelled images first "
            "the method with the highest mean, and of k-NN its best k; all numbers stand in the table."
        )
    return section


def _settings(lines: Sequence[Line]) -> list[tuple[dict[str, Any], list[Line]]]:
    """Settings that have two numbers or more, the first to be shown first; of k-NN's k and temperatures one.

    Of one task and number of shots, the setting that most numbers have, then the best one; after that the second of
    each, and so on.
    """
    groups: dict[_Key, list[Line]] = defaultdict(list)
    for line in lines:
        row = line.row
        if not line.is_trial and row["metric"] in HEADLINES and "layer" not in row:
            groups[key_of({name: row[name] for name in _SETTING if row.get(name) is not None})].append(line)
    kept: dict[_Key, tuple[dict[str, Any], list[Line]]] = {}
    for found in sorted(groups.values(), key=_coverage_and_mean):
        setting = {name: found[0].row[name] for name in _SETTING if found[0].row.get(name) is not None}
        but_k = {name: one for name, one in setting.items() if name not in ("k", "temperature")}
        if len(found) > 1:
            kept.setdefault(key_of(but_k), (setting, found))
    ranked: dict[_Key, list[tuple[dict[str, Any], list[Line]]]] = defaultdict(list)
    for one in kept.values():
        ranked[key_of({name: one[0][name] for name in _QUESTION if name in one[0]})].append(one)
    placed = [(place, one) for of_it in ranked.values() for place, one in enumerate(of_it)]
    return [one for _, one in sorted(placed, key=lambda pair: (pair[0], *_coverage_and_mean(pair[1][1])))]


def _coverage_and_mean(lines: Sequence[Line]) -> tuple[float, ...]:
    """A key that sorts by how many numbers there are, then by their mean, the most first."""
    return -len(lines), -float(np.mean([line.row["value"] for line in lines]))


def _words(setting: Mapping[str, Any]) -> list[str]:
    named = ("shots", "ways", "k", "temperature")
    words = [f"{name} {setting[name]}" for name in named if name in setting]
    return [
        str(setting["task"]),
        *([str(setting["method"])] if setting.get("method") else []),
        *words,
        setting["metric"],
    ]


def _grid(lines: Sequence[Line]) -> tuple[list[str], list[str], np.ndarray]:
    """Names of rows and columns, and the values (R, C), NaN where there is none."""
    who = [{name: one for name, one in line.row.items() if name in ("backbone", "protocol")} for line in lines]
    cells = [(key_of(one), line.row["dataset"]) for one, line in zip(who, lines, strict=True)]
    if len(set(cells)) < len(cells):  # they differ in more than that: such rows are kept apart
        who = [identity(line.row, ("dataset", *_SETTING)) for line in lines]
        cells = [(key_of(one), line.row["dataset"]) for one, line in zip(who, lines, strict=True)]
    rows = list(dict.fromkeys(key for key, _ in cells))
    columns = list(dict.fromkeys(dataset for _, dataset in cells))
    values = np.full((len(rows), len(columns)), np.nan)
    for (key, dataset), line in zip(cells, lines, strict=True):
        at = rows.index(key), columns.index(dataset)
        if np.isnan(values[at]):
            values[at] = line.row["value"]
    by_key = {key: one for (key, _), one in zip(cells, who, strict=True)}
    return labels_of([by_key[key] for key in rows]), columns, values


def grid_figure(name: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> str:
    """A heat map of values (R, C) in percent with its numbers, each column with a scale of its own."""
    rows, columns, values = rows[:_ROWS], columns[:_COLUMNS], values[:_ROWS, :_COLUMNS]
    names = [shortened(row, 34) for row in rows]
    left = 12 + LETTER * max(map(len, names))
    heads = [shortened(column, 20) for column in columns]
    slanted = any(len(head) * LETTER > _CELL[0] - 4 for head in heads)
    top = 14 + (LETTER * 0.72 * max(map(len, heads)) if slanted else 4)
    right = 8 + (LETTER * 0.72 * len(heads[-1]) - 20 if slanted else 0)
    room = Margins(left, max(right, 8), top, 4)
    width, height = left + room.right + _CELL[0] * len(columns), top + 4 + _CELL[1] * len(rows)
    return drawn(name, _grid_drawer(names, heads, values, slanted), width, height, room)


def _grid_drawer(
    rows: Sequence[str], columns: Sequence[str], values: np.ndarray, slanted: bool
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        strength = _strength(values)
        shaded(axes, PAGE, {(r, c): strength[r, c] for r, c in zip(*np.nonzero(~np.isnan(values)), strict=True)})
        for r, c in zip(*np.nonzero(~np.isnan(values)), strict=True):
            best = values[r, c] == np.nanmax(values[:, c]) and np.count_nonzero(~np.isnan(values[:, c])) > 1
            colour = ON_HEAT if strength[r, c] > 0.5 else INK
            weight = "bold" if best else "normal"
            text = f"{values[r, c]:.1f}"
            axes.text(c + 0.5, r + 0.54, text, ha="center", va="center", color=colour, fontweight=weight)
        for r, row in enumerate(rows):
            axes.annotate(row, (0, r + 0.5), (-6, 0), "data", "offset points", ha="right", va="center", color=INK)
        for c, column in enumerate(columns):
            turned = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if slanted else {"ha": "center"}
            axes.annotate(
                column, (c + (0.4 if slanted else 0.5), 0), (0, 5), "data", "offset points", color=SOFT, **turned
            )

    return draw


def _strength(values: np.ndarray) -> np.ndarray:
    """How strong the colour of each cell is (R, C), from its place between the least and the most of its column."""
    filled = np.where(np.isnan(values), np.nanmax(np.nan_to_num(values)), values)
    low, high = filled.min(axis=0), np.nan_to_num(values).max(axis=0)
    span = np.where(high > low, high - low, 1)
    place = np.where(high > low, (values - low) / span, 0.5)
    return _FAINT + (_STRONG - _FAINT) * np.nan_to_num(place)


def against_papers(lines: Sequence[Line]) -> Section:
    """Means that have a published number beside them."""
    section = Section(
        "published",
        "Against published numbers",
        "Measured minus published, in percent points; a spread is the standard deviation over draws, and where the "
        "paper gives one the root of both squares' sum.",
    )
    rows = [
        [
            str(line.row["dataset"]),
            str(line.row["backbone"]),
            str(line.row.get("protocol") or ""),
            str(line.row.get("method") or ""),
            str(line.row.get("shots") or ""),
            f"{line.row['value']:.2f}" + (f" ± {line.row['std']:.2f}" if line.row.get("std") is not None else ""),
            str(line.row["published"]),
            f"{line.row['delta']:+.2f}",
            str(line.row["verdict"]),
        ]
        for line in lines
        if line.row.get("verdict")
    ]
    if rows:
        names = ("dataset", "backbone", "protocol", "method", "shots", "measured", "published", "delta", "verdict")
        section.tables.append(Table("", names, rows))
    return section
