"""Accuracy over blocks as a picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extraction.notes import TOKENS
from ..figures.axes import Margins, even_ticks, framed
from ..figures.picture import LIGHT, Panel, save_picture
from ..results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Curve = Sequence[Row]  # a row per block, of one token


def save_layer_plot(path: Path, rows: Sequence[Row]) -> None:
    """Replace `path` by a panel for each backbone and method: top-1 over blocks, a line for each token.

    Bands are the intervals of the draws. Raises as `save_picture`.
    """
    panels: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        if row.get("trial", "mean") == "mean":
            key = (row["backbone"], row["method"], row.get("k") or row.get("shots"), row.get("judged_on"))
            panels.setdefault(key, {}).setdefault(row["pool"], []).append(row)
    save_picture(path, [_panel(key, curves) for key, curves in panels.items()], 2)


def _panel(key: tuple[Any, ...], curves: Mapping[str, _Curve]) -> Panel:
    backbone, method, number, judged_on = key
    how = f"{number}-NN" if method == "knn" else f"{number}-shot {method} regression"
    draw = functools.partial(_draw, curves=list(curves.values()))
    note = f"judged on {judged_on}" if judged_on else "judged on the test images"
    legend = [(series, TOKENS[pool]) for series, pool in enumerate(curves)]
    return Panel(f"{backbone}: {how}", draw, 300, 200, Margins(34, 18, 22, 34), note, legend)


def _draw(axes: Axes, curves: Sequence[_Curve]) -> None:
    depth = max(row["layer"] for curve in curves for row in curve)
    ends = [end for curve in curves for row in curve for end in (row["value"], *(row.get("ci95") or ()))]
    low, high = max(0.0, min(ends) - 2), min(100.0, max(ends) + 2)
    axes.set_xlim(0.5, depth + 0.5)
    axes.set_ylim(low, high)
    for series, curve in enumerate(curves):
        blocks, colour = [row["layer"] for row in curve], LIGHT.series[series]
        if all(row.get("ci95") for row in curve):
            below, above = ([row["ci95"][end] for row in curve] for end in (0, 1))
            axes.fill_between(blocks, below, above, color=colour, alpha=0.15)
        axes.plot(blocks, [row["value"] for row in curve], color=colour, marker="o")
    step = -(-depth // 12)
    ticks = {float(block): str(block) for block in range(step, depth + 1, step)}
    framed(axes, LIGHT, ticks, even_ticks(low, high), ("block", "top-1, %"), rules="y")
