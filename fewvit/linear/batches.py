"""What linear heads learn from: features that were made once, or views of images through a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..datasets import Dataset
from ..errors import ResourceError, is_out_of_memory
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from ..training.recipe import Step
from ..views.crops import make_views
from ..views.training_images import TrainingImages
from ..views.view import View

if TYPE_CHECKING:
    from ..models.backbone import Backbone

_SHARE_OF_GPU = 0.5  # of the free memory that features may take
_AT_ONCE = 256  # images that are decoded, cropped and encoded together


_Decoded = Tensor | list[Tensor]  # uint8 (B, 3, H, W), or one by one (3, H, W) where their sizes differ


class FeatureBatches:
    """Batches (`training.batches.Batches`) of features (N, D) that were made once; on a GPU if all have room there."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, device: str):
        self._features, self._labels = torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(labels)
        self._device = device
        if device.startswith("cuda") and features.nbytes < _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]:
            self._features, self._labels = self._features.to(device), self._labels.to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, step: Step) -> tuple[Tensor, Tensor]:
        """Features (B, D) and labels (B,) of a step, where all of them lie."""
        rows = torch.from_numpy(step.rows).to(self._features.device)
        return self._features[rows], self._labels[rows]

    def prepare(self, found: tuple[Tensor, Tensor], step: Step) -> list[Tensor]:
        """The same on the device that trains."""
        return [part.to(self._device) for part in found]


class ViewFeatureBatches:
    """Batches of random views of a data set's images, encoded by a frozen backbone when they are wanted."""

    def __init__(
        self,
        dataset: Dataset,
        view: View,
        backbone: Backbone,
        preprocess: Preprocess,
        arranged: Callable[[Tensor], Tensor],
        *,
        device: str,
        workers: int | None,
        max_pixels: int,
        folder: Path | None,
    ):
        self._images = TrainingImages(dataset, workers=workers, max_pixels=max_pixels, folder=folder)
        self._labels = torch.from_numpy(dataset.labels[self._images.rows])
        self._view, self._backbone, self._arranged, self._device = view, backbone, arranged, device
        # views come normalised by ImageNet's numbers; a model of timm may want others: x scale + shift
        own, imagenet = (
            torch.tensor((m, s), dtype=torch.float32)
            for m, s in ((preprocess.mean, preprocess.std), (IMAGENET_MEAN, IMAGENET_STD))
        )
        self._scale, self._shift = (
            t.view(3, 1, 1).to(device) for t in (imagenet[1] / own[1], (imagenet[0] - own[0]) / own[1])
        )
        self._as_they_come = preprocess.mean == IMAGENET_MEAN and preprocess.std == IMAGENET_STD

    def __len__(self) -> int:
        return len(self._images)

    def read(self, step: Step) -> tuple[_Decoded, Tensor]:
        """The first decoded images of a step, and all of its labels (B,)."""
        return self._images.read(step.rows[:_AT_ONCE]), self._labels[step.rows]

    def prepare(self, found: tuple[_Decoded, Tensor], step: Step) -> list[Tensor]:
        """Features (B, D) of one view of each image, and labels (B,).

        A few images are decoded and encoded at a time, as batches of thousands are usual. Raises ResourceError for
        memory.
        """
        first, labels = found
        parts = [step.rows[start : start + _AT_ONCE] for start in range(0, len(step.rows), _AT_ONCE)]
        features = []
        with ThreadPoolExecutor(1) as reader:
            images = first
            for rows, following in zip(parts, [*parts[1:], None], strict=True):
                ahead = reader.submit(self._images.read, following) if following is not None else None
                features.append(self._encoded(images, rows, step))
                images = ahead.result() if ahead is not None else first
        return [self._arranged(torch.cat(features)), labels.to(self._device)]

    def _encoded(self, images: _Decoded, rows: np.ndarray, step: Step) -> Tensor:
        """Features (n, D) of one view of each of n images."""
        try:
            where = {"seed": step.seed, "epoch": step.epoch}
            [crops] = make_views(images, [self._view], **where, rows=rows, device=self._device)
            return self._backbone.encode(crops if self._as_they_come else crops * self._scale + self._shift)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            what = f"out of memory encoding {len(rows)} images at once"
            raise ResourceError(what, fix="Use a smaller backbone or --img-size.") from error
