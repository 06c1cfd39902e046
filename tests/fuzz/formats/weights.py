"""Weights files of torch and safetensors, up to the backbone that they become."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

import fewvit
from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint

import made_images
from fuzz.judging import Mutant
from fuzz.mutations import changed_arrays, damaged, written_json

_ZIP, _OLD, _SAFE = "w.pth", "old.pth", "w.safetensors"
_SMALL = Architecture(width=64, depth=1, heads=1, patch=16, grid=2)


class _Weights:
    codes = frozenset({2, 4})  # 2: a file whose family is not known

    def make(self, folder: Path) -> None:
        made_images.tiny_weights(folder / _ZIP, _SMALL)
        tree = torch.load(folder / _ZIP, weights_only=True)
        torch.save(tree, folder / _OLD, _use_new_zipfile_serialization=False)
        arrays = {name: tensor.numpy() for name, tensor in tree["teacher"].items()}
        (folder / _SAFE).write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        data, kind = files[name], stream.random()
        if name == _SAFE and kind < 0.5:
            arrays = changed_arrays(safetensors.numpy.load(data), stream, ("f2", "f4", "f8", "i1", "i8", "u1", "?"))
            return Mutant({name: safetensors.numpy.save(arrays)}, checked=False, how="arrays")
        if name == _SAFE and kind < 0.75:
            length = int.from_bytes(data[:8], "little")
            import json

            header = written_json(json.loads(data[8 : 8 + length]), stream)
            return Mutant({name: len(header).to_bytes(8, "little") + header + data[8 + length :]}, False, how="header")
        near = stream.choice((0, 0, len(data) - 400))  # where the pickle and the zip's directory are
        if kind < 0.3 and near:
            return Mutant({name: data[:near] + damaged(data[near:], stream)}, name == _ZIP, how="the end")
        if kind < 0.6:
            return Mutant({name: damaged(data[:4000], stream) + data[4000:]}, name == _ZIP, how="the begin")
        return Mutant({name: damaged(data, stream)}, checked=name == _ZIP, how=f"bytes of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        for name in sorted(changed):
            tree = read_checkpoint(folder / name)
            backbone = fewvit.load_backbone(str(folder / name), family="dino")
            found.append(backbone.module.state_dict() if hasattr(backbone, "module") else tree.get("teacher", tree))
        return found


FORMAT = _Weights()
