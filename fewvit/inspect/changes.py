"""Features of images that were changed: flipped, cropped, seen in random views. One forward pass for each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import DataError
from ..extraction.pipeline import Pipeline
from ..images import MAX_PIXELS, BadImage, decode, decode_whole
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from ..views.view import View

if TYPE_CHECKING:
    from ..models.backbone import Backbone

_AT_ONCE = 16  # images whose views are held at a time


@dataclass(frozen=True)
class Changed:
    """What a backbone makes of n changed images."""

    rows: np.ndarray  # (n,) int64: which images of the feature set they are
    flipped: np.ndarray  # (n, D): mirrored left to right, after the protocol's resize and crop
    cropped: np.ndarray  # (n, D): a box of half to all of the picture's area
    views: np.ndarray  # (n, q, D): random views, as training makes them

    def columns(self, part: slice) -> Changed:
        """The same of some columns, as those of one layer."""
        return Changed(self.rows, self.flipped[:, part], self.cropped[:, part], self.views[:, :, part])


def crop_of(size: int) -> View:
    """Half to all of the picture, nothing else changed."""
    return View(size, (0.5, 1.0), flip=0.0)


def view_of(size: int, count: int) -> View:
    """DINO's global crop (Caron et al. 2021, appendix): crop, flip, colour jitter, grey; without its blur."""
    return View(size, (0.4, 1.0), count, jitter=(0.4, 0.4, 0.2, 0.1), grey=0.2)


def changed_features(
    backbone: Backbone,
    pipeline: Pipeline,
    images: Dataset,
    rows: np.ndarray,
    numbers: Sequence[int],
    *,
    count: int,
    seed: int,
    batch: int,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Changed:
    """Features of changed images, whose `rows` (n,) are in the feature set and `numbers` n in `images`.

    `count` random views of each, functions of (seed, number of the image, number of the view) alone. Raises DataError
    for an image that cannot be decoded.
    """
    height, width = pipeline.preprocess.crop
    if pipeline.size is None or height != width:
        raise DataError("views are square, and this transform's images are not", fix="Give --img-size one number.")
    parts: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, len(numbers), _AT_ONCE):
        some = list(numbers[start : start + _AT_ONCE])
        flipped = np.stack([_seen(images, one, pipeline, max_pixels)[:, ::-1] for one in some])
        crops, *views = _views(images, some, height, count, seed, max_pixels)
        found = [_encoded(backbone, pixels, batch, pipeline) for pixels in (flipped, crops, *views)]
        for part, features in zip(parts, (found[0], found[1], np.stack(found[2:], axis=1)), strict=True):
            part.append(features)
        progress(start + len(some), len(numbers))
    return Changed(rows, *(np.concatenate(part) for part in parts))


def _views(
    images: Dataset, numbers: Sequence[int], size: int, count: int, seed: int, max_pixels: int
) -> list[np.ndarray]:
    """Pixels (n, size, size, 3) uint8 of the crop and then of each random view."""
    import torch

    from ..views.crops import make_views

    whole = []
    for one in numbers:
        pixels = _read(images, one, lambda data: decode_whole(data, max_pixels))
        whole.append(torch.from_numpy(pixels).permute(2, 0, 1))
    made = make_views(whole, [crop_of(size), view_of(size, count)], seed=seed, epoch=0, rows=np.array(numbers))
    # back to the grey levels that they are made of, so that the protocol's own statistics are applied, once
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    levels = [np.rint((view.numpy() * std + mean) * 255).clip(0, 255).astype(np.uint8) for view in made]
    return [np.ascontiguousarray(np.moveaxis(view, 1, 3)) for view in levels]


def _encoded(backbone: Backbone, pixels: np.ndarray, batch: int, pipeline: Pipeline) -> np.ndarray:
    """Features (n, D) float32 of pixels (n, H, W, 3)."""
    from ..extraction.encoding import start_encoding

    parts = [np.ascontiguousarray(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    found = [start_encoding(backbone, part, batch, pipeline)[: len(part)].float().cpu().numpy() for part in parts]
    return np.concatenate(found)


def _seen(images: Dataset, number: int, pipeline: Pipeline, max_pixels: int) -> np.ndarray:
    """Pixels (H, W, 3) of an image as the protocol reads it."""
    return _read(images, number, lambda data: decode(data, pipeline.preprocess, pipeline.decode, max_pixels)[0])


def _read(images: Dataset, number: int, decoded: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decoded(images.read(number))
    except (BadImage, OSError) as error:
        raise DataError(f"cannot be decoded: {error}", file=images.place(number), fix="Repair or remove it.") from error
