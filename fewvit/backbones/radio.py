"""C-RADIO v3 and v4 (NVIDIA 2025, 2026): ViTs distilled from several teachers, by timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import CLIP, TimmFamily, timm_row
from ._tokens import Tokens

# name -> model of timm; width, blocks, heads, patch; parameters; registers by timm's count
_SIZES = {
    "radiov3_vitb16": ("vit_base_patch16_radio_v3.c_radio", (768, 12, 12, 16), 86_456_064, 7),
    "radiov3_vitl16": ("vit_large_patch16_radio_v3.c_radio", (1024, 24, 16, 16), 304_202_752, 7),
    "radiov3_vith16": ("vit_huge_patch16_radio_v3.c_radio", (1280, 32, 16, 16), 631_983_360, 7),
    "radiov3_vitg16": ("vit_giant_patch16_radio_v3.c_radio", (1536, 40, 24, 16), 1_136_027_136, 7),
    "radiov4_so400m16": ("vit_so400m_patch16_radio_v4.c_radio", (1152, 27, 16, 16), 413_543_664, 9),
    "radiov4_vith16": ("vit_huge_patch16_radio_v4.c_radio", (1280, 32, 16, 16), 631_985_920, 9),
}
# the official summary joins several, and timm counts the others as registers; timm has them from 1.0.30 on
_NOTE = "a class token per teacher, of which the first is read"


class Radio(TimmFamily):
    """Published numbers: none in a table; the report has k-NN as figures."""

    license: ClassVar[str] = "NVIDIA-Open-Model-License"
    source: ClassVar[str] = "https://github.com/NVlabs/RADIO"
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(
            model, shape, parameters, Tokens(1, others, "cls"), size=512, crop=1.0, statistics=CLIP, note=_NOTE
        )
        for name, (model, shape, parameters, others) in _SIZES.items()
    }
