"""What a view of an image is: one kind of random crop and what is done to its colours. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One kind of crop and what is done to its colours, in this order; `count` crops of it are made of every image.

    Random-resized-crop, horizontal flip, colour jitter, grey, Gaussian blur, solarisation; then the ImageNet
    normalisation.
    """

    size: int  # pixels of the square that comes out
    scale: tuple[float, float]  # share of the image's area
    count: int = 1
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width to height
    interpolation: str = "bicubic"  # or bilinear; always antialiased
    flip: float = 0.5  # probability
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    jitter_probability: float = 0.8
    grey: float = 0.0  # probability
    blur: float = 0.0  # probability
    blur_radius: tuple[float, float] = (0.1, 2.0)  # Pillow's radius, the standard deviation in pixels
    solarise: float = 0.0  # probability; threshold 128


@dataclass(frozen=True)
class ClippedView(View):
    """A view whose box is drawn once and clipped to the image, not again until it fits: MAE's linear probe."""
