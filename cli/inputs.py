"""From the shared options to the library's readers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fewvit.errors import UsageError
from fewvit.files import between_commas

from .shared import QUICK, Access, Features, Layout, Listed, Model, Place, Work
from .show import Screen

if TYPE_CHECKING:
    from fewvit.datasets import Listing
    from fewvit.evaluate.inputs import FeatureReader
    from fewvit.extraction.recipe import Recipe
    from fewvit.models.spec import Access as LibraryAccess
    from fewvit.models.told import Told


def names_of(model: Model, screen: Screen) -> list[str]:
    """The backbones of a list with commas, each once; a misspelt one is refused before anything heavy is imported."""
    names = between_commas(QUICK if model.backbone is None else model.backbone)
    if not names:
        raise UsageError("--backbone names no backbone")
    from fewvit.models.resolve import is_variant

    for name in names:
        if is_variant(name):
            from fewvit.backbones import find_variant

            find_variant(name)
    if len(set(names)) == len(names):
        return names
    from fewvit.sources import without_repeats

    return without_repeats(names, "--backbone", screen.notify)


def access(how: Access, place: Place, screen: Screen) -> LibraryAccess:
    """How weights may be got."""
    from fewvit.extraction.cache import default_cache_dir
    from fewvit.models.spec import Access as LibraryAccess

    ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
    folder = place.cache_dir or default_cache_dir()
    return LibraryAccess(folder, how.offline, tuple(how.accept_license or ()), ask, screen.download, screen.notify)


def _ask(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def reader(
    model: Model,
    layout: Layout,
    how: Access,
    place: Place,
    features: Features,
    work: Work,
    screen: Screen,
    *,
    max_bad: str = "0",
    reading: Mapping[str, Any] | None = None,
    told: Told | None = None,
    shared: bool = False,
) -> FeatureReader:
    """What opens sources and extracts features under these options; `reading` as in `FeatureOptions`.

    `told`: of a bare file, in place of what the layout's flags say. `shared`: processes that torchrun started share
    the images, and the first one goes on alone.
    """
    names = names_of(model, screen)
    from fewvit.evaluate.inputs import Backbones, FeatureReader
    from fewvit.extraction.cache import Cache, default_cache_dir
    from fewvit.extraction.pipeline import FeatureOptions
    from fewvit.extraction.shards import part_of_process
    from fewvit.extraction.work import Work as LibraryWork
    from fewvit.extraction.work import allowed_bad

    how_got = access(how, place, screen)
    asked = model.backbone is not None
    backbones = Backbones(
        names,
        how_got,
        model.weights,
        layout.checkpoint_key,
        layout.family,
        work.seed,
        asked,
        layout.told if told is None else told,
    )
    options = FeatureOptions(
        features.protocol,
        features.pool,
        features.layers,
        features.img_size,
        features.precision,
        features.decode,
        features.device,
        reading,
    )
    cache = None if work.no_cache else Cache(place.cache_dir or default_cache_dir())
    allowed_bad(work.max_bad or max_bad, 1)  # a mistyped share is an error before the work begins
    effort = LibraryWork(work.batch_size, work.workers, work.max_bad or max_bad, work.max_pixels, screen.progress)
    return FeatureReader(
        backbones,
        options,
        cache,
        effort,
        rehash=work.rehash,
        notify=screen.notify,
        process=part_of_process() if shared else None,
    )


def recipe_reader(
    recipe: Recipe,
    weights: str | None,
    features: Features,
    how: Access,
    place: Place,
    work: Work,
    screen: Screen,
    *,
    max_bad: str = "0",
) -> FeatureReader:
    """What makes features as a recipe says; what `features` asks for in its place is left to be judged.

    `weights`: where they are, if no longer where they were.
    """
    from fewvit.extraction.cache import default_cache_dir

    recipe = recipe.located(weights, place.cache_dir or default_cache_dir())
    asked, default = recipe.options, Features()
    return reader(
        Model(recipe.backbone, recipe.weights),
        Layout(recipe.checkpoint_key, recipe.family),
        how,
        place,
        Features(
            features.protocol or asked.protocol,
            features.pool or asked.pool,
            features.layers or asked.layers,
            features.img_size or asked.img_size,
            _other_than(default.precision, features.precision, asked.precision),
            _other_than(default.decode, features.decode, asked.decode),
            features.device,
        ),
        dataclasses.replace(work, seed=recipe.seed),
        screen,
        max_bad=max_bad,
        reading=asked.reading,
        told=recipe.told_of_file,
    )


def _other_than(default: str, given: str, recorded: str) -> str:
    """What was given, if it is not the flag's default; else what the recipe says."""
    return recorded if given == default else given


def listing(listed: Listed) -> Listing:
    """How sources are listed."""
    from fewvit.datasets import Listing

    return Listing(**dataclasses.asdict(listed))
