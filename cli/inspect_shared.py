"""What the commands of `fewvit inspect` share: their source, their files, and how a figure is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UsageError, printable

from .outputs import FIGURE
from .shared import named
from .show import Screen

if TYPE_CHECKING:
    from fewvit.inspect.figure import Figure
    from fewvit.inspect.pictures import Opened
    from fewvit.models.backbone import Backbone

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="Images: one, a folder, a table, shards, a zip archive or `digits`."),
]
Sample = Annotated[
    int, typer.Option("--sample", metavar="N", min=1, help="How many images of the source, picked by --seed.")
]
Figures = Annotated[
    list[Path] | None,
    typer.Option("--out", "-o", metavar=FIGURE.metavar, help=FIGURE.help, parser=named),
]


def check_figures(figures: Sequence[Path] | None) -> list[Path]:
    """The files that are to be written. Raises UsageError, before any work, for none or one that cannot be."""
    from fewvit.inspect.figure import check_place

    if not figures:
        raise UsageError("no file to draw into", fix="Give --out FILE.png, .svg or .npz.")
    for path in figures:
        check_place(path)
    return list(figures)


def show_figure(
    screen: Screen,
    figure: Figure,
    figures: Sequence[Path],
    opened: Opened | None = None,
    *,
    backbone: Backbone | None = None,
    columns: Mapping[str, Any] | None = None,
    shown: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write the figure, then its rows as a result of the task `inspect` on stdout.

    `opened`: the backbone and pictures that it is of, for the run's manifest; `backbone`: of a figure without pictures;
    `columns` stand in every row; `shown`: the rows of the table, if not all.
    """
    from fewvit.inspect.pictures import pipeline_of
    from fewvit.inspect.tokens import called_in
    from fewvit.results import Result, manifest

    facts: dict[str, Any] = {"figure": figure.name}
    every = {"task": figure.name, **(columns or {})}
    if opened is not None:
        screen.skipped(opened.pictures.skipped)
        facts |= {"images": len(opened.pictures), "skipped": len(opened.pictures.skipped)}
        backbone = opened.backbone
    if backbone is not None:
        pipeline = pipeline_of(backbone)
        facts |= pipeline.facts
        every["backbone"] = pipeline.spec.name
        if pipeline.spec.is_random:
            every["weights"] = "random"
        figure = replace(figure, backbone=called_in(backbone))
    for line in [*(opened.notes if opened is not None else ()), *figure.notes]:
        screen.notify(line)
    for path in figures:
        figure.save(path)
        screen.notify(f"wrote {printable(path)}")
    rows = [{**every, **row} for row in figure.rows]
    table = None if shown is None else [{**every, **row} for row in shown]
    screen.result(Result("inspect", rows, manifest(**facts)), shown=table)


def means_of(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each combination of the columns `by`, whose value is the mean of theirs, in their order."""
    values: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        values.setdefault(tuple(row[name] for name in by), []).append(row["value"])
    return [{**dict(zip(by, key, strict=True)), "value": sum(found) / len(found)} for key, found in values.items()]


def reading_of(fit: str, img_size: str | None) -> dict[str, Any] | None:
    """How pictures get their size, over what the protocol says; None: as it says. Raises UsageError.

    Stretched as in DINO's visualize_attention.py: bilinear, to the square (the default of 480 pixels is its own too).
    """
    if fit not in ("crop", "stretch"):
        raise UsageError(f"--fit {fit!r} is not one of crop, stretch")
    if fit == "crop":
        return None
    from fewvit.preprocess import parse_size

    size = parse_size(img_size) if img_size else (480, 480)
    return {"cover": size, "crop": size, "stretched": True, "interpolation": "bilinear"}
