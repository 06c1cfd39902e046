"""DINOv2's layout, which others who train with its code share: layer scales, a mask token, blocks perhaps in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import Trunk
from ._layout import has_rotary_names, network, split_trunk

_BASE_WIDTH, _GIANT_WIDTH, _CELLS_AT_224 = 768, 1536, 256
_WEBSSL_WIDTHS = ((1024,), (2688,), (3072,), (3584,), (4096,))
_HEADS = ("mask_token", "dino_head.*", "ibot_head.*", "head.*")
_RENAMES = {
    # chunked files number the chunk first and the block as in the whole
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}


def whose(tree: Mapping[str, Any]) -> str:
    """The family whose files of this layout look so; empty for another layout.

    TIPSv2 has one register, where DINOv2's models have none or four. DINOv2's own files have SwiGLU in g alone, under
    bare names and with 37 positions a side; Franca's have it in every size, under `teacher`; Web-SSL's in every size
    and under bare names. Runs of one's own with DINOv2's code may look like any: `--family` says so.
    """
    tensors = _tensors_of(tree)
    if not _has_layout(tensors):
        return ""
    registers = _shape_of(tensors, "register_tokens")
    if registers[1:2] == (1,):
        return "tipsv2"
    if registers or not any(".mlp.w12." in str(name) for name in tensors):
        return "dinov2"
    width = _shape_of(tensors, "patch_embed.proj.weight")[:1]
    if tensors is not tree or width == (_BASE_WIDTH,):
        return "franca"
    small_g = width == (_GIANT_WIDTH,) and _shape_of(tensors, "pos_embed")[1:2] == (_CELLS_AT_224 + 1,)
    return "webssl" if small_g or width in _WEBSSL_WIDTHS else "dinov2"


def _tensors_of(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a file of this layout: under `teacher`, or the tree itself."""
    teacher = tree.get("teacher")
    return teacher if isinstance(teacher, Mapping) else tree


def _has_layout(tensors: Mapping[str, Any]) -> bool:
    """Whether flat tensors have layer scales and a mask token, and no rotary positions."""
    scales, mask = (any(str(name).endswith(one) for name in tensors) for one in (".ls1.gamma", "mask_token"))
    return scales and mask and not has_rotary_names(tensors)


def _shape_of(tensors: Mapping[str, Any], ending: str) -> tuple[int, ...]:
    """The shape of the first tensor whose name ends so; empty where none does, or where it has none."""
    found = next((value for name, value in tensors.items() if str(name).endswith(ending)), None)
    return tuple(int(n) for n in getattr(found, "shape", ()))


def split_dinov2(tree: Mapping[str, Any], checkpoint_key: str | None, *, aside: Iterable[str] = ()) -> Trunk:
    """The teacher's trunk, blocks numbered through and SwiGLU's layers under timm's names; heads are left aside.

    Raises KeyError for a network that is not there.
    """
    nested = checkpoint_key or ("teacher" if isinstance(tree.get("teacher"), Mapping) else None)
    return split_trunk(
        network(tree, nested), prefixes=("module.", "backbone."), aside=(*_HEADS, *aside), renames=_RENAMES
    )


def gated_hidden(width: int) -> int:
    """Channels inside the SwiGLU of a ViT so wide: two thirds of four times the width, up to a multiple of 8."""
    return (int(4 * width * 2 / 3) + 7) // 8 * 8
