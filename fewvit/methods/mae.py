"""MAE (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners").

What decides a run, the paper's recipes, and small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backbones import Architecture
from ..views.view import View
from . import Method, Pretraining


def _paper(width: int, depth: int, heads: int, patch: int = 16) -> dict[str, Any]:
    return {
        "architecture": Architecture(width, depth, heads, patch, grid=224 // patch, positions="mae"),
        "views": (View(224, (0.2, 1.0)),),
        "epochs": 800,  # the released weights: 1600
        "batch_size": 4096,
        "precision": "fp16",
    }


def _small(size: int, patch: int, width: int = 192, depth: int = 12) -> dict[str, Any]:
    return {
        "architecture": Architecture(width, depth, width // 64, patch, grid=size // patch, positions="mae"),
        "views": (View(size, (0.2, 1.0)),),
        "epochs": 100,
        "batch_size": 128,
        "lr": 1e-3,  # per 256 images: short runs of small batches take larger steps than the paper's
        "warmup_epochs": 10.0,
        "decoder_width": 128,
        "decoder_depth": 2,
        "decoder_heads": 4,
    }


@dataclass(frozen=True, kw_only=True)
class Mae(Method):
    """From a quarter of the patches, the pixels of the rest (He et al. 2022).

    One view. Defaults are the paper's, appendix A.1.
    """

    family: ClassVar[str] = "mae"
    pool: ClassVar[str] = "mean"  # its class token is a poor neighbour
    figures: ClassVar[str] = "reconstructions"

    lr: float = 1.5e-4  # per 256 images
    warmup_epochs: float = 40.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    mask_ratio: float = 0.75  # share of patches that the encoder does not see, drawn for each image
    normalised_pixels: bool = True  # targets are patches with their own mean and deviation taken off
    decoder_width: int = 512  # channels
    decoder_depth: int = 8  # blocks
    decoder_heads: int = 16  # of its attention

    presets: ClassVar[Mapping[str, Mae]]

    def task(self) -> Pretraining:
        """A new `MaeTask`. Raises UsageError for a recipe that cannot be trained."""
        from ._mae_task import MaeTask

        return MaeTask(self)


Mae.presets = {
    "paper/vitb16": Mae(**_paper(768, 12, 12)),
    "paper/vitl16": Mae(**_paper(1024, 24, 16)),
    "paper/vith14": Mae(**_paper(1280, 32, 16, patch=14)),
    "small/32": Mae(**_small(32, 4)),
    "small/64": Mae(**_small(64, 8)),
    "small/64-d6": Mae(**_small(64, 8, depth=6)),
    "small/64-s": Mae(**_small(64, 8, width=384)),
    "small/64-p4": Mae(**_small(64, 4)),
}
