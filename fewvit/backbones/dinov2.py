"""DINOv2 (Oquab et al. 2023) and its register variants (Darcet et al. 2024). Files of facebookresearch/dinov2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import Architecture, ClassifierPreset, Family, PositionRule, Protocol, Trunk, Variant
from ._layout import has_rotary_names, infer_vit, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/dinov2"
_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
_KNN = {"s": (79.0, 79.1), "b": (82.1, 82.0), "l": (83.5, 83.8), "g": (83.5, 83.7)}  # without and with registers
_LINEAR = {"s": (81.1, 80.9), "b": (84.5, 84.6), "l": (86.3, 86.7), "g": (86.5, 87.1)}


def _variant(size: str, registers: bool) -> Variant:
    width, depth, heads = _SIZES[size]
    giant = size == "g"
    architecture = Architecture(
        width,
        depth,
        heads,
        14,
        grid=37,
        positions="antialias" if registers else "dino",
        registers=4 if registers else 0,
        feed_forward="swiglu" if giant else "mlp",
        hidden=4096 if giant else 0,
        layer_scale=True,
    )
    name = f"dinov2_vit{size}14"
    return Variant(
        architecture,
        f"{_BASE}/{name}/{name}{'_reg4' if registers else ''}_pretrain.pth",
        published={"knn": _KNN[size][registers], "linear": _LINEAR[size][registers]},
    )


def _antialiased(table: Tensor, rows: int, columns: int) -> Tensor:
    import torch.nn.functional as F

    return F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)


# its logistic regression on frozen features: lambda by 45 values on a tenth of the labelled images
_LOGISTIC = {"lambd": None, "selection": "tenth", "rows": "raw", "intercept": True, "dtype": "float64"}


class Dinov2(Family):
    """Published numbers: k-NN and linear top-1 from the repository's table."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/facebookresearch/dinov2"
    pretrained_on: ClassVar[str] = "lvd-142m"
    protocol: ClassVar[str] = "dinov2/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        # its logistic regression resizes to the crop's size, its k-NN to 256
        Protocol(
            "dinov2/1",
            lowshot_cover=(224, 224),
            classifiers=(ClassifierPreset("logistic", _LOGISTIC),),
            published_precision="fp16",  # its evaluation runs under CUDA's autocast, the similarities too
        ),
    )
    positions: ClassVar[Mapping[str, PositionRule]] = {
        "antialias": PositionRule(_antialiased)
    }  # of the register models
    model_types: ClassVar[tuple[str, ...]] = ("dinov2", "dinov2_with_registers")
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher",)
    variants: ClassVar[Mapping[str, Variant]] = {
        f"dinov2_vit{size}14{'_reg' if registers else ''}": _variant(size, registers)
        for size in _SIZES
        for registers in (False, True)
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether its blocks have layer scales and it has a mask token, bare or under `teacher`."""
        flat = tree["teacher"] if isinstance(tree.get("teacher"), Mapping) else tree
        scales, mask = (any(str(name).endswith(one) for name in flat) for one in (".ls1.gamma", "mask_token"))
        return scales and mask and not has_rotary_names(flat)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The teacher's trunk, blocks numbered through and SwiGLU's layers under timm's names; heads are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or ("teacher" if isinstance(tree.get("teacher"), Mapping) else None)
        renames = {
            # chunked files number the chunk first and the block as in the whole
            r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
            r"\.mlp\.w12\.": ".mlp.fc1.",
            r"\.mlp\.w3\.": ".mlp.fc2.",
        }
        return split_trunk(
            network(tree, nested),
            prefixes=("module.", "backbone."),
            aside=("mask_token", "dino_head.*", "ibot_head.*", "head.*"),
            renames=renames,
        )

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with DINO's position rule, or with antialiasing where it has registers.

        Raises KeyError or ValueError.
        """
        # the register models are the ones trained with antialiased, offset-free position resizing
        return infer_vit(tensors, "antialias" if "register_tokens" in tensors else "dino")
