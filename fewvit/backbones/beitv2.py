"""BEiT v2 (Peng et al. 2022) by timm, whose files were fine-tuned on labels of ImageNet-22k after pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Variant
from ._timm import TimmFamily, timm_row
from ._tokens import Tokens

_NOTE = "fine-tuned on ImageNet-22k labels; timm has no file without labels"
_MEAN = Tokens(1, 0, "mean")


class Beitv2(TimmFamily):
    """Published numbers: none are repeated here."""

    license: ClassVar[str] = "MIT"
    license_note: ClassVar[str] = "at the official source; timm's card says Apache-2.0"
    source: ClassVar[str] = "https://github.com/microsoft/unilm/tree/master/beit2"
    pretrained_on: ClassVar[str] = "imagenet-21k"
    variants: ClassVar[Mapping[str, Variant]] = {
        "beitv2_vitb16": timm_row(
            "beitv2_base_patch16_224.in1k_ft_in22k", (768, 12, 12, 16), 85_761_984, _MEAN, note=_NOTE
        ),
        "beitv2_vitl16": timm_row(
            "beitv2_large_patch16_224.in1k_ft_in22k", (1024, 24, 16, 16), 303_405_568, _MEAN, note=_NOTE
        ),
    }
