"""I-JEPA (Assran et al. 2023): ViTs of patches alone, built by timm; files of facebookresearch/ijepa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from . import NON_COMMERCIAL, Trunk, Variant
from ._timm import TimmFamily, timm_row
from ._tokens import Tokens

_BASE = "https://dl.fbaipublicfiles.com/ijepa"
_MEAN = Tokens(0, 0, "mean")


class Ijepa(TimmFamily):
    """Published numbers: none are repeated here."""

    license: ClassVar[str] = NON_COMMERCIAL
    source: ClassVar[str] = "https://github.com/facebookresearch/ijepa"
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("target_encoder", "encoder")
    known_as: ClassVar[tuple[str, ...]] = ("ijepa",)
    variants: ClassVar[Mapping[str, Variant]] = {
        "ijepa_vith14": timm_row(
            "vit_huge_patch14_gap_224.in1k_ijepa",
            (1280, 32, 16, 14),
            630_762_240,
            _MEAN,
            url=f"{_BASE}/IN1K-vit.h.14-300e.pth.tar",
            pretrained_on="imagenet-1k",
        ),
        "ijepa_vith14_in22k": timm_row(
            "vit_huge_patch14_gap_224.in22k_ijepa",
            (1280, 32, 16, 14),
            630_762_240,
            _MEAN,
            url=f"{_BASE}/IN22K-vit.h.14-900e.pth.tar",
            pretrained_on="imagenet-21k",
        ),
        "ijepa_vith16_448": timm_row(
            "vit_huge_patch16_gap_448.in1k_ijepa",
            (1280, 32, 16, 16),
            631_668_480,
            _MEAN,
            size=448,
            crop=1.0,
            url=f"{_BASE}/IN1K-vit.h.16-448px-300e.pth.tar",
            pretrained_on="imagenet-1k",
        ),
        "ijepa_vitg16_in22k": timm_row(
            "vit_giant_patch16_gap_224.in22k_ijepa",
            (1408, 40, 16, 16),
            1_011_368_576,
            _MEAN,
            url=f"{_BASE}/IN22K-vit.g.16-600e.pth.tar",
            pretrained_on="imagenet-21k",
        ),
    }

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The target encoder, which the authors evaluate; predictor and optimizer are left aside.

        Raises KeyError for a network that is not there.
        """
        own = "target_encoder" if isinstance(tree.get("target_encoder"), Mapping) else None
        return TimmFamily.trunk(tree, checkpoint_key or own)
