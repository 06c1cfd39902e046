"""Linear-probe protocols: which features a head reads, how it is trained, and the grid of heads. No torch.

A preset never changes; a better one gets the next number. Sources: `eval_linear.py` of DINO, `main_linprobe.py` of MAE,
`linear_eval.py` of MSN, `eval/linear.py` of DINOv2, and their papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import UnknownName, UsageError
from ..training.schedules import mae_lr

if TYPE_CHECKING:
    from torch import Tensor

    from ..backbones import Architecture
    from ..training.recipe import Step
    from ..views.view import View

Array = TypeVar("Array", np.ndarray, "Tensor")
DINOV2_LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_WIDE = 768  # channels from which on a backbone is read as a ViT-B
# steps of an epoch, images of a step, when the preset's batch has to shrink to the data
_LEAST_STEPS, _LEAST_BATCH = 8, 16
_HELD_OUT = 0.1  # of each class


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One protocol's linear probe. `--set name=value` changes a number of it."""

    blocks: tuple[int, ...]  # last blocks whose class tokens are read; one feature each
    pools: tuple[str, ...]  # cls, cls+mean, mean
    interleaved: bool = False  # cls+mean as class 0, mean 0, class 1, mean 1, ...: the order of DINO's ViT-B heads
    # before the linear layer; batch: BatchNorm without affine; layer: trainable LayerNorm, then unit length
    norm: str = "none"
    init_std: float = 0.01  # of the weights; biases begin at 0
    # weights from a normal distribution cut off at 2 itself, as the official trunc_normal_ does
    truncated: bool = False
    optimizer: str = "sgd"  # sgd, lars, msn
    lrs: tuple[float, ...]  # a head for each; for a batch of `lr_batch` images, scaled linearly to `batch_size`
    lr_batch: int | None = 256  # None: absolute
    default_lr: float  # of the head that is taken where nothing can choose
    small_lrs: tuple[float, ...] = ()  # instead, where the batch has to shrink to the data: few steps want larger ones
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "step"  # the learning rate falls as a half cosine to 0: with each step, or each epoch
    warmup_epochs: float = 0.0
    epochs: int
    least_steps: int = 0  # of a whole run: small sets get more epochs
    batch_size: int
    interpolation: str = "bicubic"  # of the random-resized crops, area 0.08 to 1; with --augment
    clipped_boxes: bool = False  # a crop's box is drawn once and clipped, where others are drawn again
    precision: str = "fp32"  # or bf16, fp16: of the heads' matrix products

    def scaled_lr(self, lr: float) -> float:
        """What the optimizer gets at the peak for a learning rate of the grid."""
        return lr if self.lr_batch is None else lr * self.batch_size / self.lr_batch

    def lr_factor(self, step: Step) -> float:
        """The share of its peak that every learning rate has at a step."""
        epoch = step.index / step.steps_per_epoch
        return mae_lr(
            math.floor(epoch) if self.schedule == "epoch" else epoch, step.epochs, self.warmup_epochs, 1.0, 0.0
        )

    def view(self, size: int) -> View:
        """The augmentation: a random-resized crop of `size` pixels and a flip."""
        from ..views.view import ClippedView, View

        return (ClippedView if self.clipped_boxes else View)(size, (0.08, 1.0), interpolation=self.interpolation)


_MAE = Probe(
    blocks=(1,),
    pools=("cls",),
    norm="batch",
    truncated=True,
    optimizer="lars",
    lrs=(0.1,),
    default_lr=0.1,
    small_lrs=(0.1, 0.4, 1.6, 6.4, 25.6),
    warmup_epochs=10,
    epochs=90,
    batch_size=16384,
    clipped_boxes=True,
)

