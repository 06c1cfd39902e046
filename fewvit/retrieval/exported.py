"""An index as files that other programs read: features, ids and what is known of each image.

    features.npy       (N, D) float32, unit rows, in the order of the ids
    ids.txt            N lines
    metadata.parquet   N rows: id, label, digest (sha256 of the image's bytes, in hex), path
    manifest.json      what it is, and sha256 of each file

Only live images are in it. Bytes of a file name that are no UTF-8, and characters that do not print, are shown as
escapes (backslashes) in all three, since these formats hold text; the manifest counts them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError, IntegrityError, MissingExtra, UsageError, printable
from ..files import replacing_folder, sha256_of, write_json
from ..neighbors import normalise
from ..neighbors.pairs import UnitRows, nearest_rows
from ..results import Facts
from ..seeds import generator
from ..untrusted.texts import json_of
from .opened import OpenIndex
from .pictures import Pictures
from .segment import UNKNOWN

SCHEMA = "fewvit.export/1"
BLOCK = 16384  # rows that are in memory at once
_QUERIES, _AT = 20, 10  # images that are looked for in both, and how many neighbours of each must agree
_TIED = 1e-5  # scores this near may be in another order elsewhere

Find = Callable[[np.ndarray, int], list[list[tuple[str, float]]]]  # (queries, k) -> ids and scores of each


@dataclass(frozen=True)
class Target:
    """Where an export goes; each way to export says what of it is its own."""

    out: Path | None = None  # a folder
    url: str | None = None  # a server
    collection: str = "images"  # of the server
    eight_bit: bool = False  # 8-bit copies beside the originals

    def folder_alone(self, way: str) -> Path:
        """The folder. Raises UsageError where there is none, and for a server or 8-bit copies, which `way` lacks."""
        if self.url is not None or self.eight_bit:
            raise UsageError(f"--url and --eight-bit are for Qdrant, not for {way}", fix="Give --to qdrant.")
        return self.folder()

    def folder(self, or_else: str = "") -> Path:
        """The folder. Raises UsageError where there is none."""
        if self.out is None:
            raise UsageError(f"nowhere to write to: give --out DIR{or_else}")
        return self.out


class Way(Protocol):
    """A way to export an index; `cli/index_export.py` names each."""

    def require(self, target: Target) -> None:
        """Raise UsageError where it cannot write to this target, before the index is read."""

    def export(self, index: OpenIndex, target: Target) -> Facts:
        """Write the live images; what was written: `images`, `escaped` and others, `verified` where it was asked."""


@dataclass(frozen=True)
class Block:
    """Some images of an export."""

    ids: list[str]
    features: np.ndarray  # (n, D) float32, unit rows
    labels: list[str | None]
    digests: list[str | None]
    paths: list[str | None]

    def columns(self) -> dict[str, list[str | None]]:
        """What stands in the table."""
        return {"id": [*self.ids], "label": self.labels, "digest": self.digests, "path": self.paths}


class Rows:
    """The live images of an index in the order of their ids."""

    def __init__(self, index: OpenIndex):
        self.index, self._pictures = index, Pictures(index)
        self.rows = _in_order_of_ids(index)
        if len(self.rows) == 0:
            raise DataError("no image is in this index", file=index.path)

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Block]:
        """All of them, a block after another."""
        for start in range(0, len(self.rows), BLOCK):
            rows = self.rows[start : start + BLOCK]
            ids, labels = self.index.ids(rows), self.index.class_names(rows)
            digests = [None if d == UNKNOWN else d.hex() for d in self.index.records(rows)["digest"].tolist()]
            yield Block(
                [printable(name) for name in ids],
                self.features(rows),
                [None if label is None else printable(label) for label in labels],
                digests,
                [None if path is None else printable(path) for path in map(self._pictures.path, rows.tolist())],
            )

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The features (n, D) float32 of rows of the index; those in half precision are made unit rows again."""
        found = self.index.features(rows)
        return found if self.index.manifest.dtype == "<f4" else normalise(found)

    def escaped(self) -> int:
        """How many ids are not what they are in the index."""
        return sum(
            printable(name) != name
            for start in range(0, len(self.rows), BLOCK)
            for name in self.index.ids(self.rows[start : start + BLOCK])
        )


def _in_order_of_ids(index: OpenIndex) -> np.ndarray:
    live = index.live
    if len(index.segments) <= 1:
        return live  # a segment is sorted
    names = [os.fsencode(name) for name in index.ids(live)]
    return live[np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)]


# ---- files


