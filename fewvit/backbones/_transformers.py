"""Official ViT weights under the names that transformers gives them, turned back.

Read from that library's conversion tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
]


def is_transformers(tensors: Mapping[str, object]) -> bool:
    """Whether flat tensors carry transformers' names."""
    return any(str(name).endswith("embeddings.cls_token") for name in tensors)


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
    return renamed
