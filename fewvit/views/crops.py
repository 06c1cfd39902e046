"""Random views of images: what is drawn for each of them, and the batches that come out.

The distribution is that of the published pipelines, torchvision's transforms on Pillow images one by one (Caron et
al. 2021, Assran et al. 2022, He et al. 2022), and so are the pixels: for the same draws they differ by 0.01 grey levels
on average, see `resample`. A view is a function of the image and of (seed, epoch, row of the image, number of the
crop): which batch it is in, how many threads work and what was drawn before change nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from . import colours
from .draws import uniforms
from .resample import as_canvas, resized_by_matmul, resized_one_by_one
from .view import ClippedView, View

_TRIES = 10  # at a box that fits; then the largest central one
_ORDERS = np.array(list(itertools.permutations(range(4))))  # of brightness, contrast, saturation, hue
_DRAWS = 2 * _TRIES + 13  # uniform numbers for each crop
# float32 values of a batch that is worked on at a time: on a CPU few enough for its caches, and many beside the cost
# of a call
_CPU_VALUES, _GPU_VALUES = 1 << 19, 1 << 26


@dataclass(frozen=True)
class Drawn:
    """What was drawn for c crops of each of n images; arrays (n, c) or (n, c, 4)."""

    boxes: np.ndarray  # (n, c, 4) int64: top, left, height, width in pixels of the image
    flipped: np.ndarray  # (n, c) bool, as the four below
    jittered: np.ndarray
    greyed: np.ndarray
    blurred: np.ndarray
    solarised: np.ndarray
    order: np.ndarray  # (n, c, 4) int64: which of brightness, contrast, saturation, hue (0-3) comes first, second, ...
    factors: np.ndarray  # (n, c, 4) float64: of each of them; the hue's is a share of the circle
    radii: np.ndarray  # (n, c) float64: of the blur, Pillow's
    reaches: np.ndarray  # (n, c) int64: of the boxes that make the blur, in pixels
    blurs: np.ndarray  # (n, c, R+1) float32: weights in those boxes

    def __getitem__(self, part: slice) -> Drawn:
        """The same of some of the images."""
        return Drawn(*(getattr(self, field.name)[part] for field in fields(self)))


def make_views(
    images: Tensor | Sequence[Tensor],
    views: Sequence[View],
    *,
    seed: int,
    epoch: int,
    rows: np.ndarray,
    device: str | torch.device = "cpu",
) -> list[Tensor]:
    """One normalised float32 batch (B, 3, size, size) on `device` for each crop of each of `views`, in their order.

    `images` are uint8, (B, 3, H, W) or a list of (3, H, W); `rows` (B,) are their numbers in the data set.
    """
    sizes = np.array([image.shape[1:] for image in images], dtype=np.int64).reshape(-1, 2)
    drawn = draw_views(views, sizes, seed=seed, epoch=epoch, rows=rows)
    batches = [_room((view.count, len(sizes), 3, view.size, view.size), device) for view in views]
    mean, std = (
        torch.tensor(values, device=device).mul_(255).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    kind = torch.device(device).type
    with torch.no_grad():
        for part in _blocks(sizes, views, kind):
            block = images[part] if kind == "cpu" else as_canvas(images[part], device)
            for view, of_view, batch in zip(views, drawn, batches, strict=True):
                crops = recolour(_resized(block, view, of_view[part]), view, of_view[part])
                by_crop = crops.sub_(mean).unflatten(0, (-1, view.count)).transpose(0, 1)  # (c, n, 3, size, size)
                torch.div(by_crop, std, out=batch[:, part])
    return [crop for batch in batches for crop in batch]


def draw_views(views: Sequence[View], sizes: np.ndarray, *, seed: int, epoch: int, rows: np.ndarray) -> list[Drawn]:
    """What is drawn for each of `views` of images with `sizes` (B, 2), (height, width), and numbers `rows` (B,)."""
    crops = sum(view.count for view in views)
    numbers = uniforms(seed, epoch, rows, "views", crops * _DRAWS).reshape(len(sizes), crops, _DRAWS)
    ends = np.cumsum([view.count for view in views])
    return [draw(view, sizes, numbers[:, end - view.count : end]) for view, end in zip(views, ends, strict=True)]


def draw(view: View, sizes: np.ndarray, numbers: np.ndarray) -> Drawn:
    """What uniform `numbers` (n, c, 33) mean for c crops of n images of `sizes` (n, 2)."""
    tries, rest = numbers[..., : 2 * _TRIES], np.moveaxis(numbers[..., 2 * _TRIES :], -1, 0)
    down, across, flip, jitter, order, *factors, grey, blur, radius, solarise = rest
    radii = view.blur_radius[0] + radius * (view.blur_radius[1] - view.blur_radius[0])
    return Drawn(
        boxes=_boxes(view, sizes, tries.reshape(*tries.shape[:2], _TRIES, 2), down, across),
        flipped=flip < view.flip,
        jittered=(jitter < view.jitter_probability) & any(view.jitter),
        greyed=grey < view.grey,
        blurred=blur < view.blur,
        solarised=solarise < view.solarise,
        order=_ORDERS[(order * len(_ORDERS)).astype(np.int64)],
        factors=_factors(view, np.stack(factors, axis=-1)),
        radii=radii,
        reaches=colours.blur_reach(radii),
        blurs=colours.blur_boxes(radii),
    )


def _boxes(view: View, sizes: np.ndarray, tries: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(n, c, 4) top, left, height, width: torchvision's rule for RandomResizedCrop.

    `tries` (n, c, 10, 2) become area and aspect ratio, the first box that fits is taken; `down` and `across` (n, c)
    place it.
    """
    height, width = sizes[:, None, :1], sizes[:, None, 1:]  # (n, 1, 1)
    area = height * width * (view.scale[0] + tries[..., 0] * (view.scale[1] - view.scale[0]))  # (n, c, 10)
    low, high = np.log(view.ratio)
    ratio = np.exp(low + tries[..., 1] * (high - low))
    wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    if isinstance(view, ClippedView):
        wide, tall = np.minimum(wide, width), np.minimum(tall, height)
        wide[..., 1:], tall[..., 1:] = 0, 0  # there is no second try
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.argmax(axis=2)[..., None]
    central = _central_boxes(view, sizes)[:, None]  # (n, 1, 4)
    box = np.concatenate([np.take_along_axis(tall, first, 2), np.take_along_axis(wide, first, 2)], axis=2).astype(
        np.int64
    )
    room = sizes[:, None] - box + 1  # (n, c, 2): so many places, all equally likely
    place = (np.stack([down, across], axis=2) * room).astype(np.int64)
    return np.where(fits.any(axis=2)[..., None], np.concatenate([place, box], axis=2), central)


