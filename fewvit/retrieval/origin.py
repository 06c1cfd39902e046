"""What made the features of an index, so that those of queries and of new images are made in the same way."""

from __future__ import annotations

import dataclasses

from ..errors import FingerprintMismatch, IntegrityError
from ..evaluate.inputs import Backbones
from ..extraction.pipeline import Pipeline
from ..extraction.recipe import Recipe
from ..features import FeatureSet
from ..sources import Notify
from .growth import Made
from .manifest import Manifest


def made_by(pipeline: Pipeline, backbones: Backbones) -> Made:
    """Of images: the pipeline, and how it is made again."""
    recipe = dataclasses.asdict(backbones.recipe(pipeline))
    return Made(pipeline.fingerprint, pipeline.spec.name, recipe, {**pipeline.facts})


def made_before(features: FeatureSet) -> Made:
    """Of features that were given: what their file says."""
    return Made(features.fingerprint, features.backbone, {}, {"protocol": features.protocol})


def recipe_of(manifest: Manifest) -> Recipe | None:
    """How features are made of images; None for an index of features, which does not know."""
    if not manifest.recipe:
        return None
    try:
        return Recipe.of_json(manifest.recipe)
    except (TypeError, KeyError) as error:
        raise IntegrityError(f"its manifest has no usable recipe ({error})", fix="Build the index again.") from error


def require_pipeline(manifest: Manifest, pipeline: Pipeline, notify: Notify) -> None:
    """Raise FingerprintMismatch unless a pipeline makes the features of the index; it names both fingerprints."""
    if pipeline.fingerprint == manifest.fingerprint:
        return
    recipe = recipe_of(manifest)
    if recipe is not None:
        try:
            recipe.require(pipeline, notify, made="the index was built")
        except FingerprintMismatch as error:
            what = f"{error.what}: {manifest.fingerprint[:12]} in the index, {pipeline.fingerprint[:12]} now"
            raise FingerprintMismatch(what, fix="Leave the backbone's options away: the index knows them.") from error
        return
    if manifest.fingerprint:
        raise FingerprintMismatch(
            f"the index is of features with fingerprint {manifest.fingerprint[:12]}, {pipeline.spec.name} gives "
            f"{pipeline.fingerprint[:12]}",
            fix="Give the backbone and options that its features were extracted with.",
        )
    notify(f"the index does not say what made its features, so nothing shows that {pipeline.spec.name} did")