PROBES: Mapping[str, Probe] = {
    "dino/1": Probe(
        blocks=(4,),
        pools=("cls",),
        interleaved=True,
        lrs=(0.001,),
        default_lr=0.001,
        small_lrs=(0.001, 0.004, 0.016, 0.064, 0.25, 1.0),
        schedule="epoch",
        epochs=100,
        batch_size=1024,
        interpolation="bilinear",
    ),
    "dinov2/1": Probe(
        blocks=(1, 4),
        pools=("cls", "cls+mean"),
        lrs=DINOV2_LRS,
        default_lr=0.005,
        small_lrs=(*DINOV2_LRS, 0.2, 0.5, 1.0),
        epochs=10,
        least_steps=1250,
        batch_size=1024,
    ),
    **dict.fromkeys(("mae/1", "mae/2"), _MAE),  # they differ in the transform at other sizes than the probe's
    # the learning rate is absolute; the batch is the paper's, its repository's script makes one of 8192
    "msn/1": Probe(
        blocks=(1,),
        pools=("cls",),
        norm="layer",
        optimizer="msn",
        lrs=(6.4,),
        lr_batch=None,
        default_lr=6.4,
        epochs=100,
        batch_size=16384,
        interpolation="bilinear",
    ),
}

# where a ViT-B is read in another way
_OF_WIDE: Mapping[str, Mapping[str, Any]] = {"dino/1": {"blocks": (1,), "pools": ("cls+mean",)}}


def find_probe(protocol: str, width: int | None = None) -> Probe:
    """The preset for a backbone `width` channels wide; raises UnknownName.

    DINO reads the last four blocks of a ViT-S, and of a ViT-B the last class token interleaved with the mean patch
    token.
    """
    if protocol not in PROBES:
        raise UnknownName("linear protocol", protocol, PROBES)
    wide = width is not None and width >= _WIDE
    return replace(PROBES[protocol], **(_OF_WIDE.get(protocol, {}) if wide else {}))


