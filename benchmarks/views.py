"""Random views of decoded images on one core: the official PIL pipeline, torchvision v2, lightly's, and ours.

An item is a batch of decoded images; what comes out is one normalised float32 batch for each crop. Peers make crop by
crop, each with draws of its own, as their data loaders do, and stack them; ours makes the batch. The peers' transforms
are written from the published settings of DINO and MAE. torchvision's Gaussian blur wants the width of its kernel: 13,
as wide as Pillow's at radius 2.
"""

from __future__ import annotations

import importlib.util
import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from fewvit.views.crops import make_views
from fewvit.views.view import View

from . import official
from .images import jpegs
from .measure import Claim, Outcome, main, round_robin

WHAT = "Random views of decoded pictures on one core"
PIL, V2, LIGHTLY, OURS = (
    "PIL + torchvision transforms",
    "torchvision v2 on tensors",
    "lightly's DINOTransform",
    "fewvit",
)
_JITTER = (0.4, 0.4, 0.2, 0.1)


def dino(large: int, small: int, count: int) -> tuple[View, ...]:
    """DINO's default views: two global crops and `count` local ones, blur scaled with the size."""
    radius = (0.1, max(0.2, 2 * large / 224))
    shared: dict[str, Any] = {"jitter": _JITTER, "grey": 0.2, "blur_radius": radius}
    return (
        View(large, (0.4, 1.0), blur=1.0, **shared),
        View(large, (0.4, 1.0), blur=0.1, solarise=0.2, **shared),
        View(small, (0.05, 0.4), count, blur=0.5, **shared),
    )


CASES = {
    "DINO 2 x 224 + 8 x 96": (dino(224, 96, 8), None, ">= 3"),
    "MAE 224": ((View(224, (0.2, 1.0)),), None, ""),
    "DINO 2 x 64 + 4 x 32": (dino(64, 32, 4), 64, ""),
}


def pil_transform(view: View) -> Callable[[Image.Image], Tensor]:
    """One crop as the official scripts make it of a PIL image."""

    def blurred(image: Image.Image) -> Image.Image:
        if random.random() > view.blur:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*view.blur_radius)))

    def solarised(image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < view.solarise else image

    colours = [
        transforms.RandomApply([transforms.ColorJitter(*view.jitter)], p=view.jitter_probability),
        transforms.RandomGrayscale(view.grey),
        blurred,
        solarised,
    ]
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                view.size, scale=view.scale, interpolation=transforms.InterpolationMode(view.interpolation)
            ),
            transforms.RandomHorizontalFlip(view.flip),
            *(colours if any(view.jitter) else []),
            transforms.ToTensor(),
            transforms.Normalize(official.MEAN, official.STD),
        ]
    )


def v2_transform(view: View) -> Callable[[Tensor], Tensor]:
    """The same of a uint8 tensor (3, H, W), with torchvision's newer transforms."""
    colours: list[nn.Module] = [
        v2.RandomApply([v2.ColorJitter(*view.jitter)], p=view.jitter_probability),
        v2.RandomGrayscale(view.grey),
        v2.RandomApply([v2.GaussianBlur(13, view.blur_radius)], p=view.blur),
        v2.RandomSolarize(128, view.solarise),
    ]
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                view.size, view.scale, interpolation=v2.InterpolationMode(view.interpolation), antialias=True
            ),
            v2.RandomHorizontalFlip(view.flip),
            *(colours if any(view.jitter) else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(official.MEAN, official.STD),
        ]
    )


def lightly(views: Sequence[View]) -> Callable[[Sequence[Any]], list[Tensor]]:
    """lightly's transform with the settings of DINO's views, of PIL images one by one."""
    from lightly.transforms.dino_transform import DINOTransform

    first, _, local = views
    transform = DINOTransform(
        first.size,
        first.scale,
        local.size,
        local.scale,
        local.count,
        sigmas=first.blur_radius,
        gaussian_blur=tuple(v.blur for v in views),
    )
    return lambda images: [torch.stack(batch) for batch in zip(*(transform(image) for image in images), strict=True)]


def one_by_one(
    views: Sequence[View], transform: Callable[[View], Callable[[Any], Tensor]]
) -> Callable[[Sequence[Any]], list[Tensor]]:
    """A batch of each crop, from images transformed one by one."""
    crops = [made for view in views for made in [transform(view)] * view.count]
    return lambda images: [
        torch.stack(batch) for batch in zip(*([crop(image) for crop in crops] for image in images), strict=True)
    ]


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    files, said = jpegs(8 if quick else 64, typical=True)
    batch, rounds = 8 if quick else 16, 2 if quick else 9
    claims, rows = [], []
    for name, (views, shrunk, goal) in CASES.items():
        decoded = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        decoded = [image.resize((shrunk, shrunk)) for image in decoded] if shrunk else decoded
        tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in decoded]
        makers = {PIL: one_by_one(views, pil_transform), V2: one_by_one(views, v2_transform), OURS: batches(views)}
        if len(views) == 3 and importlib.util.find_spec("lightly"):
            makers[LIGHTLY] = lightly(views)
        inputs = {
            PIL: decoded,
            LIGHTLY: decoded,
            V2: tensors,
            OURS: tensors,
        }  # (3, H, W) views of (H, W, 3), as torchvision decodes
        variants = {kind: of_part(makers[kind], inputs[kind]) for kind in makers}
        timing = round_robin(variants, [slice(i, i + batch) for i in range(0, len(files), batch)], rounds)
        for row in timing.rows(PIL, len(files), views=name):
            rows.append({**row, "ms_per_image": round(1000 * row["min_s"] / len(files), 2)})
        claims.append(Claim(f"Views, {name}, one core", "PIL pipeline", timing.ratio(OURS, PIL), "x", goal))
        claims += [
            Claim(f"Views, {name}, one core", peer, timing.ratio(OURS, peer), "x")
            for peer in (V2, LIGHTLY)
            if peer in makers
        ]
    return Outcome(
        claims,
        rows,
        {"images": said, "batch": batch, "rounds": rounds, "threads": 1, "measured": "from decoded pictures on"},
    )


def of_part(maker: Callable[[Any], Any], images: Any) -> Callable[[slice], Any]:
    return lambda part: maker(images[part])


def batches(views: Sequence[View]) -> Callable[[list[Tensor]], list[Tensor]]:
    """Ours, each time in another epoch: other draws."""
    epochs = iter(range(1 << 30))
    return lambda images: make_views(images, views, seed=0, epoch=next(epochs), rows=np.arange(len(images)))


if __name__ == "__main__":
    main("views", WHAT, measure)
