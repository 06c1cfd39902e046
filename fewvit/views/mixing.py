"""Images and labels blended, cut and erased while a classifier trains: timm's mixup, cutmix and random erasing.

What is drawn is a function of the step for a batch that shares one blend, and of (seed, epoch, row) for what each
image has of its own. Sources: Zhang et al. 2018 (mixup), Yun et al. 2019 (cutmix), Zhong et al. 2020 (erasing);
details as in timm, which MAE trains with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..seeds import generator, seed_of
from .draws import uniforms

_SWITCH = 0.5  # share of the batches that are cut where both are asked for
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of an erased rectangle: share of the image, height to width
_TRIES = 10  # at a rectangle that fits


def soft_targets(labels: Tensor, n_classes: int, smoothing: float = 0.0) -> Tensor:
    """(B, C) float32: 1 - smoothing for the label, and smoothing / C more for every class."""
    targets = torch.full((len(labels), n_classes), smoothing / n_classes, device=labels.device)
    return targets.scatter_add_(1, labels[:, None], torch.full((len(labels), 1), 1.0 - smoothing, device=labels.device))


@dataclass(frozen=True)
class Blend:
    """How each image of a batch is mixed with the one at the opposite place."""

    share: float  # of the image itself, in its target too
    # top, bottom, left, right of what is cut out of the other; None: both are blended
    box: tuple[int, int, int, int] | None = None


def draw_blend(seed: int, step: int, size: tuple[int, int], mixup: float, cutmix: float) -> Blend | None:
    """The blend of a step's batch with images of `size` (height, width); None where neither alpha is above 0."""
    if mixup <= 0 and cutmix <= 0:
        return None
    stream = generator(seed, "mixing", step)
    cuts = cutmix > 0 and (mixup <= 0 or stream.random() < _SWITCH)
    share = float(stream.beta(cutmix, cutmix) if cuts else stream.beta(mixup, mixup))
    if not cuts:
        return Blend(share)
    height, width = size
    tall, wide = (int(length * math.sqrt(1 - share)) for length in size)
    down, across = int(stream.integers(height)), int(stream.integers(width))
    top, bottom = (min(max(edge, 0), height) for edge in (down - tall // 2, down + (tall + 1) // 2))
    left, right = (min(max(edge, 0), width) for edge in (across - wide // 2, across + (wide + 1) // 2))
    # what was cut off at the edge counts not
    return Blend(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mix(images: Tensor, targets: Tensor, blend: Blend) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and targets (B, C), each mixed with those at the opposite place; the inputs are lost."""
    others = images.flip(0)
    if blend.box is None:
        images = images.mul_(blend.share).add_(others.mul_(1 - blend.share))
    else:
        top, bottom, left, right = blend.box
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, targets * blend.share + targets.flip(0) * (1 - blend.share)


def erase(images: Tensor, probability: float, *, seed: int, epoch: int, rows: np.ndarray) -> None:
    """Replace in place, with this probability, a rectangle of each normalised image (B, 3, H, W) by normal noise."""
    height, width = images.shape[2:]
    for image, row, box in zip(
        images,
        rows.tolist(),
        erased_boxes(probability, (height, width), seed=seed, epoch=epoch, rows=rows),
        strict=True,
    ):
        if box is None:
            continue
        top, left, tall, wide = box
        noise = torch.Generator().manual_seed(seed_of(seed, epoch, row, "erased"))
        image[:, top : top + tall, left : left + wide] = torch.randn(3, tall, wide, generator=noise).to(image)


def erased_boxes(
    probability: float, size: tuple[int, int], *, seed: int, epoch: int, rows: np.ndarray
) -> list[tuple[int, int, int, int] | None]:
    """For each row the rectangle (top, left, height, width) in pixels that is erased, or None.

    The first of ten that is smaller than the image.
    """
    if probability <= 0:
        return [None] * len(rows)
    height, width = size
    numbers = uniforms(seed, epoch, rows, "erase", 1 + 4 * _TRIES)
    tries = numbers[:, 1:].reshape(-1, _TRIES, 4)  # area, aspect, down, across
    area = height * width * (_AREA[0] + tries[..., 0] * (_AREA[1] - _AREA[0]))
    low, high = (math.log(ratio) for ratio in _ASPECT)
    aspect = np.exp(low + tries[..., 1] * (high - low))
    tall, wide = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    found: list[tuple[int, int, int, int] | None] = []
    for i in range(len(rows)):
        if numbers[i, 0] >= probability or not fits[i].any():
            found.append(None)
            continue
        at = int(fits[i].argmax())
        h, w = int(tall[i, at]), int(wide[i, at])
        top, left = int(tries[i, at, 2] * (height - h + 1)), int(tries[i, at, 3] * (width - w + 1))
        found.append((top, left, h, w))
    return found
