"""Backbones with random weights that know how they read images, and pictures for them."""

from __future__ import annotations

import numpy as np
import torch

from fewvit.backbones import Architecture
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.inspect.pictures import Pictures
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.spec import BackboneSpec


def made_backbone(architecture: Architecture, size: str = "84", seed: int = 3) -> Backbone:
    """A frozen backbone whose attention is far from even: its weights are drawn wider than at the start."""
    protocol = "timm/1" if architecture.timm else "dino/1"
    spec = BackboneSpec("toy", "timm" if architecture.timm else "dino", architecture, protocol, "random", seed=seed)
    pipeline = settle(spec, FeatureOptions(img_size=size, pool="mean"))
    backbone = build(spec, Readout("mean"), pipeline.size, engine="eager")
    stream = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.model.named_parameters():
        if "qkv.weight" in name or "token" in name or "pos_embed" in name:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=stream))
    backbone.pipeline = pipeline
    return backbone


def made_pictures(n: int, height: int = 84, width: int | None = None, seed: int = 7) -> Pictures:
    """Pictures of noise, labelled 3 and 7 in turn."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, height, width or height, 3), np.uint8)
    return Pictures([f"p{i}.jpg" for i in range(n)], np.resize([3, 7], n), [str(c) for c in range(11)], pixels)
