"""fewvit backbones list / info / check / fetch / export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .inputs import access as library_access
from .outputs import OFFICIAL
from .shared import Access, Layout, Output, Place, command, single
from .show import Screen

app = single()


@app.callback()
def backbones() -> None:
    """List the backbones, explain one, check a weights file, fetch weights ahead."""


@command(app, "list")
def list_(output: Output, name: Annotated[str, typer.Argument(help="Only names that contain this.")] = "") -> None:
    """Every named backbone with its size, licence and published numbers (as published, percent)."""
    from fewvit.extraction.describe import variant_rows

    rows = [row for row in variant_rows() if name in row["backbone"]]
    Screen(output).rows("backbones", rows)


@command(app)
def info(output: Output, name: Annotated[str, typer.Argument(help="A variant, or a run's folder.")]) -> None:
    """One backbone: architecture, file, licence, protocol, published numbers."""
    from fewvit.extraction.describe import readable, run_facts, variant_facts
    from fewvit.models.resolve import is_path

    facts = run_facts(Path(name)) if is_path(name) else variant_facts(name)
    Screen(output).facts("backbones", facts if output.format == "json" else readable(facts))


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
    from fewvit.models.resolve import obtain_variant

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
