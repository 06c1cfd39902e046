"""fewvit data list / fetch / check NAME DIR"""

from __future__ import annotations

from typing import Annotated

import typer

from .inputs import listing
from .shared import Listed, Output
from .show import Screen

_MISSING_CODE = 3


def list_sets(output: Output) -> None:
    """The public data sets that fewvit reads in their published layouts."""
    from fewvit.public_sets import public_sets

    Screen(output).rows(
        "data",
        [
            {
                "name": name,
                "title": kind.about.title,
                "parts": ", ".join(kind.about.parts) if len(kind.about.parts) < 5 else f"{len(kind.about.parts)} parts",
                "licence": kind.about.licence,
            }
            for name, kind in public_sets()
        ],
    )


def fetch_set(
    output: Output, name: Annotated[str, typer.Argument(metavar="NAME", help="A set that `data list` names.")]
) -> None:
    """What to get of a public data set from where, under which licence, and where it goes; nothing is downloaded."""
    from fewvit import plugins

    about = plugins.find("public_sets", name).about
    parts = [
        f"{part}: {'unknown' if size.images is None else f'{size.images:,}'} images"
        + (f" of {size.classes} classes" if size.classes is not None else "")
        for part, size in about.parts.items()
    ]
    name = plugins.spelled("public_sets", name)
    sets = "/SET" if about.below else ""
    several = f"@{next(iter(about.parts))}" if len(about.parts) > 1 else ""
    screen = Screen(output)
    screen.facts(
        "data",
        {
            "name": name,
            "title": about.title,
            "from": about.home,
            "licence": about.licence,
            "layout": list(about.layout),
            "parts": parts,
            "source": f"{name}:DIR{sets}{several}",
            "check": f"fewvit data check {name} DIR",
        },
    )
    screen.notify("nothing was downloaded: get it from its home, under its licence")


def check_set_in(output: Output, listed: Listed, name: str, folder: str) -> int:
    """What a folder holds of a public data set beside what is published; 3 where something is missing or other."""
    from fewvit.public_sets import check_public
    from fewvit.results import Result, manifest

    screen = Screen(output)
    found = check_public(name, folder, listing(listed))
    screen.result(Result("data", found.rows, manifest(sources=[f"{name}:{folder}"], problems=found.problems)))
    for problem in found.problems:
        screen.notify(problem)
    return _MISSING_CODE if found.problems else 0
