"""Web-SSL (Fan et al. 2025): DINOv2 and MAE on two billion images of the web.

Files of facebookresearch/webssl: flat, in DINOv2's layout with SwiGLU and in that of MAE's encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from . import NON_COMMERCIAL, Architecture, Family, Protocol, Publication, Trunk, Variant
from ._dinov2_layout import gated_hidden, split_dinov2, whose
from ._layout import infer_vit

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/webssl"
_DINO = {  # width, depth, heads
    "300m": (1024, 24, 16),
    "1b": (1536, 40, 24),
    "2b": (2688, 24, 21),
    "3b": (3072, 26, 24),
    "5b": (3584, 32, 28),
    "7b": (4096, 32, 32),
}
_MAE = {"300m": (1024, 24, 16), "700m": (1280, 32, 16), **{size: _DINO[size] for size in ("1b", "2b", "3b")}}
_HEADS = {width: heads for width, _, heads in (*_DINO.values(), *_MAE.values())}
_TEXTS = {"light2b": "images with text in them", "heavy2b": "images of charts and documents"}
_ARTICLE = r"""@article{fan2025scaling,
  title={Scaling Language-Free Visual Representation Learning},
  author={Fan, David and Tong, Shengbang and Zhu, Jiachen and Sinha, Koustuv and Liu, Zhuang and Chen, Xinlei and
    Rabbat, Michael and Ballas, Nicolas and LeCun, Yann and Bar, Amir and others},
  journal={arXiv preprint arXiv:2504.01017},
  year={2025}
}"""


def _dino(size: str, corpus: str = "full2b", pixels: int = 224) -> tuple[str, Variant]:
    width, depth, heads = _DINO[size]
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
    called = "" if corpus.startswith("full") else f"_{corpus.removesuffix('2b')}"
    at = "" if pixels == 224 else f"_{pixels}"
    note = _TEXTS.get(corpus, "") or (f"trained at {pixels} px: --img-size {pixels}" if at else "")
    return f"webssl_dino{size}{called}{at}", Variant(
        architecture, f"{_BASE}/webssl_dino{size}_{corpus}_{pixels}.pth", note=note or f"DINOv2 of {size.upper()}"
    )


def _mae(size: str) -> tuple[str, Variant]:
    width, depth, heads = _MAE[size]
    patch = 16 if size == "300m" else 14
    architecture = Architecture(width, depth, heads, patch, grid=224 // patch, positions="mae")
    return f"webssl_mae{size}", Variant(
        architecture, f"{_BASE}/webssl_mae{size}_full2b_224.pth", note=f"MAE of {size.upper()}"
    )


class Webssl(Family):
    """Published numbers: none of k-NN or linear probes; its authors measure answers to questions about images."""

    license: ClassVar[str] = NON_COMMERCIAL
    source: ClassVar[str] = "https://github.com/facebookresearch/webssl"
    pretrained_on: ClassVar[str] = "mc-2b"
    publication: ClassVar[Publication | None] = Publication("2025-04-01", _ARTICLE)
    protocol: ClassVar[str] = "webssl/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("webssl/1"),)  # 256 bicubic, crop 224
    called: ClassVar[str] = "webssl"
    layouts: ClassVar[tuple[str, ...]] = ("dino", "dinov2", "mae")
    alike: ClassVar[str] = "DINOv2's own runs with SwiGLU"
    variants: ClassVar[Mapping[str, Variant]] = dict(
        [
            *(_dino(size, "full8b" if size == "7b" else "full2b") for size in _DINO),
            _dino("7b", "full8b", 378),
            _dino("7b", "full8b", 518),
            *(_dino(size, corpus) for size in ("2b", "3b") for corpus in _TEXTS),
            *map(_mae, _MAE),
        ]
    )

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it has DINOv2's layout with SwiGLU at a width that DINOv2 has not, or 16 positions a side in g.

        Its MAE's files show nothing that a plain ViT's do not.
        """
        return whose(tree) == "webssl"

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk; training's heads are left aside. Raises KeyError for a network that is not there."""
        return split_dinov2(tree, checkpoint_key)

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with the heads of its width, and DINO's position rule where it has layer scales, MAE's where not.

        Raises KeyError or ValueError where the shapes are no ViT's.
        """
        found = infer_vit(tensors, "dino" if "blocks.0.ls1.gamma" in tensors else "mae")
        return replace(found, heads=_HEADS.get(found.width, found.heads))
