"""A CSV, TSV or Parquet table with a column of paths, or of images, and if they are labelled one of labels."""

from __future__ import annotations

import os

from ..errors import from_os_error
from . import Dataset, Listing
from ._located import of_paths
from ._parquet import open_parquet
from ._text_table import read_text


class Table:
    """Paths are relative to the table's folder, or absolute; an id is the path as written; an empty label is none."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether it is a file that ends in .csv, .tsv or .parquet."""
        return source.lower().endswith((".csv", ".tsv", ".parquet")) and os.path.isfile(source)

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """A row per image, by the bytes of its path.

        Raises DataError as `Format.open`, MissingExtra without pyarrow.
        """
        try:
            if source.lower().endswith(".parquet"):
                return open_parquet(source, listing)
            return of_paths(source, listing, *read_text(source, listing))
        except OSError as error:
            raise from_os_error(error, "reading the table") from error
