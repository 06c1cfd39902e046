"""fewvit data split"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import DataError, UsageError, printable, some

from .inputs import listing
from .shared import Listed, Output
from .show import Screen

if TYPE_CHECKING:
    import numpy as np

    from fewvit.datasets import Dataset, Listing


def split_source(
    listed: Listed,
    output: Output,
    source: Annotated[str, typer.Argument(metavar="SRC", help="Images: a folder or a table.")],
    parts: Annotated[
        str, typer.Option("--parts", metavar="NAME=SHARE,…", help="The parts and their shares, which add up to 1.")
    ] = "train=0.8,val=0.2",
    group_column: Annotated[
        str | None,
        typer.Option("--group-column", metavar="NAME", help="Column of a table: images of one value stay together."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option("--shots", metavar="N,…", help="Also draw so many images per class from the first part, nested."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    allow_fewer: Annotated[
        bool, typer.Option("--allow-fewer", help="Keep what there is where a class is too small for all parts.")
    ] = False,
) -> None:
    """Part a set: of each class the same shares, groups together. Writes tables; no file is moved or copied.

    FILE.csv has every image with its part; FILE.train.csv, FILE.val.csv and so on have one part each, for --train and
    --test of other commands.
    """
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.csv, or --out DIR.")
    from fewvit.curation.split_tables import save_parts, tables_at
    from fewvit.curation.splitting import shares_of, split_set
    from fewvit.datasets import open_dataset
    from fewvit.sources import announce

    shares, numbers = shares_of(parts), _numbers(shots)
    files = tables_at(output.out, list(shares), numbers)
    images = announce(open_dataset(source, replace(listing(listed), read_besides=group_column)), screen.notify)
    groups = None if group_column is None else _groups(source, listing(listed), group_column, images)
    found = split_set(images, shares, seed, groups=groups, shots=numbers, allow_fewer=allow_fewer)
    saved = save_parts(files, images, found, source)
    screen.rows(
        "data",
        [{"part": name or "all", "images": saved.rows[name], "file": str(file)} for name, file in files.items()],
    )
    if saved.removed:
        screen.notify(f"removed of an earlier split: {some([str(file) for file in saved.removed])}")
    if saved.left:
        left = some([str(file) for file in saved.left])
        screen.notify(f"left, as it is no longer what the earlier split wrote: {left}")
    screen.notify(f"wrote {printable(output.out)}")


def _numbers(shots: str | None) -> list[int]:
    try:
        numbers = [int(word) for word in (shots or "").split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers) or (shots is not None and not numbers):
        raise UsageError(f"--shots {shots!r} is no list of whole numbers above 0", fix="Write it as 1,2,5.")
    return numbers


def _groups(source: str, how: Listing, column: str, images: Dataset) -> np.ndarray:
    """The group (N,) of each image: what a table has in that column, read as labels are. Raises DataError."""
    from fewvit.datasets import open_dataset

    if not source.lower().endswith((".csv", ".tsv", ".parquet")):
        raise UsageError(f"--group-column {column} is a column of a table, and {printable(source)} is none")
    grouped = open_dataset(source, replace(how, label_column=column, label_flag="--group-column"))
    if list(grouped.ids) != list(images.ids):
        raise DataError(f"column {printable(column)} is of other images: {some(list(grouped.ids), 2)}", file=source)
    return grouped.labels
