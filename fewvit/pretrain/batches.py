"""What pretraining learns from: random views of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..training.recipe import Step
from ..views.crops import make_views
from ..views.training_images import TrainingImages
from ..views.view import View


@dataclass(frozen=True)
class ViewBatches:
    """Batches (`training.batches.Batches`) of the crops of a recipe, without labels."""

    images: TrainingImages
    views: Sequence[View]
    device: str

    def __len__(self) -> int:
        return len(self.images)

    def read(self, step: Step) -> Tensor | list[Tensor]:
        """The decoded images of a step, uint8: (B, 3, H, W), or one by one (3, H, W) where their sizes differ."""
        return self.images.read(step.rows)

    def prepare(self, found: Tensor | list[Tensor], step: Step) -> list[Tensor]:
        """Normalised crops (B, 3, S, S), a batch for each crop of the recipe."""
        return make_views(found, self.views, seed=step.seed, epoch=step.epoch, rows=step.rows, device=self.device)
