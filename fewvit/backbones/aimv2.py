"""AIMv2 (Fini et al. 2024) by timm: trained to go on with patches and words; no class token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import CLIP, TimmFamily, timm_row
from ._tokens import Tokens

_SIZES = {
    "aimv2_vitl14": ("aimv2_large_patch14_224.apple_pt", (1024, 24, 8, 14), 309_197_824),
    "aimv2_vitl14_dist": ("aimv2_large_patch14_224.apple_pt_dist", (1024, 24, 8, 14), 309_197_824),
    "aimv2_vith14": ("aimv2_huge_patch14_224.apple_pt", (1536, 24, 12, 14), 680_851_968),
    "aimv2_vit1b14": ("aimv2_1b_patch14_224.apple_pt", (2048, 24, 16, 14), 1_234_958_336),
    "aimv2_vit3b14": ("aimv2_3b_patch14_224.apple_pt", (3072, 24, 24, 14), 2_720_658_432),
}


class Aimv2(TimmFamily):
    """Published numbers: none are repeated here; its authors judge it by a probe that attends to the patches."""

    license: ClassVar[str] = "Apple-ASCL"
    source: ClassVar[str] = "https://github.com/apple/ml-aim"
    known_as: ClassVar[tuple[str, ...]] = ("aimv2", "aimv2_vision_model")
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(
            model,
            shape,
            parameters,
            Tokens(0, 0, "mean"),
            crop=1.0,
            statistics=CLIP,
            note="its authors judge it by an attentive probe",
        )
        for name, (model, shape, parameters) in _SIZES.items()
    }
