"""A whole ViT trunk in a weights file, under whatever prefix and in whichever of the known layouts it was saved.

A trunk is known by its tensors' names alone: what stands before them is where it is, and is never looked up in a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._layout import PERIODS, has_trunk, is_tensor, missing_of_trunk
from ._transformers import official_names

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPED = re.compile(rf"(^|(?<=\.))({'|'.join(_WRAPPERS)})\.")
_DEPTH = 5  # dicts within dicts that are looked into
_DECODER = "decoder_embed.weight"  # of a masked autoencoder; it tells what the trunk beside it was trained for

Named = dict[str, tuple[Any, str]]  # official name -> (tensor, its name or names in the file)

_MMPRETRAIN = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"^ln1\.", "norm."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
    (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
)


@dataclass(frozen=True)
class FoundTrunk:
    """A ViT in a file: all names that stand under its prefix, turned into the trunk's."""

    path: tuple[str, ...]  # the dicts that it is in, and then the parts of its prefix
    tensors: dict[str, Any]  # official name -> tensor
    origins: dict[str, str]  # official name -> name in the file
    layout: str  # whose names these were; empty: timm's, which are the trunk's own
    around: tuple[str, ...] = field(default=(), repr=False)  # other names beside the prefix

    @property
    def place(self) -> str:
        """Where it is, as `--checkpoint-key` takes it; empty: the file is nothing else."""
        return ".".join(self.path)

    @property
    def missing(self) -> list[str]:
        """Which of the tensors that every ViT here has are not there."""
        return missing_of_trunk(self.tensors)


def unwrapped(tree: Mapping[Any, Any], depth: int = _DEPTH) -> dict[Any, Any]:
    """The tree without what compilers and parallel training put into names: `module.`, `_orig_mod.` and such."""
    return {
        _WRAPPED.sub("", key) if isinstance(key, str) else key: unwrapped(value, depth - 1)
        if isinstance(value, Mapping) and depth
        else value
        for key, value in tree.items()
    }


def names_in_file(tree: Mapping[Any, Any], depth: int = _DEPTH) -> dict[int, str]:
    """The name that each tensor has in the dict that it is in, by the tensor's id."""
    found: dict[int, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and depth:
            found.update(names_in_file(value, depth - 1))
        elif is_tensor(value):
            found[id(value)] = str(key)
    return found


def all_names(tree: Mapping[Any, Any], depth: int = _DEPTH) -> Iterator[str]:
    """The keys of a tree and of the dicts in it."""
    for key, value in tree.items():
        yield str(key)
        if isinstance(value, Mapping) and depth:
            yield from all_names(value, depth - 1)


def trunks_in(tree: Mapping[Any, Any]) -> list[FoundTrunk]:
    """Every whole trunk of an `unwrapped` tree, in the file's order."""
    return [one for one in candidates_in(tree) if has_trunk(one.tensors)]


def candidates_in(tree: Mapping[Any, Any]) -> list[FoundTrunk]:
    """Everything that has a patch embedding, a class token or a first block of one of the layouts, whole or not."""
    return [one for path, network in _networks(tree) for one in _in_network(path, network)]


def chosen_by(found: list[FoundTrunk], key: str) -> list[FoundTrunk]:
    """Those whose place is `key`, or has it among its parts where none is."""
    exact = [one for one in found if one.place == key]
    parts = key.split(".")
    return exact or [
        one
        for one in found
        if any(list(one.path[at : at + len(parts)]) == parts for at in range(len(one.path) - len(parts) + 1))
    ]


def keys_of(found: list[FoundTrunk]) -> list[str]:
    """For each its shortest word for `--checkpoint-key` that no other answers to."""
    keys = []
    for one in found:
        tails = [".".join(one.path[at:]) for at in range(len(one.path) - 1, -1, -1)]
        words = [*one.path[::-1], *tails]
        keys.append(next((word for word in words if word and chosen_by(found, word) == [one]), one.place))
    return keys


def _networks(
    tree: Mapping[Any, Any], path: tuple[str, ...] = (), depth: int = _DEPTH
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    flat = {str(key): value for key, value in tree.items() if is_tensor(value)}
    if flat:
        yield path, flat
    for key, value in tree.items():
        if isinstance(value, Mapping) and depth:
            yield from _networks(value, (*path, str(key)), depth - 1)


def _in_network(path: tuple[str, ...], network: dict[str, Any]) -> Iterator[FoundTrunk]:
    for layout, (anchors, renamed) in _LAYOUTS.items():
        prefixes: dict[str, None] = {}
        for name in network:
            for anchor in anchors:
                if name == anchor or name.endswith(f".{anchor}"):
                    prefixes[name[: len(name) - len(anchor)]] = None
        for prefix in prefixes:
            inside = {name[len(prefix) :]: value for name, value in network.items() if name.startswith(prefix)}
            outside = tuple(name for name in network if not name.startswith(prefix))
            named = renamed(inside)
            decoder = next((name for name in outside if name.endswith(_DECODER)), None)
            if decoder is not None:
                named[_DECODER] = (network[decoder], decoder)
            yield FoundTrunk(
                (*path, *(part for part in prefix.split(".") if part)),
                {name: tensor for name, (tensor, _) in named.items()},
                {name: prefix + origin for name, (_, origin) in named.items()},
                layout,
                outside,
            )


def _plain(tensors: dict[str, Any]) -> Named:
    return {name: (value, name) for name, value in tensors.items()}


def _of_mmpretrain(tensors: dict[str, Any]) -> Named:
    named = {}
    for name, value in tensors.items():
        short = name
        for old, new in _MMPRETRAIN:
            short = re.sub(old, new, short)
        named[short] = (value, name)
    return named


def _of_transformers(tensors: dict[str, Any]) -> Named:
    named = official_names(tensors)
    return {name: value for name, value in named.items() if not name.startswith(("pooler.", "classifier."))}


_LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Named]]] = {
    "": (("patch_embed.proj.weight", "blocks.0.norm1.weight", "downsample_layers.0.0.weight"), _plain),
    "mmpretrain": (("patch_embed.projection.weight", "layers.0.ln1.weight"), _of_mmpretrain),
    "transformers": (
        (
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.patch_embeddings.weight",
            "stages.0.layers.0.depthwise_conv.weight",
            "model.stages.0.layers.0.depthwise_conv.weight",
        ),
        _of_transformers,
    ),
}

