"""The smallest runs of every command that trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fewvit.plugins import find

from made_images import folder_of, tiny_weights

TRAINERS = ("pretrain", "linear", "finetune")
# a program: the command line with the recipe of `with_tiny_recipe`
TINY_RECIPE = """
import sys
import pytest
from fewvit_cli.main import run
from made_runs import with_tiny_recipe
with_tiny_recipe(pytest.MonkeyPatch())
code = run(sys.argv[1:])
sys.stdout.flush()
sys.exit(code)
"""


def with_tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give DINO a preset `test/tiny`, small enough for a test."""
    kind = find("methods", "dino")
    small = kind.presets["small/32"]
    narrow = dataclasses.replace(small.architecture, width=64, depth=2, heads=1)
    tiny = dataclasses.replace(small, architecture=narrow, outputs=64, hidden=32, bottleneck=16)
    monkeypatch.setattr(kind, "presets", {**kind.presets, "test/tiny": tiny})


def place_of_runs(root: Path) -> Path:
    """Images of two classes on two sides, and a small backbone."""
    folder_of(root / "images/train", {"a": 7, "b": 6})
    folder_of(root / "images/val", {"a": 3, "b": 4}, first_seed=500)
    tiny_weights(root / "tiny.pth")
    return root


def words_for(trainer: str, place: Path) -> list[str]:
    """A run of a few steps into `place`/run."""
    images, frozen = place / "images", ["--backbone", place / "tiny.pth", "--data", place / "images", "--img-size", 32]
    words = {
        "pretrain": ["dino", "--data", images / "train", "--monitor", images / "val", "--preset", "test/tiny"],
        "linear": [*frozen, "--protocol", "dino/1"],
        "finetune": [*frozen, "--set", "lr=1e-4"],
    }[trainer]
    more = ["--epochs", 2, "-b", 4, "--save-every", 1, "--out", place / "run"]
    return [trainer, *map(str, [*words, *more])]
