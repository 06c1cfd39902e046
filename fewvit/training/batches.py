"""What the loop trains on, whatever it is: `Batches`; and `Subset`, those of some of the images. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from .recipe import Step

if TYPE_CHECKING:
    from torch import Tensor

Fetched = TypeVar("Fetched")  # what is read of a step's images before the device has them


class Batches(Protocol[Fetched]):
    """Images by number from 0, as batches that a task takes. A batch is a function of its step alone."""

    def __len__(self) -> int:
        """How many images there are."""

    def read(self, step: Step) -> Fetched:
        """What must be read or decoded of the images `step.rows`; runs in a thread of its own, one step ahead."""

    def prepare(self, found: Fetched, step: Step) -> Sequence[Tensor]:
        """The task's inputs on the device that trains, each (B, ...), made of what `read` found for the same step."""


@dataclass(frozen=True)
class Subset(Generic[Fetched]):
    """Batches of some of the images: number i is number `rows[i]` of `batches`."""

    batches: Batches[Fetched]
    rows: np.ndarray  # (N,)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, step: Step) -> Fetched:
        """What `batches` reads of the step's images."""
        return self.batches.read(self._within(step))

    def prepare(self, found: Fetched, step: Step) -> Sequence[Tensor]:
        """What `batches` makes of them."""
        return self.batches.prepare(found, self._within(step))

    def _within(self, step: Step) -> Step:
        return dataclasses.replace(step, rows=self.rows[step.rows])
