"""fewvit backbones list / info / compare / check / fetch / export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewvit.errors import UsageError

from .inputs import access as library_access
from .outputs import OFFICIAL
from .shared import Access, Layout, Output, Place, command, single
from .show import Screen

app = single()


@app.callback()
def backbones() -> None:
    """List the backbones, explain and compare them, check a weights file, fetch weights ahead."""


@command(app, "list")
def list_(
    output: Output,
    name: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    family: Annotated[str, typer.Option("--family", metavar="NAME", help="Only this family.")] = "",
    license: Annotated[str, typer.Option("--license", metavar="ID", help="Only weights under this licence.")] = "",
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only weights whose licence allows commercial use.")
    ] = False,
    max_params: Annotated[
        str, typer.Option("--max-params", metavar="N", help="At most so many parameters, such as 100M or 1.1B.")
    ] = "",
    sort: Annotated[
        str, typer.Option("--sort", metavar="knn|linear|5-shot|params|…", help="Rows without the number come last.")
    ] = "",
) -> None:
    """Every named backbone with its size, licence and published numbers (as published, percent)."""
    from fewvit.extraction import catalogue

    choice = catalogue.Choice.of(name, family, license, commercial, max_params, sort)
    Screen(output).rows("backbones", catalogue.variant_rows(choice), shown=catalogue.SHOWN)


@command(app)
def info(
    access: Access,
    place: Place,
    output: Output,
    name: Annotated[str, typer.Argument(help="A variant, timm:NAME, hf:ORG/NAME, a weights file or a run's folder.")],
) -> None:
    """One backbone: architecture, how it is read, file, licence, published numbers."""
    screen = Screen(output)
    run = _as_run(name)
    if run is not None:
        from fewvit.extraction.describe import readable

        screen.facts("backbones", run if output.format == "json" else readable(run))
        return
    from fewvit.extraction.cards import card

    facts = _facts(name, access, place, screen)
    if output.format == "table":
        screen.card(card(facts))
    else:
        screen.rows("backbones", [facts])


@command(app)
def compare(
    access: Access,
    place: Place,
    output: Output,
    names: Annotated[list[str], typer.Argument(help="Two or more of them, named as in `info`.")],
) -> None:
    """Several backbones beside each other; what differs is marked by a *."""
    screen = Screen(output)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UsageError("compare takes two different backbones or more")
    from fewvit.extraction.catalogue import LONG, compared

    rows = compared([_facts(name, access, place, screen) for name in names])
    if output.format == "table":
        rows = [{"": "*" if row.pop("differs") else "", **row} for row in map(dict, rows) if row["fact"] not in LONG]
    screen.rows("backbones", rows)


def _as_run(name: str) -> dict[str, Any] | None:
    """The facts of a run's folder; None for anything else."""
    from fewvit.models.resolve import is_path

    if not is_path(name) or Path(name).is_file():
        return None
    from fewvit.extraction.describe import run_facts

    return run_facts(Path(name))


def _facts(name: str, access: Access, place: Place, screen: Screen) -> dict[str, Any]:
    """The facts of what is no run. Raises as `resolve`."""
    from fewvit.extraction import catalogue
    from fewvit.models.resolve import is_path, is_variant

    if is_variant(name):
        return catalogue.variant_facts(name)
    from fewvit.extraction.cache import Cache

    how = library_access(access, place, screen)
    memory = Cache(how.cache_dir).digests()
    return (catalogue.file_spec_facts if is_path(name) else catalogue.any_facts)(name, how, memory)


@command(app)
def check(
    layout: Layout,
    access: Access,
    place: Place,
    output: Output,
    file: Annotated[Path, typer.Argument(help="A weights file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="Print the whole mapping table, not its outline.")] = False,
) -> None:
    """What a weights file is, how its tensors map onto the trunk, and its licence note."""
    screen = Screen(output)
    from fewvit.extraction.cache import Cache
    from fewvit.extraction.describe import file_facts

    how = library_access(access, place, screen)
    screen.facts(
        "backbones",
        file_facts(
            file,
            how,
            Cache(how.cache_dir).digests(),
            checkpoint_key=layout.checkpoint_key,
            family=layout.family,
            told=layout.told,
            whole=tensors or output.verbose,
        ),
    )


@command(app)
def fetch(
    access: Access,
    place: Place,
    output: Output,
    names: Annotated[list[str], typer.Argument(help="Variants to download ahead, for machines without a network.")],
) -> None:
    """Download weights into the cache, or say where they already are."""
    screen = Screen(output)
    from fewvit.backbones import families, find_variant
    from fewvit.models.obtaining import obtain_variant

    found = [(name, *find_variant(name)) for name in names]
    if not found:
        raise UsageError("no backbone named")
    rows = []
    for name, family, variant in found:
        path = obtain_variant(name, families()[family], variant, library_access(access, place, screen))
        rows.append({"backbone": name, "file": str(path), "bytes": path.stat().st_size})
    screen.rows("backbones", rows)


@command(app, out=OFFICIAL)
def export(
    output: Output,
    run: Annotated[Path, typer.Argument(help="A run folder of `fewvit pretrain`.")],
) -> None:
    """Write a run's networks in the official layout of its family, for the official scripts; --out FILE.pth gets it."""
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.pth.")
    from fewvit.pretrain.export import export_official

    screen.rows("backbones", [export_official(run, output.out)])
