"""How alike a backbone's positions are: each position embedding beside all others."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, counted
from ..figures.axes import Margins, framed
from ..figures.picture import LIGHT, Panel
from ..results import Row
from .figure import Figure
from .mosaic import tiled
from .tokens import called_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..models.backbone import Backbone

POSITIONS_NOTE = "cosine of each with all others"


def cosine_similarity(table: np.ndarray) -> np.ndarray:
    """Cosines (N, N) of the rows of a table (N, D); a row of zeros is like no other, nor itself."""
    rows = table.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return rows @ rows.T


def positions(backbone: Backbone) -> Figure:
    """How alike each position is to all others: a grid of grids, one tile for each place of the position table.

    The table is the file's own, at the size that it was trained for; rows that belong to no patch (class, distillation)
    are left out. Arrays: `similarity` (rows, columns, rows, columns) float32, the cosine of the position at [r, c] with
    that at [s, d]. Source: Dosovitskiy et al. 2021, figure 7 (centre). Raises UsageError for a model without a table.
    """
    table, grid, notes = patch_positions(backbone)
    similarity = cosine_similarity(table).reshape(*grid, *grid)
    return Figure(
        "positions",
        [positions_panel(similarity, f"{called_in(backbone)}: {POSITIONS_NOTE}")],
        {"similarity": similarity.astype(np.float32)},
        _rows(similarity),
        notes=notes,
    )


def patch_positions(backbone: Backbone) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """The position embeddings (N, D) of patches, row by row, the table's (rows, columns), and notes on what it is.

    Raises UsageError naming what is possible for a model that has no table.
    """
    model, name = backbone.model, backbone.spec.name
    trunk = getattr(model, "trunk", model)  # a model of timm stands in it
    rotary = getattr(trunk, "rope", None) is not None or model.architecture.is_rotary
    table = getattr(trunk, "pos_embed", None)
    grid = _grid(backbone)
    if table is None or grid is None or table.ndim != 3 or table.shape[1] < grid[0] * grid[1]:
        raise _no_table(name, rotary, hasattr(trunk, "blocks"))
    cells = grid[0] * grid[1]
    others = table.shape[1] - cells
    values = table[0, others:].detach().float().cpu().numpy()
    notes = []
    if others:
        notes.append(f"{counted(others, 'row')} of {name}'s position table of no patch (class token) left out")
    if rotary:
        notes.append(f"{name} also turns queries and keys by their place (rotary positions), which no table shows")
    if _is_fixed(values, grid):
        notes.append(f"{name}'s positions are the fixed sines and cosines of MAE, which were not learnt")
    return values, grid, notes


def positions_panel(similarity: np.ndarray, note: str = POSITIONS_NOTE, side: float = 330) -> Panel:
    """The panel of similarities (rows, columns, rows, columns), about `side` points wide."""
    rows, columns = similarity.shape[:2]
    gap = max(1, columns // 12)
    whole = tiled(similarity.reshape(rows * columns, rows, columns), columns, gap)
    height = side * whole.shape[0] / whole.shape[1]
    draw = functools.partial(_draw, whole=whole, step=(rows + gap, columns + gap), counts=(rows, columns))
    room = Margins(20, 52, 0, 16)
    return Panel("Positions", draw, side + room.left + room.right, height + room.top + room.bottom, room, note)


def _grid(backbone: Backbone) -> tuple[int, int] | None:
    """Rows and columns of the table; None for a model without a grid of patches."""
    architecture = backbone.spec.architecture
    if not architecture.timm:
        return architecture.table
    size = getattr(getattr(backbone.model.trunk, "patch_embed", None), "grid_size", None)
    return (int(size[0]), int(size[1])) if size is not None else None


def _no_table(name: str, rotary: bool, is_vit: bool) -> UsageError:
    """The error for a model whose positions are not added to its patches."""
    if rotary:
        what = f"{name} has rotary positions: queries and keys are turned by their place, and no table can be compared"
    else:
        what = f"{name} has no table of positions that are added to its patches"
    can = "`fewvit inspect filters` and `fewvit inspect distance` work" if is_vit else "`fewvit inspect filters` works"
    return UsageError(what, fix=f"{can} for models of its kind.")


def _is_fixed(values: np.ndarray, grid: tuple[int, int]) -> bool:
    """Whether a table (N, D) is MAE's fixed one."""
    from ..methods._mae_task import sincos_positions

    if grid[0] != grid[1] or values.shape[1] % 4:
        return False
    return np.allclose(
        values, sincos_positions(values.shape[1], grid[0], class_token=False), atol=1e-3
    )  # of files in half precision too


def _rows(similarity: np.ndarray) -> list[Row]:
    """Mean cosines of positions beside each other and of all others, and how often the nearest is beside."""
    rows, columns = similarity.shape[:2]
    row, column = np.divmod(np.arange(rows * columns), columns)
    steps = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    flat = similarity.reshape(rows * columns, -1)
    if len(flat) < 2:
        return []
    nearest = np.where(steps > 0, flat, -np.inf).argmax(axis=1)
    beside = np.take_along_axis(steps, nearest[:, None], axis=1) == 1
    found = {"similarity_beside": flat[steps == 1].mean(), "nearest_is_beside": beside.mean()}
    if (steps > 1).any():
        found["similarity_elsewhere"] = flat[steps > 1].mean()
    return [{"metric": name, "value": round(float(value), 6)} for name, value in found.items()]


def _draw(axes: Axes, whole: np.ndarray, step: tuple[int, int], counts: tuple[int, int]) -> None:
    """The tiles with their rows and columns numbered, and the scale of colours beside them."""
    height, width = whole.shape
    low = math.floor(10 * np.nanmin(whole)) / 10
    shown = axes.imshow(
        whole, "viridis", aspect="auto", vmin=low, vmax=1, interpolation="nearest", extent=(0, width, height, 0)
    )
    ticks = [
        {at * size + (size - 1) / 2: str(at + 1) for at in range(0, count, max(1, round(count / 14)))}
        for size, count in zip(step, counts, strict=True)
    ]
    framed(axes, LIGHT, ticks[1], ticks[0], rules="")
    bar = axes.inset_axes((1.03, 0, 0.025, 1))
    axes.figure.colorbar(shown, cax=bar, ticks=[low, (low + 1) / 2, 1])
    bar.tick_params(length=0, labelsize=8, labelcolor=LIGHT.soft)
    bar.set_frame_on(False)
