"""The ViT paper's figure 7 in one picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..figures.picture import Panel
from .attention_distance import distance, distance_panel
from .figure import Figure
from .patch_filters import filters, filters_panel
from .pictures import Pictures, pictures_of
from .position_table import positions, positions_panel

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..models.backbone import Backbone

_SIDE = 304.0  # points: of seven filters with the gaps between
_BETWEEN = 22.0  # points between two parts


def vit_paper(
    backbone: Backbone, source: str | os.PathLike[str] | Dataset | Pictures, sample: int | None = 128, seed: int = 0
) -> Figure:
    """Filters of the patch embedding, similarity of positions and mean attention distance, side by side.

    What the model cannot show is left out, with a note. Arrays: those of `filters`, `positions` and `distance`, their
    names after that of the part (`distance/per_image`). Source: Dosovitskiy et al. 2021, figure 7. Raises UsageError
    where it can show none of them.
    """
    pictures = pictures_of(backbone, source, sample, seed)
    parts, missing = _parts(backbone, pictures)
    if not parts:
        raise UsageError(f"{backbone.spec.name} has none of the figure's three parts: {'; '.join(missing)}")
    return Figure(
        "vit-paper",
        [_panel(name, figure) for name, figure in parts.items()],
        {f"{name}/{key}": array for name, figure in parts.items() for key, array in figure.arrays.items()},
        [{"part": name, **row} for name, figure in parts.items() for row in figure.rows],
        columns=len(parts),
        notes=[*missing, *(note for figure in parts.values() for note in figure.notes)],
    )


def _parts(backbone: Backbone, pictures: Pictures) -> tuple[dict[str, Figure], list[str]]:
    """The parts that the model can show, and lines on those that it cannot."""
    wanted: Mapping[str, Callable[[], Figure]] = {
        "filters": lambda: filters(backbone),
        "positions": lambda: positions(backbone),
        "distance": lambda: distance(backbone, pictures),
    }
    parts, missing = {}, []
    for name, made in wanted.items():
        try:
            parts[name] = made()
        except UsageError as error:
            missing.append(f"left out, {name}: {error.what}")
    return parts, missing


def _panel(name: str, figure: Figure) -> Panel:
    """A part's panel, all of one height, seven filters above each other, with room to the next."""
    if name == "filters":
        panel = filters_panel(figure.arrays["components"], figure.arrays["explained"], columns=4)
    elif name == "positions":
        panel = positions_panel(figure.arrays["similarity"], figure.panels[0].note, _SIDE)
    else:
        panel = distance_panel(figure.arrays["distance"], float(figure.arrays["uniform"]), figure.panels[0].note, _SIDE)
    return replace(
        panel, width=panel.width + _BETWEEN, margins=replace(panel.margins, right=panel.margins.right + _BETWEEN)
    )
