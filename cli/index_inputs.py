"""From an index to what is read of it: the open index, and what makes features as its own were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import reader, recipe_reader
from .shared import Access, Features, Layout, Model, Place, Work
from .show import Screen

if TYPE_CHECKING:
    from fewvit.evaluate.inputs import FeatureReader
    from fewvit.retrieval.opened import OpenIndex


def opened_index(index: Path, *, check: bool = True) -> OpenIndex:
    """The index in a folder; `check`: its digests are compared now."""
    from fewvit.retrieval.opened import OpenIndex

    return OpenIndex.open(index, check=check)


def reader_of(
    index: OpenIndex,
    model: Model,
    features: Features,
    access: Access,
    place: Place,
    work: Work,
    screen: Screen,
    max_bad: str,
    layout: Layout | None = None,
) -> FeatureReader:
    """What makes features as the index's were made, unless a backbone is named: then it must prove to be the same."""
    from fewvit.retrieval.origin import recipe_of

    recipe = recipe_of(index.manifest)
    if recipe is None or model.backbone is not None:
        return reader(model, layout or Layout(), access, place, features, work, screen, max_bad=max_bad)
    return recipe_reader(recipe, model.weights, features, access, place, work, screen, max_bad=max_bad)
