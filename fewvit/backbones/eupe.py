"""EUPE (Meta 2026) by timm: small ViTs and ConvNeXts distilled from one large teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import TimmFamily, timm_row
from ._tokens import Tokens

# timm builds four registers; the model card counts none (197 tokens of 224 pixels)
_VIT = Tokens(1, 4, "mean", official="cls")
_CONVNEXT = Tokens(0, 0, "mean")

_SIZES = {
    "eupe_vitt16": ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", (192, 12, 3, 16), 5_489_664, _VIT),
    "eupe_vits16": ("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", (384, 12, 6, 16), 21_596_160, _VIT),
    "eupe_vitb16": ("vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", (768, 12, 12, 16), 85_659_648, _VIT),
    "eupe_convnext_tiny": ("convnext_tiny.eupe_lvd1689m", (768, 18, 0, 32), 27_820_128, _CONVNEXT),
    "eupe_convnext_small": ("convnext_small.eupe_lvd1689m", (768, 36, 0, 32), 49_454_688, _CONVNEXT),
    "eupe_convnext_base": ("convnext_base.eupe_lvd1689m", (1024, 36, 0, 32), 87_566_464, _CONVNEXT),
}


class Eupe(TimmFamily):
    """Published numbers: none are repeated here."""

    license: ClassVar[str] = "FAIR-Noncommercial-Research-License"
    source: ClassVar[str] = "https://huggingface.co/facebook/EUPE-ViT-T"
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(model, shape, parameters, tokens, size=256, crop=1.0)
        for name, (model, shape, parameters, tokens) in _SIZES.items()
    }
