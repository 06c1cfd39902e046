"""Which backbones can be fine-tuned."""

from __future__ import annotations

from ..errors import UsageError
from ..models.spec import BackboneSpec
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD


def plain(spec: BackboneSpec) -> BackboneSpec:
    """The spec, if its network is one that training knows. Raises UsageError."""
    if spec.architecture.timm:
        raise UsageError(
            f"{spec.name} is a model of timm's own, and only the plain ViTs of DINO, MSN, MAE and DINOv2 are fine-tuned",
            fix="See `fewvit backbones list`; a weights file or a run folder also do.",
        )
    mean, std = (tuple(spec.preprocess.get(name, usual)) for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise UsageError(f"{spec.name} takes pixels of another mean and deviation than ImageNet's, which training has not")
    return spec
