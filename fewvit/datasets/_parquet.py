"""What a Parquet file lists: paths, or the images themselves."""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING

from ..digests import identity_of
from ..errors import DataError, FewvitError, printable
from . import Dataset, Listing
from ._arrow import readable, require_arrow
from ._columns import Columns, Rows, choose_columns
from ._embedded import Block, embedded, image_column, is_text, joined, labels_of
from ._located import of_paths

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_LARGEST_GROUP = 1 << 30  # bytes of images that are in memory so that one of them can be read
_KIND = "Parquet file"


def open_parquet(source: str, listing: Listing) -> Dataset:
    """The images of a Parquet file.

    Raises DataError for a damaged file, for columns that hold neither, and as `of_paths`; MissingExtra.
    """
    require_arrow(source, "reading Parquet")
    from pyarrow.parquet import ParquetFile

    with readable(source, _KIND), ParquetFile(source) as file:
        images = image_column(source, file.schema_arrow, listing)
        if images is not None:
            return _of_images(source, file, images, listing)
        columns = choose_columns(source, file.schema_arrow.names, listing)
        rows = _rows(source, file, columns)
    return of_paths(source, listing, rows, columns.notes())


def _rows(source: str, file: ParquetFile, columns: Columns) -> Rows:
    """The rows of a file that lists paths."""
    name = columns.names[columns.path]
    kind = file.schema_arrow.field(columns.path).type
    if not is_text(kind):
        raise DataError(
            f"column {printable(name)} holds {printable(kind)}, expected text: paths of images",
            file=source,
            fix="Name another column with --path-column.",
        )
    rows = Rows()
    wanted = [name, *([] if columns.label is None else [columns.names[columns.label]])]
    for batch in file.iter_batches(columns=wanted):
        for path, label in zip(batch.column(name).to_pylist(), labels_of(source, batch, columns), strict=True):
            if not path:
                raise DataError(f"no path in row {len(rows.paths)}", file=source)
            rows.add(os.fsdecode(path), label)
    return rows


def _of_images(source: str, file: ParquetFile, columns: Columns, listing: Listing) -> Dataset:
    """The rows of a file that holds the images."""
    name = columns.names[columns.path]
    container, path = identity_of(os.stat(source)), os.path.abspath(source)
    blocks = []
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        chunks = [facts.column(i) for i in range(facts.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in (name, f"{name}.bytes"))
        if size > _LARGEST_GROUP:
            raise DataError(
                f"{size >> 20} MB of images in one row group: all of them are read to read one",
                file=source,
                fix="Write it with fewer rows in a group, as row_group_size=100 of pyarrow.parquet.write_table does.",
            )
        blocks.append(Block(facts.num_rows, container, path, functools.partial(_group, path, group, name)))
    label = [] if columns.label is None else [columns.names[columns.label]]
    # what the image is called, where that is kept: a column that is not there is none
    batches = file.iter_batches(columns=[f"{name}.path", *label])
    return embedded(source, listing, columns, batches, blocks)


def _group(path: str, group: int, name: str) -> pyarrow.Array:
    """The images of a row group. Raises OSError for whatever is wrong."""
    from pyarrow.parquet import ParquetFile

    try:
        with readable(path, _KIND), ParquetFile(path) as file:
            table = file.read_row_group(group, columns=[name, f"{name}.bytes"], use_threads=False)
            return joined(table.column(name))
    except FewvitError as error:
        raise OSError(errno.EIO, f"damaged row group {group}", path) from error
