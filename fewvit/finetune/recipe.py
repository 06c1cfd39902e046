"""A mode's recipe under the choices made."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import UsageError
from ..extraction.pipeline import Pipeline
from ..extraction.work import allowed_bad
from ..preprocess import Preprocess
from ..training.request import changed, require_at_least, require_computable, require_sensible
from ..views.view import View
from .choice import Choice
from .modes import TuningRecipe, check_mode, check_options, recipe_for

OPTIONS = {field.name for field in dataclasses.fields(TuningRecipe)} - {"architecture", "views", "mode", "betas"}  # of --set


def check(choice: Choice) -> Choice:
    """The choice, its mode as it is spelled here, after all that can be told before anything is read. Raises UnknownName, UsageError."""
    choice = dataclasses.replace(choice, mode=check_mode(choice.mode))
    if choice.shots < 1 or choice.trial < 0:
        raise UsageError(f"--shots {choice.shots} --trial {choice.trial}: shots from 1, trials from 0")
    allowed_bad(choice.max_bad, 1)
    _changes(choice)
    return choice


def _changes(choice: Choice) -> dict[str, Any]:
    """Fields of the recipe that are to change, with their values."""
    found = changed(choice, TuningRecipe, OPTIONS, choice.mode, "mode", ("epochs", "batch_size", "precision"))
    check_options(choice.mode, found)
    return found


def recipe_of(choice: Choice, pipeline: Pipeline, labels: int, per_class: int) -> tuple[TuningRecipe, list[float]]:
    """The recipe for `labels` labelled images, up to `per_class` of each class, and the learning rates that the held-out ones choose from.

    Raises UnknownName, UsageError.
    """
    spec, preprocess = pipeline.spec, pipeline.preprocess
    view = View(preprocess.crop[0], (1.0, 1.0), interpolation=preprocess.interpolation)
    recipe, grid = recipe_for(choice.mode, spec.architecture, view, spec.family, labels, per_class)
    changes = _changes(choice)
    epochs = changes.get("epochs", recipe.epochs)
    if epochs < recipe.epochs:  # a shorter run has a shorter warm-up
        changes.setdefault("warmup_epochs", round(recipe.warmup_epochs * epochs / recipe.epochs, 3))
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.pool == "fc_norm" and spec.architecture.final_norm != "fc_norm":
        recipe = dataclasses.replace(recipe, architecture=dataclasses.replace(spec.architecture, final_norm="fc_norm"))
    recipe = dataclasses.replace(recipe, views=(dataclasses.replace(view, scale=(recipe.crop, 1.0), flip=recipe.flip),))
    _check(recipe, choice, preprocess)
    return recipe, [recipe.lr] if "lr" in changes else grid


def _check(recipe: TuningRecipe, choice: Choice, preprocess: Preprocess) -> None:
    require_at_least(recipe, {"epochs": 1, "batch_size": 1})
    require_sensible(vars(recipe))
    recipe.first_block(recipe.architecture.depth)
    if recipe.mode == "lora":
        _ = recipe.layers
    require_computable(recipe, choice.accumulate)
    if recipe.pool == "fc_norm" and recipe.head == "probe":
        raise UsageError("--set pool=fc_norm goes with head=linear: the frozen backbone has no such feature to begin with")
    if recipe.pool == "fc_norm" and choice.mode != "full":
        raise UsageError("--set pool=fc_norm goes with --mode full: a new norm is no part of an adapter")
    if recipe.crop < 1 and preprocess.crop[0] != preprocess.crop[1]:
        raise UsageError(f"random crops are square, and --img-size {choice.img_size} is not", fix="Use --set crop=1, or a square size.")
