"""Which token becomes the feature: the one asked for, or the model's own. No NumPy."""

from __future__ import annotations

from ..backbones import Architecture, Protocol
from ..backbones._tokens import Tokens, by_name
from ..errors import UsageError
from .readout import BOTH

EACH_TOKEN = "each"  # as a pool: a row for each kind of token that the backbone has, class token and patch mean


def has_class_token(architecture: Architecture, tokens: Tokens | None = None) -> bool:
    """Whether there is a class token to read, under a norm for it; `tokens` as in `BackboneSpec`."""
    known = _known(architecture, tokens)
    return architecture.final_norm != "fc_norm" and (known is None or known.classes > 0)


def _known(architecture: Architecture, tokens: Tokens | None) -> Tokens | None:
    return by_name(architecture.timm) if tokens is None and architecture.timm else tokens


def pool_of(
    asked: str | None,
    protocol: Protocol,
    architecture: Architecture,
    tokens: Tokens | None,
    name: str,
    class_tokens: int = 1,
) -> str:
    """The pooling asked for, or the model's own; what a model has not, it refuses.

    `tokens` as in `BackboneSpec`; `class_tokens` of a ViT of ours. Raises UsageError, which calls the model `name`.
    """
    known = _known(architecture, tokens)
    attends = known is not None and known.head == "attn"
    mean_only = not has_class_token(architecture, tokens)
    if asked == EACH_TOKEN:
        return "mean" if mean_only else BOTH
    pool = asked or protocol.pool or (known.pool if known is not None else "cls")
    if asked is None and mean_only and pool != "attn":
        pool = "mean"
    if pool == "attn" and not attends:
        raise UsageError(
            f"--pool attn: {name} has no attention pool",
            fix=f"Use --pool {'mean or gem' if mean_only else 'cls, mean, gem, cls+mean or cls+gem'}.",
        )
    if mean_only and pool not in ("mean", "attn", *(["gem"] if architecture.final_norm != "fc_norm" else [])):
        raise UsageError(
            f"--pool {pool}: {name} has no class token to read "
            f"({'its one norm is over the mean patch token' if architecture.final_norm == 'fc_norm' else 'by design'})",
            fix="Use --pool mean.",
        )
    if pool == "cls+dist" and "distilled" not in architecture.timm:
        raise UsageError(
            f"--pool cls+dist: {name} has no distillation token", fix="Use --pool cls, mean, cls+mean or cls+gem."
        )
    if pool == "cls2" and class_tokens < 2:
        raise UsageError(f"--pool cls2: {name} has one class token", fix="Use --pool cls.")
    return pool
