"""Which backbone, exactly (`BackboneSpec`), and how its weights may be got (`Access`). No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backbones import Architecture, family_of
from ..backbones._tokens import Tokens
from ..errors import UsageError
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from .told import NOTHING, Told

BUNDLE_SCHEMA = "fewvit.bundle"  # the entry that a classifier bundle has in its header


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, exactly.

    Names, errors and cache keys come from here; the module is built on a cache miss only.
    """

    name: str  # a variant, or the file's name
    family: str
    architecture: Architecture
    protocol: str  # the preset it takes when none is asked for
    weights_sha256: str  # of the file; "random" for an untrained model
    file: Path | None = None
    checkpoint_key: str | None = None
    seed: int = 0  # of random weights
    license: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # fields of Preprocess that differ from the protocol's
    base: BackboneSpec | None = None  # what `file` is an adapter of; None: `file` holds the whole trunk
    told: Told = NOTHING  # what of a bare file was said by flags or beside it; features are made again with it
    tokens: Tokens | None = None  # of a model that timm builds; None: its architecture tells
    tuned: bool = False  # by `fewvit finetune`: no longer as its family was trained

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn from `seed` and not read from a file."""
        return self.weights_sha256 == "random"

    def require_imagenet_statistics(self) -> None:
        """Raise UsageError where its pixels are normalised otherwise than training here does."""
        usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if {name: tuple(self.preprocess.get(name, value)) for name, value in usual.items()} != usual:
            what = f"{self.name} takes pixels of another mean and deviation than ImageNet's, which training has not"
            raise UsageError(what)

    def advice(self, task: str, *, pool: str = "", protocol: str = "", methods: Sequence[str] = ()) -> str | None:
        """What its family advises before it is evaluated so, as in `Family.advice`; None for a fine-tuned one."""
        return (
            None if self.tuned else family_of(self.family).advice(task, pool=pool, protocol=protocol, methods=methods)
        )

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the module's output."""
        what = [
            self.family,
            self.architecture.to_dict(),
            self.weights_sha256,
            self.checkpoint_key,
            self.seed if self.is_random else None,
            *([self.base.fingerprint] if self.base is not None else []),
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        """Licence, source and published results, for manifests and `backbones info`."""
        return {"family": self.family, "license": self.license, "published": dict(self.published)}


@dataclass(frozen=True)
class Access:
    """How weights may be got. Options shared by all commands."""

    cache_dir: Path
    offline: bool = False
    accept: Sequence[str] = ()  # licences accepted on the command line
    ask: Callable[[str], bool] | None = None  # asks at a terminal; None where there is none
    progress: Callable[[int, int | None], None] | None = None
    notify: Callable[[str], None] = lambda line: None  # notes for the user
    announced: set[str] = field(default_factory=set, compare=False)  # what `announce` has said

    def announce(self, line: str) -> None:
        """Notify of what is said once."""
        if line not in self.announced:
            self.announced.add(line)
            self.notify(line)
