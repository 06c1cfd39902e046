"""What a pretraining run is asked for, the recipe that follows from it, and the notes on it before it begins."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backbones import Architecture, Protocol, family_of
from ..datasets import Dataset
from ..errors import CheckpointError, UnknownName, UsageError, counted
from ..extraction.protocols import find_protocol
from ..methods import Method, find_method
from ..models.spec import BackboneSpec
from ..models.told import NOTHING, Told
from ..preprocess import Preprocess
from ..runs.request import (
    NetworkChanges,
    NetworkEffort,
    recipe_changes,
    require_at_least,
    require_computable,
    require_sensible,
)
from ..training.recipe import Recipe

FEW = 100_000  # images; below, the published recipes from scratch give less than the small ones


@dataclass(frozen=True)
class PretrainingRequest(NetworkChanges):
    """What is to be trained. Every field can change the outcome."""

    method: str
    preset: str
    data: str
    init: str | None = None  # a backbone to go on from
    monitor: str | None = None  # labelled images
    monitor_every: int = 1  # epochs
    checkpoint_key: str | None = None  # of the file to go on from
    family: str | None = None
    told: Told = NOTHING
    minutes: float | None = None  # that the run may take, which decides its epochs when it begins


@dataclass(frozen=True, kw_only=True)
class PretrainingEffort(NetworkEffort):
    """How a pretraining is carried out; nothing here changes the outcome."""

    compile: bool = False
    tensorboard: bool = False


def recipe_of(request: PretrainingRequest) -> Method:
    """The preset's recipe under the choices made. Raises UnknownName, UsageError."""
    presets = find_method(request.method).presets
    if request.preset not in presets:
        raise UnknownName("preset", request.preset, presets)
    recipe: Method = presets[request.preset]
    kind = type(recipe)
    options = [name for name, hint in typing.get_type_hints(kind).items() if _is_plain(hint)]
    changes = recipe_changes(request, kind, options, request.method, "method", ("epochs", "batch_size", "precision"))
    warmups = _shorter_warmups(recipe, changes.get("epochs", recipe.epochs))
    recipe = dataclasses.replace(recipe, **{**warmups, **changes})
    require_at_least(recipe, {"epochs": 1, "batch_size": 2})
    require_sensible(vars(recipe))
    require_computable(recipe, request.accumulate)
    return recipe


def _shorter_warmups(recipe: Recipe, epochs: int) -> dict[str, Any]:
    """Warm-ups of a run that is shorter than its preset, in proportion.

    Ten epochs of warm-up would be all of a ten-epoch run.
    """
    share = epochs / recipe.epochs
    warmups = {
        f.name: getattr(recipe, f.name)
        for f in dataclasses.fields(recipe)
        if "warmup" in f.name and f.name.endswith("_epochs")
    }
    return {name: type(value)(round(value * share, 3)) for name, value in warmups.items()} if share < 1 else {}


def _is_plain(kind: object) -> bool:
    """Whether an option is a number, a word or a switch, perhaps none of them."""
    wanted = typing.get_args(kind) or (kind,)
    return all(one in (int, float, str, bool, type(None)) for one in wanted)


def protocol_for(method: Method) -> Protocol:
    """What its encoder is read by: the method's own protocol, else its family's."""
    return method.protocol or find_protocol(family_of(method.family).protocol)


def evaluation_transform(recipe: Method) -> Preprocess:
    """How images are shown to the encoder afterwards: the protocol's way, whole ones at the sizes of small recipes."""
    size = _largest_crop(recipe)
    protocol = protocol_for(recipe).preprocess
    return protocol if size >= 160 else dataclasses.replace(protocol, cover=(size, size), crop=(size, size))


def continued_architecture(spec: BackboneSpec, wanted: Architecture) -> Architecture:
    """The architecture of released weights, which replaces the preset's; positions follow the method's rule."""
    own = spec.architecture
    if not own.is_vit or own.final_norm != "norm":
        raise CheckpointError(f"{spec.name} is no plain ViT with a final norm, so no method here can go on from it")
    if own.is_rotary:
        raise UsageError(
            f"{spec.name} has rotary positions and no position table, which the methods here train",
            fix="Go on from a ViT with a table: a DINO, MSN, MAE or DINOv2 one.",
        )
    return dataclasses.replace(own, positions=wanted.positions)


def tell_what_init_changed(
    request: PretrainingRequest, wanted: Architecture, own: Architecture, notify: Callable[[str], None]
) -> None:
    """Say what of the preset's architecture the weights that are gone on from replaced."""
    asked, found = dataclasses.asdict(wanted), dataclasses.asdict(own)
    changed = [name for name in asked if asked[name] != found[name]]
    if changed:
        became = ", ".join(f"{name} {found[name]} (the preset's: {asked[name]})" for name in changed)
        notify(f"--init {request.init} changes what --preset {request.preset} trains: {became}")


def identity(
    request: PretrainingRequest, recipe: Recipe, dataset: Dataset, monitor: Dataset | None, spec: BackboneSpec | None
) -> dict[str, Any]:
    """Everything that decides the outcome, as JSON; what the manifest of a run is compared with."""
    return {
        "command": "pretrain",
        "method": request.method,
        "preset": request.preset,
        "recipe": dataclasses.asdict(recipe),
        "accumulate": request.accumulate,
        "seed": request.seed,
        "init": spec.fingerprint if spec is not None else None,
        "max_bad": request.max_bad,
        "data": {"name": dataset.name, "images": len(dataset), "listing": dataset.digest},
        "monitor": {"images": len(monitor), "listing": monitor.digest} if monitor is not None else None,
        "monitor_every": request.monitor_every,
        **({"minutes": request.minutes} if request.minutes is not None else {}),
    }


def warn_of_few_images(request: PretrainingRequest, images: int, notify: Callable[[str], None]) -> None:
    """Say that a published recipe from scratch gives less than released weights on so few images."""
    if request.preset.startswith("paper/") and images < FEW:
        notify(
            f"{request.preset} from scratch on {images} images: expect less than released weights give; "
            "go on from them with --init, or use a recipe for few images (--preset small/64)"
        )


def warn_of_small_images(
    request: PretrainingRequest, recipe: Recipe, sizes: np.ndarray, notify: Callable[[str], None]
) -> None:
    """Say how many of the images of `sizes` (n, 2) in pixels the largest crop enlarges, and which preset fits better.

    The latter only where it enlarges most of them.
    """
    crop, sides = _largest_crop(recipe), sizes.min(axis=1)
    small = int(np.count_nonzero(sides < crop))
    if small:
        among = f"of the {len(sizes)} images looked at"
        smaller = f"{counted(small, f'{among} is', f'{among} are')} smaller"
        better = _fitting_preset(request, crop, int(np.median(sides))) if request.init is None else None
        notify(
            f"{smaller} than the {crop} pixels of the largest crop, which enlarges them"
            + (f"; --preset {better} fits them better" if better else "")
        )


def _fitting_preset(request: PretrainingRequest, crop: int, side: int) -> str | None:
    """The preset with the largest crop that images of `side` pixels fill, or with the smallest where they fill none.

    None where they fill `crop`, the crop there is, or no preset has a smaller one.
    """
    crops = {name: _largest_crop(recipe) for name, recipe in find_method(request.method).presets.items()}
    smaller = [one for one in crops.values() if one < crop]
    if side >= crop or not smaller:
        return None
    best = max((one for one in smaller if one <= side), default=min(smaller))
    return next(name for name, one in crops.items() if one == best)


def _largest_crop(recipe: Recipe) -> int:
    """Pixels of a side of the largest view."""
    return max(view.size for view in recipe.views)
