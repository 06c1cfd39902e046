"""A mode's recipe under the choices made."""

from __future__ import annotations

import dataclasses

from ..errors import UsageError
from ..images import Preprocess
from ..pipeline import Pipeline
from ..training.modes import TuningRecipe, recipe_for
from ..training.recipe import View
from ..training.request import changed, require_at_least, require_computable
from .choice import Choice

OPTIONS = {field.name for field in dataclasses.fields(TuningRecipe)} - {"architecture", "views", "mode", "betas"}  # of --set


def recipe_of(choice: Choice, pipeline: Pipeline, labels: int, per_class: int) -> tuple[TuningRecipe, list[float]]:
    """The recipe for `labels` labelled images, up to `per_class` of each class, and the learning rates that the held-out ones choose from.

    Raises UnknownName, UsageError.
    """
    spec, preprocess = pipeline.spec, pipeline.preprocess
    view = View(preprocess.crop[0], (1.0, 1.0), interpolation=preprocess.interpolation)
    recipe, grid = recipe_for(choice.mode, spec.architecture, view, spec.family, labels, per_class)
    changes = changed(choice, TuningRecipe, OPTIONS, choice.mode, "mode", ("epochs", "batch_size", "precision"))
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
    require_at_least(recipe, {"epochs": 1, "batch_size": 1, "patience": 1})
    for name in ("flip", "erase", "label_smoothing", "drop_path"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise UsageError(f"--set {name}={getattr(recipe, name)}: a number from 0 to 1")
    if not 0 < recipe.crop <= 1:
        raise UsageError(f"--set crop={recipe.crop}: a share of the picture above 0 and up to 1")
    require_computable(recipe, choice.accumulate)
    if recipe.pool == "fc_norm" and recipe.head == "probe":
        raise UsageError("--set pool=fc_norm goes with head=linear: the frozen backbone has no such feature to begin with")
    if recipe.pool == "fc_norm" and choice.mode != "full":
        raise UsageError("--set pool=fc_norm goes with --mode full: a new norm is no part of an adapter")
    if recipe.crop < 1 and preprocess.crop[0] != preprocess.crop[1]:
        raise UsageError(f"random crops are square, and --img-size {choice.img_size} is not", fix="Use --set crop=1, or a square size.")
