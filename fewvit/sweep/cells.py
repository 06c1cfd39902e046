"""A cell: one evaluation of one backbone on one data set, as one command would do it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import counted
from .folder import digest_of
from .settings import BackboneSetting, DataSetting, MethodSetting, SubsetFile

_VERSION = 1  # of what a request is; another one is another cell


@dataclass(frozen=True)
class Scope:
    """How much is measured; None where an evaluation has no use for it."""

    shots: int | None = None
    percent: float | None = None
    trials: int | None = None
    episodes: int | None = None
    subsets: tuple[SubsetFile, ...] = ()  # lists that say themselves which images are labelled

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "subsets": [one.path for one in self.subsets]}

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides a number: of lists their bytes."""
        return {**vars(self), "subsets": [one.sha256 for one in self.subsets]}

    @property
    def shown(self) -> str:
        """For messages: `5 shots, 3 trials`."""
        words = []
        if self.shots is not None:
            words.append(counted(self.shots, "shot"))
        if self.percent is not None:
            words.append(f"{self.percent:g} %")
        if self.subsets:
            words.append(counted(len(self.subsets), "list"))
        if self.trials is not None:
            words.append(counted(self.trials, "trial"))
        if self.episodes is not None:
            words.append(counted(self.episodes, "episode"))
        return ", ".join(words)


@dataclass(frozen=True)
class Cell:
    """What is asked."""

    backbone: BackboneSetting | None  # None: features were given, so no backbone is asked
    data: DataSetting
    method: MethodSetting
    scope: Scope
    seed: int

    def spelled(self, command: str, *own: str, data: Sequence[str] | None = None, seeded: bool = True) -> str:
        """A command about its backbone and `data` (its own, unless given), with options of the command's own."""
        backbone = self.backbone.words if self.backbone is not None else []
        words = [*backbone, *(self.data.words if data is None else data), *own]
        return f"fewvit {command} " + shlex.join([*words, *(["--seed", str(self.seed)] if seeded else [])])

    @property
    def shown(self) -> str:
        """For messages."""
        backbone = self.backbone.shown if self.backbone is not None else "features"
        words = [backbone, self.data.shown, self.method.shown, self.scope.shown]
        return " · ".join(word for word in words if word)

    @property
    def facts(self) -> dict[str, Any]:
        """For the plan, and for the cell's file."""
        return {
            "evaluation": self.method.evaluation,
            "method": self.method.shown,
            "options": dict(self.method.options),
            **self.scope.facts,
            "seed": self.seed,
            "backbone": self.backbone.facts if self.backbone is not None else None,
            "data": self.data.facts,
        }

    def request(self, features: str, listing: Mapping[str, Any]) -> str:
        """A name for what is asked, the same wherever weights and images lie.

        `features`: the fingerprint of how features are made, empty where they are given; `listing`: what is known of
        the data before any image is read.
        """
        return digest_of(
            {
                "version": _VERSION,
                "features": features,
                "backbone": self.backbone.shown if self.backbone is not None else None,
                "data": {"label": self.data.label, **listing},
                "method": self.method.facts,
                "scope": self.scope.identity,
                "seed": self.seed,
            }
        )