class Files:
    """NumPy and Parquet in a folder."""

    def require(self, target: Target) -> None:
        """Raise UsageError without a folder, and for what only Qdrant has."""
        target.folder_alone("files")

    def export(self, index: OpenIndex, target: Target) -> Facts:
        """Write the files. Raises as `export_files`."""
        return export_files(index, target.folder())


def export_files(index: OpenIndex, out: Path, more: Callable[[Rows, Path], Facts] = lambda rows, folder: {}) -> Facts:
    """Write an index as files into a folder, which appears when all is written; what was written.

    `more` may add to the folder. Raises MissingExtra without pyarrow, UsageError where something else stands, DataError
    for an index without images.
    """
    require_free(out)
    require_module("pyarrow", "writing Parquet", "table")
    rows = Rows(index)
    with replacing_folder(out) as folder:
        _write_features(rows, folder / "features.npy")
        _write_table(rows, folder)
        facts = {**about(rows), **more(rows, folder)}
        commit(folder, facts)
    return facts


def require_free(out: Path) -> None:
    """Raise UsageError where something else than an export stands, or other files lie in one."""
    if not out.exists():
        return
    try:
        facts = json_of((out / "manifest.json").read_text())
        is_export = facts["schema"] == SCHEMA
        own = {"manifest.json", *(name.partition("/")[0] for name in facts["files"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_export, own = False, set()
    if not is_export and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("--out would replace something that is no export", file=out, fix="Give it another name.")
    foreign = next((path.name for path in sorted(out.iterdir()) if path.name not in own), None)
    if foreign is not None:
        raise UsageError(
            f"--out is an export that holds something else too ({printable(foreign)}), which would be lost",
            file=out,
            fix="Move it away, or give --out another name.",
        )


def require_module(module: str, doing: str, extra: str) -> None:
    """Raise MissingExtra, naming the extra, unless a package is installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(f"{doing} needs {module}", fix=f"pip install 'fewvit[{extra}]'.")


def _write_features(rows: Rows, path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), rows.index.dimension)}
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for start in range(0, len(rows), BLOCK):
            handle.write(np.ascontiguousarray(rows.features(rows.rows[start : start + BLOCK]), "<f4").data)


def _write_table(rows: Rows, folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema(dict.fromkeys(("id", "label", "digest", "path"), "string"))
    with (
        ParquetWriter(folder / "metadata.parquet", schema) as writer,
        open(folder / "ids.txt", "w", encoding="utf-8", newline="\n") as lines,
    ):
        for block in rows.blocks():
            writer.write_table(pyarrow.table(block.columns(), schema=schema))
            lines.writelines(name + "\n" for name in block.ids)


def about(rows: Rows) -> Facts:
    """What an export is, for its manifest."""
    manifest = rows.index.manifest
    return {
        "images": len(rows),
        "dimension": manifest.dimension,
        "unit_rows": True,
        "backbone": manifest.backbone,
        "fingerprint": manifest.fingerprint,
        "pipeline": dict(manifest.facts),
        "version": manifest.version,
        "escaped": rows.escaped(),
    }


def commit(folder: Path, facts: Facts) -> None:
    """Write the manifest of an export, with size and sha256 of every file that is in the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / "manifest.json", {"schema": SCHEMA, **facts, "files": files})


# ---- verification


def verified(rows: Rows, find: Find, where: str) -> Facts:
    """How many images were looked for here and there with the same nearest ten; ties may be in any order.

    Raises IntegrityError where one answer is another one.
    """
    drawn = generator("verify", len(rows)).permutation(len(rows))[:_QUERIES]
    queries = rows.features(rows.rows[drawn])
    k = min(_AT, len(rows))
    at, scores = nearest_rows(UnitRows(len(rows), lambda some: rows.index.features(rows.rows[some])), queries, k)
    for query, found in enumerate(find(queries, k)):
        ids = [printable(name) for name in rows.index.ids(rows.rows[at[query]])]
        if not _agree(list(zip(ids, scores[query].tolist(), strict=True)), found):
            raise IntegrityError(
                f"{where} finds other images for {ids[0]} than this index does",
                fix="What was written there is not to be trusted; remove it.",
            )
    return {"queries": len(drawn), "neighbours": k, "agree": len(drawn)}


def _agree(own: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    """Whether two answers have the same scores, and the same ids but for those that tie with the last one."""
    if len(own) != len(other) or any(abs(a - b) > _TIED for (_, a), (_, b) in zip(own, other, strict=True)):
        return False
    last = own[-1][1] + 2 * _TIED
    return {name for name, score in own if score > last} <= {name for name, _ in other} and {
        name for name, score in other if score > last
    } <= {name for name, _ in own}
