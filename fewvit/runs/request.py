"""What a run is asked for: what is to differ from its recipe, how it is carried out, where notes go. No torch.

`Changes`, `Effort` and `Audience` are every run's; `NetworkChanges` and `NetworkEffort` those of runs that train a
network, not heads on frozen features alone. A command's own types add to them.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UnknownName, UsageError
from ..images import MAX_PIXELS
from ..options import Setting, typed

if TYPE_CHECKING:
    from ..training.loop import Progress
    from ..training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to differ from a recipe. Every field can change the outcome."""

    settings: Sequence[Setting] = ()
    epochs: int | None = None  # None: the recipe's
    batch_size: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class NetworkChanges(Changes):
    """What is to differ where a network is trained."""

    precision: str | None = None  # of training; None: the recipe's
    accumulate: int = 1  # parts that a batch is computed in
    max_bad: str = "0"  # images that may be left out, as N or P%


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How a run is carried out; nothing here changes the outcome."""

    workers: int | None = None  # threads that decode
    save_every: int = 500  # steps between two checkpoints
    log_every: int = 10
    overwrite: bool = False  # start anew where there is a run of the same command


@dataclass(frozen=True, kw_only=True)
class NetworkEffort(Effort):
    """How a network is trained."""

    device: str = "auto"
    checkpoint_activations: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Where a run's notes go while it is under way."""

    notify: Callable[[str], None] = lambda line: None
    # of which training; empty if there is only one
    progress: Callable[[str, Progress], None] = lambda what, progress: None
    # `id` and `reason` of images that cannot be decoded
    skipped: Callable[[Sequence[dict[str, str]]], None] = lambda records: None


def recipe_changes(
    changes: Changes, kind: type, options: Collection[str], owner: str, called: str, flags: Sequence[str]
) -> dict[str, Any]:
    """Fields of a recipe of this `kind` that are to change: those of `options` by --set, `flags` by their own.

    `owner` is the plug-in whose recipe it is, `called` what the user calls it: a method, a mode. Raises UnknownName for
    what is no option, UsageError for a value of another type or out of bounds and for another plug-in's option.
    """
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for setting in changes.settings:
        if setting.plugin not in ("", owner.replace("-", "_")):
            raise UsageError(f"--set {setting.plugin}.{setting.name}: the {called} is {owner}")
        if setting.name not in options:
            raise UnknownName("option", setting.name, sorted(options))
        found[setting.name] = typed(setting, hints[setting.name])
    require_sensible(found)
    return found | {name: getattr(changes, name) for name in flags if getattr(changes, name) is not None}


# in words -> whether a number is so, and the options that have to be
_BOUNDS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "above 0": (
        lambda value: value > 0,
        "lr alpha temperature student_temperature teacher_temperature warmup_teacher_temperature",
    ),
    "0 or more": (
        lambda value: value >= 0,
        "min_lr start_lr weight_decay final_weight_decay clip warmup_epochs warmup_teacher_temperature_epochs"
        " freeze_last_layer randaugment mixup cutmix sinkhorn_rounds memax_weight entropy_weight",
    ),
    "at least 1": (
        lambda value: value >= 1,
        "lr_batch patience rank blocks outputs hidden bottleneck prototypes projector_width out_width"
        " decoder_width decoder_depth decoder_heads",
    ),
    "a number from 0 to 1": (
        lambda value: 0 <= value <= 1,
        "flip erase label_smoothing drop_path momentum_teacher center_momentum",
    ),
    "a number from 0 to below 1": (lambda value: 0 <= value < 1, "patch_drop mask_ratio"),
    "above 0 and up to 1": (lambda value: 0 < value <= 1, "crop layer_decay"),
}


def require_sensible(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a number, by its option's name, that no training makes sense with; None passes."""
    for words, (holds, names) in _BOUNDS.items():
        for name in names.split():
            value = values.get(name)
            if value is not None and not (math.isfinite(value) and holds(value)):
                raise UsageError(f"--set {name}={value:g}: {words}")


def require_at_least(recipe: Recipe, least: Mapping[str, int]) -> None:
    """Raise UsageError for a number of the recipe that is too small; these have flags of their own."""
    for name, number in least.items():
        if getattr(recipe, name) < number:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(recipe, name)}: at least {number}")


def require_computable(recipe: Recipe, accumulate: int) -> None:
    """Raise UsageError for a precision that is not known, or a batch that cannot be divided into `accumulate` parts."""
    if recipe.precision not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"--precision {recipe.precision!r} is not one of fp32, bf16, fp16")
    if recipe.batch_size % accumulate:
        raise UsageError(f"--accumulate {accumulate} does not divide a batch of {recipe.batch_size}")


def require_precision_on(precision: str, device: str) -> None:
    """Raise UsageError for a precision that does not train on a device."""
    if precision == "fp16" and not device.startswith("cuda"):
        raise UsageError("--precision fp16 trains on GPUs only", fix="Use --precision bf16 or fp32.")
