"""Perception Encoder, PE-Core (Meta 2025), by timm: rotary positions, and a head that pools by attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import HALF, TimmFamily, timm_row
from ._tokens import Tokens

# name -> model of timm; width, blocks, heads, patch; parameters without the head; class tokens, pixels, zero-shot
_SIZES = {
    "pe_core_vitt16": ("vit_pe_core_tiny_patch16_384.fb", (192, 12, 3, 16), 5_597_568, 1, 384, 62.1),
    "pe_core_vits16": ("vit_pe_core_small_patch16_384.fb", (384, 12, 6, 16), 21_811_968, 1, 384, 72.7),
    "pe_core_vitb16": ("vit_pe_core_base_patch16_224.fb", (768, 12, 12, 16), 85_799_424, 1, 224, 78.4),
    "pe_core_vitl14": ("vit_pe_core_large_patch14_336.fb", (1024, 24, 16, 14), 303_507_456, 1, 336, 83.5),
    "pe_core_vitg14": ("vit_pe_core_gigantic_patch14_448.fb", (1536, 50, 16, 14), 1_851_736_576, 0, 448, 85.4),
}
_NOTE = "its best features lie in blocks before the last: --layers each"


class Pe(TimmFamily):
    """Published numbers: zero-shot top-1 on ImageNet, with the text encoder, of the model cards."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/facebookresearch/perception_models"
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(
            model,
            shape,
            parameters,
            Tokens(classes, 0, "attn"),
            size=size,
            crop=1.0,
            statistics=HALF,
            published={"zero-shot": zero_shot},
            note=_NOTE,
        )
        for name, (model, shape, parameters, classes, size, zero_shot) in _SIZES.items()
    }
