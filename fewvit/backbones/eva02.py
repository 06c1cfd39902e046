"""EVA-02 (Fang et al. 2023) by timm: masked image modelling with rotary positions, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import CLIP, TimmFamily, timm_row
from ._tokens import Tokens

_SIZES = {
    "eva02_vitt14": ("eva02_tiny_patch14_224.mim_in22k", (192, 12, 3, 14), 5_502_144),
    "eva02_vits14": ("eva02_small_patch14_224.mim_in22k", (384, 12, 6, 14), 21_621_120),
    "eva02_vitb14": ("eva02_base_patch14_224.mim_in22k", (768, 12, 12, 14), 85_758_720),
    "eva02_vitl14": ("eva02_large_patch14_224.mim_in22k", (1024, 24, 16, 14), 303_268_800),
    "eva02_vitl14_m38m": ("eva02_large_patch14_224.mim_m38m", (1024, 24, 16, 14), 303_268_800),
}


class Eva02(TimmFamily):
    """Published numbers: none are repeated here."""

    license: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/baaivision/EVA/tree/master/EVA-02"
    variants: ClassVar[Mapping[str, Variant]] = {
        name: timm_row(
            model,
            shape,
            parameters,
            Tokens(1, 0, "mean"),
            statistics=CLIP,
            pretrained_on="imagenet-21k" if model.endswith("in22k") else "",
        )
        for name, (model, shape, parameters) in _SIZES.items()
    }
