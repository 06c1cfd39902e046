"""fewvit index build / add / remove / compact / search / evaluate / duplicates / export / info / verify / serve

One file because the verbs of one object share their options and are looked for in one place.
"""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import DataError, UsageError, are, counted

from .index_duplicates import duplicates
from .index_export import export
from .index_inputs import opened_index, reader_of
from .index_serve import serve
from .inputs import listing, reader
from .outputs import EXPORT, RESULT
from .shared import Access, Features, Index, Layout, Listed, Model, Output, Place, Work, command, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.retrieval.growth import Changes

app = single()

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="Images: a folder, table, shards, zip archive; or features (.npz)."),
]
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@app.callback()
def index() -> None:
    """Build an image index, search it, and keep it up to date."""


@command(app)
def build(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    index: Index,
    data: Data = None,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="auto|flat|hnsw|ivf|compact",
            help="flat compares every image. auto: flat up to 200,000 images, beyond what --memory and --recall allow.",
        ),
    ] = "auto",
    recall: Annotated[
        float,
        typer.Option(
            "--recall", metavar="SHARE", help="Of the true nearest images, those that a search must find; measured."
        ),
    ] = 0.95,
    memory: Annotated[
        str, typer.Option("--memory", metavar="BYTES", help="What a search may hold, as 4G; decides `auto`.")
    ] = "4G",
    reading: Annotated[
        str | None,
        typer.Option(
            "--reading",
            metavar="NAME[:BENCHMARK]",
            help="Read images as this protocol of `index evaluate` says, as dino/1:rparis6k.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace an index of another backbone or other options.")
    ] = False,
) -> None:
    """Make an index of images, in place of the one that is there; readers have the old one until the new one is whole.

    What was computed is in the cache, so a build that was killed goes on where it stopped.
    """
    screen = Screen(output)
    if reading is not None:
        from fewvit.retrieval.protocols import reading_named

        asked = reading_named(reading)
        features = dataclasses.replace(features, pool=features.pool or asked.pool)
    transform = asked.transform if reading is not None else None
    reads = reader(model, layout, access, place, features, work, screen, max_bad="1%", reading=transform)

    from fewvit.retrieval.growth import Wish
    from fewvit.retrieval.index import build_index
    from fewvit.sources import require_source

    wish = Wish(kind, _bytes(memory), recall)
    changes = build_index(index, require_source(data), reads, wish, listing(listed), overwrite=overwrite)
    _show_changes(screen, index, changes)


@command(app)
def add(
    access: Access,
    place: Place,
    listed: Listed,
    work: Work,
    output: Output,
    index: Index,
    data: Data = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FILE", help="Where the weights are, if no longer where they were."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
) -> None:
    """Add the images that the index lacks; those that were renamed or replaced are known by their bytes.

    Images that are no longer in the source stay in the index, and are counted; `index remove --missing` takes them out.
    """
    screen = Screen(output)

    from fewvit.retrieval.index import add_images
    from fewvit.sources import require_source

    source = require_source(data)
    opened = opened_index(index, check=False)
    reads = reader_of(opened, Model(weights=weights), Features(device=device), access, place, work, screen, "1%")
    changes = add_images(opened, source, reads, listing(listed))
    if changes.missing:
        screen.notify(
            f"{counted(changes.missing, 'image')} of the index {are(changes.missing)} no longer in {source}; "
            "`fewvit index remove --missing` takes out what is gone"
        )
    _show_changes(screen, index, changes)


@command(app)
def remove(
    output: Output,
    index: Index,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Images, or - for a list on stdin.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="All images whose file is not there any more.")] = False,
) -> None:
    """Take images out of the index: no search finds them from now on.

    Their rows stay in the files, as dead ones, until `index compact`. An id that is not in the index is an error, and
    nothing is removed then.
    """
    screen = Screen(output)

    from fewvit.retrieval import growth
    from fewvit.retrieval.folder import IndexFolder
    from fewvit.retrieval.pictures import MISSING, Pictures

    names = _names(ids)
    if missing:
        opened = opened_index(index, check=False)
        rows, pictures = opened.live, Pictures(opened)
        pictures.require_sources()
        states = pictures.states(rows)
        names += opened.ids(rows[[state == MISSING for state in states]])
    if not names and not missing:
        raise UsageError("no image named: give ids, - for a list on stdin, or --missing")
    _show_changes(screen, index, growth.remove(IndexFolder(index), names))


@command(app)
def compact(output: Output, index: Index) -> None:
    """Rewrite the index without dead rows, as one piece; answers stay what they were."""
    screen = Screen(output)

    from fewvit.retrieval import growth
    from fewvit.retrieval.folder import IndexFolder

    _show_changes(screen, index, growth.compact(IndexFolder(index), notify=screen.notify))


