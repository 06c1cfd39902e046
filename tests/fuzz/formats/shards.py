"""Tar shards of WebDataset, and zip archives of pictures."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import made_images
from fuzz.formats._datasets import read_whole
from fuzz.judging import Mutant
from fuzz.mutations import damaged, written_json


def _tar(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


class _Shards:
    codes = frozenset({3})

    def __init__(self) -> None:
        picture = made_images.jpeg(3, (8, 9))
        self._members = {f"{n}.{kind}": picture if kind == "jpg" else b"" for n in range(3) for kind in ("jpg", "json")}

    def make(self, folder: Path) -> None:
        label = json.dumps({"label": 3}).encode()
        (folder / "s-000.tar").write_bytes(_tar({k: v or label for k, v in self._members.items()}))
        (folder / "c-000.tar").write_bytes(
            _tar({k.replace("json", "cls"): v or str(int(k[0]) % 2).encode() for k, v in self._members.items()})
        )
        with zipfile.ZipFile(folder / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(4):
                archive.writestr(f"{'ab'[number % 2]}/{number}.jpg", self._members["0.jpg"])

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        if name == "s-000.tar" and stream.random() < 0.5:
            changed = {k: v or b'{"label": 3}' for k, v in self._members.items()}
            one = stream.choice([k for k in changed if k.endswith("json")])
            changed[one] = written_json({"label": 3, "more": {"a": [1]}}, stream)
            return Mutant({name: _tar(changed)}, checked=False, how="labels")
        return Mutant({name: damaged(files[name], stream)}, checked=False, how=f"bytes of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        for name in sorted(changed):
            found += read_whole(folder / name)
        return found


FORMAT = _Shards()
