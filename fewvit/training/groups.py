"""Groups of parameters that an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from .task import ParameterGroup


def decay_groups(
    named_parameters: Iterable[tuple[str, Tensor]], *, keep: Callable[[str, Tensor], bool] | None = None
) -> list[ParameterGroup]:
    """Two groups of the trainable parameters, in their order: those that weight decay `decays`, then those it does not.

    Biases and what has one dimension, as norms have, never decay; nor does what `keep(name, parameter)` keeps as it is.
    A group may be empty. Source: DINO `utils.get_params_groups`, which MSN and MAE share: the class token and the
    position table decay.
    """
    decaying: ParameterGroup = {"params": [], "names": [], "decays": True}
    undecayed: ParameterGroup = {"params": [], "names": [], "decays": False}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        spared = name.endswith(".bias") or parameter.ndim <= 1 or (keep is not None and keep(name, parameter))
        group = undecayed if spared else decaying
        group["params"].append(parameter)
        group["names"].append(name)
    return [decaying, undecayed]


def layer_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    depth: int,
    decay: float,
    *,
    keep: Callable[[str, Tensor], bool] | None = None,
) -> list[ParameterGroup]:
    """`decay_groups` of each layer of a ViT of `depth` blocks, the embedding first; empty ones are left out.

    Each has besides its `lr_scale`, decay^(depth + 1 - layer): layer 0 is class token, positions and patches, block i
    is layer i + 1, what comes after the blocks has the scale 1. Source: MAE `util/lr_decay.py`, after BEiT; it keeps
    class token and positions from decaying.
    """
    by_layer: dict[int, list[tuple[str, Tensor]]] = {}
    for name, parameter in named_parameters:
        by_layer.setdefault(layer_of(name, depth), []).append((name, parameter))
    groups = []
    for layer in sorted(by_layer):
        for group in decay_groups(by_layer[layer], keep=keep):
            if group["params"]:
                group["lr_scale"] = decay ** (depth + 1 - layer)
                groups.append(group)
    return groups


_EMBEDDING = ("cls_token", "pos_embed", "register_tokens", "patch_embed.")


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter of a ViT belongs to: 0 for the embedding, `depth` + 1 for the last norm and head."""
    if name.startswith(_EMBEDDING):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1
