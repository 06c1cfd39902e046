"""fewvit index export"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UnknownName, UsageError, counted

from .index_inputs import opened_index
from .shared import Index, Output
from .show import Screen

if TYPE_CHECKING:
    from fewvit.retrieval.opened import OpenIndex

_WAYS = ("files", "qdrant", "lance")


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
    if to not in _WAYS:
        raise UnknownName("way to export", to, _WAYS)
    if to != "qdrant" and (url is not None or eight_bit):
        raise UsageError(f"--url and --eight-bit are for Qdrant, not for {to}", fix="Give --to qdrant.")
    if output.out is None and url is None:
        raise UsageError("nowhere to write to: give --out DIR" + (" or --url URL" if to == "qdrant" else ""))
    facts = _exported(opened_index(index), to, output.out, url, collection, eight_bit)
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


def _exported(
    index: OpenIndex, to: str, out: Path | None, url: str | None, collection: str, int8: bool
) -> dict[str, Any]:
    from fewvit.retrieval.exported import export_files, export_lance
    from fewvit.retrieval.to_qdrant import export_server, export_shard

    if url is not None:
        return export_server(index, url, collection, out, int8=int8)
    if out is None:
        raise UsageError("nowhere to write to: give --out DIR")
    if to == "qdrant":
        return export_shard(index, out, int8=int8)
    return export_lance(index, out) if to == "lance" else export_files(index, out)
