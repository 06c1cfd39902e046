"""The transform of a protocol, as numbers: which pixels of an image reach the backbone, and how they are normalised.

No NumPy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .errors import UnknownName, UsageError

INTERPOLATIONS = ("bicubic", "bilinear")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resize so that the image covers `cover`, then crop `crop` from the centre; both (height, width) in pixels.

    The last four fields are other ways to read: retrieval's, and features that are means over views of an image.
    """

    cover: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bicubic"  # or "bilinear", "lanczos" for `longest`; always antialiased, as Pillow does
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels / 255, taken off after the crop
    std: tuple[float, float, float] = IMAGENET_STD

    # pixels of the longer side at most: larger images shrink, none grows or is cropped, so `cover` and `crop` say
    # nothing; 0: off
    longest: int = 0
    stretched: bool = False  # resize to `cover` whatever the image's proportions
    # of the sides of what is cropped: bilinear copies, of whose features the mean is taken
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False  # the mean is also over each copy mirrored, left to right

    def __post_init__(self) -> None:
        known = (*INTERPOLATIONS, "lanczos") if self.longest else INTERPOLATIONS
        if self.interpolation not in known:
            raise UnknownName("interpolation", self.interpolation, known)

    @property
    def of_retrieval(self) -> dict[str, Any] | None:
        """What a retrieval protocol or means over views set: every field but the statistics; None where none did."""
        if (self.longest, self.stretched, self.scales, self.flip) == (0, False, (1.0,), False):
            return None
        return {name: value for name, value in asdict(self).items() if name not in ("mean", "std")}

    @property
    def is_plain(self) -> bool:
        """Whether pixels from 0 to 1 are taken as they are, without mean or deviation."""
        return self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Field -> value, for manifests and cache keys; what is of the last four fields only where it is set."""
        unset = {field.name for field in fields(self)[-4:] if getattr(self, field.name) == field.default}
        return {name: value for name, value in asdict(self).items() if name not in unset}


def sized(preprocess: Preprocess, size: tuple[int, int] | None, whole_above: int = 0) -> Preprocess:
    """The transform at another input size (height, width): the resize keeps its proportion (256 to 224) to the crop.

    With `whole_above` only up to so many pixels, and rounded down; above, the whole short side is shown. So does the
    transform of MAE's fine-tuning script.
    """
    if size is None or (whole_above and size == preprocess.crop):
        return preprocess
    if preprocess.longest:
        if size[0] != size[1]:
            raise UsageError(
                f"--img-size {size[0]}x{size[1]}: images keep their proportions here",
                fix="Give the pixels of the longer side.",
            )
        return replace(preprocess, longest=size[0])
    if whole_above and max(size) > whole_above:
        return replace(preprocess, cover=size, crop=size)
    cover = tuple(
        new * covered // cropped if whole_above else round(new * covered / cropped)
        for new, covered, cropped in zip(size, preprocess.cover, preprocess.crop, strict=True)
    )
    return replace(preprocess, cover=(cover[0], cover[1]), crop=size)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of `N` or `HxW` pixels. Raises UsageError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--img-size {text!r} is neither N nor HxW")
    return int(parts[0]), int(parts[-1])
