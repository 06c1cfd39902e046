"""What every inspection gives: panels to look at, the arrays behind them, and the same in numbers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError, counted, printable
from ..figures.axes import Margins, shortened
from ..figures.picture import ENDINGS, LIGHT, Panel, check_picture, save_picture
from ..files import replacing
from ..results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARRAYS = ".npz"
MARK = "figure"  # member of an .npz that says which figure it holds
GAP = 4.0  # points between two pictures
_LINE = 12.0  # points of a line of words
_HEAT = "viridis"  # from dark to light in equal steps, for eyes that see no red or no green too


@dataclass(frozen=True, repr=False)
class Figure:
    """One inspection, drawn when it is saved or shown. The arrays' names stand in the docstring of what made it."""

    name: str  # "attention"
    panels: Sequence[Panel]  # drawn row by row
    arrays: Mapping[str, np.ndarray]  # what the panels were drawn from
    rows: Sequence[Row] = ()  # the same in numbers
    columns: int = 1  # panels in a row of the picture
    notes: Sequence[str] = ()  # what was assumed or left out, a line each
    backbone: str = ""  # whose it is, as `called` says; an .npz has it as `backbone`

    def __repr__(self) -> str:
        """Its name and what there is of it, in one line; not the arrays."""
        arrays = ", ".join(f"{key} {array.shape}" for key, array in self.arrays.items())
        return f"<Figure {self.name}: {counted(len(self.panels), 'panel')}; arrays {arrays}; .save(path) writes it>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Replace `path` by the picture (.png, .svg) or by the arrays (.npz); the same bytes for the same figure.

        Raises UsageError for another ending, and as `check_picture` and `replacing`.
        """
        check_place(path)
        if Path(path).suffix.lower() != ARRAYS:
            save_picture(path, self.panels, self.columns)
            return
        named: dict[str, Any] = {MARK: np.array(self.name), **self.arrays}
        if self.backbone:
            named["backbone"] = np.array(self.backbone)
        with replacing(path) as handle:
            np.savez_compressed(handle, **named)  # every member is of 1980, so the bytes are those of the arrays

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        with tempfile.TemporaryDirectory(prefix="fewvit-") as folder:
            path = Path(folder) / "figure.png"
            save_picture(path, self.panels, self.columns)
            return path.read_bytes()


def called(name: str, *, untrained: bool) -> str:
    """A backbone's name as a picture has it; of one that was never trained it says so."""
    return f"{shortened(name)} (random weights)" if untrained else shortened(name)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise UsageError for an ending of neither a picture nor arrays; for a picture as `check_picture`.

    To be called before the work.
    """
    ending = Path(path).suffix.lower()
    if ending in ENDINGS:
        check_picture(path, "--out")
    elif ending != ARRAYS:
        raise UsageError(
            f"--out {printable(path)}: no figure is written so",
            fix=f"Let the name end in {', '.join(ENDINGS)} or, for the arrays, {ARRAYS}.",
        )


def image_panel(title: str, pixels: np.ndarray, width: float, note: str = "") -> Panel:
    """A picture by itself, `width` points wide: (H, W, 3) uint8, or (H, W) numbers, of which the largest is light."""
    height = width * pixels.shape[0] / pixels.shape[1]
    return Panel(
        title, lambda axes: _show(axes, pixels, (0, 1, 0, 1)), width + GAP, height + GAP, Margins(0, GAP, 0, GAP), note
    )


def tiles_panel(
    title: str,
    rows: Sequence[Sequence[np.ndarray | None]],
    side: float,
    *,
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
    inks: Mapping[int, str] | None = None,
    together: int = 1,
    scale: tuple[float, float] | None = None,
    note: str = "",
) -> Panel:
    """Pictures in rows and columns, each `side` points wide and all of one shape, as `image_panel` takes them.

    None leaves a place empty. `above`: words over each column, of which `inks` have a colour of their own; `beside`:
    left of each row; after every `together` rows there is more room; `scale`: the numbers that are dark and light in
    all of them, else each has its own.
    """
    first = next(tile for row in rows for tile in row if tile is not None)
    tall, columns = side * first.shape[0] / first.shape[1], max(map(len, rows))
    room = Margins(10.0 + 4.9 * max(map(len, beside)) if beside else 0.0, 0.0, _LINE if above else 0.0, 0.0)
    starts = [r * (tall + GAP) + r // together * GAP * (2 if together > 1 else 0) for r in range(len(rows))]
    across, up = columns * (side + GAP) - GAP, starts[-1] + tall

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        for r, row in enumerate(rows):
            low = up - starts[r] - tall
            for c, tile in enumerate(row):
                if tile is not None:
                    left = c * (side + GAP)
                    _show(axes, tile, (left, left + side, low, low + tall), scale)
        for c, words in enumerate(above):
            at = c * (side + GAP) + side / 2
            axes.annotate(
                printable(words), (at, up), (0, 3), textcoords="offset points", ha="center", va="bottom",
                color=(inks or {}).get(c, LIGHT.soft),
            )  # fmt: skip
        for r, words in enumerate(beside):
            middle = up - starts[r] - tall / 2
            axes.annotate(
                printable(words), (0, middle), (-6, 0), textcoords="offset points", ha="right", va="center",
                color=LIGHT.soft,
            )  # fmt: skip
        axes.set_xlim(0, across)
        axes.set_ylim(0, up)

    return Panel(title, draw, across + room.left, up + room.top, room, note)


def _show(
    axes: Axes,
    pixels: np.ndarray,
    extent: tuple[float, float, float, float],
    scale: tuple[float, float] | None = None,
) -> None:
    """Put a picture where (left, right, bottom, top) say, every pixel as it is."""
    low, high = scale or (None, None)
    axes.imshow(pixels, _HEAT, aspect="auto", interpolation="nearest", extent=extent, vmin=low, vmax=high)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
