"""What a fine-tuning is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..training import request
from ..training.request import NetworkChanges


@dataclass(frozen=True)
class Source:
    """Which backbone, as it was asked for."""

    name: str
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0  # of random weights


@dataclass(frozen=True)
class Choice(NetworkChanges):
    """What is fine-tuned, and on what. Every field can change the outcome; features are judged in fp32, whatever the precision."""

    mode: str
    backbone: Source
    data: str | None = None
    train: str | None = None
    test: str | None = None
    shots: int = 5
    trial: int = 0
    img_size: str | None = None
    decode: str = "fast"
    allow_fewer: bool = False


@dataclass(frozen=True, kw_only=True)
class Audience(request.Audience):
    """Who is told what; features have a progress of their own."""

    extraction: Callable[[Any], None] | None = None
