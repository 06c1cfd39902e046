"""Official weights under the names that transformers gives them, turned back.

Read from that library's conversion tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# what stands for the periods of rotary positions, which transformers computes and never stores
WITHOUT_PERIODS = "rope_embed.computed"

_NAMES = [
    (r"^(vit|dinov2|model|backbone)\.", ""),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
    # DINOv3's ViT, whose blocks stand under `model.` since transformers 5
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1_proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    # DINOv3's ConvNeXt
    (r"^(model\.)?stages\.(\d+)\.downsample_layers\.", r"downsample_layers.\2."),
    (r"^(model\.)?stages\.(\d+)\.layers\.", r"stages.\2."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"^(stages\..*)\.layer_norm\.", r"\1.norm."),
    (r"^layer_norm\.", "norms.3."),
]
_ROTARY, _CONVNEXT = ".attention.q_proj.weight", "stages.0.layers.0.depthwise_conv.weight"


def is_transformers(tensors: Mapping[str, object]) -> bool:
    """Whether flat tensors carry transformers' names."""
    return any(str(name).endswith(("embeddings.cls_token", _CONVNEXT)) for name in tensors)


def official_names(tensors: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Official name -> (tensor, its name or names in the file); query, key and value are one tensor again."""
    import torch

    renamed: dict[str, tuple[Any, str]] = {}
    for name, tensor in tensors.items():
        short = str(name)
        for old, new in _NAMES:
            short = re.sub(old, new, short)
        renamed[short] = (tensor, str(name))
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(query.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        present = [part for part in parts if part is not None]
        renamed[query.replace(".query.", ".qkv.")] = (
            torch.cat([tensor for tensor, _ in present]),
            " + ".join(name for _, name in present),
        )
    if any(str(name).endswith(_ROTARY) for name in tensors):
        _join_rotary(renamed)
    return renamed


def _join_rotary(renamed: dict[str, tuple[Any, str]]) -> None:
    """What only DINOv3's ViT has apart, as one, in place: keys have no bias, so theirs is zero."""
    import torch

    renamed[WITHOUT_PERIODS] = (torch.empty(0), "")
    for query in [name for name in renamed if ".attn.q_proj." in name]:
        names = [query.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        parts = [renamed.get(name) for name in names]
        if parts[1] is None and query.endswith(".bias"):
            parts[1] = (torch.zeros_like(renamed[query][0]), "zeros")
        present = [part for part in parts if part is not None]
        if len(present) == 3 and len({part[0].shape for part in present}) == 1:  # else its own name is what is wrong
            for name in names:
                renamed.pop(name, None)
            origins = " + ".join(origin for _, origin in present)
            renamed[query.replace(".q_proj.", ".qkv.")] = (torch.cat([tensor for tensor, _ in present]), origins)
    gated = any(".mlp.w1." in name for name in renamed)
    for old, new in (("up_proj", "w2"), ("down_proj", "w3")) if gated else (("up_proj", "fc1"), ("down_proj", "fc2")):
        for name in [name for name in renamed if f".mlp.{old}." in name]:
            renamed[name.replace(f".{old}.", f".{new}.")] = renamed.pop(name)
