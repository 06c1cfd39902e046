"""Tables of paths and labels: CSV, TSV and Parquet. They have no digest, so another label is another label."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fuzz.formats._datasets import read_whole
from fuzz.judging import Mutant
from fuzz.mutations import damaged

_TEXTS = ("path,label\n", "a.jpg,x\n", '"b.jpg",y\n', "d/c.jpg,x\n", "e.jpg,\n")


class _Table:
    codes = frozenset({3})

    def make(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "d").mkdir()
        for name in ("a.jpg", "b.jpg", "d/c.jpg", "e.jpg"):
            (folder / name).write_bytes(name.encode())
        (folder / "t.csv").write_text("".join(_TEXTS))
        (folder / "t.tsv").write_text("".join(_TEXTS).replace(",", "\t"))
        columns = {"path": ["a.jpg", "b.jpg", "d/c.jpg", "e.jpg"], "label": ["x", "y", "x", None]}
        pq.write_table(pa.table(columns), folder / "t.parquet")
        pictures = {"image": [{"bytes": b"\xff\xd8\xff" + bytes([n]), "path": f"{n}.jpg"} for n in range(3)]}
        pq.write_table(pa.table({**pictures, "label": [0, 1, 0]}), folder / "p.parquet")

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(("p.parquet", "t.csv", "t.parquet", "t.tsv"))
        return Mutant({name: damaged(files[name], stream)}, checked=False, how=f"bytes of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        for name in sorted(name for name in changed if not name.endswith(".jpg")):
            found += read_whole(folder / name)
        return found


FORMAT = _Table()
