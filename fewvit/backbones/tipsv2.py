"""TIPSv2 (Cao et al. 2026): image encoders of an image and text model, with two class tokens.

Files of google-deepmind/tips: flat `.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..preprocess import Preprocess
from . import Architecture, Family, PositionRule, Protocol, Publication, Trunk, Variant
from ._dinov2_layout import gated_hidden, split_dinov2, whose
from ._layout import infer_vit

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://storage.googleapis.com/tips_data/v2_0/checkpoints/pytorch"
_SO400M, _SO400M_HEADS = 1152, 16  # of 72: heads of 64 would fit its tensors too
_SECOND = "register_tokens"  # what its files call the second class token
_ARTICLE = r"""@inproceedings{cao2026tipsv2,
  title={{TIPSv2}: Advancing Vision-Language Pretraining with Enhanced Patch-Text Alignment},
  author={Cao, Bingyi and Chen, Koert and Maninis, Kevis-Kokitsi and Chen, Kaifeng and Karpur, Arjun and Xia, Ye and
    Dua, Sahil and Dabral, Tanmaya and Han, Guangxing and Han, Bohyung and Ainslie, Joshua and Bewley, Alex and
    Jacob, Mithun and Wagner, Ren\'e and Ramos, Washington and Choromanski, Krzysztof and Seyedhosseini, Mojtaba and
    Zhou, Howard and Araujo, Andr\'e},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2026}
}"""


def _variant(size: str, width: int, depth: int, heads: int, knn: float, hidden: int = 0) -> Variant:
    gated = size == "g14"
    return Variant(
        Architecture(
            width,
            depth,
            heads,
            14,
            grid=32,
            positions="tipsv2",
            registers=1,
            feed_forward="swiglu" if gated else "mlp",
            hidden=gated_hidden(width) if gated else hidden,
            layer_scale=True,
        ),
        f"{_BASE}/tips_v2_oss_{size}_vision.npz",
        published={"knn": knn},
    )


def _to_size(table: Tensor, rows: int, columns: int) -> Tensor:
    """Bilinear with antialiasing, to the number of patches."""
    import torch.nn.functional as F

    return F.interpolate(table, size=(rows, columns), mode="bilinear", antialias=True)


def _square(side: int) -> Preprocess:
    """The whole picture as a square: no crop."""
    return Preprocess(cover=(side, side), crop=(side, side), interpolation="bilinear", stretched=True)


class Tipsv2(Family):
    """Published numbers: k-NN on ImageNet-1k from the repository's table.

    The first class token, `cls`, learnt from the captions of the web; the second, `cls2`, from ones that say where
    things are.
    """

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/google-deepmind/tips"
    publication: ClassVar[Publication | None] = Publication("2026-04-14", _ARTICLE)
    protocol: ClassVar[str] = "tipsv2/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("tipsv2/1", _square(448)),
        Protocol("tipsv2-lowres/1", _square(224)),
    )
    # pixels from 0 to 1 as they are
    statistics: ClassVar[Mapping[str, Any]] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    class_tokens: ClassVar[int] = 2
    positions: ClassVar[Mapping[str, PositionRule]] = {"tipsv2": PositionRule(_to_size)}
    variants: ClassVar[Mapping[str, Variant]] = {
        "tipsv2_vitb14": _variant("b14", 768, 12, 12, 79.8),
        "tipsv2_vitl14": _variant("l14", 1024, 24, 16, 82.5),
        "tipsv2_vitso400m14": _variant("so14", _SO400M, 27, _SO400M_HEADS, 82.8, hidden=4304),
        "tipsv2_vitg14": _variant("g14", 1536, 40, 24, 83.7),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it has DINOv2's layout and one register, which DINOv2's models have none or four of."""
        return whose(tree) == "tipsv2"

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The image encoder; the mask token is left aside. Raises KeyError for a network that is not there."""
        return split_dinov2(tree, checkpoint_key)

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with two class tokens; 16 heads at the width of SO400M.

        Raises KeyError or ValueError where the shapes are no such ViT's.
        """
        found = infer_vit(tensors, "tipsv2")
        if found.registers != 1:
            raise ValueError(f"{1 + found.registers} class tokens ({_SECOND} of {found.registers}) where TIPSv2 has 2")
        return replace(found, heads=_SO400M_HEADS) if found.width == _SO400M else found
