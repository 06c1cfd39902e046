"""The index's own backbone, loaded once: the pixels of one image to its feature."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from ...errors import NumericalError
from ...extraction.encoding import start_encoding
from ...extraction.extract import backbone_of
from ...extraction.pipeline import Pipeline

if TYPE_CHECKING:
    from ...models.backbone import Backbone


class Encoder:
    """A settled pipeline and its backbone. May be called from many threads: one image is computed at a time.

    One image is a batch of its own: six times faster than the batch of eight that an extraction fills up, and the same
    bits on a CPU, where a row is a function of its image alone.
    """

    def __init__(self, pipeline: Pipeline):
        from ...models.products import settle_threads

        settle_threads()
        self.pipeline = pipeline
        self.fingerprint = pipeline.fingerprint
        self._backbone: Backbone = backbone_of(pipeline)
        self._turn = threading.Lock()
        self.encode(np.zeros((*pipeline.preprocess.crop, 3), np.uint8))  # the first one takes longer

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """The feature (D,) float32 of pixels (H, W, 3) uint8. Raises NumericalError where it is not finite."""
        with self._turn:
            feature = start_encoding(self._backbone, pixels[None], 1, self.pipeline)[0].float().cpu().numpy()
        if not np.isfinite(feature).all():
            raise NumericalError("the backbone gives NaN or Inf for this image")
        return feature
