"""MSN (Assran et al. 2022): masked siamese networks. Files of facebookresearch/msn: `.pth.tar` with `target_encoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from . import NON_COMMERCIAL, Architecture, Trunk, Variant
from ._layout import infer_vit, network, split_trunk

_BASE = "https://dl.fbaipublicfiles.com/msn"


def _architecture(width: int, depth: int, patch: int) -> Architecture:
    return Architecture(width, depth, width // 64, patch, grid=224 // patch, positions="msn")


class Msn:
    """Published numbers: the paper's Table 1 (top-1 with 1, 2, 5 images per class), 1 % of the labels, linear."""

    license: ClassVar[str] = NON_COMMERCIAL
    source: ClassVar[str] = "https://github.com/facebookresearch/msn"
    protocol: ClassVar[str] = "msn/1"
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("target_encoder", "encoder")
    variants: ClassVar[Mapping[str, Variant]] = {
        "msn_vits16": Variant(
            _architecture(384, 12, 16),
            f"{_BASE}/vits16_800ep.pth.tar",
            published={"1%": 67.2, "linear": 76.9, "lowshot": {1: "47.1 ± 0.1", 2: "55.8 ± 0.6", 5: "62.8 ± 0.3"}},
        ),
        "msn_vitb16": Variant(
            _architecture(768, 12, 16),
            f"{_BASE}/vitb16_600ep.pth.tar",
            published={"1%": 69.5, "lowshot": {1: "49.8 ± 0.2", 2: "58.9 ± 0.4", 5: "65.5 ± 0.3"}},
        ),
        "msn_vitl16": Variant(_architecture(1024, 24, 16), f"{_BASE}/vitl16_600ep.pth.tar", published={"1%": 70.1}),
        "msn_vitb4": Variant(
            _architecture(768, 12, 4),
            f"{_BASE}/vitb4_300ep.pth.tar",
            published={"1%": 75.7, "lowshot": {1: "54.3 ± 0.4", 2: "64.6 ± 0.7", 5: "72.4 ± 0.3"}},
        ),
        "msn_vitl7": Variant(
            _architecture(1024, 24, 7),
            f"{_BASE}/vitl7_200ep.pth.tar",
            published={"1%": 75.1, "linear": 80.7, "lowshot": {1: "57.1 ± 0.6", 2: "66.4 ± 0.6", 5: "72.1 ± 0.2"}},
        ),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        return isinstance(tree.get("target_encoder"), Mapping)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        # `fc` is the projector (its BatchNorm buffers included), not a classifier
        nested = checkpoint_key or ("target_encoder" if "target_encoder" in tree else None)
        return split_trunk(network(tree, nested), prefixes=("module.",), aside=("fc.*",))

    @staticmethod
    def infer(tensors: Mapping[str, Any]) -> Architecture:
        return infer_vit(tensors, "msn")
