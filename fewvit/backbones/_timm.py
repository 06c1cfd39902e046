"""What families have in common whose models timm builds and names; files in timm's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import Architecture, Family, Trunk, Variant
from ._layout import network, split_trunk
from ._tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def timm_row(
    model: str,
    shape: tuple[int, int, int, int],
    parameters: int,
    tokens: Tokens,
    *,
    size: int = 224,
    crop: float = 0.9,
    statistics: Mapping[str, tuple[float, float, float]] | None = None,
    **more: Any,
) -> Variant:
    """The row of a model by its name in timm; `shape` is width, blocks, heads and patch.

    `size` in pixels, `crop` the part of a resized side that is kept, and `statistics`, ImageNet's where None, are those
    of timm's configuration. `more`: further fields of the row.
    """
    width, depth, heads, patch = shape
    cover = int(size / crop)
    return Variant(
        Architecture(width, depth, heads, patch, grid=size // patch, positions="timm", timm=model),
        more.pop("url", f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"),
        preprocess={"cover": (cover, cover), "crop": (size, size), **(statistics or {})},
        tokens=tokens,
        parameters=parameters,
        **more,
    )


class TimmFamily(Family):
    """A family by name alone: its files do not say which model of timm they are of, nor how pixels are normalised."""

    protocol: ClassVar[str] = "timm/1"
    registry: ClassVar[str] = "timm"

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Never: a file of timm's layout is read as such a family's only where a model's name was given with it."""
        # a file of timm's layout does not say which normalisation its model wants
        return False

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk; classifiers and what is computed anew on loading are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or next(
            (key for key in ("state_dict", "model") if isinstance(tree.get(key), Mapping)), None
        )
        return split_trunk(
            network(tree, nested),
            prefixes=("module.",),
            aside=("head.*", "head_dist.*", "pre_logits.*", "*.relative_position_index", "*.attn_mask"),
        )

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """Nothing: raises ValueError, since a file in timm's layout does not name its model."""
        raise ValueError("a file in timm's layout does not name its model; give --backbone timm:NAME --weights FILE")
