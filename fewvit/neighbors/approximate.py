"""Candidate neighbours from a structure of FAISS: faster or smaller than comparing every row, and not always complete.

A structure names rows; their scores are computed from the features themselves, by `Bank.score`, so that a score never
depends on the structure. Each kind below answers for itself: how it is made, what it holds in memory, and the ladder of
efforts that trade time for recall.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import IntegrityError, refuse_out_of_memory
from .installed import faiss_gpu_works, faiss_library

_ADD_ROWS = 65536  # rows that are added at once
_PER_LIST = 64  # training rows of each list of an inverted file; FAISS asks for 39 at least
_CODE_ROWS = 65536  # training rows of a product quantiser: 256 times its 256 values
FEWEST = 32  # rows of a structure: a 4-bit code has 16 values to learn, and half of the rows may be held out
_SEED = 1234  # of FAISS's clustering, as its own


@dataclass(frozen=True)
class Effort:
    """How hard a structure is asked to look. More of either gives more recall and takes longer."""

    visited: int  # lists of an inverted file that are read, or the breadth of a walk through a graph
    rerank: int  # candidates per neighbour wanted, whose exact scores decide

    def facts(self) -> dict[str, int]:
        """For a manifest."""
        return asdict(self)


class Kind(Protocol):
    """A kind of structure."""

    @property
    def half(self) -> bool:
        """Whether the features beside it are kept in float16."""

    def bytes_per_row(self, rows: int, dimension: int) -> float:
        """Memory that a search holds for each row, in bytes; the features on disk are not counted."""

    def build(self, features: np.ndarray, held_out: np.ndarray) -> Any:
        """The FAISS index of these unit rows (N, D), which may be mapped from a file.

        Nothing is trained on the rows `held_out` (n,), where others are enough.
        """

    def efforts(self, rows: int) -> list[Effort]:
        """From the least effort to the greatest."""

    def parameters(self, effort: Effort, selector: Any) -> Any:
        """FAISS's search parameters; `selector` is None where every row may be found."""

    def written(self, index: Any) -> np.ndarray:
        """The bytes of the index, as uint8."""

    def complete(self, index: Any, features: np.ndarray) -> Any:
        """An index that was read from `written`, ready to search. Raises IntegrityError for one of another kind."""


