"""fewvit index export"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import counted

from .index_inputs import opened_index
from .shared import Index, Output
from .show import Screen


def export(
    output: Output,
    index: Index,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="files|qdrant|lance",
            help="NumPy and Parquet; Qdrant, in --out or at --url; a table of Lance.",
        ),
    ] = "files",
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="A server of Qdrant.")] = None,
    collection: Annotated[str, typer.Option("--collection", metavar="NAME", help="Of the server.")] = "images",
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Qdrant keeps 8-bit copies in memory and the originals on disk.")
    ] = False,
) -> None:
    """The images of an index for other programs: their features, ids, labels and digests. Dead rows are left out.

    What Qdrant and Lance hold is searched, and has to give the answers of the index.
    """
    screen = Screen(output)

    from fewvit.retrieval.export_ways import find_way
    from fewvit.retrieval.exported import Target

    way, target = find_way(to), Target(output.out, url, collection, eight_bit)
    way.require(target)
    facts = way.export(opened_index(index), target)
    if facts["escaped"]:
        screen.notify(
            f"{counted(facts['escaped'], 'id')} with bytes that are no UTF-8 or characters that do not print: they are "
            "written as escapes"
        )
    where = url if output.out is None else str(output.out)
    shown = {name: facts[name] for name in ("images", "dimension", "backbone", "fingerprint", "version", "escaped")}
    check = facts.get("verified")
    checked = {} if check is None else {"verified": f"{check['agree']} of {check['queries']} searches agree"}
    screen.facts("index", {"index": str(index), "to": to, "out": where, **shown, **checked})
