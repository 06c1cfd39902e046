"""Attention of timm's ViTs, taken where they compute it: rotary positions, relative biases and norms of queries and
keys are then in it, whichever model it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

# timm's classes in which dropout takes the softmax of every query over every key; CaiT mixes heads behind it, XCiT
# attends over channels
_KINDS = ("Attention", "AttentionRope", "EvaAttention")


def vit_blocks(trunk: Any, name: str) -> Sequence[Any]:
    """The blocks of a model of timm in which every token attends to every other.

    Raises UsageError, saying what is possible, for one that has none: Swin's attend in windows, ConvNeXt's and ResNet's
    do not attend.
    """
    blocks = getattr(trunk, "blocks", ())
    if not blocks or any(type(getattr(block, "attn", None)).__name__ not in _KINDS for block in blocks):
        raise UsageError(
            f"attention maps and norms of tokens are not available for {name}, whose blocks are not those of a ViT",
            fix="`fewvit inspect pca` shows its last map; for the others take a ViT, as timm:vit_small_patch16_224.",
        )
    return blocks


def attend_in(
    trunk: Any,
    name: str,
    images: Tensor,
    blocks: Sequence[int],
    keep: Callable[[Tensor], Tensor],
    queries: slice,
) -> list[Tensor]:
    """What `keep` makes of the softmax attention (B, heads, Q, T) of each of `blocks`, from 0 and ascending.

    The blocks asked for compute it step by step in this one pass, with dropout, which does nothing, behind the softmax;
    the others as always. Raises UsageError as `vit_blocks`.
    """
    layers = [vit_blocks(trunk, name)[i].attn for i in blocks]
    kept: list[Tensor] = []
    fused = [layer.fused_attn for layer in layers]
    hooks = [
        layer.attn_drop.register_forward_hook(lambda _, __, found: kept.append(keep(found[:, :, queries])))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.fused_attn = False
        trunk.forward_features(images)
    finally:
        for layer, hook, was in zip(layers, hooks, fused, strict=True):
            layer.fused_attn = was
            hook.remove()
    return kept


def output_in(trunk: Any, name: str, images: Tensor, block: int) -> Tensor:
    """Tokens (B, T, D) that leave a block, from 0. Raises UsageError as `vit_blocks`."""
    kept: list[Tensor] = []
    hook = vit_blocks(trunk, name)[block].register_forward_hook(lambda _, __, found: kept.append(found))
    try:
        trunk.forward_features(images)
    finally:
        hook.remove()
    return kept[0]