def _central_boxes(view: View, sizes: np.ndarray) -> np.ndarray:
    """(n, 4): the largest box in the middle whose aspect ratio is within bounds."""
    height, width = sizes[:, 0], sizes[:, 1]
    narrow, broad = width / height < view.ratio[0], width / height > view.ratio[1]
    tall = np.where(narrow, np.rint(width / view.ratio[0]), height).astype(np.int64)
    wide = np.where(broad, np.rint(height * view.ratio[1]), width).astype(np.int64)
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def _factors(view: View, numbers: np.ndarray) -> np.ndarray:
    """(n, c, 4): brightness, contrast and saturation in [max(0, 1 - b), 1 + b], hue in [-h, h]."""
    strength = np.array(view.jitter)
    low, high = np.maximum(0, 1 - strength), 1 + strength
    low[3], high[3] = -strength[3], strength[3]
    return low + numbers * (high - low)


# ---- from what was drawn to pixels


def _blocks(sizes: np.ndarray, views: Sequence[View], device: str) -> Iterator[slice]:
    """Consecutive images, as many at a time as the largest batch of views (on a GPU also the canvas) has room for."""
    limit = _CPU_VALUES if device == "cpu" else _GPU_VALUES
    of_views = max(view.count * 3 * view.size**2 for view in views)
    start, height, width = 0, 0, 0
    for i, (tall, wide) in enumerate(sizes.tolist()):
        taller, wider = max(height, tall), max(width, wide)
        canvas = 0 if device == "cpu" else 3 * taller * wider
        if i > start and (i + 1 - start) * max(of_views, canvas) > limit:
            yield slice(start, i)
            start, taller, wider = i, tall, wide
        height, width = taller, wider
    if start < len(sizes):
        yield slice(start, len(sizes))