@dataclass(frozen=True)
class Input:
    """What some of the heads read: columns `start` to `stop` of the features that the backbone is asked for."""

    layers: int | None  # None: the features were given
    pool: str | None
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its parameters, and in messages."""
        return f"{self.pool or 'given'}{self.layers or ''}".replace("+", "_")

    @property
    def width(self) -> int:
        """How many columns."""
        return self.stop - self.start


@dataclass(frozen=True)
class Reading:
    """One frozen forward that gives every input: what the backbone is asked for, and where in it each input lies."""

    pool: str
    layers: int
    norm: str  # of the readout: final, none, fresh
    inputs: tuple[Input, ...]
    interleaved: bool = False

    def arranged(self, features: Array) -> Array:
        """Features (N, D') as the heads want them: NumPy's or torch's."""
        if not self.interleaved:
            return features
        pairs = features.reshape(len(features), 2, -1).swapaxes(1, 2)  # (N, D, 2)
        return pairs.reshape(len(features), -1)


def settle_reading(
    probe: Probe,
    architecture: Architecture,
    norm: str,
    *,
    pool: str | None = None,
    layers: int | None = None,
    mean_only: bool = False,
) -> Reading:
    """What the protocol's heads read from a backbone; `pool` and `layers` leave one kind of each.

    `norm` is that of its class tokens. A class token of each of the last blocks, oldest first, then the mean patch
    token: a smaller feature is a part of the largest one. Raises UsageError for what the protocol does not define.
    """
    pools = (pool,) if pool else ("mean",) if mean_only else probe.pools
    if any(kind not in ("cls", "mean", "cls+mean") for kind in pools):
        raise UsageError(f"--pool {pools[0]}: a linear probe reads cls, mean or cls+mean")
    interleaved = probe.interleaved and pools == ("cls+mean",)
    wanted = (layers,) if layers else (1,) if interleaved or pools == ("mean",) else probe.blocks
    blocks = tuple(sorted({min(block, architecture.layers) for block in wanted}))
    if interleaved and blocks != (1,):
        raise UsageError(
            f"--layers {max(blocks)}: DINO pairs the mean patch token with one class token",
            fix="Use --layers 1, or --pool cls.",
        )
    if "mean" in pools and blocks != (1,):
        raise UsageError(
            f"--layers {max(blocks)}: the mean patch token is that of the last block", fix="Use --layers 1."
        )
    width, most = architecture.width, max(blocks)
    if pools == ("mean",):
        fresh = probe.norm == "batch" and not mean_only  # MAE's --global_pool
        return Reading("mean", 1, "fresh" if fresh else norm, (Input(1, "mean", 0, width),))
    inputs = tuple(
        Input(block, kind, (most - block) * width, (most + (kind == "cls+mean")) * width)
        for block in blocks
        for kind in pools
    )
    return Reading("cls+mean" if "cls+mean" in pools else "cls", most, norm, inputs, interleaved)


def given_reading(width: int) -> Reading:
    """The reading of features that were given: all of their columns."""
    return Reading("", 0, "", (Input(None, None, 0, width),))


def fitted(probe: Probe, images: int, *, epochs: int | None = None, batch_size: int | None = None) -> Probe:
    """The probe for so many training images.

    A batch that is too large for them is halved until an epoch has eight steps, or it is 16. Learning rates follow it
    by the protocol's rule, a warm-up the number of epochs. On the smaller batch there is a grid of larger rates too,
    and where nothing can choose, the one whose scaled value is the official one counts. What is given stays as it is.
    """
    batch = batch_size or probe.batch_size
    while (
        batch_size is None
        and batch > 2
        and (batch > images or (images // batch < _LEAST_STEPS and batch > _LEAST_BATCH))
    ):
        batch //= 2
    steps = max(1, images // batch)
    wanted = epochs or max(probe.epochs, math.ceil(probe.least_steps / steps))
    warmup = round(probe.warmup_epochs * min(1.0, wanted / probe.epochs), 3)
    if batch_size is not None or batch == probe.batch_size or not probe.small_lrs:
        return replace(probe, batch_size=batch, epochs=wanted, warmup_epochs=warmup)
    official = probe.default_lr * probe.batch_size / batch
    return replace(
        probe, batch_size=batch, epochs=wanted, warmup_epochs=warmup, lrs=probe.small_lrs, default_lr=official
    )


def held_out(labels: np.ndarray, seed: int, classes: Sequence[str]) -> np.ndarray:
    """Rows, rising, of a tenth of each class of labels (N,), at least one of every class that has two images.

    They are drawn by the class's name, one of `classes`.
    """
    from ..seeds import generator

    chosen = []
    for c in np.unique(labels[labels >= 0]).tolist():
        rows = np.flatnonzero(labels == c)
        if len(rows) > 1:
            count = max(1, round(len(rows) * _HELD_OUT))
            chosen.append(generator(seed, "held out", classes[c]).permutation(rows)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def head_readings(
    protocol: str,
    architecture: Architecture,
    norm: str,
    width: int,
    *,
    pool: str | None = None,
    layers: int | None = None,
) -> list[Reading]:
    """The readings whose feature is `width` long, each for a single head; first what an official head has read."""
    probe, found = find_probe(protocol, architecture.width), []
    ways = [(pool, layers)] if pool and layers else _ways(probe, architecture, width, pool, layers)
    for kind, blocks in ways:
        try:
            reading = settle_reading(probe, architecture, norm, pool=kind, layers=blocks)
        except UsageError:
            continue
        if reading.inputs[0].width == width:
            found.append(reading)
    return found


def _ways(
    probe: Probe, architecture: Architecture, width: int, pool: str | None, layers: int | None
) -> list[tuple[str, int]]:
    """Pool and blocks that a feature of this width may be made of, the protocol's own first."""
    tokens = width // architecture.width
    pools = [pool] if pool else [*probe.pools, *(kind for kind in ("cls", "cls+mean") if kind not in probe.pools)]
    ways = [(kind, tokens - (kind == "cls+mean")) for kind in pools]
    ways = [(kind, blocks) for kind, blocks in ways if 1 <= blocks <= architecture.layers and layers in (None, blocks)]
    return sorted(ways, key=lambda way: (way[1] not in probe.blocks, pools.index(way[0])))
