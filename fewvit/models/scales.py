"""Features of images of any size, at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .backbone import Backbone


def encode_at_scales(
    backbone: Backbone, images: Tensor, scales: Sequence[float], *, flip: bool = False, patch: int = 0
) -> Tensor:
    """Mean (B, D) of the features of bilinear copies of normalised images (B, 3, H, W), of any length.

    A copy has the sides floor(scale x side). Source: DINO's image retrieval, which samples by the scale and not by the
    resulting size. With `patch` the sides are those of `copy_sizes`, for backbones that read whole patches alone. With
    `flip` the mean is also over each copy mirrored, left to right.
    """
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    features = []
    for scale, size in zip(scales, copy_sizes(height, width, scales, patch), strict=True):
        how: dict[str, Any] = {"size": size} if patch else {"scale_factor": scale}
        copy = images if scale == 1 else F.interpolate(images, mode="bilinear", align_corners=False, **how)
        features += [backbone.encode(one) for one in ((copy, copy.flip(-1)) if flip else (copy,))]
    return features[0] if len(features) == 1 else sum(features[1:], features[0]) / len(features)


def copy_sizes(height: int, width: int, scales: Sequence[float], patch: int = 0) -> list[tuple[int, int]]:
    """(height, width) of each copy of an image of this many pixels; with `patch` the nearest multiples of it."""

    def side(pixels: int, scale: float) -> int:
        return max(1, round(scale * pixels / patch)) * patch if patch and scale != 1 else int(scale * pixels)

    return [(side(height, scale), side(width, scale)) for scale in scales]


def smallest_side(height: int, width: int, scales: Sequence[float]) -> int:
    """Pixels of the shorter side of the smallest copy of an image of this many pixels."""
    return int(min(height, width) * min(scales))