def _room(shape: tuple[int, ...], device: str | torch.device) -> Tensor:
    """Uninitialised float32.

    On a CPU the memory is NumPy's, which asks for huge pages: small ones cost 0.5 ms of page faults per image.

    It begins at a multiple of 64 bytes as torch's own does: matrix products may sum in another order elsewhere.
    """
    if torch.device(device).type != "cpu":
        return torch.empty(shape, device=device)
    count = math.prod(shape)
    memory = np.empty(count + 16, np.float32)
    start = -(memory.ctypes.data // 4) % 16
    return torch.from_numpy(memory[start : start + count]).view(shape)


def _resized(images: Tensor | Sequence[Tensor], view: View, drawn: Drawn) -> Tensor:
    """The boxes of n images, or of their canvas (n, 3, H, W) on a GPU, as (n*c, 3, size, size) whole grey levels."""
    if isinstance(images, Tensor) and images.device.type != "cpu":
        return resized_by_matmul(images, drawn.boxes, drawn.flipped, view.size, view.interpolation)
    return resized_one_by_one(images, drawn.boxes, drawn.flipped, view.size, view.interpolation)


def recolour(images: Tensor, view: View, drawn: Drawn) -> Tensor:
    """(n*c, 3, H, W) whole grey levels: `images`, which are lost, with the changes of colour that were drawn."""
    jittered, blurred = drawn.jittered.reshape(-1), drawn.blurred.reshape(-1)
    if count := np.count_nonzero(jittered):
        order, factors = drawn.order.reshape(-1, 4), drawn.factors.reshape(-1, 4)
        place = np.where(jittered, (order == colours.HUE).argmax(axis=1), -1)
        ranked = np.argsort(-place, kind="stable")  # as colours.jitter wants them
        images = _rows(images, ranked)
        colours.jitter(images[:count], order[ranked[:count]], factors[ranked[:count]], view.jitter)
        images = _rows(images, np.argsort(ranked))
    _apply(colours.take_colour, images, drawn.greyed.reshape(-1))
    reaches, blurs = drawn.reaches.reshape(-1), drawn.blurs.reshape(len(images), -1)
    # a wide box takes one and a half times as long as a narrow one
    for reach in sorted(set(reaches[blurred].tolist())):
        _apply(colours.blur, images, blurred & (reaches == reach), blurs[:, : reach + 1])
    _apply(colours.solarise, images, drawn.solarised.reshape(-1))
    return images


def _apply(change: Callable[..., None], images: Tensor, wanted: np.ndarray, *factors: np.ndarray) -> None:
    """Change in place those of `images` (n, ...) that are `wanted` (n,), by their own rows of `factors`."""
    count = np.count_nonzero(wanted)
    if count == 0:
        return
    own = [torch.from_numpy(factor[wanted]).to(images.device) for factor in factors]
    if count == len(wanted):
        change(images, *own)
        return
    chosen = torch.from_numpy(np.flatnonzero(wanted)).to(images.device)
    some = images.index_select(0, chosen)
    change(some, *own)
    images.index_copy_(0, chosen, some)


def _rows(images: Tensor, order: np.ndarray) -> Tensor:
    """The images in another order; themselves if it is the same one."""
    in_place = len(order) == 1 or np.array_equal(order, np.arange(len(order)))
    return images if in_place else images.index_select(0, torch.from_numpy(order).to(images.device))
