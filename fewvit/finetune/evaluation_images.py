"""Labelled pictures as an evaluation sees them, again and again: decoded once where they fit into memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..cpu import cores
from ..datasets import Dataset
from ..errors import DataError
from ..images import BadImage, Preprocess, decode

PIXEL_BYTES = 2 << 30  # of decoded pictures that are kept


class EvaluationImages:
    """Images of a data set by number, resized and cropped by a protocol's transform."""

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
        self._pool = ThreadPoolExecutor(max(1, min(16, cores()) if workers is None else workers), thread_name_prefix="seen")
        shape = (len(dataset), *preprocess.crop, 3)
        self._kept = np.empty(shape, np.uint8) if np.prod(shape) <= memory_bytes else None
        self._is_kept = np.zeros(len(dataset), bool)

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._preprocess.crop

    def pixels(self, numbers: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8. Raises DataError for a picture that cannot be decoded."""
        if self._kept is None:
            return np.stack(list(self._pool.map(self._decoded, numbers.tolist())))
        missing = np.unique(numbers[~self._is_kept[numbers]])
        for number, pixels in zip(missing.tolist(), self._pool.map(self._decoded, missing.tolist()), strict=True):
            self._kept[number] = pixels
        self._is_kept[missing] = True
        return self._kept[numbers]

    def _decoded(self, number: int) -> np.ndarray:
        try:
            return decode(self._dataset.read(number), self._preprocess, self._policy, self._max_pixels)[0]
        except BadImage as error:
            raise DataError(f"cannot be decoded: {error.reason}", file=self._dataset.place(number), fix="Repair or remove it.") from error
