"""Boxes of images resized to squares, antialiased as Pillow does: one by one on a CPU, by matrix products on a GPU.

Both round to whole grey levels after each of the two passes, as Pillow does, and sum integers that float32 or int32
hold exactly; so a crop does not depend on its batch, on the order of summation or on the number of threads. From
Pillow's pixels they differ by 0.003 grey levels on average, because weights have 15 bits and Pillow's have 22. Rows are
filtered before columns, as by every Pillow before 13; that one takes columns first where a box is tall, so that a few
values beside sharp edges are clipped differently: 0.1 grey levels on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# weights are multiples of 1/_UNIT: 8 + 15 bits and a sum of |weights| below 1.4 stay within float32's 24
_UNIT = 2.0**15
_REACH = {"bicubic": 2.0, "bilinear": 1.0}  # of the filter, in pixels of the larger of both grids


def resized_one_by_one(
    images: Tensor | Sequence[Tensor], boxes: np.ndarray, flips: np.ndarray, size: int, interpolation: str
) -> Tensor:
    """Crops (n*c, 3, size, size) float32 of whole grey levels, image by image, of n uint8 ones (3, H, W) of any size.

    `boxes` (n, c, 4) are (top, left, height, width) in pixels, `flips` (n, c) says which crops are mirrored. Fastest
    where an image's pixels lie together, red, green, blue (a view of an (H, W, 3) array).
    """
    crops = torch.empty(boxes.shape[0] * boxes.shape[1], 3, size, size)
    place = iter(crops)
    for image, of_picture, mirrored in zip(images, boxes.tolist(), flips.tolist(), strict=True):
        for (top, left, height, width), mirror in zip(of_picture, mirrored, strict=True):
            box = image[None, :, top : top + height, left : left + width]
            crop = functional.interpolate(box, (size, size), mode=interpolation, antialias=True)[0]
            next(place).copy_(crop.flip(-1) if mirror else crop)
    return crops


def resized_by_matmul(canvas: Tensor, boxes: np.ndarray, flips: np.ndarray, size: int, interpolation: str) -> Tensor:
    """The same crops (n*c, 3, size, size) of images (n, 3, H, W), all at once and where `canvas` lies.

    What is outside an image's box may be anything finite, so images of several sizes share one canvas. Exact only
    while float32 products are: with TF32 allowed the weights keep 11 bits, which shifts values by up to a tenth of a
    grey level before rounding.
    """
    n, _, height, width = canvas.shape
    count = boxes.shape[1]
    across = _weights(boxes[..., 1], boxes[..., 3], size, width, interpolation, canvas.device)  # (n, c, S, W)
    across = torch.where(torch.from_numpy(flips).to(canvas.device)[..., None, None], across.flip(2), across)
    down = _weights(boxes[..., 0], boxes[..., 2], size, height, interpolation, canvas.device)  # (n, c, S, H)
    # (n, 3*H, c*S)
    rows = canvas.to(torch.float32).reshape(n, 3 * height, width) @ across.reshape(n, count * size, width).mT
    rows = _whole(rows).view(n, 3, height, count, size).permute(0, 3, 2, 1, 4).reshape(n * count, height, 3 * size)
    crops = _whole(down.reshape(n * count, size, height) @ rows)  # (n*c, S, 3*S)
    return crops.view(n * count, size, 3, size).transpose(1, 2).contiguous()


def as_canvas(images: Tensor | Sequence[Tensor], device: str | torch.device) -> Tensor:
    """uint8 images (n, 3, H, W) on `device`: each in the upper left corner, zero beside and below the smaller ones."""
    if isinstance(images, Tensor):
        return images.to(device)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    canvas = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, device=device)
    for corner, image in zip(canvas, images, strict=True):
        corner[:, : image.shape[1], : image.shape[2]] = image.to(device)
    return canvas


def _whole(values: Tensor) -> Tensor:
    """Grey levels, rounded as Pillow does; in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def _weights(
    starts: np.ndarray, lengths: np.ndarray, size: int, n_in: int, interpolation: str, device: torch.device
) -> Tensor:
    """(n, c, size, n_in) float32: how much each of n_in pixels counts for each of `size`.

    They are those of [start, start + length), resized to `size`.
    """
    scale = lengths / size  # (n, c)
    wide = np.maximum(scale, 1.0)
    centers = starts[..., None] + scale[..., None] * (np.arange(size) + 0.5)  # (n, c, size), in pixels of the image
    at = torch.arange(n_in, device=device) + 0.5
    distance = (at - _float(centers, device)[..., None]).abs_().div_(_float(wide, device)[..., None, None])
    weights = _bicubic(distance) if interpolation == "bicubic" else (1 - distance).clamp_(min=0)
    # (n, c, n_in)
    inside = (at > _float(starts, device)[..., None]) & (at < _float(starts + lengths, device)[..., None])
    weights *= inside[:, :, None]
    weights /= weights.sum(-1, keepdim=True)
    return weights.mul_(_UNIT).round_().div_(_UNIT)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2, of distances >= 0."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far).mul_(distance < _REACH["bicubic"])


def _float(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)
