"""A folder that `save_to_disk` of Hugging Face's library `datasets` wrote: Arrow files that hold the images."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from ..digests import identity_of
from ..errors import DataError, from_os_error, printable, some
from ..untrusted.texts import json_of
from . import Dataset, Listing
from ._arrow import readable, require_arrow
from ._embedded import Block, embedded, image_column
from ._listing import SAVED, kind_of_folder

if TYPE_CHECKING:
    import pyarrow

_KIND = "Arrow file"


class Saved:
    """`state.json` names the files, `data-00000-of-00003.arrow` and so on, each a stream of rows."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether the two files that say what is in it lie in the folder."""
        return kind_of_folder(source) == SAVED

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """A row per image, in the order of the rows.

        Raises DataError as `Format.open`, MissingExtra without pyarrow.
        """
        require_arrow(source, "reading Arrow files")
        try:
            files = _files(source)
            tables = []
            for path in files:
                with readable(path, _KIND):
                    tables.append(_mapped(path))
            different = [path for path, table in zip(files, tables, strict=True) if table.schema != tables[0].schema]
            if different:
                raise DataError("has other columns than the files before it", file=different[0])
            columns = image_column(source, tables[0].schema, listing)
            if columns is None:
                raise DataError(
                    f"no column holds images; its columns are {some(tables[0].schema.names, 12)}", file=source
                )
            name = columns.names[columns.path]
            blocks = [
                Block(len(chunk), identity_of(os.stat(path)), path, functools.partial(_same, chunk))
                for path, table in zip(files, tables, strict=True)
                for chunk in table.column(name).chunks
            ]
            with readable(source, _KIND):
                return embedded(
                    source, listing, columns, (batch for table in tables for batch in table.to_batches()), blocks
                )
        except OSError as error:
            raise from_os_error(error, "reading the saved data set") from error


def _same(column: pyarrow.Array) -> pyarrow.Array:
    return column


def _mapped(path: str) -> pyarrow.Table:
    """A file's rows, which stay on the disk until they are asked for."""
    import pyarrow

    table = pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()
    table.validate(full=True)  # of images only where each begins and ends: a damaged file must not end the process
    return table


def _files(source: str) -> list[str]:
    """The paths of the Arrow files, in their order. Raises DataError where `state.json` does not say them."""
    state = os.path.join(source, "state.json")
    try:
        with open(state, encoding="utf-8") as handle:
            names = [str(entry["filename"]) for entry in json_of(handle.read())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("does not name the files of a saved data set", file=state) from error
    away = [name for name in names if os.path.basename(name) != name or name in ("", ".", "..")]
    if away or not names:
        raise DataError(f"names {printable(away[0]) if away else 'no file'}, expected files beside it", file=state)
    return [os.path.join(os.path.abspath(source), name) for name in names]
