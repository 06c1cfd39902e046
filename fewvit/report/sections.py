"""The parts of a page, in its order."""

from __future__ import annotations

from collections.abc import Sequence

from .curves import against_cost, over_k, over_layers, over_shots
from .parts import Section
from .read import Found
from .rows import Line, means


def sections_of(lines: Sequence[Line], found: Found) -> list[Section]:
    """Every section that has something to show. Details that are damaged join what is left out of `found`."""
    shown = means(lines)
    return [
        over_shots(shown),
        over_k(shown),
        over_layers(shown),
        against_cost(shown),
    ]
