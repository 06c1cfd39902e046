"""Loads an export of fewvit into Qdrant: a server, or a shard of the engine that runs in the process (qdrant-edge-py).

    python load_qdrant.py --url http://localhost:6333 --collection images
    python load_qdrant.py --shard images.shard

It reads `features.npy` and `metadata.parquet` of the folder it lies in, a block after another. The id of a point is
made of the image's id, so that loading again replaces and never doubles. `--eight-bit` keeps 8-bit copies in memory and
the originals on disk: a quarter of the memory, and the originals decide the order. Needs numpy and pyarrow, nothing of
fewvit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1000  # points that are sent together


def point_id(name: str) -> uuid.UUID:
    """The id of a point, made of an image's id."""
    return uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=5)


def blocks(folder: Path) -> Iterator[tuple[list[uuid.UUID], list[list[float]], list[dict[str, Any]]]]:
    """Ids, vectors and payloads of the export in a folder."""
    from pyarrow.parquet import ParquetFile

    features, start = np.load(folder / "features.npy", mmap_mode="r"), 0
    for batch in ParquetFile(folder / "metadata.parquet").iter_batches(BLOCK):
        payloads = batch.to_pylist()
        vectors = np.asarray(features[start : start + len(payloads)], np.float32).tolist()
        yield [point_id(payload["id"]) for payload in payloads], vectors, payloads
        start += len(payloads)


def dimension(folder: Path) -> int:
    """Columns of the features."""
    return int(np.load(folder / "features.npy", mmap_mode="r").shape[1])


def load_server(client: Any, folder: Path, collection: str, *, int8: bool = False) -> None:
    """Make the collection if it is not there, and put every image into it. `client`: a QdrantClient."""
    from qdrant_client import models

    if not client.collection_exists(collection):
        small = models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        )
        client.create_collection(
            collection,
            vectors_config=models.VectorParams(
                size=dimension(folder), distance=models.Distance.COSINE, on_disk=int8 or None
            ),
            quantization_config=small if int8 else None,
        )
    for ids, vectors, payloads in blocks(folder):
        points = models.Batch(ids=[str(one) for one in ids], vectors=vectors, payloads=payloads)
        client.upsert(collection, points=points, wait=True)


def load_shard(path: Path, folder: Path, *, int8: bool = False) -> None:
    """Make a shard of the in-process engine with every image in it. Raises FileExistsError where there is something."""
    import qdrant_edge as edge

    os.mkdir(path)
    small = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, memory=edge.Memory.Pinned) if int8 else None
    vectors_config = edge.EdgeVectorParams(
        size=dimension(folder),
        distance=edge.Distance.Cosine,
        quantization_config=small,
        memory=edge.Memory.Cold if int8 else None,
    )
    shard = edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors=vectors_config))
    try:
        for ids, vectors, payloads in blocks(folder):
            points = [edge.Point(*point) for point in zip(ids, vectors, payloads, strict=True)]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
    finally:
        shard.close()


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a server of Qdrant")
    where.add_argument("--shard", type=Path, help="folder that is made")
    parser.add_argument("--collection", default="images")
    parser.add_argument("--eight-bit", action="store_true", help="8-bit copies in memory, originals on disk")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent
    if options.shard is not None:
        load_shard(options.shard, folder, int8=options.eight_bit)
        return
    from qdrant_client import QdrantClient

    load_server(
        QdrantClient(url=options.url, check_compatibility=False), folder, options.collection, int8=options.eight_bit
    )


if __name__ == "__main__":
    main()
