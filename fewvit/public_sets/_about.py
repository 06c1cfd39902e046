"""What a public data set says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """The published size of a part; None where it is not known."""

    images: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class About:
    """The facts that `fewvit data fetch` tells and `fewvit data check` goes by."""

    title: str
    home: str  # the official address
    licence: str  # as the home states it
    layout: Sequence[str]  # what lies where below DIR, a line each
    parts: Mapping[str, Part]  # what may stand behind @; with one alone nothing need stand there
    pair: tuple[str, str] | None = None  # what --data NAME:DIR learns from and is tested on
    # list files below DIR -> their published MD5, empty where that is not known
    lists: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[str, Mapping[str, Part]] = field(default_factory=dict)  # sets in folders of their own -> their parts
