"""SigLIP 2 (Tschannen et al. 2025) by timm: no class token, and a head that pools by attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import HALF, TimmFamily, timm_row
from ._tokens import Tokens

# name -> model of timm; width, blocks, heads, patch; parameters without the head; pixels
_SIZES = {
    "siglip2_vitb16": ("vit_base_patch16_siglip_224.v2_webli", (768, 12, 12, 16), 85_797_120, 224),
    "siglip2_vitb32": ("vit_base_patch32_siglip_256.v2_webli", (768, 12, 12, 32), 87_465_216, 256),
    "siglip2_vitl16": ("vit_large_patch16_siglip_256.v2_webli", (1024, 24, 16, 16), 303_361_024, 256),
    "siglip2_so400m14": ("vit_so400m_patch14_siglip_224.v2_webli", (1152, 27, 16, 14), 412_442_352, 224),
    "siglip2_so400m16": ("vit_so400m_patch16_siglip_256.v2_webli", (1152, 27, 16, 16), 412_649_712, 256),
    "siglip2_giantopt16": ("vit_giantopt_patch16_siglip_256.v2_webli", (1536, 40, 16, 16), 1_134_838_272, 256),
}


class Siglip2(TimmFamily):
    """Published numbers: none of images alone; its protocol is zero-shot with the text encoder."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/google-research/big_vision"
    known_as: ClassVar[tuple[str, ...]] = ("siglip", "siglip2", "siglip_vision_model", "siglip2_vision_model")
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(model, shape, parameters, Tokens(0, 0, "attn"), size=size, statistics=HALF)
        for name, (model, shape, parameters, size) in _SIZES.items()
    }
