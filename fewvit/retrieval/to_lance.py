"""An index as a table of Lance, which is read back and asked before it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import IntegrityError, printable
from ..files import replacing_folder
from ..results import Facts
from .exported import BLOCK, Rows, Target, about, commit, require_free, require_module, verified
from .opened import OpenIndex


class Lance:
    """A table in a folder."""

    def require(self, target: Target) -> None:
        """Raise UsageError without a folder, and for what only Qdrant has."""
        target.folder_alone("lance")

    def export(self, index: OpenIndex, target: Target) -> Facts:
        """Write the table. Raises as `export_lance`."""
        return export_lance(index, target.folder())


def export_lance(index: OpenIndex, out: Path) -> Facts:
    """Write an index as one table of Lance, `images.lance`: id, label, vector, digest; read back and compared.

    Raises as `export_files`, IntegrityError where what is read back is another thing.
    """
    require_free(out)
    require_module("lance", "writing Lance", "lance")
    rows = Rows(index)
    with replacing_folder(out) as folder:
        facts = {**about(rows), "verified": _write_lance(rows, folder / "images.lance")}
        commit(folder, facts)
    return facts


def _write_lance(rows: Rows, path: Path) -> Facts:
    import lance
    import pyarrow

    width = rows.index.dimension
    schema = pyarrow.schema(
        {
            "id": pyarrow.string(),
            "label": pyarrow.string(),
            "vector": pyarrow.list_(pyarrow.float32(), width),
            "digest": pyarrow.string(),
        }
    )

    def batches() -> Iterator[Any]:
        for block in rows.blocks():
            values = pyarrow.array(np.ascontiguousarray(block.features).reshape(-1))
            vectors = pyarrow.FixedSizeListArray.from_arrays(values, width)
            columns = block.columns()
            yield pyarrow.record_batch([columns["id"], columns["label"], vectors, columns["digest"]], schema=schema)

    lance.write_dataset(pyarrow.RecordBatchReader.from_batches(schema, batches()), str(path), schema)
    table = lance.dataset(str(path))
    _require_same(rows, table)

    def find(queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        near = [
            table.to_table(
                columns=["id", "_distance"], nearest={"column": "vector", "q": q, "k": k, "metric": "cosine"}
            )
            for q in queries
        ]
        return [[(row["id"], 1 - row["_distance"]) for row in one.to_pylist()] for one in near]

    return verified(rows, find, "Lance")


def _require_same(rows: Rows, table: Any) -> None:
    """Raise IntegrityError unless a table of Lance holds every row, bit for bit."""
    start = 0
    for batch in table.to_batches(columns=["id", "vector"], batch_size=BLOCK, scan_in_order=True):
        vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        own = rows.rows[start : start + len(batch)]
        ids = [printable(name) for name in rows.index.ids(own)]
        if batch.column("id").to_pylist() != ids or not np.array_equal(vectors, rows.features(own)):
            raise IntegrityError(f"what Lance gives back is not what was written, from row {start} on")
        start += len(batch)
    if start != len(rows):
        raise IntegrityError(f"Lance gives back {start} rows of {len(rows)}")
