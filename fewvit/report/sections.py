"""The parts of a page, in its order."""

from __future__ import annotations

from collections.abc import Sequence

from .classes import by_class, confusions
from .confidence import calibration, episodes
from .curves import against_cost, over_k, over_layers, over_shots
from .grids import against_papers, backbones_by_data
from .looking import DetailsOf, best_of_each
from .parts import MOST_SERIES, Section
from .pictures import Pictures
from .rows import Line, means


def sections_of(lines: Sequence[Line], details: DetailsOf) -> list[Section]:
    """Every section that has something to show. Details that are damaged join what is left out."""
    shown = means(lines)
    looked = best_of_each(shown, details, MOST_SERIES)
    return [
        over_shots(shown),
        backbones_by_data(shown),
        against_papers(shown),
        over_k(shown),
        over_layers(shown),
        episodes(shown, details),
        by_class(looked, Pictures()),
        confusions(looked),
        calibration(looked),
        against_cost(shown),
    ]
