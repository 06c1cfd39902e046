"""Supervised and other baselines, built and named by timm; files in timm's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import Protocol, Variant
from ._timm import HALF, TimmFamily, timm_row
from ._tokens import Tokens


def _variant(
    model: str,
    width: int,
    depth: int,
    heads: int,
    patch: int,
    parameters: int,
    *,
    tokens: Tokens = Tokens(),  # noqa: B008
    half: bool = False,
    note: str = "",
    license: str = "",
    size: int = 224,
    crop: float = 0.9,
) -> Variant:
    wide = "_in21k" in model or "_in22k" in model or ".ms_in22k" in model
    return timm_row(
        model,
        (width, depth, heads, patch),
        parameters,
        tokens,
        size=size,
        crop=crop,
        statistics=HALF if half else None,
        note=note,
        license=license,
        pretrained_on="imagenet-21k" if wide else "imagenet-1k",
    )


class Supervised(TimmFamily):
    """Published numbers: none are repeated here; see timm's own results tables."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/huggingface/pytorch-image-models"
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("timm/1", pool=""),)
    takes_others: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Variant]] = {
        "augreg_vits16": _variant("vit_small_patch16_224.augreg_in21k_ft_in1k", 384, 12, 6, 16, 21_665_664, half=True),
        "augreg_vitb16": _variant("vit_base_patch16_224.augreg_in21k_ft_in1k", 768, 12, 12, 16, 85_798_656, half=True),
        "augreg_vitl16": _variant(
            "vit_large_patch16_224.augreg_in21k_ft_in1k", 1024, 24, 16, 16, 303_301_632, half=True
        ),
        "vit_vitb16": _variant(
            "vit_base_patch16_224.orig_in21k_ft_in1k", 768, 12, 12, 16, 85_798_656, half=True, note="the original ViT"
        ),
        "hybrid_r50_vitb16": _variant(
            "vit_base_r50_s16_384.orig_in21k_ft_in1k",
            768,
            12,
            12,
            16,
            98_181_952,
            size=384,
            crop=1.0,
            half=True,
            note="ResNet-50 stem, 384 px",
        ),
        "deit_vitt16": _variant("deit_tiny_patch16_224.fb_in1k", 192, 12, 3, 16, 5_524_416),
        "deit_vits16": _variant("deit_small_patch16_224.fb_in1k", 384, 12, 6, 16, 21_665_664),
        "deit_vitb16": _variant("deit_base_patch16_224.fb_in1k", 768, 12, 12, 16, 85_798_656),
        "deit_distilled_vits16": _variant(
            "deit_small_distilled_patch16_224.fb_in1k", 384, 12, 6, 16, 21_666_432, note="class and distillation token"
        ),
        "deit_distilled_vitb16": _variant(
            "deit_base_distilled_patch16_224.fb_in1k", 768, 12, 12, 16, 85_800_192, note="class and distillation token"
        ),
        "swin_t": _variant(
            "swin_tiny_patch4_window7_224.ms_in1k",
            768,
            12,
            24,
            4,
            27_519_354,
            tokens=Tokens(0, 0, "mean"),
            note="no class token",
            license="MIT",
        ),
        "swin_b": _variant(
            "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
            1024,
            24,
            32,
            4,
            86_743_224,
            tokens=Tokens(0, 0, "mean"),
            note="no class token",
            license="MIT",
        ),
        "beit_vitb16": _variant(
            "beit_base_patch16_224.in22k_ft_in22k_in1k",
            768,
            12,
            12,
            16,
            85_761_984,
            tokens=Tokens(1, 0, "mean"),
            half=True,
        ),
        "beit_vitl16": _variant(
            "beit_large_patch16_224.in22k_ft_in22k_in1k",
            1024,
            24,
            16,
            16,
            303_405_568,
            tokens=Tokens(1, 0, "mean"),
            half=True,
        ),
    }
