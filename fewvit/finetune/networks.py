"""The network that every training of a run begins with, and which backbones it can be made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..models.build import build
from ..models.spec import BackboneSpec
from ..seeds import seed_of
from .baselines import logistic
from .plan import Labelled, Plan

if TYPE_CHECKING:
    from ..methods._trunk import Trunk
    from .tuning import ClassificationHead, Tuning


def require_plain_vit(spec: BackboneSpec) -> BackboneSpec:
    """The spec, if its network is one that training knows. Raises UsageError."""
    if spec.architecture.timm:
        raise UsageError(
            f"{spec.name} is a model of timm's own, and only the plain ViTs of DINO, MSN, MAE, DINOv2 and DINOv3 "
            "are fine-tuned",
            fix="See `fewvit backbones list`; a weights file or a run folder also do.",
        )
    if spec.architecture.stages:
        raise UsageError(
            f"{spec.name} is a ConvNeXt, and only ViTs are fine-tuned",
            fix="Evaluate it frozen: `fewvit knn`, `lowshot`, `linear` and `fit` read its features.",
        )
    spec.require_imagenet_statistics()
    return spec


class Networks:
    """Makes it again and again: released weights, new adapters, a classifier."""

    def __init__(self, plan: Plan, labelled: Labelled):
        from ..models.readout import Readout

        self._plan, self._labelled = plan, labelled
        pipeline = plan.pipeline
        self._released = dict(
            build(pipeline.spec, Readout(), pipeline.preprocess.crop, engine="eager").model.state_dict()
        )
        pool = "mean" if plan.recipe.architecture.final_norm == "fc_norm" else pipeline.pool
        self._readout = Readout(pool, 1, pipeline.norm)

    def new(self, lr: float, fit: np.ndarray) -> Tuning:
        """A `Tuning` of this peak learning rate; its classifier is made from the images with numbers `fit` (N,)."""
        import torch

        from ..methods._trunk import Trunk
        from ..training.on_cpu import speed_up
        from .adapters import prepare
        from .tuning import Tuning

        recipe = dataclasses.replace(self._plan.recipe, lr=lr)
        trunk = Trunk(recipe.architecture, recipe.drop_path)
        self._fill(trunk)
        stream = torch.Generator().manual_seed(seed_of(self._plan.request.seed, "adapter"))
        prepare(trunk, recipe, self._readout.uses_norm, stream)
        task = Tuning(recipe, trunk, self._readout, self._head(fit), self._plan.pipeline.preprocess.crop)
        if self._plan.effort.device == "cpu":
            speed_up(task)
        return task.to(self._plan.effort.device)

    def _fill(self, trunk: Trunk) -> None:
        """Give the trunk the released weights; a norm of its own over mean patch tokens begins as the identity."""
        import torch

        from ..checkpoints.filling import fill

        tensors, spec = dict(self._released), self._plan.pipeline.spec
        if "fc_norm.weight" in trunk.state_dict() and "fc_norm.weight" not in tensors:
            tensors |= {
                "fc_norm.weight": torch.ones_like(tensors.pop("norm.weight")),
                "fc_norm.bias": torch.zeros_like(tensors.pop("norm.bias")),
            }
        fill(trunk, tensors, spec.file or spec.name)

    def _head(self, fit: np.ndarray) -> ClassificationHead:
        """The classifier at the start: the frozen logistic regression of the images `fit`, or nearly zero."""
        import torch

        from .tuning import ClassificationHead

        recipe, labelled = self._plan.recipe, self._labelled
        if recipe.head == "linear":
            stream = torch.Generator().manual_seed(seed_of(self._plan.request.seed, "head"))
            shape = (len(labelled.present), recipe.architecture.width)  # (C, D)
            weight = torch.nn.init.trunc_normal_(torch.empty(shape), std=2e-5, generator=stream)
            return ClassificationHead(weight, torch.zeros(len(labelled.present)), "raw", with_bias=True)
        estimator = logistic(self._plan, len(fit)).fit(labelled.support.features[fit], labelled.labels[fit])
        fitted = (estimator.coef_, estimator.intercept_)
        weight, bias = (torch.from_numpy(np.asarray(array, np.float32)) for array in fitted)
        return ClassificationHead(weight, bias, estimator.rows, with_bias=estimator.intercept)
