"""How features were made, so that what was built on them can make those of new images in the same way."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import find_variant, variants
from ..errors import FingerprintMismatch, Unobtainable
from ..models.spec import BackboneSpec
from ..models.told import Told
from .pipeline import FeatureOptions, Pipeline


@dataclass(frozen=True)
class Recipe:
    """How the features were made, so that those of new images are made in the same way."""

    backbone: str  # as given: a variant's name, timm:NAME, hf:ORG/NAME, or the absolute path of a weights file
    weights: str | None  # of a named variant: a file's absolute path, or `random`
    checkpoint_key: str | None
    family: str | None
    seed: int  # of random weights
    options: FeatureOptions  # every choice spelled out, but for the device
    key: Mapping[str, Any]  # the pipeline's: what decides a feature's value
    weights_sha256: str
    license: str
    told: Mapping[str, Any] | None = None  # what of a bare file was said; None: nothing

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> Recipe:
        """The recipe in what `dataclasses.asdict` gave. Raises TypeError and KeyError for other things."""
        recipe = Recipe(**{**values, "options": FeatureOptions(**values["options"])})
        for part in (recipe, recipe.options):
            _require_types(part)
        _ = recipe.key["weights"]
        return recipe

    @property
    def told_of_file(self) -> Told:
        """What of a bare file was said when the features were made; nothing is asked again."""
        return Told.of_record(self.told)

    def located(self, weights: str | None, cache_dir: Path) -> Recipe:
        """The recipe with weights that are here: those given, or where they lay at the time, or found by file name.

        Raises Unobtainable for a file that is nowhere; a named variant without a file of its own is looked for by name.
        """
        bare = os.path.isabs(self.backbone)
        file = self.backbone if bare else self.weights
        if file is None or file == "random":
            return self if weights is None else dataclasses.replace(self, weights=weights)
        here = (
            os.path.abspath(weights) if weights else file if Path(file).exists() else _found(Path(file).name, cache_dir)
        )
        return dataclasses.replace(self, backbone=here) if bare else dataclasses.replace(self, weights=here)

    def require_backbone(
        self, name: str, weights: str | None, checkpoint_key: str | None, *, made: str = "the bundle was fitted"
    ) -> None:
        """Raise FingerprintMismatch for a variant that cannot be the recipe's backbone, before weights are fetched.

        `made` says in its words what was made of the features.
        """
        if name not in variants() or weights is not None:
            return
        family, variant = find_variant(name)
        with_these = BackboneSpec(
            name, family, variant.architecture, "", self.weights_sha256, checkpoint_key=checkpoint_key, seed=self.seed
        )
        renamed = not os.path.isabs(self.backbone) and self.weights is None and self.backbone != name
        if with_these.is_random or renamed or with_these.fingerprint != self.key["weights"]:
            raise self._mismatch(f"{made} with another backbone", name)

    def _mismatch(self, what: str, name: str) -> FingerprintMismatch:
        return FingerprintMismatch(
            f"{what} than {name}",
            fix=f"It needs {Path(self.backbone).name} with weights {self.weights_sha256[:16]}; say where they are "
            "with --weights FILE.",
        )

    def require(
        self,
        pipeline: Pipeline,
        notify: Callable[[str], None] = lambda line: None,
        *,
        made: str = "the bundle was fitted",
    ) -> None:
        """Raise FingerprintMismatch unless the pipeline makes the same features; `made` as in `require_backbone`.

        Another version of the decoder or engine is no error: `notify` gets a line on it.
        """
        own, other = (json.loads(json.dumps(dict(key))) for key in (self.key, pipeline.key))
        differing = [name for name in own if name in _DECISIVE and own[name] != other.get(name)]
        if _kind(own["precision"]) != _kind(other["precision"]):
            differing.append("precision")
        if differing:
            raise self._mismatch(f"{made} with other {' and '.join(differing)}", f"{pipeline.spec.name} now gives")
        for name in ("decoder", "precision"):
            if own[name] != other[name]:
                notify(
                    f"{made} with {name} {own[name]}, now it is {other[name]}: results may differ in their last digits"
                )


_DECISIVE = ("weights", "pool", "layers", "norm", "preprocess")


def _kind(precision: str) -> str:
    return precision.partition("-")[0]


def _found(name: str, cache_dir: Path) -> str:
    from ..checkpoints.finding import find_weights

    found = find_weights(name, cache_dir)
    if found is None:
        raise Unobtainable(
            f"the backbone's weights file {name} is not where it was",
            fix="Give --weights FILE, or put it into $FEWVIT_WEIGHTS_DIR.",
        )
    return str(found)


def _require_types(part: Recipe | FeatureOptions) -> None:
    """Raise TypeError, naming the field, unless each value is of the type that its annotation says."""
    for name, kind in typing.get_type_hints(type(part)).items():
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        value = getattr(part, name)
        if not isinstance(value, tuple(typing.get_origin(one) or one for one in kinds)):
            raise TypeError(f"{name} is {str(value)[:40]!r}")
