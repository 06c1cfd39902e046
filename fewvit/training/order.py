"""Which images make up which step: a function of (seed, epoch, step) alone. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from ..seeds import generator
from .recipe import Step


@dataclass
class Order:
    """Every epoch shuffles all images anew and drops the last incomplete batch."""

    images: int
    batch_size: int
    epochs: int
    seed: int
    _epoch: int = field(default=-1, init=False)
    _rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise DataError(
                f"{self.images} images are fewer than one batch of {self.batch_size}",
                fix=f"Use --batch-size {max(1, self.images // 2)}.",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch: its whole batches."""
        return self.images // self.batch_size

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def step(self, index: int) -> Step:
        """The step that follows `index` others, with the rows of its whole batch."""
        epoch, place = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            self._rows, self._epoch = generator(self.seed, "order", epoch).permutation(self.images), epoch
        rows = self._rows[place * self.batch_size : (place + 1) * self.batch_size]
        return Step(index, self.steps_per_epoch, self.epochs, self.seed, rows)


def share(step: Step, part: int, parts: int) -> Step:
    """The same step with one part of its rows: of a process, or of a smaller batch whose gradients are added up."""
    return Step(step.index, step.steps_per_epoch, step.epochs, step.seed, np.array_split(step.rows, parts)[part])
