"""The labelled images as a network that is fine-tuned takes them.

They look another way in each epoch; or where nothing changes, what goes into the first block that learns is computed
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..training.recipe import Step
from ..views.crops import make_views
from ..views.draws import uniforms
from ..views.evaluation_images import EvaluationImages, normalised
from ..views.mixing import draw_blend, erase, mix, soft_targets
from ..views.randaugment import randaugment
from ..views.training_images import TrainingImages
from .modes import TuningRecipe

if TYPE_CHECKING:
    from .tuning import Tuning

TOKEN_BYTES = 1 << 30  # of kept tokens; where all together are more, the blocks below run in every step
_AT_ONCE = 32  # images that are fetched, and whose tokens are computed, or that are evaluated, in one piece
_Fetched = np.ndarray | Tensor | list[Tensor]  # decoded pixels; an empty list where there are tokens


class LabelledImages:
    """Labelled images by number: batches for training (`training.batches.Batches`), and logits for the evaluation."""

    def __init__(
        self,
        evaluation: EvaluationImages,
        whole: TrainingImages | None,  # for random crops
        labels: np.ndarray,  # (N,) class numbers from 0
        n_classes: int,
        recipe: TuningRecipe,
        device: str,
        *,
        token_bytes: int = TOKEN_BYTES,
    ):
        self._evaluation, self._whole, self._recipe, self._device = evaluation, whole, recipe, device
        self._labels, self._n_classes, self._token_bytes = labels, n_classes, token_bytes
        self._tokens: Tensor | None = None  # (N, T, D) that go into the first block that changes

    def __len__(self) -> int:
        return len(self._labels)

    def keep_tokens(self, task: Tuning) -> str:
        """Run what lies below the first block that changes once for every image; a note of what was done.

        Only where that is ever the same and its tokens have room; elsewhere it runs in every step.
        """
        if self._tokens is not None or task.below is None or self._recipe.augmented:
            return ""
        a, (height, width) = task.trunk.architecture, self._evaluation.size
        number = task.trunk.prefix + (height // a.patch) * (width // a.patch)
        size = 4 * len(self._evaluation) * number * a.width
        what = f"the embedding and {task.below} of {len(task.trunk.blocks)} blocks never change"
        if size > self._token_bytes:
            most = f"{self._token_bytes / 1e6:.0f} MB"
            return f"{what}, but their {size / 1e6:.0f} MB of tokens are more than {most}: they run in every step"
        tokens = torch.empty(len(self._evaluation), number, a.width)
        for part in _parts(np.arange(len(self._evaluation))):
            tokens[part] = task.evaluated(task.enter, self._images(part)).float().cpu()
        self._tokens = tokens.to(self._device)
        return f"{what}: they run once, {size / 1e6:.0f} MB of tokens are kept"

    def read(self, step: Step) -> _Fetched:
        """The decoded images of a step: whole ones to crop, or as the evaluation crops them, (B, H, W, 3) uint8."""
        if self._tokens is not None:
            return []
        if self._whole is not None:
            return self._whole.read(step.rows)
        return self._evaluation.pixels(step.rows)

    def prepare(self, found: _Fetched, step: Step) -> list[Tensor]:
        """Images (B, 3, H, W) or tokens (B, T, D), and soft targets (B, C), of what `read` found."""
        recipe = self._recipe
        labels = torch.from_numpy(self._labels[step.rows]).to(self._device)
        targets = soft_targets(labels, self._n_classes, recipe.label_smoothing)
        if self._tokens is not None:
            return [self._tokens[torch.from_numpy(step.rows).to(self._device)], targets]
        images = self._viewed(found, step)
        if recipe.randaugment:
            randaugment(images, recipe.randaugment, seed=step.seed, epoch=step.epoch, rows=step.rows)
        if recipe.erase:
            erase(images, recipe.erase, seed=step.seed, epoch=step.epoch, rows=step.rows)
        blend = draw_blend(step.seed, step.index, (images.shape[2], images.shape[3]), recipe.mixup, recipe.cutmix)
        if blend is not None:
            images, targets = mix(images, targets, blend)
        return [images, targets]

    def _viewed(self, found: _Fetched, step: Step) -> Tensor:
        """Images (B, 3, H, W) as the epoch shows them: random crops, or whole ones, mirrored where that was drawn."""
        if isinstance(found, np.ndarray):
            return self._mirrored(normalised(found, self._device), step)
        [images] = make_views(
            found, self._recipe.views, seed=step.seed, epoch=step.epoch, rows=step.rows, device=self._device
        )
        return images

    def _mirrored(self, images: Tensor, step: Step) -> Tensor:
        """The images (B, 3, H, W), those mirrored for which it was drawn."""
        if not self._recipe.flip:
            return images
        mirrored = uniforms(step.seed, step.epoch, step.rows, "flip", 1)[:, 0] < self._recipe.flip
        return torch.where(torch.from_numpy(mirrored).to(images.device)[:, None, None, None], images.flip(3), images)

    def logits(self, task: Tuning, rows: np.ndarray) -> np.ndarray:
        """Logits (B, C) float32 of the images with numbers `rows` (B,), as the evaluation sees them.

        The task is in eval mode meanwhile.
        """
        training, found = task.training, []
        task.eval()
        for part in _parts(rows):
            inputs = (
                self._images(part) if self._tokens is None else self._tokens[torch.from_numpy(part).to(self._device)]
            )
            found.append(task.evaluated(lambda some: task.head(task.features(some)), inputs).float().cpu().numpy())
        task.train(training)
        return np.concatenate(found)

    def _images(self, rows: np.ndarray) -> Tensor:
        """(B, 3, H, W), as the evaluation sees them."""
        return normalised(self._evaluation.pixels(rows), self._device)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
