"""A bundle whose bytes changed: its digest must show it."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fuzz.formats._bundles import made_bundle, used
from fuzz.judging import Mutant
from fuzz.mutations import damaged

_FILE = "b.bundle"


class _Bundle:
    codes = frozenset({4})

    def make(self, folder: Path) -> None:
        made_bundle(folder / _FILE, "logistic", "mahalanobis")

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        return Mutant({_FILE: damaged(files[_FILE], stream)}, checked=True, how="bytes")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        return used(folder / _FILE)


FORMAT = _Bundle()
