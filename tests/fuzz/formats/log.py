"""`log.jsonl` of a run that goes on: lines that are damaged, and lines that say something else."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fewvit.finetune.held_out import Curve
from fewvit.training.log import Log, read_log

from fuzz.judging import Mutant
from fuzz.mutations import damaged, written_json

_FILE = "log.jsonl"


class _Log:
    codes = frozenset({4})

    def make(self, folder: Path) -> None:
        with contextlib.closing(Log(folder / _FILE, 0)) as log:
            for step in range(1, 9):
                log.write(step, epoch=step - 1, loss=1 / step, lr=0.1)
                log.write(step, epoch=step - 1, held_top1=50.0 + step, held_loss=1 / step, held_temperature=1.0)

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        if stream.random() < 0.5:
            return Mutant({_FILE: damaged(files[_FILE], stream)}, checked=False, how="bytes")
        lines = files[_FILE].splitlines()
        at = stream.randrange(len(lines))
        lines[at] = written_json(json.loads(lines[at]), stream)
        return Mutant({_FILE: b"\n".join(lines) + b"\n"}, checked=False, how="a line")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        file = folder / _FILE
        curve = Curve(file)
        found = [curve.best(6), curve.stalled(6, 2), curve.outcome(0.1, 6)] if curve.by_epoch else []
        with contextlib.closing(Log(file, 6)) as log:
            log.write(7, epoch=6, loss=0.5)
        records = list(read_log(file))
        return [*found, records, [(record["step"], float(record.get("loss", 0))) for record in records]]


FORMAT = _Log()
