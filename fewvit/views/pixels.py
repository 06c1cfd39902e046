"""From uint8 pixels to what a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..preprocess import IMAGENET_MEAN, IMAGENET_STD


def normalised(pixels: np.ndarray, device: str) -> Any:
    """Images (N, 3, H, W) float32 of uint8 pixels (N, H, W, 3), as every network here wants them."""
    import torch

    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
