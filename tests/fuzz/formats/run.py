"""A run's folder: manifest, result, notes on its images, checkpoints."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.digests import Contents
from fewvit.results import Result
from fewvit.runs.contents import NotedContents
from fewvit.runs.folder import RunFolder
from fewvit.training.state import Checkpoints

from fuzz.formats.features import rewritten
from fuzz.judging import TOLD, Mutant
from fuzz.mutations import damaged, written_json

SHARE = 15
_WHAT = {"command": "pretrain", "data": {"train": "0" * 64}, "recipe": {"lr": 0.1, "epochs": 3}}
_ABOUT = {"backbone": {"family": "dino", "architecture": {"width": 64}, "preprocess": {"size": 32}}}
_CONTENTS = {"train": Contents(["a", "b"], np.arange(64, dtype=np.uint8).reshape(2, 32), "0" * 64)}
_OTHERS = {"train": Contents(["a", "b"], np.ones((2, 32), np.uint8), "1" * 64)}


class _Run:
    codes = frozenset({2, 3, 4})  # 2: other arguments than it was begun with

    def make(self, folder: Path) -> None:
        import torch

        run = RunFolder(folder)
        run.begin(_WHAT, _ABOUT)
        run.require_contents(_CONTENTS)
        for step in (2, 4):
            Checkpoints(run.checkpoints).save(step, {"w": torch.arange(5.0) + step}, {"epoch": step, "loss": 0.5})
        run.encoder.write_bytes(b"weights")
        rows = [{"dataset": "d", "metric": "top1", "value": 51.5, "ci95": [50.0, 53.0]}]
        run.finish(Result("pretrain", rows, {"weights_sha256": "2" * 64, "seed": 1}), ["encoder.safetensors"])

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice(sorted(files))
        data, kind = files[name], stream.random()
        checked = name == "result.json" or name.endswith(".safetensors")
        if kind < 0.1:
            return Mutant({name: None}, checked=False, how=f"{name} gone")
        if kind < 0.6 or name.endswith(".safetensors"):
            return Mutant({name: damaged(data, stream)}, checked, how=f"bytes of {name}")
        if name.endswith(".npz"):
            return Mutant({name: rewritten(data, stream)}, checked=False, how=f"arrays of {name}")
        return Mutant({name: written_json(json.loads(data), stream)}, checked, how=f"JSON of {name}")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        run, notes = RunFolder(folder), list[str]()
        newest = Checkpoints(run.checkpoints).newest(notes.append)
        tensors = newest.tensors() if newest is not None else {}
        noted = NotedContents(folder)
        told = noted.differing(_OTHERS), noted.difference(_OTHERS)
        run.require_owner("pretrain")
        made = run.backbone()
        run.weights(made)
        run.begin(_WHAT, _ABOUT, _CONTENTS)
        run.require_contents(_CONTENTS)
        result = run.finished(notes.append)
        if notes:
            return TOLD
        rows = [result.to_json(), result.to_csv(), result.fitted().cells] if result is not None else []
        return [rows, tensors, run.weights_sha256(), told]


FORMAT = _Run()
