"""What a fine-tuning is asked for, and the recipe that its mode makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..extraction.pipeline import Pipeline
from ..extraction.work import allowed_bad
from ..models.told import NOTHING, Told
from ..preprocess import Preprocess
from ..runs import request as of_runs
from ..runs.request import NetworkChanges, recipe_changes, require_at_least, require_computable, require_sensible
from ..views.view import View
from .modes import TuningRecipe, check_mode, check_options, recipe_for

if TYPE_CHECKING:
    from ..extraction.work import Progress

_NOT_BY_SET = {"architecture", "views", "mode", "betas"}
OPTIONS = {field.name for field in dataclasses.fields(TuningRecipe)} - _NOT_BY_SET


@dataclass(frozen=True)
class BackboneRequest:
    """Which backbone, as it was asked for."""

    name: str
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0  # of random weights
    told: Told = NOTHING  # of a bare file


@dataclass(frozen=True)
class FineTuningRequest(NetworkChanges):
    """What is fine-tuned, and on what; every field can change the outcome.

    Features are evaluated in fp32, whatever the precision.
    """

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
class Audience(of_runs.Audience):
    """Where a fine-tuning's notes go; the extraction of features has a progress of its own."""

    extraction: Callable[[Progress], None] | None = None


def check_request(request: FineTuningRequest) -> FineTuningRequest:
    """The request with its mode as it is spelled here, if nothing in it is wrong whatever the data.

    Raises UnknownName, UsageError.
    """
    request = dataclasses.replace(request, mode=check_mode(request.mode))
    if request.shots < 1 or request.trial < 0:
        raise UsageError(f"--shots {request.shots} --trial {request.trial}: shots from 1, trials from 0")
    allowed_bad(request.max_bad, 1)
    _changes(request)
    return request


def _changes(request: FineTuningRequest) -> dict[str, Any]:
    """Fields of the recipe that are to change, with their values."""
    flags = ("epochs", "batch_size", "precision")
    found = recipe_changes(request, TuningRecipe, OPTIONS, request.mode, "mode", flags)
    check_options(request.mode, found)
    return found


def recipe_of(
    request: FineTuningRequest, pipeline: Pipeline, labels: int, per_class: int
) -> tuple[TuningRecipe, list[float]]:
    """The recipe for `labels` labelled images, up to `per_class` of each class, and the learning rates to choose from.

    Raises UnknownName, UsageError.
    """
    spec, preprocess = pipeline.spec, pipeline.preprocess
    view = View(preprocess.crop[0], (1.0, 1.0), interpolation=preprocess.interpolation)
    recipe, grid = recipe_for(request.mode, spec.architecture, view, spec.family, labels, per_class)
    changes = _changes(request)
    epochs = changes.get("epochs", recipe.epochs)
    if epochs < recipe.epochs:  # a shorter run has a shorter warm-up
        changes.setdefault("warmup_epochs", round(recipe.warmup_epochs * epochs / recipe.epochs, 3))
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.pool == "fc_norm" and spec.architecture.final_norm != "fc_norm":
        recipe = dataclasses.replace(recipe, architecture=dataclasses.replace(spec.architecture, final_norm="fc_norm"))
    recipe = dataclasses.replace(recipe, views=(dataclasses.replace(view, scale=(recipe.crop, 1.0), flip=recipe.flip),))
    _check(recipe, request, preprocess)
    return recipe, [recipe.lr] if "lr" in changes else grid


def _check(recipe: TuningRecipe, request: FineTuningRequest, preprocess: Preprocess) -> None:
    """Raise UsageError for a recipe that cannot be carried out."""
    require_at_least(recipe, {"epochs": 1, "batch_size": 1})
    require_sensible(vars(recipe))
    recipe.first_block(recipe.architecture.depth)
    if recipe.mode == "lora":
        _ = recipe.layers
    require_computable(recipe, request.accumulate)
    if recipe.pool == "fc_norm" and recipe.head == "probe":
        raise UsageError(
            "--set pool=fc_norm goes with head=linear: the frozen backbone has no such feature to begin with"
        )
    if recipe.pool == "fc_norm" and request.mode != "full":
        raise UsageError("--set pool=fc_norm goes with --mode full: a new norm is no part of an adapter")
    if recipe.crop < 1 and preprocess.crop[0] != preprocess.crop[1]:
        what = f"random crops are square, and --img-size {request.img_size} is not"
        raise UsageError(what, fix="Use --set crop=1, or a square size.")
