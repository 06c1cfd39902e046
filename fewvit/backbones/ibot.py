"""iBOT (Zhou et al. 2022): self-distillation of class tokens and of masked patches.

Files of bytedance/ibot: DINO's names; the networks under `state_dict`, or beside each other under `teacher` and
`student`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from . import Architecture, Family, Protocol, Publication, Trunk, Variant
from ._layout import infer_vit, network, split_trunk

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
_MASK = "masked_embed"  # what stands for a masked patch; in networks that learnt from them
_ARTICLE = r"""@inproceedings{zhou2022ibot,
  title={{iBOT}: Image {BERT} Pre-Training with Online Tokenizer},
  author={Zhou, Jinghao and Wei, Chen and Wang, Huiyu and Shen, Wei and Xie, Cihang and Yuille, Alan and Kong, Tao},
  booktitle={International Conference on Learning Representations (ICLR)},
  year={2022}
}"""


def _variant(size: str, published: Mapping[str, Any], folder: str = "", network: str = "teacher") -> Variant:
    folder = folder or f"vit{size}_16"
    on_22k = folder.endswith("_pt22k")
    notes = {"_rand_mask": "masks of single patches", "_pt22k": "pretrained on ImageNet-22k; the student"}
    return Variant(
        Architecture(*_SIZES[size], 16),
        f"{_BASE}/{folder}/checkpoint_{network}.pth",
        file=f"ibot_{folder}_{network}.pth",  # all are called alike at their source
        published=published,
        note=next((note for ending, note in notes.items() if folder.endswith(ending)), ""),
        pretrained_on="imagenet-21k" if on_22k else "",
    )


class Ibot(Family):
    """Published numbers: k-NN, linear and fine-tuned top-1 from the repository, 1/2/5 images from MSN's Table 1."""

    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "https://github.com/bytedance/ibot"
    pretrained_on: ClassVar[str] = "imagenet-1k"
    publication: ClassVar[Publication | None] = Publication("2021-11-15", _ARTICLE)
    protocol: ClassVar[str] = "ibot/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("ibot/1"),
        # its k-NN with --avgpool_patchtokens 1, which builds the model without its final norm
        Protocol("ibot-avgpool/1", pool="mean", norm="raw"),
    )
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher", "student")
    called: ClassVar[str] = "ibot"
    layouts: ClassVar[tuple[str, ...]] = ("dino",)
    variants: ClassVar[Mapping[str, Variant]] = {
        "ibot_vits16": _variant(
            "s",
            {
                "knn": 75.2,
                "linear": 77.9,
                "finetune": 82.3,
                "1%": 65.9,
                "lowshot": {1: "40.4 ± 0.5", 2: "50.8 ± 0.8", 5: "59.9 ± 0.2"},
            },
        ),
        "ibot_vitb16": _variant(
            "b",
            {
                "knn": 77.1,
                "linear": 79.5,
                "finetune": 84.0,
                "1%": 69.7,
                "lowshot": {1: "46.1 ± 0.3", 2: "56.2 ± 0.7", 5: "64.7 ± 0.3"},
            },
        ),
        "ibot_vitb16_rand": _variant("b", {"knn": 77.3, "linear": 79.8, "finetune": 84.1}, "vitb_16_rand_mask"),
        "ibot_vitl16": _variant("l", {"knn": 78.0, "linear": 81.0, "finetune": 84.8}),
        "ibot_vitl16_rand": _variant("l", {"knn": 77.7, "linear": 81.3, "finetune": 85.0}, "vitl_16_rand_mask"),
        "ibot_vitb16_22k": _variant("b", {"knn": 71.1, "linear": 79.0, "finetune": 84.4}, "vitb_16_pt22k", "student"),
        "ibot_vitl16_22k": _variant("l", {"knn": 72.9, "linear": 82.3, "finetune": 86.6}, "vitl_16_pt22k", "student"),
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether its loss or the embedding of masked patches is in it; its teachers' files look as DINO's do."""
        parts = [value for value in tree.values() if isinstance(value, Mapping)]
        return "ibot_loss" in tree or any(
            str(name).endswith(_MASK) for part in (tree, *parts) for name in part if isinstance(name, str)
        )

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The teacher's trunk unless another network is asked for; heads and the mask's embedding are left aside.

        Raises KeyError for a network that is not there.
        """
        nested = checkpoint_key or next(
            (key for key in ("teacher", "state_dict") if isinstance(tree.get(key), Mapping)), None
        )
        return split_trunk(network(tree, nested), prefixes=("module.", "backbone."), aside=("head.*", _MASK))

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ViT with DINO's position rule. Raises KeyError or ValueError where the shapes are no ViT's."""
        return infer_vit(tensors, "dino")
