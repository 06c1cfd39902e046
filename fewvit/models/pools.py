"""Which token becomes the feature: the one asked for, or the model's own. No NumPy."""

from __future__ import annotations

from ..backbones import Architecture, Protocol
from ..backbones._tokens import Tokens, by_name
from ..errors import UsageError


def pool_of(
    asked: str | None,
    protocol: Protocol,
    architecture: Architecture,
    tokens: Tokens | None,
    name: str,
    class_tokens: int = 1,
) -> str:
    """The pooling asked for, or the model's own; a model without a class token, or a norm for it, refuses cls.

    `tokens` as in `BackboneSpec`. Raises UsageError, which calls the model `name`.
    """
    if tokens is None and architecture.timm:
        tokens = by_name(architecture.timm)
    mean_only = architecture.final_norm == "fc_norm" or (tokens is not None and not tokens.classes)
    pool = asked or protocol.pool or (tokens.pool if tokens is not None else "cls")
    if asked is None and mean_only:
        pool = "mean"
    if pool != "mean" and mean_only:
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
