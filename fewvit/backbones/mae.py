"""MAE (He et al. 2022): masked autoencoders.

Files of facebookresearch/mae: `{"model": …}`, with or without decoder, or fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from . import (
    NON_COMMERCIAL,
    NOT_THE_AUTHORS,
    Architecture,
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

_BASE = "https://dl.fbaipublicfiles.com/mae"
_ARTICLE = r"""@inproceedings{he2022masked,
  title={Masked Autoencoders Are Scalable Vision Learners},
  author={He, Kaiming and Chen, Xinlei and Xie, Saining and Li, Yanghao and Doll\'ar, Piotr and Girshick, Ross},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2022}
}"""
_BASE_16 = Architecture(768, 12, 12, 16, positions="mae")
_LARGE_16 = Architecture(1024, 24, 16, 16, positions="mae")
_HUGE_14 = Architecture(1280, 32, 16, 14, grid=16, positions="mae")  # 16 heads of 80, not 20 of 64


def _tuned(architecture: Architecture) -> Architecture:
    return Architecture(**{**vars(architecture), "final_norm": "fc_norm"})


def _resized(table: Tensor, rows: int, columns: int) -> Tensor:
    import torch.nn.functional as F

    return F.interpolate(table, size=(rows, columns), mode="bicubic")


class Mae(Family):
    """Published numbers: linear and fine-tuned top-1 from the repository, low-shot from MSN's Table 1.

    Frozen MAE features are poor neighbours; evaluate them with `--pool mean`, several layers, or fine-tuning.
    """

    license: ClassVar[str] = NON_COMMERCIAL
    license_note: ClassVar[str] = NOT_THE_AUTHORS
    source: ClassVar[str] = "https://github.com/facebookresearch/mae"
    pretrained_on: ClassVar[str] = "imagenet-1k"
    publication: ClassVar[Publication | None] = Publication("2021-11-11", _ARTICLE)
    protocol: ClassVar[str] = "mae/1"
    tuned_protocol: ClassVar[str] = "mae/2"
    # variants whose decoder draws pixels as they are; those of all others lack their mean and deviation
    raw_pixels: ClassVar[tuple[str, ...]] = ("mae_vitl16_visualize",)
    # the linear probe's transform, which has one size; and that of the fine-tuning script, which has others
    protocols: ClassVar[tuple[Protocol, ...]] = (Protocol("mae/1"), Protocol("mae/2", whole_above=224))
    positions: ClassVar[Mapping[str, PositionRule]] = {
        "mae": PositionRule(_resized, only_squares="MAE's position rule covers square images only, not")
    }
    model_types: ClassVar[tuple[str, ...]] = ("vit_mae",)
    # the mean patch token under a norm of its own, and a classifier that begins nearly at zero
    full_tuning: ClassVar[Mapping[str, Any]] = {"pool": "fc_norm", "head": "linear"}
    variants: ClassVar[Mapping[str, Variant]] = {
        "mae_vitb16": Variant(
            _BASE_16,
            f"{_BASE}/pretrain/mae_pretrain_vit_base.pth",
            md5_prefix="8cad7c",
            published={"linear": 67.8, "finetune": 83.6, "lowshot": {1: "8.2 ± 0.3", 2: "25.0 ± 0.3", 5: "40.5 ± 0.2"}},
        ),
        "mae_vitl16": Variant(
            _LARGE_16,
            f"{_BASE}/pretrain/mae_pretrain_vit_large.pth",
            md5_prefix="b8b06e",
            published={
                "linear": 76.0,
                "finetune": 85.9,
                "lowshot": {1: "12.3 ± 0.2", 2: "19.3 ± 1.8", 5: "42.3 ± 0.3"},
            },
        ),
        "mae_vith14": Variant(
            _HUGE_14,
            f"{_BASE}/pretrain/mae_pretrain_vit_huge.pth",
            md5_prefix="9bdbb0",
            published={
                "linear": 77.2,
                "finetune": 86.9,
                "lowshot": {1: "11.6 ± 0.4", 2: "18.6 ± 0.2", 5: "32.8 ± 0.2"},
            },
        ),
        "fewvit_tiny": Variant(
            Architecture(192, 6, 3, 8, grid=8, positions="mae"),
            bundled="fewvit_tiny.safetensors",
            sha256="92976b45e35094b3d15484b13dba1efae5634ea3baa403a4ae7e7e011535dedb",
            note="comes with fewvit, a stand-in where no weights can be had: recipes/fewvit_tiny.toml, ten "
            "epochs of Tiny-ImageNet at 64 px",
            preprocess={"cover": (64, 64), "crop": (64, 64)},
            license="Apache-2.0",
            pretrained_on="tiny-imagenet",
        ),
        "mae_vitb16_full": Variant(
            _BASE_16,
            f"{_BASE}/pretrain/mae_pretrain_vit_base_full.pth",
            note="the same encoder, stored with its decoder",
        ),
        "mae_vitl16_full": Variant(
            _LARGE_16,
            f"{_BASE}/pretrain/mae_pretrain_vit_large_full.pth",
            note="the same encoder, stored with its decoder",
        ),
        "mae_vith14_full": Variant(
            _HUGE_14,
            f"{_BASE}/pretrain/mae_pretrain_vit_huge_full.pth",
            note="the same encoder, stored with its decoder",
        ),
        "mae_vitl16_visualize": Variant(
            _LARGE_16,
            f"{_BASE}/visualize/mae_visualize_vit_large.pth",
            note="trained on raw pixels for pictures: other encoder weights than mae_vitl16",
        ),
        "mae_vitb16_finetuned": Variant(
            _tuned(_BASE_16),
            f"{_BASE}/finetune/mae_finetuned_vit_base.pth",
            md5_prefix="1b25e9",
            published={"finetune": 83.664},
            note="fine-tuned on ImageNet-1k labels",
        ),
        "mae_vitl16_finetuned": Variant(
            _tuned(_LARGE_16),
            f"{_BASE}/finetune/mae_finetuned_vit_large.pth",
            md5_prefix="51f550",
            published={"finetune": 85.952},
            note="fine-tuned on ImageNet-1k labels",
        ),
        "mae_vith14_finetuned": Variant(
            _tuned(_HUGE_14),
            f"{_BASE}/finetune/mae_finetuned_vit_huge.pth",
            md5_prefix="2541f2",
            published={"finetune": 86.928},
            note="fine-tuned on ImageNet-1k labels",
        ),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it is a ViT under `model`, or one with MAE's decoder or fine-tuned norm; DeiT's files are not."""
        flat = tree["model"] if isinstance(tree.get("model"), Mapping) else tree
        if not has_vit_trunk(flat) or any("ls1.gamma" in str(name) for name in flat):
            return False
        if "head.weight" in flat and "fc_norm.weight" not in flat:
            return False  # DeiT's files: also `model`, but with a classifier beside the final norm
        return flat is not tree or "decoder_embed.weight" in flat or "fc_norm.weight" in flat

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The encoder; decoder, mask token and classifier are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or ("model" if isinstance(tree.get("model"), Mapping) else None)
        return split_trunk(network(tree, nested), prefixes=("module.",), aside=("decoder*", "mask_token", "head.*"))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with MAE's position rule. Raises KeyError or ValueError where the shapes are no ViT's."""
        return infer_vit(tensors, "mae")

    @staticmethod
    def advice(task: str, *, pool: str = "", protocol: str = "", methods: Sequence[str] = ()) -> str | None:
        """What frozen MAE features are poor at, and what to use instead; None where there is nothing to warn of."""
        if task == "knn" and pool == "cls":
            return (
                "MAE's frozen class token is a poor neighbour: see --pool mean and --layers each, and judge MAE by "
                "fine-tuning"
            )
        if task == "lowshot" and "last-block" not in methods:
            return (
                "linear numbers on frozen MAE features are expected to be poor; see --classifier last-block, and "
                "--layers each"
            )
        if task == "linear" and protocol not in ("mae/1", "mae/2"):
            return "MAE's linear probe is --protocol mae/1: its features need the BatchNorm that comes with it"
        return None

    @staticmethod
    def lowshot_method(architecture: Architecture, shots: int | str) -> str:
        """`logistic` or `last-block`: the classifier of MSN's low-shot table for this MAE and so many shots."""
        # MSN's authors train MAE's last block, but for one image per class and for the largest model
        return "logistic" if shots == 1 or architecture.patch == _HUGE_14.patch else "last-block"
