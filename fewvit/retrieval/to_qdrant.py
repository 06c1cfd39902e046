"""An index in Qdrant: in a shard of the engine that runs in the process, or in a collection of a server.

Both are loaded by the script that is exported too, and then asked for images that are looked for here as well.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..results import Facts
from . import load_qdrant
from .exported import Find, Rows, Target, export_files, require_module, verified
from .opened import OpenIndex

SHARD, SCRIPT = "shard", "load_qdrant.py"
_TIMEOUT_S = 60


class Qdrant:
    """A shard of the engine in the process, or a collection of a server."""

    def require(self, target: Target) -> None:
        """Raise UsageError where there is neither a folder nor a server."""
        if target.url is None:
            target.folder(" or --url URL")

    def export(self, index: OpenIndex, target: Target) -> Facts:
        """Write files and a shard, or fill the collection. Raises as `export_shard` or `export_server`."""
        if target.url is None:
            return export_shard(index, target.folder(), int8=target.eight_bit)
        return export_server(index, target.url, target.collection, target.out, int8=target.eight_bit)


def export_shard(index: OpenIndex, out: Path, *, int8: bool = False) -> Facts:
    """Write an index as files, the script that loads them, and a shard of the in-process engine that it loaded.

    Raises as `export_files`, IntegrityError where the shard gives other answers.
    """
    require_module("qdrant_edge", "Qdrant's engine in the process", "qdrant")

    def more(rows: Rows, folder: Path) -> Facts:
        shutil.copyfile(load_qdrant.__file__, folder / SCRIPT)
        load_qdrant.load_shard(folder / SHARD, folder, int8=int8)
        return {"verified": verified_shard(rows, folder / SHARD)}

    return export_files(index, out, more)


def export_server(index: OpenIndex, url: str, collection: str, out: Path | None, *, int8: bool = False) -> Facts:
    """Put an index into a collection of a server; the files are kept in `out` if it is given.

    Raises UsageError for a server that does not answer, IntegrityError where it gives other answers.
    """
    require_module("qdrant_client", "a server of Qdrant", "qdrant")
    if "://" not in url:
        raise UsageError(f"--url {url} is no address of a server", fix="Such as http://localhost:6333.")
    with tempfile.TemporaryDirectory(prefix="fewvit-") as folder:
        return export_files(
            index,
            out or Path(folder) / "export",
            lambda rows, written: _loaded(rows, written, url, collection, int8),
        )


def _loaded(rows: Rows, folder: Path, url: str, collection: str, int8: bool) -> Facts:
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    shutil.copyfile(load_qdrant.__file__, folder / SCRIPT)
    client = QdrantClient(url=url, timeout=_TIMEOUT_S, check_compatibility=False)
    try:
        load_qdrant.load_server(client, folder, collection, int8=int8)
        return {"collection": collection, "verified": verified(rows, finder(client, collection), "Qdrant")}
    except (ResponseHandlingException, UnexpectedResponse) as error:
        raise UsageError(f"--url {url}: {str(error).splitlines()[0]}", fix="Is Qdrant running there?") from error
    finally:
        client.close()


def finder(client: Any, collection: str) -> Find:
    """What asks a server, comparing every original."""
    from qdrant_client import models

    def find(queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        how = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        asked = [
            client.query_points(collection, query=q.tolist(), limit=k, with_payload=True, search_params=how)
            for q in queries
        ]
        return [[(str((point.payload or {}).get("id")), point.score) for point in answer.points] for answer in asked]

    return find


def verified_shard(rows: Rows, path: Path) -> Facts:
    """As `verified`, for a shard."""
    import qdrant_edge as edge

    shard = edge.EdgeShard.load(str(path))
    how = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))

    def find(queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        asked = [
            shard.search(edge.SearchRequest(edge.Query.Nearest(q.tolist()), k, with_payload=True, params=how))
            for q in queries
        ]
        return [[(str((point.payload or {}).get("id")), point.score) for point in answer] for answer in asked]

    try:
        return verified(rows, find, "Qdrant")
    finally:
        shard.close()
