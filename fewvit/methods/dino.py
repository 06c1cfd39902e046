"""DINO (Caron et al. 2021): what decides a run, the recipes of the released weights, and small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..backbones import Architecture, find_variant
from ..views.view import View
from . import Method, Pretraining


def _views(
    size: int, local_size: int, locals_: int, scale: tuple[float, float], local_scale: tuple[float, float]
) -> tuple[View, ...]:
    """Two global crops, which differ in blur and solarisation, and the local ones; blur shrinks with the crop."""
    colours = View(
        size,
        scale,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.8,
        grey=0.2,
        blur_radius=(0.1 * size / 224, 2.0 * size / 224),
    )
    return (
        replace(colours, blur=1.0),
        replace(colours, blur=0.1, solarise=0.2),
        replace(colours, size=local_size, scale=local_scale, count=locals_, blur=0.5),
    )


@dataclass(frozen=True, kw_only=True)
class Dino(Method):
    """A student predicts from any crop of an image what a slowly following teacher sees in another; Caron et al. 2021.

    The defaults are what the released runs share, or else the official script's.
    """

    family: ClassVar[str] = "dino"

    views: tuple[View, ...] = _views(224, 96, 10, (0.25, 1.0), (0.05, 0.25))
    batch_size: int = 1024
    lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    final_weight_decay: float | None = 0.4
    clip: float = 3.0  # of each parameter tensor by itself
    drop_path: float = 0.1  # of the student
    outputs: int = 65536  # K, dimensions of the head's output ("out_dim")
    hidden: int = 2048  # width of the head's two hidden layers
    bottleneck: int = 256  # width before the last layer
    use_bn_in_head: bool = False  # BatchNorm after each hidden layer
    # whether the last layer's row gains stay 1; off, results are better where training is stable
    norm_last_layer: bool = True
    freeze_last_layer: int = 1  # epochs during which the last layer gets no gradient
    student_temperature: float = 0.1  # its logits are divided by it
    teacher_temperature: float = 0.07  # the same, after warm-up
    warmup_teacher_temperature: float = 0.04  # where the teacher's begins
    warmup_teacher_temperature_epochs: int = 30  # over which it goes there on a line
    momentum_teacher: float = 0.996  # at the start; a cosine takes it to 1
    center_momentum: float = 0.9  # share of the centre that a step keeps; the rest is the teacher's mean logits

    presets: ClassVar[Mapping[str, Dino]]

    def task(self) -> Pretraining:
        """A new `DinoTask`. Raises UsageError for a recipe that cannot be trained."""
        from ._dino_task import DinoTask

        return DinoTask(self)


def _vit(variant: str) -> Architecture:
    return find_variant(variant)[1].architecture


def _small(width: int, patch: int, size: int, depth: int = 12) -> Dino:
    """For few thousand to few hundred thousand small images.

    Crops of less than 8 % of so few pixels show nothing, so the scales start higher; few images need few outputs, and
    fixed gains are the stable choice; drop path only costs a small model that trains for a short time. Short runs came
    to targets that were even, or all the same, from which nothing is learnt; what keeps them apart is a teacher that
    stays sharper than others begin, BatchNorm in the head, which tells class tokens apart that are all but alike at the
    start, and a last layer that learns from the first step.
    """
    return Dino(
        architecture=Architecture(width, depth, width // 64, patch, grid=size // patch),
        views=_views(size, size // 2, 4, (0.3, 1.0), (0.08, 0.3)),
        epochs=100,
        batch_size=128,
        lr=1e-3,
        drop_path=0.0,
        warmup_teacher_temperature=0.03,
        teacher_temperature=0.03,
        freeze_last_layer=0,
        use_bn_in_head=True,
        outputs=256,
        hidden=512,
        bottleneck=128,
    )


# Sources: the B runs' published arguments; for the S runs the paper's appendix and the authors' answers in the
# repository, and S/16's value wherever none is known of S/8.
Dino.presets = {
    "paper/vits16": Dino(
        architecture=_vit("dino_vits16"), epochs=800, min_lr=1e-5, clip=0.0, norm_last_layer=False, precision="fp16"
    ),
    "paper/vits8": Dino(architecture=_vit("dino_vits8"), epochs=800, min_lr=1e-5, clip=0.0, norm_last_layer=False),
    "paper/vitb16": Dino(
        architecture=_vit("dino_vitb16"),
        epochs=400,
        lr=7.5e-4,
        min_lr=2e-6,
        clip=0.3,
        freeze_last_layer=3,
        warmup_teacher_temperature_epochs=50,
    ),
    "paper/vitb8": Dino(
        architecture=_vit("dino_vitb8"),
        epochs=300,
        batch_size=6 * 176,  # per GPU, GPUs
        min_lr=2e-6,
        freeze_last_layer=3,
        warmup_teacher_temperature=0.03,
        warmup_teacher_temperature_epochs=50,
    ),
    "small/32": _small(192, 4, 32),
    "small/64": _small(192, 8, 64),
    "small/64-d6": _small(192, 8, 64, depth=6),
    "small/64-s": _small(384, 8, 64),
    "small/64-p4": _small(192, 4, 64),
}
