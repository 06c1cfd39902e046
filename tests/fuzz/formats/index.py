"""An image index: files whose digests must show a change, and a manifest that a stranger made."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.retrieval.folder import _current
from fewvit.retrieval.opened import OpenIndex

import made_indexes
from fuzz.judging import Mutant
from fuzz.mutations import changed_json, damaged

SHARE = 15


class _Index:
    codes = frozenset({3, 4})

    def make(self, folder: Path) -> None:
        rows = made_indexes.random_rows(1, 23)
        rows = {name: (row, "ab"[number % 2]) for number, (name, (row, _)) in enumerate(rows.items())}
        made_indexes.built(folder / "flat", rows)
        made_indexes.built(folder / "hnsw", made_indexes.random_rows(2, 60), "hnsw")

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        files = {name: data for name, data in files.items() if not name.endswith(".lock")}
        name = stream.choice(sorted(files))
        if stream.random() < 0.4:
            return Mutant({name: damaged(files[name], stream)}, checked=True, how=f"bytes of {name}")
        index = name.split("/")[0]
        manifest = next(one for one in files if one.startswith(f"{index}/manifests/"))
        value, changes = json.loads(files[manifest]), dict[str, bytes | None]()
        if name.startswith(f"{index}/data/") and stream.random() < 0.9:
            data = damaged(files[name], stream)
            if stream.random() < 0.6:  # as long as it was
                data = (data + files[name])[: len(files[name])]
            changes[name] = data
            _signed(value, name.removeprefix(f"{index}/"), data)
        else:
            value = changed_json(value, stream)
        text = json.dumps(value).encode("utf-8", "surrogatepass")
        changes[manifest] = text
        pointer = _current(manifest.removeprefix(f"{index}/"), hashlib.sha256(text).hexdigest())
        changes[f"{index}/CURRENT"] = pointer.encode()
        return Mutant(changes, checked=False, how=f"signed {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        for name in sorted({one.split("/")[0] for one in changed} or ["flat", "hnsw"]):
            index = OpenIndex.open(folder / name)
            queries = np.random.default_rng(3).normal(size=(3, index.dimension)).astype(np.float32)
            near = index.search(queries, 4)
            rows = index.live
            found += [near.rows, near.scores, index.ids(rows), index.class_names(rows), index.records(rows)]
            found += [index.features(rows), index.without_images(list(index.classes)), index.manifest.facts]
            index.verify()
        return found


def _signed(value: Any, path: str, data: bytes) -> None:
    """Give the file of that path its new size and digest, wherever it stands in the manifest."""
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(one, dict) and one.get("path") == path:
            one.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        elif isinstance(one, dict | list):
            _signed(one, path, data)


FORMAT = _Index()
