"""Features of images of any size, at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .backbone import Backbone


def encode_at_scales(backbone: Backbone, images: Tensor, scales: Sequence[float]) -> Tensor:
    """Mean (B, D) of the features of bilinear copies of normalised images (B, 3, H, W), of any length.

    A copy has the sides floor(scale x side). Source: DINO's image retrieval, which samples by the scale and not by the
    resulting size.
    """
    import torch.nn.functional as F

    features = [
        backbone.encode(
            images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        )
        for scale in scales
    ]
    return features[0] if len(features) == 1 else sum(features[1:], features[0]) / len(features)


def smallest_side(height: int, width: int, scales: Sequence[float]) -> int:
    """Pixels of the shorter side of the smallest copy of an image of this many pixels."""
    return int(min(height, width) * min(scales))
