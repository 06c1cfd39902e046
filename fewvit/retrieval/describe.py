"""Result rows of an index: what it is, what was found in it, and what a change did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..neighbors.approximate import KINDS
from ..results import Row
from .growth import Changes
from .manifest import FLAT, Manifest
from .opened import OpenIndex
from .pictures import NO_FILE, THERE, Pictures
from .search import Near


def index_facts(index: OpenIndex) -> Row:
    """What an index is."""
    manifest, recall = index.manifest, index.manifest.recall
    loose = sum(segment.rows for segment in manifest.segments[1:])
    facts: Row = {
        "index": str(index.path),
        "images": len(index),
        "dead": manifest.dead,
        "classes": len(index.classes),
        "kind": manifest.kind,
        "recall": recall.value if recall else None,
        "recall_low": recall.low if recall else None,
        "recall_high": recall.high if recall else None,
        "recall_at": recall.at if recall else None,
        "recall_wanted": recall.wanted if recall else None,
        "recall_reached": recall.is_met if recall else None,
        "dimension": manifest.dimension,
        "backbone": manifest.backbone or "features",
        "fingerprint": manifest.fingerprint,
        "version": manifest.version,
        "segments": len(manifest.segments),
        "bytes": sum(file.bytes for file in manifest.files),
        "bytes_in_memory_per_image": round(memory_per_row(manifest), 1),
        "skipped": manifest.skipped,
        "sources": [source.place for source in manifest.sources],
    }
    if manifest.kind != FLAT:
        facts["outside_structure"] = loose
        facts["effort"] = manifest.effort.facts() if manifest.effort else None
    return facts


def memory_per_row(manifest: Manifest) -> float:
    """Bytes that a search holds for each row; of a flat index none: its features are mapped, and read as they lie."""
    if manifest.kind == FLAT:
        return 0.0
    return KINDS[manifest.kind].bytes_per_row(manifest.rows, manifest.dimension)


@dataclass(frozen=True)
class Found:
    """One image that was found."""

    row: int
    id: str
    label: str | None
    score: float | None  # cosine; None where nothing was searched
    file: str  # `there`, `missing` or `changed`; empty where the index has no files

    @property
    def is_intact(self) -> bool:
        """Whether nothing is known against its picture."""
        return self.file in (THERE, NO_FILE)


def found_images(index: OpenIndex, pictures: Pictures, rows: np.ndarray, scores: np.ndarray | None) -> list[Found]:
    """What is known of rows (n,) of an index that were found with these scores (n,), to 7 decimals."""
    values = [None] * len(rows) if scores is None else [round(float(score), 7) for score in scores.tolist()]
    columns = (rows.tolist(), index.ids(rows), index.class_names(rows), values, pictures.states(rows))
    return [Found(*one) for one in zip(*columns, strict=True)]


def found_rows(index: OpenIndex, names: Sequence[str], near: Near) -> list[Row]:
    """One row for each image found: `query`, `rank` from 1, `id`, `label`, `score`, and `file` where it is not there.

    `file` is `missing` or `changed`: then the picture of that name is not the one that was indexed.
    """
    query = np.repeat(np.arange(len(near)), np.diff(near.starts)).tolist()
    rank = (np.arange(len(near.rows)) - np.repeat(near.starts[:-1], np.diff(near.starts)) + 1).tolist()
    every = found_images(index, Pictures(index), near.rows, near.scores)
    return [
        {
            "query": names[q],
            "rank": r,
            "id": one.id,
            "label": one.label,
            "score": one.score,
            **({} if one.is_intact else {"file": one.file}),
        }
        for q, r, one in zip(query, rank, every, strict=True)
    ]


def change_facts(changes: Changes, index: OpenIndex) -> Row:
    """What a change did, and what the index is now."""
    did: dict[str, Any] = {
        "added": changes.added,
        "unchanged": changes.unchanged,
        "renamed": changes.renamed,
        "replaced": changes.replaced,
        "relabelled": changes.relabelled,
        "removed": changes.removed,
        "missing": changes.missing,
        "computed": changes.computed,
        "skipped": len(changes.skipped),
    }
    now = index_facts(index)
    recall = ("recall", "recall_low", "recall_high", "recall_wanted", "recall_reached")
    kept = ("index", "images", "dead", "kind", *recall, "dimension", "version")
    return {**{name: now[name] for name in kept}, **did}
