"""DINO (Caron et al. 2021): self-distillation with no labels.

Files of facebookresearch/dino; iBOT's teacher files share the layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import (
    Architecture,
    ClassifierPreset,
    Family,
    PositionRule,
    Protocol,
    Publication,
    Trunk,
    Variant,
)
from ._layout import has_vit_trunk, infer_vit, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/dino"
# of published methods with these statistics, and of the networks and heads that they train with
_TRACE = re.compile(
    r"(?<![a-z])(dino|ibot|esvit|moco|byol|simclr|swav|msn|mae|teacher|student|dino_loss|projector|projection_head|"
    r"prototypes|momentum_(backbone|encoder|network|head|projector))(?![a-uw-z])"
)
_ARTICLE = r"""@inproceedings{caron2021emerging,
  title={Emerging Properties in Self-Supervised Vision Transformers},
  author={Caron, Mathilde and Touvron, Hugo and Misra, Ishan and J\'egou, Herv\'e and Mairal, Julien and
    Bojanowski, Piotr and Joulin, Armand},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2021}
}"""


def _url(name: str) -> str:
    return f"{_BASE}/{name}_pretrain/{name}_pretrain.pth"


def _small(patch: int) -> Architecture:
    return Architecture(384, 12, 6, patch, grid=224 // patch)


def _base(patch: int) -> Architecture:
    return Architecture(768, 12, 12, patch, grid=224 // patch)


def _xcit(name: str, width: int, depth: int, heads: int, patch: int, knn: float, linear: float) -> Variant:
    return Variant(
        Architecture(width, depth, heads, patch, grid=224 // patch, positions="timm", timm=f"{name}_224"),
        _url(f"dino_{name}"),
        published={"knn": knn, "linear": linear},
        note="XCiT, whose attention is between channels",
    )


def _with_offset(table: Tensor, rows: int, columns: int) -> Tensor:
    """Bicubic, by the official code's scale factors: torch samples at other coordinates than for the size."""
    import torch.nn.functional as F

    height, width = table.shape[-2:]
    return F.interpolate(table, scale_factor=((rows + 0.1) / height, (columns + 0.1) / width), mode="bicubic")


class Dino(Family):
    """Published numbers: k-NN and linear from the repository's table, 1/2/5 images per class from MSN's Table 1."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/facebookresearch/dino"
    pretrained_on: ClassVar[str] = "imagenet-1k"
    publication: ClassVar[Publication | None] = Publication("2021-04-29", _ARTICLE)
    protocol: ClassVar[str] = "dino/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol(
            "dino/1",
            # lambda as its authors give it, for 1 % of the labels
            classifiers=(ClassifierPreset("logistic", {"lambd": 0.1}, "dino/1's (unofficial)"),),
            published_k=20,  # the best of the four for all its models, as the paper says
        ),
    )
    positions: ClassVar[Mapping[str, PositionRule]] = {"dino": PositionRule(_with_offset)}
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher", "student")
    shared_with: ClassVar[str] = "timm's headless ViTs have it too, many of which want other statistics"
    variants: ClassVar[Mapping[str, Variant]] = {
        "dino_vits16": Variant(
            _small(16),
            _url("dino_deitsmall16"),
            published={
                "knn": 74.5,
                "linear": 77.0,
                "1%": 64.5,
                "lowshot": {1: "38.9 ± 0.4", 2: "48.9 ± 0.3", 5: "58.5 ± 0.1"},
            },
        ),
        "dino_vits8": Variant(
            _small(8),
            _url("dino_deitsmall8"),
            published={"knn": 78.3, "linear": 79.7, "lowshot": {1: "45.5 ± 0.4", 2: "56.0 ± 0.7", 5: "64.7 ± 0.4"}},
        ),
        "dino_vitb16": Variant(
            _base(16),
            _url("dino_vitbase16"),
            published={
                "knn": 76.1,
                "linear": 78.2,
                "1%": 67.0,
                "lowshot": {1: "41.8 ± 0.3", 2: "51.9 ± 0.6", 5: "61.4 ± 0.2"},
            },
        ),
        "dino_vitb8": Variant(
            _base(8),
            _url("dino_vitbase8"),
            published={
                "knn": 77.4,
                "linear": 80.1,
                "1%": 70.0,
                "lowshot": {1: "45.8 ± 0.5", 2: "55.9 ± 0.6", 5: "64.6 ± 0.2"},
            },
        ),
        "dino_vits8_300ep": Variant(
            _small(8), _url("dino_deitsmall8_300ep"), note="300 epochs; the paper's attention pictures"
        ),
        "dino_vits16_gldv2": Variant(
            _small(16),
            _url("dino_vitsmall16_googlelandmark"),
            note="pretrained on Google Landmarks v2",
            pretrained_on="google-landmarks-v2",
        ),
        # feature: the mean over the last map, 2048 numbers
        "dino_resnet50": Variant(
            Architecture(2048, 16, 0, 32, grid=7, positions="timm", timm="resnet50"),
            _url("dino_resnet50"),
            published={"knn": 67.5, "linear": 75.3},
            note="a ResNet: no class token",
        ),
        "dino_xcit_s12_16": _xcit("xcit_small_12_p16", 384, 12, 8, 16, 76.0, 77.8),
        "dino_xcit_s12_8": _xcit("xcit_small_12_p8", 384, 12, 8, 8, 77.1, 79.2),
        "dino_xcit_m24_16": _xcit("xcit_medium_24_p16", 512, 24, 8, 16, 76.4, 78.8),
        "dino_xcit_m24_8": _xcit("xcit_medium_24_p8", 512, 24, 8, 8, 77.9, 80.3),
        "dino_vitt16": Variant(
            Architecture(192, 12, 3, 16), note="an architecture of the official code without published weights"
        ),
    }

    @staticmethod
    def shows_origin(name: str) -> bool:
        """Whether self-supervised training, which normalises by ImageNet's statistics, left the name."""
        return _TRACE.search(name.lower()) is not None

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it is a whole DINO checkpoint (teacher, student), or a bare ViT that no other family claims."""
        if isinstance(tree.get("teacher"), Mapping):
            networks = [tree["teacher"], tree.get("student")]
            return "dino_loss" in tree or (
                isinstance(tree.get("student"), Mapping)
                and "ibot_loss" not in tree
                and not any(map(_is_anothers, networks))
            )
        flat = tree["state_dict"] if isinstance(tree.get("state_dict"), Mapping) else tree
        return (
            has_vit_trunk(flat)
            and not _is_anothers(flat)
            and not any(str(name).startswith(("head.", "fc_norm.", "decoder", "fc.")) for name in flat)
        )

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The teacher's trunk unless another network is asked for; heads are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or next(
            (key for key in ("teacher", "state_dict") if isinstance(tree.get(key), Mapping)), None
        )
        # the student is stored as DDP wrapped it: module.backbone.*
        # a ResNet's classifier, `fc`, is that of its architecture, which nobody trained
        return split_trunk(network(tree, nested), prefixes=("module.", "backbone."), aside=("head.*", "fc.*"))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with DINO's position rule. Raises KeyError or ValueError where the shapes are no ViT's."""
        return infer_vit(tensors, "dino")


def _is_anothers(tensors: Mapping[str, object]) -> bool:
    """Whether names show DINOv2's layout or iBOT's student."""
    return any(str(name).endswith(("ls1.gamma", "register_tokens", "mask_token", "masked_embed")) for name in tensors)
