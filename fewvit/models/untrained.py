"""The module of an architecture, before it has weights."""

from __future__ import annotations

from ..backbones import Architecture
from .convnext import ConvNeXt
from .vit import VisionTransformer


def module_of(architecture: Architecture) -> VisionTransformer | ConvNeXt:
    """A module of ours for an architecture that is not timm's."""
    return ConvNeXt(architecture) if architecture.stages else VisionTransformer(architecture)