@command(app, out=RESULT)
def search(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    index: Index,
    queries: Annotated[
        list[str] | None,
        typer.Argument(metavar="SRC…", help="Image files, folders, features (.npz), or - for a list on stdin."),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", metavar="ID", help="An image of the index as the query; repeatable.")
    ] = None,
    unwanted: Annotated[
        list[str] | None, typer.Option("--not", metavar="FILE", help="An image of what is not wanted; repeatable.")
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option("--combine", metavar="mean|max", help="All queries as one: their mean, or the best of them."),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Images to find for each query.")] = 10,
    threshold: Annotated[
        float | None, typer.Option("--threshold", metavar="COSINE", help="The least score of an image.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Only images of this class; repeatable.")
    ] = None,
    folder: Annotated[
        str, typer.Option("--folder", metavar="PREFIX", help="Only images whose id begins with this.")
    ] = "",
    gallery: Annotated[
        Path | None, typer.Option("--gallery", metavar="FILE.html", help="Also write a page with the pictures inside.")
    ] = None,
) -> None:
    """The images of the index that are nearest to a query, by the cosine of their features.

    An image that is no longer what was indexed is marked `missing` or `changed`.
    """
    screen = Screen(output)

    from fewvit.results import Result, manifest
    from fewvit.retrieval.describe import found_rows
    from fewvit.retrieval.opened import OnlyThese
    from fewvit.retrieval.searching import Request, run_search

    if k < 1:
        raise UsageError(f"--k {k}: a search needs at least one neighbour")
    sources = _names(queries)
    opened = opened_index(index)
    needs_backbone = bool(sources or unwanted)
    reads = reader_of(opened, model, features, access, place, work, screen, "0", layout) if needs_backbone else None
    request = Request(sources, like or (), unwanted or (), combine, k, threshold, OnlyThese(classes or (), folder))
    asked, near, facts = run_search(opened, request, reads, listing(listed))
    rows = found_rows(opened, [query.name for query in asked], near)
    if not rows:
        screen.notify("nothing found: no image of the index is let through by --class, --folder and --threshold")
    screen.result(Result("index", rows, manifest(**facts)))
    if gallery is not None:
        from fewvit.retrieval.gallery import save_gallery

        save_gallery(gallery, opened, rows, near, asked)
        screen.notify(f"wrote {gallery}")


@command(app, out=RESULT)
def evaluate(
    access: Access,
    place: Place,
    listed: Listed,
    work: Work,
    output: Output,
    index: Index,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries", metavar="SRC", help="Images or features (.npz) to ask with. Default: the index's own images."
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", metavar="NAME", help="What is a right answer; labels/1: an image of the same class."
        ),
    ] = "labels/1",
    truth: Annotated[
        str | None, typer.Option("--truth", metavar="FILE", help="The ground truth of a benchmark, as JSON or CSV.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="The queries are in the index; each is left out of its own answer.")
    ] = False,
    background: Annotated[
        str | None,
        typer.Option("--background", metavar="SRC", help="Other images, that a protocol's whitening is learnt from."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="SRC", help="Other queries, on which met/1 chooses its numbers."),
    ] = None,
    query_box: Annotated[
        bool | None,
        typer.Option("--query-box/--no-query-box", help="Crop queries to their box. Default: as the protocol says."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
) -> None:
    """How well the images of the index are found: recall@k, mAP@R and others by labels, or a benchmark's protocol."""
    screen = Screen(output)

    from fewvit.results import Result, manifest
    from fewvit.retrieval.evaluating import EvaluationRequest, run_evaluate

    opened = opened_index(index)
    reads = reader_of(opened, Model(), Features(device=device), access, place, work, screen, "0")
    request = EvaluationRequest(queries, protocol, truth, leave_one_out, background, validation, query_box)
    rows, facts = run_evaluate(opened, request, reads, listing(listed))
    screen.result(Result("index", rows, manifest(**facts)))


@command(app)
def info(output: Output, index: Index) -> None:
    """What the index is: images, dead rows, kind, measured recall, backbone, bytes."""
    from fewvit.retrieval.describe import index_facts

    Screen(output).facts("index", index_facts(opened_index(index, check=False)))


@command(app)
def verify(
    output: Output,
    index: Index,
    images: Annotated[
        bool, typer.Option("--images", help="Also look whether the images' files are what was indexed.")
    ] = False,
) -> None:
    """Compare every file of the index with its digest, and look at what is in it. A damaged one is named (exit 4)."""
    screen = Screen(output)

    from fewvit.retrieval.pictures import CHANGED, MISSING, Pictures

    opened = opened_index(index)
    opened.verify()
    facts = {"index": str(index), "images": len(opened), "files": len(opened.manifest.files) + 2, "whole": True}
    if images:
        rows = opened.live
        states = Pictures(opened).states(rows)
        facts |= {"missing": states.count(MISSING), "changed": states.count(CHANGED)}
        screen.states(opened.ids(rows), states, (MISSING, CHANGED))
    screen.facts("index", facts)


command(app, out=RESULT)(duplicates)
command(app, out=EXPORT)(export)
command(app)(serve)


def _names(given: Sequence[str] | None) -> list[str]:
    """The names given, with those of a list on stdin in place of a dash."""
    names: list[str] = []
    if "-" in (given or ()) and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files, whatever their bytes
    for name in given or ():
        if name == "-":
            lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
            if not lines:
                raise DataError("the list on stdin is empty", fix="Give one name a line.")
            names += lines
        else:
            names.append(name)
    return names


def _bytes(text: str) -> int:
    """A size such as 4G, in bytes. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"--memory {text!r} is no size such as 500M or 4G")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def _show_changes(screen: Screen, index: Path, changes: Changes) -> None:
    from fewvit.retrieval.describe import change_facts

    screen.skipped(changes.skipped)
    facts = change_facts(changes, opened_index(index, check=False))
    if screen.output.format == "table":
        kept = lambda name, value: name == "images" or (value not in (0, None) and name != "computed")  # noqa: E731
        facts = {name: value for name, value in facts.items() if kept(name, value)}
    screen.facts("index", facts)
