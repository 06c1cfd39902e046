"""What a sweep goes over: backbones with their readout, data, methods with their options."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..extraction.pipeline import FeatureOptions
from ..models.resolve import is_path
from ..models.told import Told
from ..sources import Given, is_features
from ..spellings import absolute


@dataclass(frozen=True)
class BackboneSetting:
    """A backbone, where its weights are, and what is read out of it; None: as the single command has it."""

    name: str
    label: str = ""  # what result rows call it; empty: its name and what is special about it
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    heads: str | None = None
    grid: str | None = None
    mean: str | None = None
    std: str | None = None
    protocol: str | None = None
    pool: str | None = None
    layers: str | None = None
    img_size: str | None = None
    precision: str = "fp32"
    decode: str = "fast"

    @functools.cached_property
    def shown(self) -> str:
        """Its name in rows and messages."""
        return self.label or " ".join([_base(self.name), *(f"{value}" for value in self._special.values())])

    @property
    def _special(self) -> dict[str, str]:
        """Flag -> value of what differs from the default, in the words of a label."""
        words = {
            "layers": "{} layers",
            "img_size": "{} px",
            "checkpoint_key": "key {}",
            "heads": "{} heads",
            "grid": "grid {}",
            "mean": "mean {}",
            "std": "std {}",
        }
        found = {}
        for field_ in dataclasses.fields(self)[2:]:
            value = getattr(self, field_.name)
            if value != field_.default:
                text = _base(value) if field_.name == "weights" else str(value)
                found[field_.name] = words.get(field_.name, "{}").format(text)
        return found

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**dataclasses.asdict(self), "label": self.shown}

    @property
    def told(self) -> Told:
        """What is said of a bare file. Raises UsageError."""
        return Told.of(self.heads, self.grid, self.mean, self.std)

    @functools.cached_property
    def words(self) -> list[str]:
        """The options that ask a command for it."""
        found = ["--backbone", self.name]
        for field_ in dataclasses.fields(self)[2:]:
            value = getattr(self, field_.name)
            if value != field_.default:
                found += ["--" + field_.name.replace("_", "-"), str(value)]
        return found

    def options(self, device: str) -> FeatureOptions:
        """What its features are asked to be."""
        return FeatureOptions(self.protocol, self.pool, self.layers, self.img_size, self.precision, self.decode, device)

    @property
    def absolute(self) -> BackboneSetting:
        """The same wherever the command is given from."""
        weights = self.weights if self.weights in (None, "random") else os.path.abspath(str(self.weights))
        return dataclasses.replace(
            self, name=os.path.abspath(self.name) if is_path(self.name) else self.name, weights=weights
        )


@dataclass(frozen=True)
class DataSetting:
    """Two sets: a folder with both, or one by one."""

    data: str | None = None
    train: str | None = None
    test: str | None = None
    label: str = ""  # what result rows call it; empty: as the single command does

    @functools.cached_property
    def shown(self) -> str:
        """Its name in messages."""
        parts = [self.data] if self.data is not None else [self.train or "", self.test or ""]
        return self.label or " and ".join(map(_base, parts))

    @property
    def has_features(self) -> bool:
        """Whether nothing but features is given, so that no backbone is asked."""
        return self.data is None and is_features(self.train) and is_features(self.test)

    @functools.cached_property
    def sides(self) -> tuple[str, str]:
        """The sources to learn from and to be tested on. Raises as `Given.sides`."""
        return Given(self.data, self.train, self.test).sides()[:2]

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**dataclasses.asdict(self), "label": self.shown}

    @functools.cached_property
    def words(self) -> list[str]:
        """The options that ask a command for it."""
        pairs = (("--data", self.data), ("--train", self.train), ("--test", self.test))
        return [word for flag, value in pairs if value is not None for word in (flag, value)]

    @property
    def absolute(self) -> DataSetting:
        """The same wherever the command is given from."""
        data, train, test = (
            value if value is None else absolute(value) for value in (self.data, self.train, self.test)
        )
        return dataclasses.replace(self, data=data, train=train, test=test)


@dataclass(frozen=True)
class MethodSetting:
    """An evaluation, what of it where it offers several, and options."""

    evaluation: str  # knn, lowshot, linear, episodes, finetune, retrieval
    name: str  # what result rows call it, unless it has a label: logistic, lora, …
    options: Mapping[str, Any] = field(default_factory=dict)  # as --set has them
    label: str = ""
    is_plain: bool = True  # its name alone says which evaluation is meant

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**dataclasses.asdict(self), "options": dict(self.options)}

    @functools.cached_property
    def shown(self) -> str:
        """Its name in messages."""
        return self.label or (self.name if self.is_plain else f"{self.evaluation}.{self.name}")


@dataclass(frozen=True)
class SubsetFile:
    """A list of labelled images: a published one, or what `lowshot --save-split` wrote."""

    path: str
    sha256: str


@dataclass(frozen=True)
class SweepConfig:
    """What is asked of a sweep."""

    backbones: Sequence[BackboneSetting]
    data: Sequence[DataSetting]
    methods: Sequence[MethodSetting]
    shots: Sequence[int] = ()
    percent: Sequence[float] = ()
    subsets: Sequence[SubsetFile] = ()
    trials: int = 3
    episodes: int = 600
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        lists = {name: [one.facts for one in getattr(self, name)] for name in ("backbones", "data", "methods")}
        numbers = ("shots", "percent", "trials", "episodes", "seed")
        lists["subsets"] = [vars(one) for one in self.subsets]
        return {**lists, **{name: getattr(self, name) for name in numbers}}


def _base(path: str) -> str:
    """The last part of a path, or the name that it is."""
    return os.path.basename(path.rstrip(os.sep)) or path
