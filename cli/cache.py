"""fewvit cache info / clear"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UnknownName

from .shared import Output, Place, command, single
from .show import Screen

app = single()


@app.callback()
def cache() -> None:
    """Show or clear the feature cache."""


@command(app)
def info(place: Place, output: Output) -> None:
    """What is stored: for which backbone and protocol, how it was computed, how many images and bytes; the total."""
    from fewvit.extraction.cache import Cache, default_cache_dir
    from fewvit.extraction.describe import cache_rows, cache_total

    screen = Screen(output)
    folder = place.cache_dir or default_cache_dir()
    screen.notify(f"cache folder: {folder}")
    rows = cache_rows(Cache(folder))
    screen.rows("cache", [*rows, cache_total(rows)] if rows and output.format == "table" else rows)


@command(app)
def clear(
    place: Place,
    output: Output,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-m", metavar="NAME", help="Only this backbone's features.")
    ] = None,
) -> None:
    """Remove stored features. Weights and accepted licences stay."""
    from fewvit.extraction.cache import Cache, default_cache_dir

    cache = Cache(place.cache_dir or default_cache_dir())
    if backbone is not None:
        known = sorted({str(store["key"].get("backbone")) for store in cache.stores()})
        if backbone not in known:
            raise UnknownName("backbone of the cache", backbone, known)
    freed = cache.clear(backbone=backbone)
    Screen(output).rows("cache", [{"freed_bytes": freed}])
