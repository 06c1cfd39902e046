"""MSN (Assran et al. 2022, "Masked Siamese Networks for Label-Efficient Learning").

What decides a run, the released weights' recipes, and small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backbones import Architecture
from ..views.view import View
from . import Method, Pretraining


def _views(size: int, focal: int, focal_count: int) -> tuple[View, ...]:
    """A target, one random anchor and `focal_count` focal ones.

    A blur of the paper's 2 pixels at 224 blurs small images as much.
    """
    radius = (0.1 * size / 224, 2.0 * size / 224)
    colours: dict[str, Any] = {
        "interpolation": "bilinear",
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "grey": 0.2,
        "blur": 0.5,
        "blur_radius": radius,
    }
    whole = View(size, (0.3, 1.0), **colours)
    return (whole, whole, View(focal, (0.05, 0.3), count=focal_count, **colours))


def _paper(width: int, depth: int, patch: int, patch_drop: float, epochs: int) -> dict[str, Any]:
    architecture = Architecture(width, depth, width // 64, patch, grid=224 // patch, positions="msn")
    return {
        "architecture": architecture,
        "views": _views(224, 96, 10),
        "patch_drop": patch_drop,
        "epochs": epochs,
        "batch_size": 1024,
    }


def _small(size: int, patch: int, width: int = 192, focal: int = 16, depth: int = 12) -> dict[str, Any]:
    return {
        "architecture": Architecture(width, depth, width // 64, patch, grid=size // patch, positions="msn"),
        "views": _views(size, focal, 4),
        "epochs": 100,
        "batch_size": 128,
        "lr": 5e-4,
        "lr_batch": 128,  # scaled: small runs differ in batch size more than in anything else
        "start_lr": 1e-4,
        "warmup_epochs": 10.0,
        "projector_width": 512,
        "out_width": 128,
        "prototypes": 256,
    }


@dataclass(frozen=True, kw_only=True)
class Msn(Method):
    """Views with patches left out find the prototypes of the whole image (Assran et al. 2022).

    Views in this order: one target, the random anchors (patches are left out of these alone), focal anchors. Defaults
    are those of the released ViT-S/16. Its published 67.2 % (1 % of the labels) comes from memax_weight=5,
    sinkhorn=false.
    """

    family: ClassVar[str] = "msn"

    lr: float = 1e-3
    lr_batch: int | None = None  # MSN's learning rate is absolute
    start_lr: float = 2e-4  # where warm-up begins; scaled as `lr` is
    min_lr: float = 1e-6  # never reached: the schedules' horizon is 1.25 times the run
    warmup_epochs: float = 15.0
    weight_decay: float = 0.04
    final_weight_decay: float | None = 0.4
    clip: float = 3.0  # of the anchor network's gradient as a whole; prototypes are never clipped
    # of the target's weights: start and end of a line that the run leaves at 80 %
    momentum: tuple[float, float] = (0.996, 1.0)
    patch_drop: float = 0.15  # share of patches left out of random anchors
    temperature: float = 0.1  # tau, of the softmax over prototypes
    sharpening: tuple[float, float] = (0.25, 0.25)  # T, targets are p^(1/T): start and end of a line as of `momentum`
    sinkhorn: bool = True  # targets of a batch use all prototypes equally
    sinkhorn_rounds: int = 3  # of making columns and rows sum to the same, in turn; 0: as sinkhorn=false
    memax_weight: float = 1.0  # lambda, of log K minus the entropy of the mean prediction
    entropy_weight: float = 0.0  # of the mean entropy of the anchors' predictions
    label_smoothing: float = 0.0  # share of every prediction that is spread over all prototypes
    prototypes: int = 1024  # K
    projector_width: int = 2048  # channels of its hidden layers
    out_width: int = 256  # of projections and prototypes

    presets: ClassVar[Mapping[str, Msn]]

    def task(self) -> Pretraining:
        """A new `MsnTask`. Raises UsageError for a recipe that cannot be trained."""
        from ._msn_task import MsnTask

        return MsnTask(self)


Msn.presets = {
    "paper/vits16": Msn(**_paper(384, 12, 16, 0.15, 800)),
    "paper/vitb16": Msn(**_paper(768, 12, 16, 0.3, 600)),
    "paper/vitl16": Msn(**_paper(1024, 24, 16, 0.5, 600)),  # the ablation's best patch_drop
    "paper/vitb4": Msn(**_paper(768, 12, 4, 0.7, 400)),  # the released weights are those after 300 of these epochs
    "paper/vitl7": Msn(**_paper(1024, 24, 7, 0.7, 200)),
    "small/32": Msn(**_small(32, 4)),
    "small/64": Msn(**_small(64, 8, focal=32)),
    "small/64-d6": Msn(**_small(64, 8, focal=32, depth=6)),
    "small/64-s": Msn(**_small(64, 8, width=384, focal=32)),
    "small/64-p4": Msn(**_small(64, 4, focal=32)),
}