_STRANGERS = (  # a part of a name -> what has it
    (r"(^|\.)layer[1-4]\.\d+\.(conv|bn)\d\.", "a ResNet; DINO's is --backbone dino_resnet50 --weights FILE"),
    (r"(^|\.)cls_attn_blocks\.\d+\.", "an XCiT; DINO's are --backbone dino_xcit_s12_16 and others, --weights FILE"),
    (r"(^|\.)stages\.\d+\.", "a network in stages (ConvNeXt, Swin, Hiera); fewvit reads ViTs and DINOv3's ConvNeXt"),
    (r"relative_position_bias_table", "relative positions: BEiT or Swin; --backbone timm:NAME --weights FILE reads it"),
    (r"(^|[._])rope\.", "rotary positions under timm's names; --backbone timm:NAME --weights FILE reads it"),
    (r"(^|\.)resblocks\.\d+\.", "CLIP's names; --backbone timm:NAME with timm's weights of it"),
    (r"(^|\.)encoder_layer_\d+\.", "torchvision's names for a ViT; --backbone timm:NAME with timm's weights of it"),
    (r"attn_pool\.", "pooling by attention: SigLIP; --backbone timm:NAME --weights FILE reads it"),
)
_IJEPA = {"encoder", "target_encoder"}  # beside each other without a class token
_IJEPA_READ = (
    "which timm reads: --backbone timm:vit_huge_patch14_gap_224.in1k_ijepa --weights FILE --checkpoint-key "
    "target_encoder, or another *_gap_*_ijepa of its size"
)
_REQUIRED = {
    "cls_token": "no class token: a model that averages its patches; --backbone timm:NAME reads timm's",
    "pos_embed": "no position table",
    PERIODS: f"no {PERIODS}, the periods of its rotary positions",
}


def nearest_layout(tree: Mapping[Any, Any]) -> str:
    """What a tree without a whole trunk is most like, and what is missing from it; empty where it is like nothing."""
    names = [name for _, network in _networks(tree) for name in network]
    for pattern, what in _STRANGERS:
        if any(re.search(pattern, name) for name in names):
            return what
    near = min(candidates_in(tree), key=lambda one: (len(one.missing), -len(one.tensors)), default=None)
    if near is None or not near.missing:
        return ""
    place = f" under {near.place}" if near.place else ""
    if near.missing == ["cls_token"] and _IJEPA.issubset(map(str, tree)):
        return f"the ViT{place} has no class token: I-JEPA by its keys {' and '.join(sorted(_IJEPA))}, {_IJEPA_READ}"
    if len(near.missing) == 1 and near.missing[0] in _REQUIRED:
        return f"the ViT{place} has {_REQUIRED[near.missing[0]]}"
    return f"the ViT{place} is incomplete: missing {', '.join(near.missing)}"
