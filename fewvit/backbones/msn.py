"""MSN (Assran et al. 2022): masked siamese networks.

Files of facebookresearch/msn: `.pth.tar` with `target_encoder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..preprocess import Preprocess
from . import (
    NON_COMMERCIAL,
    NOT_THE_AUTHORS,
    Architecture,
    ClassifierPreset,
    Family,
    PositionRule,
    Protocol,
    Publication,
    Trunk,
    Variant,
)
from ._layout import infer_vit, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/msn"
_ARTICLE = r"""@inproceedings{assran2022masked,
  title={Masked Siamese Networks for Label-Efficient Learning},
  author={Assran, Mahmoud and Caron, Mathilde and Misra, Ishan and Bojanowski, Piotr and Bordes, Florian and
    Vincent, Pascal and Joulin, Armand and Rabbat, Michael and Ballas, Nicolas},
  booktitle={European Conference on Computer Vision (ECCV)},
  year={2022}
}"""


def _architecture(width: int, depth: int, patch: int) -> Architecture:
    return Architecture(width, depth, width // 64, patch, grid=224 // patch, positions="msn")


def _by_one_factor(table: Tensor, rows: int, columns: int) -> Tensor:
    """Bicubic, with one factor for both sides that the number of patches gives."""
    import torch.nn.functional as F

    return F.interpolate(table, scale_factor=math.sqrt(rows * columns / table[0, 0].numel()), mode="bicubic")


class Msn(Family):
    """Published numbers: the paper's Table 1 (top-1 with 1, 2, 5 images per class), 1 % of the labels, linear."""

    license: ClassVar[str] = NON_COMMERCIAL
    license_note: ClassVar[str] = NOT_THE_AUTHORS
    source: ClassVar[str] = "https://github.com/facebookresearch/msn"
    pretrained_on: ClassVar[str] = "imagenet-1k"
    publication: ClassVar[Publication | None] = Publication("2022-04-14", _ARTICLE)
    protocol: ClassVar[str] = "msn/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol(
            "msn/1",
            Preprocess(interpolation="bilinear"),
            norm="none",  # MSN takes the class token before the final norm
            classifiers=(
                ClassifierPreset(
                    "logistic", {"lambd": 0.0025}, "MSN's for n per class"
                ),  # as in its repository's example
                ClassifierPreset(
                    "logistic", {"lambd": 0.075}, "MSN's for 1 %", only=("1%", "1percent")
                ),  # by its author's word
            ),
        ),
    )
    positions: ClassVar[Mapping[str, PositionRule]] = {
        # it looks at the number of patches alone: as many in another shape get the table as it is
        "msn": PositionRule(
            _by_one_factor,
            by_count=True,
            only_squares="MSN's position rule resizes with one square factor and has none for",
        )
    }
    model_types: ClassVar[tuple[str, ...]] = ("vit_msn",)
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
        """Whether it holds a `target_encoder`."""
        return isinstance(tree.get("target_encoder"), Mapping)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The target encoder unless another network is asked for; the projector is left aside.

        Raises KeyError for a network that is not there.
        """
        # `fc` is the projector (its BatchNorm buffers included), not a classifier
        nested = checkpoint_key or ("target_encoder" if "target_encoder" in tree else None)
        return split_trunk(network(tree, nested), prefixes=("module.",), aside=("fc.*",))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with MSN's position rule. Raises KeyError or ValueError where the shapes are no ViT's."""
        return infer_vit(tensors, "msn")
