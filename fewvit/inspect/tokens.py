"""A backbone's tokens as a figure speaks of them: which stand before the patches, where a patch lies, which block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, counted
from .figure import called

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone

_READ_BY_PATCHES = "fc_norm"  # a final norm over the mean patch token: no class token is trained then


def block_at(backbone: Backbone, asked: int) -> int:
    """The place from 0 of block `asked`, from 1, or from -1 backwards. Raises UsageError for one that is not there."""
    depth = backbone.depth
    if asked == 0 or abs(asked) > depth:
        raise UsageError(
            f"--block {asked}: {backbone.spec.name} has {counted(depth, 'block')}, so give 1 to {depth}, or -1 to "
            f"-{depth} from the last one"
        )
    return asked - 1 if asked > 0 else depth + asked


def patch_grid(backbone: Backbone, images: Tensor, tokens: int) -> tuple[int, int]:
    """Rows and columns of the patches of images (B, 3, H, W) that became so many tokens.

    Raises UsageError where these are not the prefix and one token for each patch.
    """
    model: Any = backbone.model
    patch = model.trunk.patch_embed.patch_size if model.architecture.timm else (model.architecture.patch,) * 2
    rows, columns = images.shape[-2] // patch[0], images.shape[-1] // patch[1]
    if rows * columns + model.prefix != tokens:
        raise UsageError(
            f"{backbone.spec.name} has {tokens} tokens of an image, and not one for each of its {rows} x {columns} "
            "patches: there is no map to draw"
        )
    return rows, columns


def query_of(backbone: Backbone, asked: str | None) -> str:
    """Whose attention is shown: `cls`, the class token's, or `mean`, that of all patches on average.

    Without a wish the class token's, where the backbone has one that it is read by. Raises UsageError.
    """
    has_class = "class" in backbone.model.prefix_kinds
    if asked not in (None, "cls", "mean"):
        raise UsageError(f"--query {asked!r} is not one of cls, mean")
    if asked == "cls" and not has_class:
        raise UsageError(
            f"--query cls: {backbone.spec.name} has no class token",
            fix="Use --query mean: the attention of all patches, on average.",
        )
    if asked is not None:
        return asked
    return "cls" if has_class and backbone.model.architecture.final_norm != _READ_BY_PATCHES else "mean"


def about_query(backbone: Backbone, asked: str | None, query: str) -> list[str]:
    """A line where nobody asked and the class token is not shown."""
    if asked is not None or query == "cls":
        return []
    name, has_class = backbone.spec.name, "class" in backbone.model.prefix_kinds
    why = "is read by its mean patch token" if has_class else "has no class token"
    return [f"{name} {why}: shown is the attention of all patches, on average (--query mean)"]


def called_in(backbone: Backbone) -> str:
    """What a picture calls the backbone."""
    return called(backbone.spec.name, untrained=backbone.spec.is_random)


def prefix_named(kinds: Sequence[str]) -> str:
    """The tokens before the patches in words; empty for none."""
    return " and ".join(
        f"the {kind} token" if number == 1 else f"{number} {kind} tokens" for kind, number in Counter(kinds).items()
    )


def patch_features(backbone: Backbone, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Patch tokens (B, N, D) after the final norm, without any token before them, and their rows and columns.

    Of a model that has a map in place of tokens (Swin, ConvNeXt, ResNet), its cells.
    """
    [tokens] = backbone.tokens(images)
    model: Any = backbone.model
    if tokens.ndim == 4:
        if model.maps_of_channels:
            tokens = tokens.permute(0, 2, 3, 1)
        return tokens.flatten(1, 2), (int(tokens.shape[1]), int(tokens.shape[2]))
    return tokens[:, model.prefix :], patch_grid(backbone, images, tokens.shape[1])
