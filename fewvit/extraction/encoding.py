"""One batch of pixels through the backbone, padded to its full size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResourceError
from ..models.scales import encode_at_scales
from .pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone


# on a CPU 8 images stay in its caches: as fast as 32 (benchmarks/forward.py), and less is padded
_BATCH = {"cpu": 8, "gpu": 256}


def batch_size_of(pipeline: Pipeline, asked: int | None) -> int:
    """Images per forward pass: as many as asked for, or what suits the device."""
    from ..models.engines import resolve_device

    if pipeline.size is None:  # images of many sizes make no batches, and full ones of each size would be padding
        return 1
    return asked or _BATCH["cpu" if resolve_device(pipeline.device) == "cpu" else "gpu"]


def start_encoding(backbone: Backbone, pixels: np.ndarray, batch_size: int, pipeline: Pipeline) -> Tensor:
    """Features (batch_size, D) of uint8 pixels (n, H, W, 3); on a GPU they are still being computed when this returns.

    A smaller batch is padded to `batch_size`, the padding's rows last, so that a row never depends on its neighbours.
    Raises ResourceError where the GPU's memory does not hold the batch.
    """
    import torch

    if len(pixels) < batch_size:
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], batch_size - len(pixels), axis=0)])
    device = next(backbone.parameters()).device
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (pipeline.preprocess.mean, pipeline.preprocess.std)
    )
    images = torch.from_numpy(pixels)
    try:
        if device.type == "cuda":
            images = images.pin_memory().to(device, non_blocking=True)
        images = images.permute(0, 3, 1, 2).contiguous().float()  # planes first, while a pixel is one byte
        own = pipeline.preprocess
        images = images.div_(255).sub_(mean).div_(std)
        return encode_at_scales(backbone, images, own.scales, flip=own.flip, patch=pipeline.whole_patch)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of GPU memory with a batch of {batch_size}", fix=f"Try --batch-size {max(1, batch_size // 2)}."
        ) from error
