"""RandAugment as timm's `rand-m9-mstd0.5-inc1` has it: two random changes of colour or shape (Cubuk et al. 2020).

There is more of each with the magnitude.

The changes are timm's own functions on Pillow images; what is drawn is a function of (seed, epoch, row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from .draws import uniforms

if TYPE_CHECKING:
    from PIL.Image import Image

_LAYERS, _PROBABILITY, _DEVIATION, _MOST = 2, 0.5, 0.5, 10.0  # changes of an image; of each; of the magnitude; its end
_FILL = tuple(min(255, round(255 * value)) for value in IMAGENET_MEAN)  # of what comes in from outside
# name in timm -> its argument at a level from 0 to 1 and a sign, which some have no use for; None: it takes none
_CHANGES: dict[str, Callable[[float, float], float] | None] = {
    "auto_contrast": None,
    "equalize": None,
    "invert": None,
    "rotate": lambda level, sign: sign * 30.0 * level,  # degrees
    # bits that are left; Pillow no longer takes 0, a black image
    "posterize": lambda level, sign: max(1, 4 - int(level * 4)),
    "solarize": lambda level, sign: 256 - min(256, int(level * 256)),  # values from here on are inverted
    "solarize_add": lambda level, sign: min(128, int(level * 110)),  # to values below 128
    "color": lambda level, sign: max(0.1, 1 + sign * 0.9 * level),
    "contrast": lambda level, sign: max(0.1, 1 + sign * 0.9 * level),
    "brightness": lambda level, sign: max(0.1, 1 + sign * 0.9 * level),
    "sharpness": lambda level, sign: max(0.1, 1 + sign * 0.9 * level),
    "shear_x": lambda level, sign: sign * 0.3 * level,
    "shear_y": lambda level, sign: sign * 0.3 * level,
    "translate_x_rel": lambda level, sign: sign * 0.45 * level,  # of the width
    "translate_y_rel": lambda level, sign: sign * 0.45 * level,
}
_NAMES = tuple(_CHANGES)
_MOVING = ("rotate", "shear_x", "shear_y", "translate_x_rel", "translate_y_rel")


@dataclass(frozen=True)
class Change:
    """One change of one image."""

    name: str
    argument: float | None


def draw_changes(magnitude: float, *, seed: int, epoch: int, rows: np.ndarray) -> list[list[Change]]:
    """For each row its changes, in order: which, and how much; the magnitude is normal around the one asked for."""
    numbers = uniforms(seed, epoch, rows, "randaugment", _LAYERS * 5).reshape(len(rows), _LAYERS, 5)
    normal = np.sqrt(-2 * np.log1p(-numbers[..., 2])) * np.cos(2 * np.pi * numbers[..., 3])  # Box and Muller 1958
    level = np.clip(magnitude + _DEVIATION * normal, 0, _MOST) / _MOST
    which = (numbers[..., 0] * len(_NAMES)).astype(np.int64)
    found = []
    for i in range(len(rows)):
        applied = [j for j in range(_LAYERS) if numbers[i, j, 1] < _PROBABILITY]
        found.append(
            [_change(_NAMES[which[i, j]], float(level[i, j]), -1.0 if numbers[i, j, 4] > 0.5 else 1.0) for j in applied]
        )
    return found


def _change(name: str, level: float, sign: float) -> Change:
    argument = _CHANGES[name]
    return Change(name, None if argument is None else argument(level, sign))


def randaugment(images: Tensor, magnitude: float, *, seed: int, epoch: int, rows: np.ndarray) -> None:
    """Change normalised images (B, 3, H, W) of whole grey levels in place, each by what is drawn for its row."""
    import PIL.Image

    changes = draw_changes(magnitude, seed=seed, epoch=epoch, rows=rows)
    mean, std = (
        torch.tensor(values, device=images.device).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    for image, own in zip(images, changes, strict=True):
        if not own:
            continue
        levels = (image * std + mean).round_().clamp_(0, 255).to(torch.uint8)
        pillow = PIL.Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
        for change in own:
            pillow = apply_change(pillow, change)
        changed_levels = torch.from_numpy(np.array(pillow)).to(images.device).permute(2, 0, 1).float()
        image.copy_((changed_levels - mean) / std)


def apply_change(image: Image, change: Change) -> Image:
    """The image after one change, bicubic and with the mean colour from outside where it moves."""
    import PIL.Image
    from timm.data import auto_augment

    words: dict[str, Any] = {}
    if change.name in _MOVING:
        words = {"resample": PIL.Image.Resampling.BICUBIC, "fillcolor": _FILL}
    arguments = [] if change.argument is None else [change.argument]
    changed: Image = getattr(auto_augment, change.name)(image, *arguments, **words)
    return changed
