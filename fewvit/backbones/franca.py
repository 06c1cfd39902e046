"""Franca (Venkataramanan et al. 2025): DINOv2's code with nested clusters, on public images.

Files of valeoai/Franca: `{teacher: backbone.*}`, blocks in chunks, SwiGLU in every size; g in parts of a `tar.gz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import Architecture, Family, Protocol, Publication, Trunk, Variant
from ._dinov2_layout import gated_hidden, split_dinov2, whose
from ._layout import infer_vit

if TYPE_CHECKING:
    from torch import Tensor

_RELEASES = "https://github.com/valeoai/Franca/releases/download"
_SIZES = {"b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
_PAPER = "https://arxiv.org/abs/2507.14137"
_ARTICLE = r"""@article{venkataramanan2025franca,
  title={Franca: Nested Matryoshka Clustering for Scalable Visual Representation Learning},
  author={Venkataramanan, Shashanka and Pariza, Valentinos and Salehi, Mohammadreza and Knobel, Lukas and Gidaris,
    Spyros and Ramzi, Elias and Bursuc, Andrei and Asano, Yuki M.},
  journal={arXiv preprint arXiv:2507.14137},
  year={2025}
}"""
_LAION, _IMAGENET = "laion-600m", "imagenet-21k"


def _variant(
    size: str,
    pixels: int,
    knn: float,
    linear: float,
    file: str = "",
    *,
    parts: tuple[str, ...] = (),
    note: str = "",
    corpus: str = _IMAGENET,
    source: str = "",
) -> Variant:
    width, depth, heads = _SIZES[size]
    architecture = Architecture(
        width,
        depth,
        heads,
        14,
        grid=pixels // 14,
        feed_forward="swiglu",
        hidden=gated_hidden(width),
        layer_scale=True,
    )
    return Variant(
        architecture,
        f"{_RELEASES}/{file}" if file else "",
        parts=tuple(f"{_RELEASES}/{part}" for part in parts),
        published={"knn": knn, "linear": linear},
        note=note,
        pretrained_on=corpus,
        source=source,
    )


_G_PARTS = tuple(f"v1.0.0/franca_vitg14_Laion600M_chunked.tar.gz.part_{part}" for part in ("aa", "ab", "ac"))
_NO_FILE = "its authors' release has no whole file of it; trained at 224 px"


class Franca(Family):
    """Published numbers: k-NN and linear on ImageNet-1k, from the repository's table and, where it has none, the paper.

    The weights are for research alone: their licence forbids commercial use.
    """

    license: ClassVar[str] = "Franca-Research-RAIL"
    source: ClassVar[str] = "https://github.com/valeoai/Franca"
    publication: ClassVar[Publication | None] = Publication("2025-07-18", _ARTICLE)
    protocol: ClassVar[str] = "franca/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("franca/1"),)  # 256 bicubic, crop 224
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher",)
    alike: ClassVar[str] = "DINOv2's own runs with SwiGLU"
    variants: ClassVar[Mapping[str, Variant]] = {
        "franca_vitb14": _variant("b", 518, 79.6, 82.6, "v1.0.0/franca_vitb14_In21K.pth", note="trained at 518 px"),
        "franca_vitb14_224": _variant(
            "b", 224, 77.5, 82.0, "v1.1.0/franca_vitb14_In21K_224.pth", note="trained at 224 px"
        ),
        "franca_vitl14": _variant("l", 224, 82.6, 84.2, note=_NO_FILE, source=_PAPER),
        "franca_vitl14_laion": _variant(
            "l", 518, 82.5, 85.2, "v1.1.0/franca_vitl14_Laion_518.pth", note="trained at 518 px", corpus=_LAION
        ),
        "franca_vitl14_laion_224": _variant(
            "l", 224, 82.2, 84.5, "v1.1.0/franca_vitl14_Laion600M_224.pth", note="trained at 224 px", corpus=_LAION
        ),
        "franca_vitg14": _variant("g", 224, 83.1, 85.9, note=_NO_FILE, source=_PAPER),
        "franca_vitg14_laion": _variant(
            "g",
            224,
            82.8,
            85.0,
            _G_PARTS[0],
            parts=_G_PARTS[1:],
            note="trained at 224 px; three parts of one archive",
            corpus=_LAION,
            source=_PAPER,
        ),
        "franca_dinov2_vitb14": _variant(
            "b", 224, 77.0, 81.2, "v1.1.0/franca_vitb14_Dinov2_In21K.pth", note="DINOv2 trained anew by its authors"
        ),
        "franca_dinov2_vitb14_518": _variant(
            "b", 518, 76.8, 81.0, "v1.1.0/franca_vitb14_Dinov2_In21K_518.pth", note="the same, trained on at 518 px"
        ),
        "franca_dinov2_vitl14": _variant(
            "l", 224, 82.1, 84.0, "v1.1.0/franca_vitl14_Dinov2_In21K.pth", note="DINOv2 trained anew by its authors"
        ),
        "franca_dinov2_vitl14_518": _variant(
            "l", 518, 80.7, 84.5, "v1.1.0/franca_vitl14_Dinov2_In21K_518.pth", note="the same, trained on at 518 px"
        ),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it has DINOv2's layout with SwiGLU under `teacher`, or SwiGLU at the width of B."""
        return whose(tree) == "franca"

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The teacher's trunk; training's heads and the head for positions are left aside.

        Raises KeyError for a network that is not there.
        """
        return split_dinov2(tree, checkpoint_key, aside=("rasa_head.*",))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with DINO's position rule. Raises KeyError or ValueError where the shapes are no ViT's."""
        return infer_vit(tensors, "dino")
