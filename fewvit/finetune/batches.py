"""What a network is fed with while it is fine-tuned: pictures that look another way in each epoch, or tokens that were computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.recipe import Step
from ..views.crops import make_views
from ..views.draws import uniforms
from ..views.mixing import draw_blend, erase, mix, soft_targets
from ..views.pixels import normalised
from ..views.randaugment import randaugment
from ..views.training_images import TrainingImages
from .evaluation_images import EvaluationImages
from .modes import TuningRecipe

TOKEN_BYTES = 1 << 30  # of kept tokens; where all together are more, the blocks below run in every step
_AT_ONCE = 32  # pictures whose tokens are computed, or that are judged, in one piece


class LabelledImages:
    """Labelled pictures by number: as training wants them, and as the evaluation does."""

    def __init__(
        self,
        seen: EvaluationImages,
        pictures: TrainingImages | None,  # whole ones, for random crops
        labels: np.ndarray,  # (N,) class numbers from 0
        n_classes: int,
        recipe: TuningRecipe,
        device: str,
        *,
        token_bytes: int = TOKEN_BYTES,
    ):
        self._seen, self._pictures, self._recipe, self._device = seen, pictures, recipe, device
        self._labels, self._n_classes, self._token_bytes = labels, n_classes, token_bytes
        self._tokens: Tensor | None = None  # (N, T, D) that go into the first block that changes

    def keep_tokens(self, task: Any) -> str:
        """Run what lies below the first block that changes once for every picture, if that is ever the same and there is room; what was done."""
        if self._tokens is not None or task.below is None or self._recipe.augmented:
            return ""
        a, (height, width) = task.trunk.architecture, self._seen.size
        number = task.trunk.prefix + (height // a.patch) * (width // a.patch)
        size = 4 * len(self._seen) * number * a.width
        what = f"the embedding and {task.below} of {len(task.trunk.blocks)} blocks never change"
        if size > self._token_bytes:
            return f"{what}, but their {size / 1e6:.0f} MB of tokens are more than {self._token_bytes / 1e6:.0f} MB: they run in every step"
        tokens = torch.empty(len(self._seen), number, a.width)
        for part in _parts(np.arange(len(self._seen))):
            with torch.no_grad():
                tokens[part] = task.enter(self._images(part)).float().cpu()
        self._tokens = tokens.to(self._device)
        return f"{what}: they run once, {size / 1e6:.0f} MB of tokens are kept"

    def read(self, numbers: np.ndarray) -> Any:
        """What must be fetched or decoded for a training batch; in a thread of its own."""
        if self._tokens is not None:
            return None
        if self._pictures is not None:
            return self._pictures.read(numbers)
        return self._seen.pixels(numbers)

    def prepare(self, found: Any, numbers: np.ndarray, step: Step) -> list[Tensor]:
        """Inputs and soft targets (B, C) of a step, of what `read` found; `numbers` (B,) are those of its pictures."""
        recipe = self._recipe
        labels = torch.from_numpy(self._labels[numbers]).to(self._device)
        targets = soft_targets(labels, self._n_classes, recipe.label_smoothing)
        if self._tokens is not None:
            return [self._tokens[torch.from_numpy(numbers).to(self._device)], targets]
        if self._pictures is not None:
            images = make_views(found, recipe.views, seed=step.seed, epoch=step.epoch, rows=numbers, device=self._device)[0]
        else:
            images = self._flipped(normalised(found, self._device), numbers, step)
        if recipe.randaugment:
            randaugment(images, recipe.randaugment, seed=step.seed, epoch=step.epoch, rows=numbers)
        if recipe.erase:
            erase(images, recipe.erase, seed=step.seed, epoch=step.epoch, rows=numbers)
        blend = draw_blend(step.seed, step.index, (images.shape[2], images.shape[3]), recipe.mixup, recipe.cutmix)
        if blend is not None:
            images, targets = mix(images, targets, blend)
        return [images, targets]

    def _flipped(self, images: Tensor, numbers: np.ndarray, step: Step) -> Tensor:
        """The images (B, 3, H, W), those mirrored for which it was drawn."""
        if not self._recipe.flip:
            return images
        mirrored = uniforms(step.seed, step.epoch, numbers, "flip", 1)[:, 0] < self._recipe.flip
        return torch.where(torch.from_numpy(mirrored).to(images.device)[:, None, None, None], images.flip(3), images)

    def logits(self, task: Any, numbers: np.ndarray) -> np.ndarray:
        """(B, C) float32 for pictures as the evaluation sees them; the task in eval mode meanwhile."""
        training, found = task.training, []
        task.eval()
        with torch.no_grad():
            for part in _parts(numbers):
                inputs = self._images(part) if self._tokens is None else self._tokens[torch.from_numpy(part).to(self._device)]
                found.append(task.head(task.features(inputs)).float().cpu().numpy())
        task.train(training)
        return np.concatenate(found)

    def _images(self, numbers: np.ndarray) -> Tensor:
        return normalised(self._seen.pixels(numbers), self._device)


def _parts(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]
