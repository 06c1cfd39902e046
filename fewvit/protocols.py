"""Frozen presets: how each paper turns an image into a feature. No torch.

A protocol never changes; a better one gets the next number. Sources: the evaluation scripts of the official repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .errors import UnknownName, UsageError
from .images import Preprocess

KS = (10, 20, 100, 200)  # DINO's and DINOv2's k-NN
TEMPERATURE = 0.07
POOLS = ("cls", "mean", "cls+mean", "cls+dist")


@dataclass(frozen=True)
class Protocol:
    """A named, versioned preset. `pool` empty means the model's own: class token where there is one, else mean."""

    name: str
    preprocess: Preprocess
    pool: str = "cls"
    layers: int = 1
    norm: str = "final"  # of class tokens: final, or none
    ks: tuple[int, ...] = KS
    temperature: float = TEMPERATURE

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


_BICUBIC = Preprocess()
PROTOCOLS: Mapping[str, Protocol] = {
    "dino/1": Protocol("dino/1", _BICUBIC),
    "dinov2/1": Protocol("dinov2/1", _BICUBIC),
    "msn/1": Protocol("msn/1", Preprocess(interpolation="bilinear"), norm="none"),  # MSN takes the class token before the final norm
    "mae/1": Protocol("mae/1", _BICUBIC),
    "timm/1": Protocol("timm/1", _BICUBIC, pool=""),
}


def find_protocol(name: str) -> Protocol:
    """The preset of that name; raises UnknownName."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def sized(preprocess: Preprocess, size: tuple[int, int] | None) -> Preprocess:
    """The transform at another input size (height, width): the resize keeps its proportion (256 to 224) to the crop."""
    if size is None:
        return preprocess
    cover = tuple(round(new * covered / cropped) for new, covered, cropped in zip(size, preprocess.cover, preprocess.crop, strict=True))
    return replace(preprocess, cover=(cover[0], cover[1]), crop=size)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of `N` or `HxW` pixels. Raises UsageError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--img-size {text!r} is neither N nor HxW")
    return int(parts[0]), int(parts[-1])
