"""A linear head: our own file, and one like those that were published."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fewvit.linear.head_files import load_head
from fewvit.linear.linear_head import LinearHead
from fewvit.linear.stored_head import _names_of

from fuzz.judging import Mutant
from fuzz.mutations import changed_arrays, damaged, written_json

_OWN, _PUBLISHED = "head.safetensors", "linear.pth"


class _Head:
    codes = frozenset({4})

    def make(self, folder: Path) -> None:
        import torch

        stream = torch.Generator().manual_seed(3)
        weight, bias = torch.randn(3, 5, generator=stream), torch.randn(3, generator=stream)
        about = {"classes": ["a", "b", "c"], "layers": 1, "pool": "cls", "protocol": "dino/1", "weights": "0" * 64}
        LinearHead(weight, bias, "batch", {"mean": bias.repeat(2)[:5], "variance": torch.ones(5)}).save(
            folder / _OWN, about
        )
        torch.save({"state_dict": {"module.linear.weight": weight, "module.linear.bias": bias}}, folder / _PUBLISHED)

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice((_OWN, _OWN, _PUBLISHED))
        data, kind = files[name], stream.random()
        if kind < 0.4 or name == _PUBLISHED:
            return Mutant({name: damaged(data, stream)}, checked=name == _PUBLISHED, how=f"bytes of {name}")
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["fewvit"]
        if kind < 0.7:
            arrays = changed_arrays(arrays, stream, ("f2", "f4", "f8", "i1", "i8", "u1", "?"))
        else:
            header = written_json(json.loads(header), stream).decode("utf-8", "replace")
        return Mutant({name: safetensors.numpy.save(arrays, {"fewvit": header})}, checked=False, how="arrays or header")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found = []
        for name in sorted(changed):
            head, about = load_head(folder / name)
            rows = np.random.default_rng(3).normal(size=(4, head.weight.shape[1])).astype(np.float32)
            names = _names_of(folder / name, len(head.bias), about, None)
            found.append([head.chunked_scores(rows), sorted(about), list(names or [])])
        return found


FORMAT = _Head()
