"""A bundle that says something else and whose digest is right: what a stranger can make."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from fewvit.bundles.file import _digest
from fewvit.models.spec import BUNDLE_SCHEMA
from fewvit.strangeness import score_names

from fuzz.formats._bundles import inductive, made_bundle, used
from fuzz.judging import Mutant
from fuzz.mutations import changed_arrays, written_json

SHARE = 25
_TYPES = ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?")  # that safetensors has


class _SignedBundle:
    codes = frozenset({4})

    def make(self, folder: Path) -> None:
        scores = score_names()
        for number, name in enumerate(inductive()):
            made_bundle(folder / f"{name}.bundle", name, scores[number % len(scores)])

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        data = files[name]
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        manifest = json.loads(header["__metadata__"][BUNDLE_SCHEMA])
        how = stream.choice(("manifest", "manifest", "arrays", "both"))
        text = json.dumps(manifest)
        if how != "manifest":
            arrays = changed_arrays(arrays, stream, _TYPES)
        if how != "arrays":
            text = written_json(manifest, stream).decode("utf-8", "replace")
        try:
            told = json.loads(text)
            text = json.dumps({**told, "sha256": _digest(told, arrays)})
        except (ValueError, TypeError, RecursionError, AttributeError):
            pass  # text that says no manifest cannot have the digest of one
        return Mutant({name: safetensors.numpy.save(arrays, {BUNDLE_SCHEMA: text})}, checked=False, how=how)

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        return [used(folder / name) for name in changed]


FORMAT = _SignedBundle()
