"""MATLAB's files of numbers and of structs. They have no digest, so another number is another number."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.datasets._devkit import synsets_by_id
from fewvit.public_sets.flowers102 import _entry

from fuzz.judging import Mutant
from fuzz.mutations import damaged


class _Matlab:
    codes = frozenset({3})

    def make(self, folder: Path) -> None:
        from scipy.io import savemat

        kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
        savemat(folder / "meta.mat", {"synsets": np.array([(1, "n07"), (2, "n03")], kinds)[:, None]})
        for name, compressed in (("plain.mat", False), ("packed.mat", True)):
            savemat(folder / name, {"x": 3, "labels": np.arange(1, 30, dtype="u2")[None]}, do_compression=compressed)

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        return Mutant({name: damaged(files[name], stream)}, checked=False, how=f"bytes of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        for name in sorted(changed):
            found.append(
                synsets_by_id(str(folder / "truth.txt"))
                if name == "meta.mat"
                else _entry(str(folder / name), "labels", 102)
            )
        return found


FORMAT = _Matlab()
