"""Naming conventions that official weight files share, turned into the trunk's names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import Architecture, Trunk
from ._transformers import WITHOUT_PERIODS, is_transformers, official_names

if TYPE_CHECKING:
    from torch import Tensor

# width -> heads where it is not width / 64: MAE's and I-JEPA's ViT-H has 16 heads of 80, and a load with 20 would not
# fail; the g of scaled ViTs 16 of 88
_HEADS = {1280: 16, 1408: 16}
_TABLE_VIT = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
PERIODS = "rope_embed.periods"  # of rotary positions, in DINOv3's files and in the module
_CONVNEXT = (
    "downsample_layers.0.0.weight",
    "downsample_layers.3.1.weight",
    "stages.0.0.dwconv.weight",
    "norms.3.weight",  # not in the files of others
)
_TRUNKS = (
    _TABLE_VIT,
    ("cls_token", PERIODS, *_TABLE_VIT[2:]),
    ("cls_token", WITHOUT_PERIODS, *_TABLE_VIT[2:]),
    _CONVNEXT,
)
# names that only files with rotary positions have, whole or not
_ROTARY = (PERIODS, WITHOUT_PERIODS, "storage_tokens", ".attn.qkv.bias_mask")


def is_tensor(value: object) -> bool:
    """Whether a value of a weights file is a tensor; no torch is imported to ask."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "numel")


def network(tree: Mapping[str, Any], key: str | None) -> Mapping[str, Any]:
    """The tensors under `key`, or `tree` itself where `key` is None. Raises KeyError naming what is there."""
    if key is None:
        return tree
    if not isinstance(tree.get(key), Mapping):
        raise KeyError(f"the file holds no network {key!r}; it has {', '.join(sorted(map(str, tree)))[:200]}")
    return tree[key]


def without_prefixes(name: str, prefixes: Iterable[str]) -> str:
    """`name` after each of `prefixes` was taken off its front, in their order."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def split_trunk(
    tensors: Mapping[str, Any],
    *,
    prefixes: Iterable[str] = (),
    aside: Iterable[str] = (),
    renames: Mapping[str, str] | None = None,
) -> Trunk:
    """The trunk of flat `tensors`: prefixes off, what matches a pattern of `aside` dropped, parts renamed."""
    prefixes, aside = tuple(prefixes), tuple(aside)
    aside += ("pooler.*", "classifier.*") if is_transformers(tensors) else ()
    named = (
        official_names(tensors)
        if is_transformers(tensors)
        else {str(name): (value, str(name)) for name, value in tensors.items()}
    )
    trunk = Trunk({}, {}, [])
    for name, (value, origin) in named.items():
        short = without_prefixes(name, prefixes)
        if not is_tensor(value) or any(fnmatch.fnmatchcase(short, pattern) for pattern in aside):
            trunk.dropped.append(origin)
            continue
        for old, new in (renames or {}).items():
            short = re.sub(old, new, short)
        trunk.tensors[short], trunk.mapping[short] = value, origin
    return trunk


def has_vit_trunk(tensors: Mapping[str, object]) -> bool:
    """Whether flat tensors look like a ViT under the names that DINO and timm share, its positions in a table."""
    return all(name in tensors for name in _TABLE_VIT)


def has_rotary_names(tensors: Mapping[str, object]) -> bool:
    """Whether names are DINOv3's ViT's, be something missing from it or not."""
    return any(str(name).endswith(_ROTARY) for name in tensors)


def has_convnext_trunk(tensors: Mapping[str, object]) -> bool:
    """Whether flat tensors look like DINOv3's ConvNeXt."""
    return all(name in tensors for name in _CONVNEXT)


def has_trunk(tensors: Mapping[str, object]) -> bool:
    """Whether flat tensors look like a trunk of any kind that is built here."""
    return any(all(name in tensors for name in kind) for kind in _TRUNKS)


def missing_of_trunk(tensors: Mapping[str, object]) -> list[str]:
    """Which tensors are not there that every trunk of the kind has to which these come nearest."""
    kinds = _TRUNKS[1:2] if has_rotary_names(tensors) else _TRUNKS
    return min(([name for name in kind if name not in tensors] for kind in kinds), key=len)


def infer_vit(tensors: Mapping[str, Tensor], positions: str) -> Architecture:
    """Width, depth, patch and table size as the shapes say; heads from the width, 0 where it is no multiple of 64.

    A table that cannot be square is one row.

    Raises KeyError or ValueError for what is no ViT.
    """
    width, channels, patch, patch_w = (int(n) for n in tensors["patch_embed.proj.weight"].shape)
    if channels != 3 or patch != patch_w:
        raise ValueError(
            f"patch embedding of shape {tuple(tensors['patch_embed.proj.weight'].shape)}, expected (D, 3, P, P)"
        )
    depth = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name)))
    cells = int(tensors["pos_embed"].shape[1]) - 1
    grid = round(cells**0.5)
    hidden = int(tensors["blocks.0.mlp.fc2.weight"].shape[1])
    swiglu = "blocks.0.mlp.fc1.weight" in tensors and tensors["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden
    return Architecture(
        width=width,
        depth=depth,
        heads=_HEADS.get(width, 0 if width % 64 else width // 64),
        patch=patch,
        grid=grid if grid * grid == cells else (1, cells),
        positions=positions,
        registers=int(tensors["register_tokens"].shape[1]) if "register_tokens" in tensors else 0,
        feed_forward="swiglu" if swiglu else "mlp",
        hidden=0 if hidden == 4 * width else hidden,  # as in the tables: one architecture has one fingerprint
        layer_scale="blocks.0.ls1.gamma" in tensors,
        final_norm="fc_norm" if "fc_norm.weight" in tensors else "norm",
    )
