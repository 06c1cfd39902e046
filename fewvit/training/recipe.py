"""What a training run goes by (`Recipe`) and where it stands (`Step`). No torch and no NumPy at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backbones import Architecture
from ..views.view import View

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options that every method has; a method's own recipe adds to them. `--set name=value` changes one."""

    architecture: Architecture
    views: tuple[View, ...]
    epochs: int
    batch_size: int  # images per optimizer step, over all processes
    lr: float  # peak; for a batch of `lr_batch` images, scaled linearly to `batch_size`
    lr_batch: int | None = 256  # None: `lr` is absolute
    min_lr: float = 0.0  # never scaled
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    final_weight_decay: float | None = None  # None: constant
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    drop_path: float = 0.0  # of the deepest block, linear over depth
    precision: str = "fp32"  # or bf16, fp16: of the blocks' matrix products; losses and sums stay fp32

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up at this batch size."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch


@dataclass(frozen=True)
class Step:
    """Where a run stands when a batch is computed; every random number and schedule is a function of it."""

    index: int  # optimizer steps taken before this one
    steps_per_epoch: int
    epochs: int
    seed: int
    rows: np.ndarray  # (B,) numbers of the images in the data set, in the order of the batch

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return self.index // self.steps_per_epoch

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch
