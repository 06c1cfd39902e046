"""MoCo v3 (Chen et al. 2021): momentum contrast for ViTs.

Files of facebookresearch/moco-v3: `.pth.tar` with `base_encoder.*` and `momentum_encoder.*` under `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..preprocess import Preprocess
from . import NON_COMMERCIAL, Architecture, Family, Protocol, Publication, Trunk, Variant
from ._layout import infer_vit, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/moco-v3"
_NETWORKS = ("base_encoder", "momentum_encoder")  # it evaluates the first
_SMALL, _HEADS = 384, 12  # of 32: the usual 6 of 64 would fit the tensors too
_ARTICLE = r"""@inproceedings{chen2021empirical,
  title={An Empirical Study of Training Self-Supervised Vision Transformers},
  author={Chen, Xinlei and Xie, Saining and He, Kaiming},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2021}
}"""


def _names(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = tree.get("state_dict")
    return nested if isinstance(nested, Mapping) else tree


class Mocov3(Family):
    """Published numbers: linear probes from the repository's table."""

    license: ClassVar[str] = NON_COMMERCIAL
    source: ClassVar[str] = "https://github.com/facebookresearch/moco-v3"
    pretrained_on: ClassVar[str] = "imagenet-1k"
    publication: ClassVar[Publication | None] = Publication("2021-04-05", _ARTICLE)
    protocol: ClassVar[str] = "mocov3/1"
    # its linear probe's transform: torchvision's resize, which is bilinear
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("mocov3/1", Preprocess(interpolation="bilinear")),)
    checkpoint_keys: ClassVar[tuple[str, ...]] = _NETWORKS
    variants: ClassVar[Mapping[str, Variant]] = {
        # positions are sines and cosines that stand in the file; other sizes resize them as MAE's are
        "mocov3_vits16": Variant(
            Architecture(_SMALL, 12, _HEADS, 16, positions="mae"),
            f"{_BASE}/vit-s-300ep/vit-s-300ep.pth.tar",
            published={"linear": 73.2},
            note="12 heads of 32",
        ),
        "mocov3_vitb16": Variant(
            Architecture(768, 12, 12, 16, positions="mae"),
            f"{_BASE}/vit-b-300ep/vit-b-300ep.pth.tar",
            published={"linear": 76.7},
        ),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether both its networks are in it by their names, bare or under `state_dict`, and they are ViTs."""
        names = [str(name).removeprefix("module.") for name in _names(tree)]
        return all(f"{one}.patch_embed.proj.weight" in names for one in _NETWORKS)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The base encoder's trunk unless the momentum encoder is asked for; projector and predictor are left aside.

        Raises KeyError for a network that is not there.
        """
        chosen = checkpoint_key or _NETWORKS[0]
        flat = network(tree, "state_dict" if isinstance(tree.get("state_dict"), Mapping) else None)
        if not any(str(name).removeprefix("module.").startswith(f"{chosen}.") for name in flat):
            raise KeyError(f"the file holds no network {chosen!r}")
        other = next((name for name in _NETWORKS if name != chosen), "")
        return split_trunk(flat, prefixes=("module.", f"{chosen}."), aside=(f"{other}.*", "predictor.*", "head.*"))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with fixed positions; 12 heads at width 384. Raises KeyError or ValueError for no ViT's shapes."""
        found = infer_vit(tensors, "mae")
        return replace(found, heads=_HEADS) if found.width == _SMALL else found
