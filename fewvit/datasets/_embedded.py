"""Tables whose rows hold the images themselves, as the Hugging Face hub keeps them: which column, which labels, and a
reader of one row.

Source of the layout: the documentation of the library `datasets` (features Image and ClassLabel), as its version 3
writes it.
"""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..digests import part_identity
from ..errors import DataError, printable, some
from ..files import refuse_size
from ..untrusted.texts import json_of
from . import Dataset, Listing
from ._classes import twins
from ._columns import LABELS, PATHS, Columns, Rows, class_name, find_name, folded
from ._listing import name_of

if TYPE_CHECKING:
    import pyarrow

# columns that hold the bytes of images, where they hold bytes at all
_IMAGES = ("image", "img", "image_bytes", "bytes", "picture", "photo", "jpg", "jpeg", "png", "webp", "content", "data")
_KEPT = 2  # blocks in memory: decoding threads are at most at the end of one and the beginning of the next


def is_text(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds text, or bytes, for which a path may stand."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null, _is_binary)
    return any(is_one(kind) for is_one in texts)


def _is_binary(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_image(kind: pyarrow.DataType) -> bool:
    """Whether a column is of the hub's type of images: the bytes of each, and what it was called."""
    import pyarrow.types as types

    if not types.is_struct(kind):
        return False
    place = kind.get_field_index("bytes")
    return place >= 0 and _is_binary(kind.field(place).type)


def image_column(source: str, schema: pyarrow.Schema, listing: Listing) -> Columns | None:
    """The columns of images and of labels, or None where no column holds images.

    Raises DataError where several do and none of them is the one that was asked for.
    """
    names = schema.names
    holds = [_is_image(field.type) or (_is_binary(field.type) and folded(field.name) in _IMAGES) for field in schema]
    asked = (
        None if listing.path_column is None else find_name(source, names, PATHS, listing.path_column, "--path-column")
    )
    if asked is not None:
        if not holds[asked]:
            return None
        place = asked
    else:
        places = [i for i, is_one in enumerate(holds) if is_one]
        if not places:
            return None
        if len(places) > 1:
            raise DataError(
                f"{len(places)} of its columns hold images: {some([names[i] for i in places])}",
                file=source,
                fix="Name one of them with --path-column.",
            )
        [place] = places
    label = find_name(source, names, LABELS, listing.label_column, listing.label_flag)
    return Columns(names, place, label, assumed=True, holds="images", besides=listing.read_besides)


def labels_of(source: str, batch: pyarrow.RecordBatch, columns: Columns) -> Sequence[str | None]:
    """The class name of each row of a batch. Raises DataError for a column that holds neither text nor numbers."""
    if columns.label is None:
        return [None] * batch.num_rows
    name = columns.names[columns.label]
    values, named = batch.column(name).to_pylist(), _class_names(batch.schema, name)
    try:
        if named is None:
            return [class_name(value) for value in values]
        known: dict[Any, str | None] = {None: None, -1: None, **dict(enumerate(named))}  # the hub's -1 is no label
        return [known[value] for value in values]
    except KeyError as error:
        raise DataError(f"label {error} is beyond its {len(named or ())} class names", file=source) from error
    except ValueError as error:
        fix = "Name another column with --label-column."
        raise DataError(f"a label in column {printable(name)} {error}", file=source, fix=fix) from error


def _class_names(schema: pyarrow.Schema, column: str) -> list[str] | None:
    """What the numbers of a column stand for, where the file says so in the hub's way."""
    try:
        features = json_of((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


@dataclass(frozen=True)
class Block:
    """Rows that are read at once, and how."""

    rows: int
    container: bytes  # identity of the file they are in
    path: str
    read: Callable[[], pyarrow.Array]  # (rows,) of the column of images


def embedded(
    source: str, listing: Listing, columns: Columns, batches: Iterable[pyarrow.RecordBatch], blocks: Sequence[Block]
) -> Dataset:
    """The images of such a table. `batches` have its names and labels, `blocks` its images, both in the rows' order.

    An id is the row's number, with the name that the image had where that is known. Raises DataError for no row, and as
    `labels_of`.
    """
    rows = Rows()
    for batch in batches:
        for name, label in zip(_names(batch, columns), labels_of(source, batch, columns), strict=True):
            rows.add(name, label)
    if not rows.paths:
        raise DataError("no rows", file=source)
    if sum(block.rows for block in blocks) != len(rows.paths):
        raise DataError("damaged: its columns have different numbers of rows", file=source)
    width = len(str(len(rows.paths) - 1))
    ids = [f"{row:0{width}d}{'/' if name else ''}{name}" for row, name in enumerate(rows.paths)]
    labels, classes = rows.numbered()
    notes = [*columns.notes(), *twins(classes)]
    return Dataset(name_of(source), ids, labels, classes, Reader(blocks, listing.max_bytes), {}, notes)


def _names(batch: pyarrow.RecordBatch, columns: Columns) -> Sequence[str]:
    """What each image was called, without folders; empty where that is not known."""
    import pyarrow.types as types

    name = columns.names[columns.path]
    place = batch.schema.get_field_index(name)
    kind = None if place < 0 else batch.schema.field(place).type
    if kind is None or not types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [""] * batch.num_rows
    written = batch.column(place).field("path").to_pylist()
    return [str(name or "").replace("\\", "/").rpartition("/")[2] for name in written]


def joined(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    """The chunks of a column as one array."""
    import pyarrow

    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pyarrow.ChunkedArray) and whole.num_chunks == 1 else whole


class Reader:
    """Reads images of rows; the blocks that were read last are kept, for the rows that follow."""

    def __init__(self, blocks: Sequence[Block], max_bytes: int):
        self._blocks, self._max_bytes = blocks, max_bytes
        self._ends = np.cumsum([block.rows for block in blocks])
        self._kept: OrderedDict[int, pyarrow.Array] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, i: int) -> bytes:
        """The bytes of the image in row `i`. Raises OSError for none, too many, and a block that cannot be read."""
        number, row = self._place(i)
        column = self._block(number)
        image = column[row]
        if hasattr(image, "keys"):
            image = image["bytes"]
        if not image.is_valid:
            raise OSError(errno.ENODATA, "the row names an image but does not hold it", self.place(i))
        data = image.as_buffer()
        refuse_size(data.size, self._max_bytes, self.place(i))
        return data.to_pybytes()

    def identity(self, i: int) -> bytes | None:
        """That of the file and the row in it, as `Dataset.identity`."""
        return part_identity(self._blocks[self._place(i)[0]].container, i)

    def place(self, i: int) -> str:
        """The file, and the row of the source in it."""
        return f"{self._blocks[self._place(i)[0]].path}/{i}"

    def _place(self, i: int) -> tuple[int, int]:
        """The block that row `i` is in, and its row there."""
        number = int(np.searchsorted(self._ends, i, "right"))
        return number, i - int(self._ends[number] - self._blocks[number].rows)

    def _block(self, number: int) -> pyarrow.Array:
        with self._lock:
            if number not in self._kept:
                column = self._blocks[number].read()
                if len(column) != self._blocks[number].rows:
                    raise OSError(errno.EIO, "damaged block of images", self._blocks[number].path)
                self._kept[number] = column
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]
