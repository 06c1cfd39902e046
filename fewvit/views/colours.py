"""What augmentation does to pixel values, image by image with factors of its own, on whole batches and on any device.

A batch is float32 (n, 3, H, W) in whole grey levels 0..255 and is changed in place. Every step ends in whole levels by
Pillow's own rounding: all but the hue equal torchvision's steps on a Pillow image bit for bit. Comparisons are
written as clamped differences of whole numbers, which on a CPU is ten times faster than with masks. No step fuses a
product that must be rounded with a sum: kernels that do so for some of the elements would make a pixel depend on its
place in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the four steps of colour jitter
_PASSES = 3  # box blurs that Pillow makes of one Gaussian blur, in each direction


def jitter(images: Tensor, order: np.ndarray, factors: np.ndarray, strengths: tuple[float, ...]) -> None:
    """Change brightness, contrast, saturation and hue of each image in its own `order` (n, 4) by its `factors` (n, 4).

    Images must be sorted by the place of HUE in their order, the latest first: then each turn before the hue takes the
    first so many images, each turn after it the last so many, and no image is copied to bring those of one turn
    together.
    """
    before = (order == HUE).argmax(axis=1)  # so many steps come before the hue
    factors_by_turn = factors[np.arange(len(order))[:, None], order]
    for turn in range(3):
        chosen = slice(0, int(np.count_nonzero(before > turn)))
        blend(images[chosen], order[chosen, turn], factors_by_turn[chosen, turn])
    if strengths[HUE]:
        shift_hue(images, factors[:, HUE])
    for turn in range(1, 4):
        chosen = slice(int(np.count_nonzero(before >= turn)), None)
        blend(images[chosen], order[chosen, turn], factors_by_turn[chosen, turn])


def blend(images: Tensor, kinds: np.ndarray, factors: np.ndarray) -> None:
    """Blend each image with black (BRIGHTNESS), its mean grey level (CONTRAST) or its grey image (SATURATION).

    `kinds` and `factors` are (n,); the result is base + factor x (image - base), in 0..255 and rounded down.
    """
    if len(kinds) == 0:
        return
    factor, base = _beside(factors, images), _blend_base(images, kinds)
    if base is None:
        images.mul_(factor)
    else:
        images.sub_(base).mul_(factor).add_(base)
    if np.count_nonzero(factors > 1):
        images.clamp_(0, 255)
    images.floor_()


def _blend_base(images: Tensor, kinds: np.ndarray) -> Tensor | None:
    """What the images are blended with, (n, 1, 1, 1) or (n, 1, H, W); None for black alone."""
    those = set(kinds.tolist())
    if those == {BRIGHTNESS}:
        return None
    grey = grey_levels(images)
    if those == {SATURATION}:
        return grey
    if CONTRAST not in those:
        return grey.mul_(_beside(kinds == SATURATION, images))
    # sums of whole numbers, in any order
    mean = grey.mean(dim=(2, 3), keepdim=True, dtype=torch.float64).add_(0.5).floor_().float()
    if those == {CONTRAST}:
        return mean
    return grey.mul_(_beside(kinds == SATURATION, images)).add_(mean.mul_(_beside(kinds == CONTRAST, images)))


def shift_hue(images: Tensor, factors: np.ndarray) -> None:
    """Turn the hue of each image by a share of the circle, `factors` (n,) in [-1/2, 1/2].

    Hue and saturation are rounded down to 8 bits on the way, as in Pillow's HSV; 255 is the whole circle, and yet 256
    wraps to 0. Where Pillow's double precision decides otherwise than float32 what is below a whole number, a pixel's
    hue or saturation is off by one.
    """
    red, green, blue = images.unbind(1)  # (n, H, W)
    value, darkest = torch.maximum(green, blue), torch.minimum(green, blue)
    hue = (green + blue).sub_(red)
    beyond = (blue - green).clamp_(0, 1)  # 1 where the way from red over green is the longer one
    torch.maximum(value, red, out=value)
    torch.minimum(darkest, red, out=darkest)
    hue.sub_(darkest)
    chroma = torch.sub(value, darkest, out=darkest)
    # sixths of the circle from red: 1 + (g + b - r - min) / chroma, whichever channel is the largest
    hue.div_(chroma.clamp(min=1)).add_(1).mul_(42.5)
    hue.sub_(beyond, alpha=255).abs_().floor_().add_(_beside(np.trunc(factors * 255) % 256, images)[:, 0])
    hue.sub_((hue - 255).clamp_(0, 1), alpha=256)
    # value x saturation, by unit of hue
    spread = chroma.mul_(255).div_(value.clamp(min=1)).floor_().mul_(value).mul_(6 / 255**2)
    # green falls off from 42.5 to 85 units around its own hue, so does blue; red rises so around cyan
    centres = torch.tensor((127.5, 85.0, 170.0), device=images.device).view(3, 1, 1)
    torch.sub(hue[:, None], centres, out=images).abs_().clamp_(42.5, 85).mul_(spread[:, None])
    edge = spread.mul_(42.5)
    value.add_(edge)
    torch.sub(value, green, out=green)
    torch.sub(value, blue, out=blue)
    red.add_(value).sub_(edge.mul_(3))
    images.round_()


def take_colour(images: Tensor) -> None:
    """The grey image in all three channels."""
    images.copy_(grey_levels(images).expand_as(images))


def solarise(images: Tensor) -> None:
    """255 - value where the value is 128 or more."""
    images.sub_(127.5).abs_().neg_().add_(127.5)


def blur(images: Tensor, boxes: Tensor) -> None:
    """Pillow's GaussianBlur: three box blurs along rows, three along columns, each rounded; an image's edges repeat.

    `boxes` (n, R+1) are the weights of a pixel itself and of those 1..R away on either side, from `blur_boxes`.
    """
    reach = boxes.shape[1] - 1
    weights = [weight.contiguous() for weight in boxes.split(1, dim=1)]  # (n, 1) each
    padded = functional.pad(images, (reach,) * 4)
    flat = padded.flatten(1)  # a shift along it is one along a row, or by a row's length one along a column
    work = (torch.empty_like(flat), torch.empty_like(flat))  # fresh memory for each pass would cost as much as the pass
    for dim, step in ((3, 1), (2, padded.shape[3])):
        edges, lanes = _edges(padded, dim, reach), _lanes(flat, reach, step)
        around, pair = (space[:, : lanes[0].shape[1]] for space in work)
        for _ in range(_PASSES):
            for outside, inside in edges:
                outside.copy_(inside)
            _box_blur(lanes, weights, around, pair)
    images.copy_(padded[:, :, reach:-reach, reach:-reach])


def _edges(padded: Tensor, dim: int, reach: int) -> list[tuple[Tensor, Tensor]]:
    """For both ends of `dim`: the `reach` outermost values, and the nearest one inside that they repeat."""
    length = padded.shape[dim]
    outer = (padded.narrow(dim, at, reach) for at in (0, length - reach))
    inner = (padded.narrow(dim, at, 1) for at in (reach, length - reach - 1))
    return [(outside, inside.expand_as(outside)) for outside, inside in zip(outer, inner, strict=True)]


def _lanes(flat: Tensor, reach: int, step: int) -> list[Tensor]:
    """Views of (n, L): values with `reach` neighbours `step` apart on both sides; 1 before, 1 after, 2 before, ..."""
    length = flat.shape[1] - 2 * reach * step
    shifts = [0, *(shift for away in range(1, reach + 1) for shift in (-away, away))]
    return [flat.narrow(1, (reach + shift) * step, length) for shift in shifts]


def _box_blur(lanes: list[Tensor], weights: list[Tensor], around: Tensor, pair: Tensor) -> None:
    """Filter the first of `lanes` in place; `around` and `pair` are room for what is computed on the way."""
    torch.add(lanes[1], lanes[2], out=around).mul_(weights[1])
    for away in range(2, len(weights)):
        around.add_(torch.add(lanes[2 * away - 1], lanes[2 * away], out=pair).mul_(weights[away]))
    lanes[0].mul_(weights[0]).add_(around).round_()


def blur_boxes(radii: np.ndarray) -> np.ndarray:
    """(..., R+1) float32 for `blur`: half of the box that, used three times, deviates by `radii` (...) pixels.

    Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering", which
    Pillow follows: a box of whole pixels, and one at each end that counts in part.
    """
    reach = blur_reach(radii)[..., None]  # of the pixel that counts in part
    variance = np.asarray(radii, dtype=np.float64)[..., None] ** 2 / _PASSES  # of one box
    part = (2 * reach - 1) * (reach * (reach - 1) - 3 * variance) / (6 * (variance - reach**2))
    away = np.arange(reach.max(initial=1) + 1)
    box = (away < reach) + part * (away == reach)
    return (box / (2 * (reach + part) - 1)).astype(np.float32)


def blur_reach(radii: np.ndarray) -> np.ndarray:
    """(...) int64: how many pixels away a box reaches for the standard deviations `radii` of three; at least 1."""
    variance = np.asarray(radii, dtype=np.float64) ** 2 / _PASSES
    return np.floor((np.sqrt(12 * variance + 1) + 1) / 2).astype(np.int64)


def grey_levels(images: Tensor) -> Tensor:
    """(n, 1, H, W): Pillow's mode L, (19595 R + 38470 G + 7471 B + 2^15) >> 16.

    Nothing is rounded before the end: 24 bits suffice.
    """
    red, green, blue = images.unbind(1)
    grey = (red * (19595 / 2**16)).add_(green, alpha=38470 / 2**16)
    return grey.add_(blue, alpha=7471 / 2**16).add_(0.5).floor_()[:, None]


def _beside(values: np.ndarray, images: Tensor) -> Tensor:
    """(n,) as float32 (n, 1, 1, 1) on the images' device."""
    return torch.from_numpy(values.astype(np.float32)).to(images.device).view(-1, 1, 1, 1)
