"""Pretraining methods, one file each: everything that distinguishes DINO, MSN and MAE, and nothing that they share.

No torch and no NumPy at import.

A method's class is its recipe: an instance is one run's settings, `presets` are the named ones, `task` makes the
network that is trained. What is made of torch stands in a twin, `_NAME_task.py`, or inside `task`, so that a misspelt
preset is reported, and `--preset list` answered, without waiting for torch.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..backbones import Protocol
from ..training.recipe import Recipe
from ..training.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from ._trunk import Trunk


@dataclass(frozen=True, kw_only=True)
class Method(Recipe):
    """What a file in this folder says: one public class that inherits from this one.

    Its fields are options of `--set`.
    """

    family: ClassVar[str]  # whose layout and protocol its encoder has; a name of its own where `protocol` is given
    # what its encoder is read by, where its family has no file in `backbones/`
    protocol: ClassVar[Protocol | None] = None
    pool: ClassVar[str] = ""  # tokens that the monitor reads; empty: the protocol's
    # folder of a run for what its task's `figures(images (B, 3, H, W), seed)` shows of watched images: rows by name,
    # each uint8 (B, H, W, 3); empty: it has none
    figures: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Method]]  # its instances by name, as `small/64`

    def task(self) -> Pretraining:
        """The network to train, its weights drawn from torch's own generator.

        Raises UsageError for a recipe that cannot be trained.
        """
        raise NotImplementedError


class Pretraining(Task, typing.Protocol):
    """What `Method.task` makes: what can be trained, and answers these as well."""

    @property
    def max_entropy(self) -> float | None:
        """Of a target that knows nothing, in nats; None where the method has no targets that could collapse."""

    def encoder(self) -> Trunk:
        """The trunk that is evaluated: a `VisionTransformer`, as a part of the task."""

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the trunk of released weights, every tensor of it.

        Raises CheckpointError when it is of another architecture.
        """

    def official(self) -> dict[str, Any]:
        """What a checkpoint of the official code holds, but for the optimizer and where the run stands."""


def methods() -> dict[str, type[Method]]:
    """Every method's class by name, in the order of names."""
    return {name: plugins.find("methods", name) for name in plugins.names("methods")}


def find_method(name: str) -> type[Method]:
    """The method's class. Raises UnknownName."""
    kind: type[Method] = plugins.find("methods", name)
    return kind


def summaries() -> dict[str, str]:
    """What each method does, in its own first line."""
    return {name: (inspect.getdoc(kind) or "").partition("\n")[0] for name, kind in methods().items()}
