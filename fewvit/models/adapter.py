"""What fine-tuning changed of a trunk, as tensors that are merged into the trunk it was trained on.

An adapter file is a safetensors file of two kinds of entries: `NAME`, a tensor that takes the place of the trunk's own,
and the three of a low-rank update (LoRA, Hu et al. 2021): `LAYER.lora_a` (r, in), `LAYER.lora_b` (out, r) and
`LAYER.lora_scale` (), with which W becomes W + scale x B A. Layers bear timm's names; `blocks.0.attn.q`, `.k` and `.v`
are thirds of the rows of `blocks.0.attn.qkv`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

A, B, SCALE = ".lora_a", ".lora_b", ".lora_scale"
THIRDS = {"q": 0, "k": 1, "v": 2}  # of the rows of a fused qkv layer


def merged(
    trunk: Mapping[str, Tensor], adapter: Mapping[str, Tensor], file: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The trunk's tensors after the adapter's: replaced, or with their low-rank update added. `trunk` stays as it is.

    Raises CheckpointError for an adapter that does not fit the trunk.
    """
    found = dict(trunk)
    for name, tensor in adapter.items():
        if name.endswith(A):
            _add_update(found, name.removesuffix(A), adapter, file)
        elif not name.endswith((B, SCALE)):
            _require(name in trunk and trunk[name].shape == tensor.shape, name, file)
            found[name] = tensor.to(trunk[name].dtype)
    return found


def _add_update(
    tensors: dict[str, Tensor], layer: str, adapter: Mapping[str, Tensor], file: str | os.PathLike[str]
) -> None:
    """W + scale x B A in place of the layer's weight, or of its third of a fused one."""
    name, third = fused(layer)
    _require(f"{name}.weight" in tensors and layer + B in adapter and layer + SCALE in adapter, layer, file)
    weight = tensors[f"{name}.weight"].clone()
    rows = weight if third is None else weight.chunk(3)[third]
    down, up = adapter[layer + A], adapter[layer + B]  # (r, in), (out, r)
    _require(
        down.ndim == up.ndim == 2 and (up.shape[0], down.shape[1]) == rows.shape and up.shape[1] == down.shape[0],
        layer,
        file,
    )
    rows += float(adapter[layer + SCALE]) * (up.float() @ down.float()).to(rows.dtype)
    tensors[f"{name}.weight"] = weight


def fused(layer: str) -> tuple[str, int | None]:
    """The layer that holds the rows, and which third of them; None for all."""
    stem, _, last = layer.rpartition(".")
    return (f"{stem}.qkv", THIRDS[last]) if last in THIRDS else (layer, None)


def _require(fits: bool, name: str, file: str | os.PathLike[str]) -> None:
    if not fits:
        raise CheckpointError(
            f"the adapter's {name} does not fit the backbone it is merged into",
            file=file,
            fix="It belongs to another architecture.",
        )
