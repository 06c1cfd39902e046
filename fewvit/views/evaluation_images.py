"""Images as an evaluation sees them, again and again, and as a network takes them. No torch until it is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ..cpu import cores
from ..datasets import Dataset
from ..errors import DataError
from ..images import BadImage, decode
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_BYTES = 2 << 30  # of decoded images that are held in memory; where all together are more, each is decoded again


class EvaluationImages:
    """Images of a data set by number, under a protocol's transform; decoded once where they fit into memory."""

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        policy: str,
        *,
        workers: int | None = None,  # threads that decode
        max_pixels: int,
        memory_bytes: int = PIXEL_BYTES,
    ):
        self._dataset, self._preprocess, self._policy, self._max_pixels = dataset, preprocess, policy, max_pixels
        threads = max(1, min(16, cores()) if workers is None else workers)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="evaluation-images")
        shape = (len(dataset), *preprocess.crop, 3)
        self._pixels = np.empty(shape, np.uint8) if np.prod(shape) <= memory_bytes else None
        self._is_decoded = np.zeros(len(dataset), bool)

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._preprocess.crop

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Pixels (B, H, W, 3) uint8 of the images with numbers `rows` (B,). Raises DataError for a broken one."""
        if self._pixels is None:
            return np.stack(list(self._pool.map(self._decoded, rows.tolist())))
        missing = np.unique(rows[~self._is_decoded[rows]])
        for row, pixels in zip(missing.tolist(), self._pool.map(self._decoded, missing.tolist()), strict=True):
            self._pixels[row] = pixels
        self._is_decoded[missing] = True
        return self._pixels[rows]

    def _decoded(self, row: int) -> np.ndarray:
        """Pixels (H, W, 3) of one image."""
        try:
            return decode(self._dataset.read(row), self._preprocess, self._policy, self._max_pixels)[0]
        except BadImage as error:
            fix = "Repair or remove it."
            raise DataError(f"cannot be decoded: {error.reason}", file=self._dataset.place(row), fix=fix) from error


def normalised(pixels: np.ndarray, device: str) -> Tensor:
    """Images (N, 3, H, W) float32 on `device`, by ImageNet's mean and deviation, of uint8 pixels (N, H, W, 3)."""
    import torch

    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
