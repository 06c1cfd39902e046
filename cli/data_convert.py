"""fewvit data convert"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError, counted, printable

from .inputs import listing
from .shared import Listed, Output
from .show import Screen

_FORMS = ("folder", "shards")
_SHOWN = 3  # changed names


def convert_source(
    listed: Listed,
    output: Output,
    source: Annotated[
        str,
        typer.Argument(metavar="SRC|FILE.pkl", help="Images; or gnd_roxford5k.pkl or gnd_rparis6k.pkl, for JSON."),
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="folder|shards", help="What a place without an ending becomes. Default: folder."),
    ] = None,
    per_shard: Annotated[int, typer.Option("--per-shard", metavar="N", min=1, help="Images of each shard.")] = 10_000,
) -> None:
    """A set in another form, its images' bytes as they are; or the ground truth of revisited Oxford or Paris as JSON.

    The ending of --out says which: .csv, .tsv or .parquet a table of paths, .zip an archive of class folders, .tar a
    shard; without one class folders, or shards. None of the code that a pickle may hold is run.
    """
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE or --out DIR.")
    from fewvit.curation.converting import SUFFIXES, convert_set

    is_truth = source.lower().endswith(".pkl")
    if is_truth != (output.out.suffix.lower() == ".json"):
        raise UsageError(
            f"--out {printable(output.out)}: .json is what a .pkl of ground truth becomes, and nothing else",
            fix="Give --out FILE.json." if is_truth else f"Give one of {', '.join(SUFFIXES)}, or a folder.",
        )
    if is_truth:
        _ground_truth(Path(source), output.out, screen)
        return
    if to is not None and to not in _FORMS:
        raise UsageError(f"--to {to!r} is not one of {', '.join(_FORMS)}")
    from fewvit.sources import announce

    if to is not None and output.out.suffix.lower() in SUFFIXES:
        raise UsageError(f"--to {to} is for a place without an ending, and --out ends in {output.out.suffix}")
    done = convert_set(
        source,
        output.out,
        listing(listed),
        shards=to == "shards",
        per_shard=per_shard,
        announce=lambda images: announce(images, screen.notify),
        progress=_progress(screen),
    )
    for note in done.notes:
        screen.notify(note)
    if done.changed:
        shown = ", ".join(f"{printable(id_)} is {printable(name)}" for id_, name in done.changed[:_SHOWN])
        more = " …" if len(done.changed) > _SHOWN else ""
        screen.notify(f"{counted(len(done.changed), 'image has', 'images have')} another name there: {shown}{more}")
    screen.rows("data", [{"images": done.images, "classes": done.classes, "files": done.files}])
    screen.notify(f"wrote {printable(output.out)}")


def _progress(screen: Screen) -> Callable[[int, int], None]:
    import time

    started = time.perf_counter()

    def tell(done: int, of: int) -> None:
        elapsed = time.perf_counter() - started
        if elapsed >= 1 and (done == of or done % 256 == 0):
            screen.line([f"{done}/{of} images written"], elapsed * (of - done) / done, done / of, done=done == of)

    return tell


def _ground_truth(source: Path, out: Path, screen: Screen) -> None:
    """The ground truth of a revisited benchmark as JSON."""
    from fewvit.retrieval.ground_truth import KINDS, name_of_file, revisited_from, save_revisited
    from fewvit.untrusted.plain_pickle import read_plain_pickle

    truth = revisited_from(read_plain_pickle(source), source, name_of_file(source))
    save_revisited(out, truth)
    judged = {kind: sum(len(getattr(one, kind)) for one in truth.truth) for kind in KINDS}
    screen.rows("data", [{"name": truth.name, "images": len(truth.images), "queries": len(truth.queries), **judged}])
    screen.notify(f"wrote {printable(out)}")
