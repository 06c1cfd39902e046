"""What a fine-tuning is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import requests
from ..requests import NetworkChanges


@dataclass(frozen=True)
class BackboneRequest:
    """Which backbone, as it was asked for."""

    name: str
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0  # of random weights


@dataclass(frozen=True)
class FineTuningRequest(NetworkChanges):
    """What is fine-tuned, and on what. Every field can change the outcome; features are judged in fp32, whatever the precision."""

    mode: str
    backbone: BackboneRequest
    data: str | None = None
    train: str | None = None
    test: str | None = None
    shots: int = 5
    trial: int = 0
    img_size: str | None = None
    decode: str = "fast"
    allow_fewer: bool = False


@dataclass(frozen=True, kw_only=True)
class Audience(requests.Audience):
    """Who is told what; features have a progress of their own."""

    extraction: Callable[[Any], None] | None = None
