"""What of a trunk may change while it is fine-tuned, and what of it did: low-rank updates, biases, norms, blocks, all.

LoRA is for timm's blocks: an update of the fused qkv layer, of its thirds, of the projection and of both layers of the
MLP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, UsageError, refuse_out_of_memory
from ..models.adapter import SCALE, THIRDS, A, B
from ..training.on_cpu import linear
from ..untrusted.texts import json_of
from .modes import LAYERS, TuningRecipe

if TYPE_CHECKING:
    from ..methods._trunk import Trunk


class LowRank(nn.Module):
    """x -> scale x B A x, zero at the start."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, stream: torch.Generator):
        super().__init__()
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        # as LoRA's authors, and torch's linear layers
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5), generator=stream)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """y (..., out) + scale x B A x, of x (..., in); where it is learnt, in one pass over y."""
        if not torch.is_grad_enabled():
            return y + linear(linear(x, self.lora_a) * self.scale, self.lora_b)
        low = F.linear(x, self.lora_a).flatten(0, -2)  # (N, r)
        return torch.addmm(y.flatten(0, -2), low.to(y.dtype), self.lora_b.t().to(y.dtype), alpha=self.scale).view_as(y)


class Adapted(nn.Module):
    """A frozen linear layer and its low-rank updates: one of all rows, or of some thirds of a fused qkv layer."""

    def __init__(self, base: nn.Linear, thirds: tuple[str, ...], rank: int, scale: float, stream: torch.Generator):
        super().__init__()
        self.base = base
        outputs = base.out_features // (3 if thirds else 1)
        self.updates = nn.ModuleDict(
            {part: LowRank(base.in_features, outputs, rank, scale, stream) for part in thirds or ("all",)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the frozen layer gives for x (..., in), with the updates added: (..., out)."""
        y, updates = self.base(x), cast(dict[str, LowRank], self.updates)
        if "all" in updates:
            return updates["all"].add_to(y, x)
        parts = [
            updates[third].add_to(part, x) if third in updates else part
            for third, part in zip(THIRDS, y.chunk(3, dim=-1), strict=True)
        ]
        return torch.cat(parts, dim=-1)


def prepare(trunk: Trunk, recipe: TuningRecipe, reads_norm: bool, stream: torch.Generator) -> None:
    """Let those of the trunk's parameters change that the mode says, in the last `recipe.blocks` blocks; add LoRA's.

    `reads_norm`: whether the final norm is in the way to the feature. Where it is not, nothing can be learnt from it.
    Raises UsageError for targets and numbers that do not fit the trunk.
    """
    depth = len(trunk.blocks)
    first = recipe.first_block(depth)
    trunk.requires_grad_(False)
    if recipe.mode == "lora":
        _add_lora(trunk.blocks[first:], recipe, stream)
        return
    for name, parameter in trunk.named_parameters():
        place = _place(name, depth)
        in_reach = first <= place < depth or (place == depth and reads_norm) or (place < 0 and recipe.blocks is None)
        parameter.requires_grad_(in_reach and _changes(recipe.mode, name, place))


def _place(name: str, depth: int) -> int:
    """Number of the block that a parameter is of; -1 below the blocks, `depth` above them."""
    if name.startswith("blocks."):
        return int(name.split(".")[1])
    return depth if name.startswith(("norm.", "fc_norm.")) else -1


def _changes(mode: str, name: str, place: int) -> bool:
    """Whether a mode trains a parameter at this place; but for `full`, none trains the embedding."""
    if mode == "full":
        return True
    kinds = {"bias": name.endswith(".bias"), "norm": "norm" in name, "last-block": True}
    return kinds[mode] and place >= 0


def _add_lora(blocks: Iterable[nn.Module], recipe: TuningRecipe, stream: torch.Generator) -> None:
    """Put an `Adapted` in the place of each targeted linear layer of the blocks."""
    targets = recipe.layers
    thirds = tuple(word for word in THIRDS if word in targets)
    if recipe.rank < 1:
        raise UsageError(f"--set rank={recipe.rank}: at least 1")
    scale = recipe.alpha / recipe.rank
    for block in blocks:
        for layer in dict.fromkeys("qkv" if word in THIRDS else word for word in targets):
            holder = getattr(block, LAYERS[layer])
            parts = thirds if layer == "qkv" else ()
            setattr(holder, layer, Adapted(getattr(holder, layer), parts, recipe.rank, scale, stream))


def blocks_below(trunk: Trunk) -> int | None:
    """How many blocks lie below the first one that changes: the tokens that go into it are always the same.

    None where the embedding changes.
    """
    depth = len(trunk.blocks)
    places = {_place(name, depth) for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    lowest = min(places, default=depth)
    return None if lowest < 0 else lowest


def changed_tensors(trunk: Trunk) -> dict[str, Tensor]:
    """What training changed, as an adapter's tensors on the CPU (see `fewvit.models.adapter`)."""
    found: dict[str, Tensor] = {}
    for name, part in trunk.named_modules():
        if isinstance(part, Adapted):
            for third, update in cast(dict[str, LowRank], part.updates).items():
                layer = name if third == "all" else f"{name.rpartition('.')[0]}.{third}"
                scale = torch.tensor(float(update.scale))
                found |= {layer + A: update.lora_a, layer + B: update.lora_b, layer + SCALE: scale}
    found |= {name: p for name, p in trunk.named_parameters() if p.requires_grad and ".updates." not in name}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


# ---- adapters of the peft package

_PEFT_LAYERS = {
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
}


def read_peft(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors out of a folder that peft's `save_pretrained` made, for a ViT of timm or transformers.

    The folder holds `adapter_config.json` and `adapter_model.safetensors`. Raises DataError for another kind than plain
    LoRA.
    """
    from safetensors.torch import load_file

    try:
        config = json_of((folder / "adapter_config.json").read_text())
        stored = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        refuse_out_of_memory(error, "reading an adapter")
        raise DataError(
            "no adapter of peft that can be read",
            file=folder,
            fix="It holds adapter_config.json and adapter_model.safetensors.",
        ) from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise DataError(
            f"an adapter of the kind {config.get('peft_type')}, where plain LoRA without biases is read", file=folder
        )
    return dict(_from_peft(stored, config, folder))


def _from_peft(stored: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in stored.items():
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise DataError(f"{name} is no part of plain LoRA", file=folder)
        layer = _peft_layer(name.rpartition(".lora_")[0], folder)
        if name.endswith(".lora_B.weight"):
            yield layer + B, tensor
            continue
        rank = tensor.shape[0]
        yield layer + A, tensor
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        yield layer + SCALE, torch.tensor(scale)


def _peft_layer(name: str, folder: Path) -> str:
    """`blocks.3.attn.q` for `base_model.model.vit.encoder.layer.3.attention.attention.query`."""
    words = name.split(".")
    number = next((i for i, word in enumerate(words) if word.isdecimal()), None)
    layer = _PEFT_LAYERS.get(".".join(words[number + 1 :])) if number is not None else None
    if number is None or layer is None:
        raise DataError(f"{name} is no linear layer of a ViT's block", file=folder)
    return f"blocks.{words[number]}.{layer}"