@dataclass(frozen=True)
class Hnsw:
    """A graph of near rows (HNSW, 32 links a row), walked over 8-bit copies of the features."""

    half: bool = False
    links: int = 32

    def bytes_per_row(self, rows: int, dimension: int) -> float:
        """8 bits a column, and 2 x 32 links of 4 bytes on the lowest level; the levels above are few."""
        return dimension + 2 * self.links * 4 + 16.0

    def build(self, features: np.ndarray, held_out: np.ndarray) -> Any:
        """The graph, made with the features in float32."""
        faiss = faiss_library()
        index = faiss.IndexHNSWFlat(features.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        _add(index, features)
        return index

    def efforts(self, rows: int) -> list[Effort]:
        """Breadths from 32 to 2048."""
        return [Effort(breadth, 2 if breadth < 256 else 4) for breadth in (32, 64, 128, 256, 512, 1024, 2048)]

    def parameters(self, effort: Effort, selector: Any) -> Any:
        """The breadth of the walk is FAISS's efSearch."""
        return faiss_library().SearchParametersHNSW(sel=selector, efSearch=effort.visited)

    def written(self, index: Any) -> np.ndarray:
        """The graph alone: the features stand beside it already."""
        return _written(index, faiss_library().IO_FLAG_SKIP_STORAGE)

    def complete(self, index: Any, features: np.ndarray) -> Any:
        """The graph over 8-bit copies of the features, which are made here: their range is that of each column."""
        faiss = faiss_library()
        _require_type(index, "IndexHNSWFlat", faiss.METRIC_INNER_PRODUCT)
        storage = faiss.IndexScalarQuantizer(
            features.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        storage.train(np.stack([features.min(axis=0), features.max(axis=0)]).astype(np.float32))
        _add(storage, features)
        storage.this.disown()  # it belongs to the graph, and goes with it
        index.storage, index.own_fields = storage, True
        return index


@dataclass(frozen=True)
class Ivf:
    """An inverted file: rows in lists by their nearest centroid, as 8-bit copies."""

    half: bool = False

    def bytes_per_row(self, rows: int, dimension: int) -> float:
        """8 bits a column and a row number, and the centroids."""
        return dimension + 8.0 + lists(rows) * dimension * 4 / max(rows, 1)

    def build(self, features: np.ndarray, held_out: np.ndarray) -> Any:
        """About four times the square root of the rows as lists."""
        count = lists(len(features))
        return _filled(f"IVF{count},SQ8", features, features.shape[1], held_out, faiss_library().METRIC_INNER_PRODUCT)

    def efforts(self, rows: int) -> list[Effort]:
        """One list, then twice as many each time, up to all."""
        return [Effort(visited, 2) for visited in _doubling(lists(rows))]

    def parameters(self, effort: Effort, selector: Any) -> Any:
        """The lists read are FAISS's nprobe."""
        return faiss_library().SearchParametersIVF(sel=selector, nprobe=effort.visited)

    def written(self, index: Any) -> np.ndarray:
        """The whole index."""
        return _written(index)

    def complete(self, index: Any, features: np.ndarray) -> Any:
        """The index as it was read."""
        return _require_type(index, "IndexIVFScalarQuantizer", faiss_library().METRIC_INNER_PRODUCT)


@dataclass(frozen=True)
class Compact:
    """4-bit product codes of at most 72 bytes a row, scanned in registers; the features, in float16, stay on disk.

    The codes are compared by distance, which orders unit rows as the cosine does: in a product with the query, what a
    code misses along the direction that all rows share would outweigh what tells them apart. Up to a million rows all
    are in one list; it is an inverted file all the same, since FAISS's plain fast scan cannot leave rows out.
    """

    half: bool = True

    def bytes_per_row(self, rows: int, dimension: int) -> float:
        """4 bits for each part of the row, and a row number, and the centroids."""
        return math.ceil(_parts(dimension)[0] / 2) + 8 + self.lists(rows) * dimension * 4 / max(rows, 1)

    @staticmethod
    def lists(rows: int) -> int:
        """One up to a million rows, then as many as `Ivf` has."""
        return 1 if rows <= 1_000_000 else lists(rows)

    def build(self, features: np.ndarray, held_out: np.ndarray) -> Any:
        """Trained on at most 65,536 rows, or 64 for each list."""
        count, (parts, width) = self.lists(len(features)), _parts(features.shape[1])
        return _filled(f"IVF{count},PQ{parts}x4fs", features, width, held_out, faiss_library().METRIC_L2)

    def efforts(self, rows: int) -> list[Effort]:
        """Of few lists the candidates grow, of many first the lists."""
        count = self.lists(rows)
        some = [Effort(visited, 8) for visited in _doubling(count)]
        return [Effort(count, 4)][: count == 1] + some + [Effort(count, rerank) for rerank in (16, 32, 64, 128)]

    def parameters(self, effort: Effort, selector: Any) -> Any:
        """The lists read are FAISS's nprobe."""
        return faiss_library().SearchParametersIVF(sel=selector, nprobe=effort.visited)

    def written(self, index: Any) -> np.ndarray:
        """The whole index."""
        return _written(index)

    def complete(self, index: Any, features: np.ndarray) -> Any:
        """The index as it was read."""
        return _require_type(index, "IndexIVFPQFastScan", faiss_library().METRIC_L2)


KINDS: dict[str, Kind] = {"hnsw": Hnsw(), "ivf": Ivf(), "compact": Compact()}


class Candidates:
    """A structure over unit rows, which names candidates."""

    def __init__(self, kind: Kind, index: Any, rows: int):
        self.kind, self._index, self.rows = kind, index, rows

    @staticmethod
    def built(kind: Kind, features: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        """The bytes, uint8, that `read` takes, of unit rows (N, D): the same whatever the number of threads.

        Nothing is trained on the rows `held_out`.
        """
        return kind.written(kind.build(features, held_out))

    @classmethod
    def read(cls, kind: Kind, data: memoryview, features: np.ndarray) -> Candidates:
        """From bytes whose digest was compared already, over the unit rows (N, D) that they were made of.

        Raises IntegrityError for what is no such structure. FAISS may ask for no more memory than the bytes take, and
        open no file that they name.
        """
        faiss = faiss_library()
        faiss.set_deserialization_vector_byte_limit(max(len(data), 1 << 20))
        try:
            # the flag lets lists on disk be read from beside a file alone, and there is no file here
            index = faiss.read_index(faiss.PyCallbackIOReader(_reader(data)), faiss.IO_FLAG_ONDISK_SAME_DIR)
        except (RuntimeError, MemoryError) as error:
            refuse_out_of_memory(error, "reading a structure of this index", len(data))
            raise IntegrityError(f"FAISS cannot read it ({_reason(error)})") from error
        width = _width(kind, features.shape[1])
        if (index.ntotal, index.d) != (len(features), width):
            raise IntegrityError(
                f"it holds {index.ntotal} rows of {index.d} columns, and the index has {len(features)} of {width}"
            )
        return cls(kind, kind.complete(index, features), len(features))

    def search(self, queries: np.ndarray, count: int, effort: Effort, live: np.ndarray | None = None) -> np.ndarray:
        """Rows (Q, count) int64 that are probably among the nearest, -1 where fewer were found.

        `live` (N,) bool says which rows may be named; None: all. Raises IntegrityError for rows that do not exist, and
        for a structure that FAISS finds to be inconsistent only now.
        """
        faiss = faiss_library()
        selector = None if live is None else faiss.IDSelectorBitmap(np.packbits(live, bitorder="little"))
        given = _padded(queries, _width(self.kind, queries.shape[1]))
        try:
            _, found = self._index.search(given, min(count, self.rows), params=self.kind.parameters(effort, selector))
        except RuntimeError as error:
            refuse_out_of_memory(error, "searching a structure of this index")
            raise IntegrityError(f"FAISS cannot search it ({_reason(error)})", fix="Build the index again.") from error
        if len(found) and not -1 <= found.min() <= found.max() < self.rows:
            raise IntegrityError("the structure names rows that do not exist", fix="Build the index again.")
        return found


def lists(rows: int) -> int:
    """How many lists an inverted file of so many rows has: about four times their square root, a power of two."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))
    return max(1, min(wanted, rows // 80))  # at least 39 to train each, and half of the rows may be held out


def _doubling(most: int) -> Iterator[int]:
    """1, 2, 4, … and at last `most`."""
    value = 1
    while value < most:
        yield value
        value *= 2
    yield most


def _parts(dimension: int) -> tuple[int, int]:
    """(parts, columns) of a product code: at most 128 parts of equally many columns, the row filled up with zeros."""
    each = max(1, math.ceil(dimension / 128))
    parts = math.ceil(dimension / each)
    return parts, parts * each


def _width(kind: Kind, dimension: int) -> int:
    return _parts(dimension)[1] if isinstance(kind, Compact) else dimension


def _padded(rows: np.ndarray, width: int) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) if rows.shape[1] < width else np.ascontiguousarray(rows)


def _filled(factory: str, features: np.ndarray, width: int, held_out: np.ndarray, metric: int) -> Any:
    """An inverted file, trained on a seeded sample of the rows and filled with all of them."""
    faiss = faiss_library()
    index = faiss.index_factory(width, factory, metric)
    index.cp.seed = _SEED
    for clustering in (index.cp, index.pq.cp) if hasattr(index, "pq") else (index.cp,):
        clustering.min_points_per_centroid = 1  # else FAISS writes a line to stderr for each part of the code
    if index.nlist > 1 and os.path.exists("/dev/nvidia0") and faiss_gpu_works():
        index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(index.d))
    others = np.setdiff1d(np.arange(len(features)), held_out)
    sample = others[sampled(len(others), max(_CODE_ROWS, index.nlist * _PER_LIST))]
    index.train(_padded(features[sample], index.d))
    _add(index, features)
    return index


def sampled(rows: int, wanted: int, seed: int = _SEED) -> np.ndarray:
    """Numbers of at most `wanted` rows, in rising order, drawn without repetition."""
    if wanted >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, wanted, replace=False))


def _add(index: Any, features: np.ndarray) -> None:
    for start in range(0, len(features), _ADD_ROWS):
        index.add(_padded(features[start : start + _ADD_ROWS], index.d))


def _written(index: Any, flags: int = 0) -> np.ndarray:
    faiss = faiss_library()
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer, flags)
    return np.asarray(faiss.vector_to_array(writer.data))


def _reader(data: memoryview) -> Any:
    """A function that gives the next bytes of `data`, as FAISS's reader asks for them."""
    done = 0

    def read(size: int) -> bytes:
        nonlocal done
        part = bytes(data[done : done + size])
        done += len(part)
        return part

    return read


def _reason(error: Exception) -> str:
    """The first line of one of FAISS's errors; of memory that ran out there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _require_type(index: Any, name: str, metric: int) -> Any:
    if type(index).__name__ != name or index.metric_type != metric:
        raise IntegrityError(f"it holds a {type(index).__name__} of FAISS where a {name} of the index belongs")
    return index
