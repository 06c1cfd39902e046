"""TOML files: a sweep's, and what `--config` takes of any command."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer.main

from fewvit.errors import UsageError
from fewvit.sweep.config import KEYS, read_config, settled
from fewvit_cli.main import app

from fuzz.formats import _bundles
from fuzz.judging import Mutant
from fuzz.mutations import changed_toml, damaged

SHARE = 15
_WHOLE = ("data", "methods", "backbones")
_SWEEP, _COMMAND = "sweep.toml", "knn.toml"
_GROUP: Any = typer.main.get_command(app)
_KNN = _GROUP.get_command(None, "knn")


class _Config:
    codes = frozenset({2, 3, 5})  # 3: what it names is not there

    def make(self, folder: Path) -> None:
        for name in ("train", "test"):
            _bundles.features(7, 3).save(folder / f"{name}.npz")
        lines = [f'data = [{{train = "{folder}/train.npz", test = "{folder}/test.npz", label = "d"}}]']
        lines += ['methods = ["knn", {name = "logistic", lambd = 0.1}]', "shots = [1, 2]", "trials = 3", "seed = 1"]
        lines += ['backbones = ["fewvit_tiny", {name = "fewvit_tiny", pool = "mean", label = "m"}]', "img_size = 32"]
        (folder / _SWEEP).write_text("\n".join(lines) + "\n")
        (folder / _COMMAND).write_text('k = [5, 10]\ntemperature = 0.07\nbackbone = "fewvit_tiny"\nseed = 3\n')

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        name = stream.choice((_SWEEP, _COMMAND))
        if stream.random() < 0.3:
            return Mutant({name: damaged(files[name], stream)}, checked=False, how="bytes")
        keys = list(KEYS) if name == _SWEEP else sorted(one.name for one in _KNN.params)
        return Mutant({name: changed_toml(files[name].decode(), keys, stream)}, checked=False, how="TOML")

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found: list[Any] = []
        if _SWEEP in changed:
            given = read_config(folder / _SWEEP)
            if not set(_WHOLE) <= set(given) or not all(given[key].value for key in _WHOLE):
                return "flags may give what the file lacks"
            config = settled(given, {})
            found += [repr(config)]
        if _COMMAND in changed:
            found += [_parsed(folder / _COMMAND)]
        return found


def _parsed(file: Path) -> Any:
    """The options of `fewvit knn --config FILE`, or the refusal that the option parser's error becomes."""
    try:
        with _KNN.make_context("knn", ["--config", str(file)], parent=None) as context:
            return {name: repr(value) for name, value in context.params.items()}
    except UsageError as error:  # of an option, by its name
        raise UsageError(error.what, file=file, fix=error.fix) from error
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise UsageError(" ".join(message().split()), file=file) from error  # as `main.run` tells it


FORMAT = _Config()
