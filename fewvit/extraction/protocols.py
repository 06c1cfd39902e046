"""Frozen presets: how each paper turns an image into a feature, and what its logistic regression is. No torch.

A protocol never changes; a better one gets the next number. Sources: the evaluation scripts of the official repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..backbones import families, variants
from ..errors import UnknownName, UsageError
from ..images import Preprocess

KS = (10, 20, 100, 200)  # DINO's and DINOv2's k-NN
TEMPERATURE = 0.07
_MSN_ONE_PERCENT = 0.075  # lambda of its 1 % list, by its author's word
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
    lowshot_cover: tuple[int, int] | None = None  # of the resize before low-shot evaluation, where it is not that of everything else
    logistic: Mapping[str, Any] = field(default_factory=dict)  # options of its logistic regression; the classifier's own otherwise
    penalty: str = ""  # whose lambda it is; empty: the protocol has none of its own

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]

    def transform(self, task: str = "") -> Preprocess:
        """The transform for a task: `lowshot`, or anything else."""
        if task == "lowshot" and self.lowshot_cover is not None:
            return replace(self.preprocess, cover=self.lowshot_cover)
        return self.preprocess


_BICUBIC = Preprocess()
PROTOCOLS: Mapping[str, Protocol] = {
    # lambda said by its authors, of 1 % of the labels
    "dino/1": Protocol("dino/1", _BICUBIC, logistic={"lambd": 0.1}, penalty="dino/1's (unofficial)"),
    "dinov2/1": Protocol(
        "dinov2/1",
        _BICUBIC,
        lowshot_cover=(224, 224),  # DINOv2's logistic regression resizes to the crop's size, its k-NN to 256
        logistic={"lambd": None, "selection": "tenth", "rows": "raw", "intercept": True, "dtype": "float64"},
    ),
    # MSN takes the class token before the final norm; lambda as in its repository's example
    "msn/1": Protocol(
        "msn/1", Preprocess(interpolation="bilinear"), norm="none", logistic={"lambd": 0.0025}, penalty="MSN's for n per class"
    ),
    "mae/1": Protocol("mae/1", _BICUBIC),
    "timm/1": Protocol("timm/1", _BICUBIC, pool=""),
}


def find_protocol(name: str) -> Protocol:
    """The preset of that name; raises UnknownName."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def logistic_options(protocol: str, shots: int | str) -> tuple[dict[str, Any], str]:
    """Options of the protocol's logistic regression for so many images per class, and whose lambda it is. `protocol` may be empty."""
    if not protocol:
        return {}, "MSN's, since the features' protocol is not known"
    preset = find_protocol(protocol)
    if protocol == "msn/1" and str(shots) in ("1%", "1percent"):
        return {**preset.logistic, "lambd": _MSN_ONE_PERCENT}, "MSN's for 1 %"
    return dict(preset.logistic), preset.penalty or f"MSN's, since {protocol} has none"


def protocol_of(backbone: str) -> str:
    """The preset of the family that has a variant of this name; empty where none has."""
    family = variants().get(backbone)
    return families()[family].protocol if family is not None else ""


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
