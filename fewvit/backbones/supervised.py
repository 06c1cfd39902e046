"""Supervised and other baselines, built and named by timm; files in timm's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import Architecture, Family, Protocol, Trunk, Variant
from ._layout import network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _variant(
    model: str,
    width: int,
    depth: int,
    heads: int,
    patch: int,
    *,
    size: int = 224,
    crop: float = 0.9,
    half: bool = False,
    note: str = "",
    license: str = "",
) -> Variant:
    cover = int(size / crop)
    return Variant(
        Architecture(width, depth, heads, patch, grid=size // patch, positions="timm", timm=model),
        f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors",
        note=note,
        license=license,
        preprocess={"cover": (cover, cover), "crop": (size, size), **(_HALF if half else {})},
        pretrained_on="imagenet-21k"
        if "_in21k" in model or "_in22k" in model or ".ms_in22k" in model
        else "imagenet-1k",
    )


class Supervised(Family):
    """Published numbers: none are repeated here; see timm's own results tables."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/huggingface/pytorch-image-models"
    protocol: ClassVar[str] = "timm/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("timm/1", pool=""),)
    registry: ClassVar[str] = "timm"
    takes_others: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Variant]] = {
        "augreg_vits16": _variant("vit_small_patch16_224.augreg_in21k_ft_in1k", 384, 12, 6, 16, half=True),
        "augreg_vitb16": _variant("vit_base_patch16_224.augreg_in21k_ft_in1k", 768, 12, 12, 16, half=True),
        "augreg_vitl16": _variant("vit_large_patch16_224.augreg_in21k_ft_in1k", 1024, 24, 16, 16, half=True),
        "vit_vitb16": _variant(
            "vit_base_patch16_224.orig_in21k_ft_in1k", 768, 12, 12, 16, half=True, note="the original ViT"
        ),
        "hybrid_r50_vitb16": _variant(
            "vit_base_r50_s16_384.orig_in21k_ft_in1k",
            768,
            12,
            12,
            16,
            size=384,
            crop=1.0,
            half=True,
            note="ResNet-50 stem, 384 px",
        ),
        "deit_vitt16": _variant("deit_tiny_patch16_224.fb_in1k", 192, 12, 3, 16),
        "deit_vits16": _variant("deit_small_patch16_224.fb_in1k", 384, 12, 6, 16),
        "deit_vitb16": _variant("deit_base_patch16_224.fb_in1k", 768, 12, 12, 16),
        "deit_distilled_vits16": _variant(
            "deit_small_distilled_patch16_224.fb_in1k", 384, 12, 6, 16, note="class and distillation token"
        ),
        "deit_distilled_vitb16": _variant(
            "deit_base_distilled_patch16_224.fb_in1k", 768, 12, 12, 16, note="class and distillation token"
        ),
        "swin_t": _variant(
            "swin_tiny_patch4_window7_224.ms_in1k", 768, 12, 24, 4, note="no class token", license="MIT"
        ),
        "swin_b": _variant(
            "swin_base_patch4_window7_224.ms_in22k_ft_in1k", 1024, 24, 32, 4, note="no class token", license="MIT"
        ),
        "beit_vitb16": _variant("beit_base_patch16_224.in22k_ft_in22k_in1k", 768, 12, 12, 16, half=True),
        "beit_vitl16": _variant("beit_large_patch16_224.in22k_ft_in22k_in1k", 1024, 24, 16, 16, half=True),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Never: a file of timm's layout is read as this family only where a model's name was given with it."""
        # a file of timm's layout does not say which normalisation its model wants
        return False

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk; classifiers and what is computed anew on loading are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or next(
            (key for key in ("state_dict", "model") if isinstance(tree.get(key), Mapping)), None
        )
        return split_trunk(
            network(tree, nested),
            prefixes=("module.",),
            aside=("head.*", "head_dist.*", "pre_logits.*", "*.relative_position_index", "*.attn_mask"),
        )

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """Nothing: raises ValueError, since a file in timm's layout does not name its model."""
        raise ValueError("a file in timm's layout does not name its model; give --backbone timm:NAME --weights FILE")
