"""DINOv3 (Siméoni et al. 2025): files of facebookresearch/dinov3, and of transformers under other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..preprocess import Preprocess
from . import ROTARY, Architecture, Family, Protocol, Trunk, Variant
from ._layout import PERIODS, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_SAT = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
_ASIDE = ("mask_token", "local_cls_norm.*", "dino_head.*", "ibot_head.*", "head.*")
_GATE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"


def _vit(
    width: int, depth: int, heads: int, *, hidden: int = 0, swiglu: bool = False, qkv_bias: bool = True
) -> Architecture:
    return Architecture(
        width,
        depth,
        heads,
        16,
        positions=ROTARY,
        registers=4,
        feed_forward="swiglu" if swiglu else "mlp",
        hidden=hidden,
        layer_scale=True,
        eps=1e-5,
        qkv_bias=qkv_bias,
    )


class Dinov3(Family):
    """Published numbers: those of the model cards; the repository has none for k-NN."""

    license: ClassVar[str] = "DINOv3-License"
    source: ClassVar[str] = "https://github.com/facebookresearch/dinov3"
    protocol: ClassVar[str] = "dinov3/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("dinov3/1"),
        Protocol("dinov3-square/1", Preprocess(crop=(256, 256), interpolation="bilinear", stretched=True)),
    )
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher",)
    variants: ClassVar[Mapping[str, Variant]] = {}

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it holds the periods of rotary positions, bare or under `teacher`."""
        flat = tree["teacher"] if isinstance(tree.get("teacher"), Mapping) else tree
        return any(str(name).endswith(PERIODS) for name in flat)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk with the mask of its biases applied and SwiGLU's two first layers as one.

        Raises KeyError for a network that is not there, ValueError for a mask without which the biases mean nothing.
        """
        nested = checkpoint_key or ("teacher" if isinstance(tree.get("teacher"), Mapping) else None)
        renames = {r"^storage_tokens$": "register_tokens", r"\.mlp\.w3\.": ".mlp.fc2."}
        found = split_trunk(network(tree, nested), prefixes=("module.", "backbone."), aside=_ASIDE, renames=renames)
        _mask_biases(found)
        _join_gates(found)
        return found

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with rotary positions; heads by the number of periods.

        Raises KeyError or ValueError where the shapes are no DINOv3's.
        """
        width, channels, patch, patch_w = (int(n) for n in tensors["patch_embed.proj.weight"].shape)
        head = 4 * int(tensors[PERIODS].numel())
        if channels != 3 or patch != patch_w or not head or width % head:
            raise ValueError(f"no ViT: {head // 4} periods, patches {patch}x{patch_w}, width {width}")
        hidden = int(tensors["blocks.0.mlp.fc2.weight"].shape[1])
        swiglu = tensors["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden
        return Architecture(
            width,
            1 + max(int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))),
            width // head,
            patch,
            positions=ROTARY,
            registers=int(tensors["register_tokens"].shape[1]),
            feed_forward="swiglu" if swiglu else "mlp",
            hidden=0 if hidden == 4 * width else hidden,
            layer_scale="blocks.0.ls1.gamma" in tensors,
            eps=1e-5,
            qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        )


def _mask_biases(trunk: Trunk) -> None:
    """The biases of queries, keys and values times their mask, in place; the mask goes."""
    for name in [name for name in trunk.tensors if name.endswith(".bias_mask")]:
        bias = name.removesuffix("_mask")
        mask, origin = trunk.tensors.pop(name), trunk.mapping.pop(name)
        trunk.tensors[bias] = trunk.tensors[bias] * mask
        trunk.mapping[bias] = f"{trunk.mapping[bias]} + {origin}"


def _join_gates(trunk: Trunk) -> None:
    """`w1` over `w2` as the one layer `fc1`, in place."""
    import torch

    for gate in [name for name in trunk.tensors if ".mlp.w1." in name]:
        value, joined = gate.replace(".w1.", ".w2."), gate.replace(".w1.", ".fc1.")
        trunk.tensors[joined] = torch.cat([trunk.tensors.pop(gate), trunk.tensors.pop(value)])
        trunk.mapping[joined] = f"{trunk.mapping.pop(gate)} + {trunk.mapping.pop(value)}"
