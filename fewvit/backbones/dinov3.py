"""DINOv3 (Siméoni et al. 2025): files of facebookresearch/dinov3, and of transformers under other names.

LingBot-Vision's ViTs are files of the same layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..preprocess import Preprocess
from . import COMPUTED, ROTARY, Architecture, Family, Protocol, Publication, Trunk, Variant
from ._layout import PERIODS, has_convnext_trunk, has_rotary_names, network, split_trunk
from ._transformers import WITHOUT_PERIODS

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "https://dl.fbaipublicfiles.com/dinov3"
_GATE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
_CARD = "https://github.com/facebookresearch/dinov3/blob/main/MODEL_CARD.md"
_LINGBOT = "https://github.com/robbyant/lingbot-vision"
_SAT = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
_SQUASHED = {"cover": (512, 512), "crop": (512, 512), "interpolation": "bilinear", "stretched": True}
_ASIDE = ("mask_token", "local_cls_norm.*", "dino_head.*", "ibot_head.*", "head.*")
_EUPE = "EUPE's networks have none; --backbone timm:vit_small_patch16_dinov3_qkvb.eupe_lvd1689m and such read those"
_MEASURES = ("ImageNet ReaL, linear", "ImageNet-R, linear", "ObjectNet, linear", "Oxford hard, retrieval")
_ARTICLE = r"""@article{simeoni2025dinov3,
  title={{DINOv3}},
  author={Sim{\'e}oni, Oriane and Vo, Huy V. and Seitzer, Maximilian and Baldassarre, Federico and Oquab, Maxime and
          Jose, Cijo and Khalidov, Vasil and Szafraniec, Marc and Yi, Seungeun and Ramamonjisoa, Micha{\"e}l and
          Massa, Francisco and Haziza, Daniel and Wehrstedt, Luca and Wang, Jianyuan and Darcet, Timoth{\'e}e and
          Moutakanni, Th{\'e}o and Sentana, Leonel and Roberts, Claire and Vedaldi, Andrea and Tolan, Jamie and
          Brandt, John and Couprie, Camille and Mairal, Julien and J{\'e}gou, Herv{\'e} and Labatut, Patrick and
          Bojanowski, Piotr},
  journal={arXiv preprint arXiv:2508.10104},
  year={2025}
}"""


def _vit(
    width: int, depth: int, heads: int, *, hidden: int = 0, swiglu: bool = False, qkv_bias: bool = True
) -> Architecture:
    return Architecture(
        width,
        depth,
        heads,
        16,
        positions=ROTARY,
        registers=4,
        feed_forward="swiglu" if swiglu else "mlp",
        hidden=hidden,
        layer_scale=True,
        eps=1e-5,
        qkv_bias=qkv_bias,
    )


def _convnext(stages: tuple[tuple[int, int], ...]) -> Architecture:
    blocks, width = sum(n for n, _ in stages), stages[-1][1]
    return Architecture(width, blocks, 0, 32, positions="none", layer_scale=True, stages=stages)


def _stages(deepest: int, width: int) -> tuple[tuple[int, int], ...]:
    return tuple((n, width << i) for i, n in enumerate((3, 3, deepest, 3)))


_VITS = {  # the architecture, and the beginning of its file's digest, as the official code has it in the name
    "vits16": (_vit(384, 12, 6), "08c60483"),
    "vits16plus": (_vit(384, 12, 6, swiglu=True), "4057cbaa"),
    "vitb16": (_vit(768, 12, 12), "73cec8be"),
    "vitl16": (_vit(1024, 24, 16), "8aa4cbdd"),
    "vith16plus": (_vit(1280, 32, 20, swiglu=True), "7c1da9a5"),
    "vit7b16": (_vit(4096, 40, 32, hidden=8192, swiglu=True, qkv_bias=False), "a955f4ea"),
}
_SATELLITE = {"vitl16": "eadcf0ff", "vit7b16": "a6675841"}
_CONVNEXTS = {
    "convnext_tiny": (_convnext(_stages(9, 96)), "21b726bb"),
    "convnext_small": (_convnext(_stages(27, 96)), "296db49d"),
    "convnext_base": (_convnext(_stages(27, 128)), "801f2ba9"),
    "convnext_large": (_convnext(_stages(27, 192)), "61fa432d"),
}
_PUBLISHED = {  # by _MEASURES
    "vits16": (87.0, 60.4, 50.9, 49.5),
    "vits16plus": (88.0, 68.8, 54.6, 50.0),
    "vitb16": (89.3, 76.7, 64.1, 58.5),
    "vitl16": (90.2, 88.1, 74.8, 63.1),
    "vith16plus": (90.3, 90.0, 78.6, 64.5),
    "vit7b16": (90.4, 91.1, 91.1, 72.8),
}
_SIC = "the card gives 91.1 for ImageNet-R and for ObjectNet"
_LINGBOTS = {
    "lingbot_vits16": ("small", _vit(384, 12, 6)),
    "lingbot_vitb16": ("base", _vit(768, 12, 12)),
    "lingbot_vitl16": ("large", _vit(1024, 24, 16)),
    "lingbot_vitg16": ("giant", _vit(1536, 40, 24, hidden=4096, swiglu=True, qkv_bias=False)),
}


def _official(name: str, architecture: Architecture, digest: str, corpus: str = "lvd1689m", **more: Any) -> Variant:
    return Variant(
        architecture, f"{_BASE}/dinov3_{name}/dinov3_{name}_pretrain_{corpus}-{digest}.pth", gated=_GATE, **more
    )


def _of_card(name: str) -> dict[str, Any]:
    numbers = dict(zip(_MEASURES, _PUBLISHED[name], strict=True))
    return {"published": numbers, "source": _CARD, "note": _SIC if name == "vit7b16" else ""}


class Dinov3(Family):
    """Published numbers: those of the model card; the repository has none for k-NN."""

    license: ClassVar[str] = "DINOv3-License"
    source: ClassVar[str] = "https://github.com/facebookresearch/dinov3"
    publication: ClassVar[Publication | None] = Publication("2025-08-13", _ARTICLE)
    protocol: ClassVar[str] = "dinov3/1"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("dinov3/1"),
        Protocol("dinov3-square/1", Preprocess(crop=(256, 256), interpolation="bilinear", stretched=True)),
    )
    checkpoint_keys: ClassVar[tuple[str, ...]] = ("teacher",)
    model_types: ClassVar[tuple[str, ...]] = ("dinov3_vit", "dinov3_convnext")
    variants: ClassVar[Mapping[str, Variant]] = {
        **{f"dinov3_{name}": _official(name, *facts, **_of_card(name)) for name, facts in _VITS.items()},
        **{
            f"dinov3_{name}_sat": _official(
                name, _VITS[name][0], digest, "sat493m", preprocess=_SAT, note="pretrained on satellite images"
            )
            for name, digest in _SATELLITE.items()
        },
        **{f"dinov3_{name}": _official(name, *facts) for name, facts in _CONVNEXTS.items()},
        **{
            name: Variant(
                architecture,
                f"https://huggingface.co/robbyant/lingbot-vision-vit-{size}/resolve/main/model.pt",
                license="Apache-2.0",
                preprocess=_SQUASHED,
                note=f"LingBot-Vision, {_LINGBOT}: 512 px",
            )
            for name, (size, architecture) in _LINGBOTS.items()
        },
    }

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether it holds what only rotary positions, storage tokens or its ConvNeXt have, bare or under `teacher`."""
        flat = tree["teacher"] if isinstance(tree.get("teacher"), Mapping) else tree
        return has_rotary_names(flat) or has_convnext_trunk(flat)

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk with the mask of its biases applied and SwiGLU's two first layers as one.

        Raises KeyError for a network that is not there, ValueError for one without what its numbers mean nothing.
        """
        nested = checkpoint_key or ("teacher" if isinstance(tree.get("teacher"), Mapping) else None)
        renames = {r"^storage_tokens$": "register_tokens", r"\.mlp\.w3\.": ".mlp.fc2."}
        found = split_trunk(network(tree, nested), prefixes=("module.", "backbone."), aside=_ASIDE, renames=renames)
        if "norms.3.weight" in found.tensors:
            _take_last_norm(found)
        elif "patch_embed.proj.weight" in found.tensors:
            _require_positions(found)
            _require_periods(found)
            _mask_biases(found)
            _join_gates(found)
        return found

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """A ConvNeXt, or a ViT with rotary positions; heads by the number of periods, else 64 wide, 7B's 128.

        They are 0 where that does not fit a file without periods. Raises KeyError or ValueError for other shapes.
        """
        if "downsample_layers.0.0.weight" in tensors:
            return _convnext(_stages_of(tensors))
        width, channels, patch, patch_w = (int(n) for n in tensors["patch_embed.proj.weight"].shape)
        if channels != 3 or patch != patch_w:
            raise ValueError(f"patches {patch}x{patch_w} of {channels} channels")
        periods = int(tensors[PERIODS].numel()) if PERIODS in tensors else 32 if width >= 4096 else 16
        unknown = PERIODS not in tensors and width % (4 * periods)
        if not unknown and (not periods or width % (4 * periods)):
            raise ValueError(
                f"{periods} periods are those of heads {4 * periods} wide, which do not divide the width {width}"
            )
        hidden = int(tensors["blocks.0.mlp.fc2.weight"].shape[1])
        swiglu = tensors["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden
        return Architecture(
            width,
            1 + max(int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))),
            0 if unknown else width // (4 * periods),
            patch,
            positions=ROTARY if PERIODS in tensors else COMPUTED,
            registers=int(tensors["register_tokens"].shape[1]),
            feed_forward="swiglu" if swiglu else "mlp",
            hidden=0 if hidden == 4 * width else hidden,
            layer_scale="blocks.0.ls1.gamma" in tensors,
            eps=1e-5,
            qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        )


def _take_last_norm(trunk: Trunk) -> None:
    """`norms.3` as the norm, in place: official files hold it twice, and of the two it is this one that is taken."""
    for part in ("weight", "bias"):
        if f"norm.{part}" in trunk.tensors:
            trunk.tensors.pop(f"norm.{part}")
            trunk.dropped.append(trunk.mapping.pop(f"norm.{part}"))
        if f"norms.3.{part}" in trunk.tensors:
            trunk.tensors[f"norm.{part}"] = trunk.tensors.pop(f"norms.3.{part}")
            trunk.mapping[f"norm.{part}"] = trunk.mapping.pop(f"norms.3.{part}")


def _stages_of(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """(blocks, channels) of each stage. Raises KeyError where one has no first block."""
    numbers = [(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r"stages\.(\d+)\.(\d+)\.", name))]
    return tuple(
        (1 + max(block for of, block in numbers if of == stage), int(tensors[f"stages.{stage}.0.gamma"].shape[0]))
        for stage in range(1 + max(stage for stage, _ in numbers))
    )


def _require_positions(trunk: Trunk) -> None:
    """Raise ValueError, naming what is missing, where a ViT has no periods or no storage tokens; takes a mark away."""
    computed = trunk.tensors.pop(WITHOUT_PERIODS, None) is not None
    trunk.mapping.pop(WITHOUT_PERIODS, None)
    if PERIODS not in trunk.tensors and not computed:
        raise ValueError(f"{PERIODS} is missing: the periods of its rotary positions, which no other tensor tells")
    if "register_tokens" not in trunk.tensors:
        raise ValueError(
            f"storage_tokens is missing: without these tokens DINOv3's features are worth nothing; {_EUPE}"
        )


def _require_periods(trunk: Trunk) -> None:
    """Raise ValueError for periods that are no positive numbers."""
    periods = trunk.tensors.get(PERIODS)
    if periods is not None and not bool(((periods > 0) & (periods < float("inf"))).all()):
        raise ValueError(f"{PERIODS} are no positive numbers")


def _mask_biases(trunk: Trunk) -> None:
    """The biases of queries, keys and values times their mask, in place; the mask goes.

    Raises ValueError where it is missing and needed, or holds no numbers.
    """
    for bias in [name for name in trunk.tensors if name.endswith(".attn.qkv.bias")]:
        mask, origin = trunk.tensors.pop(f"{bias}_mask", None), trunk.mapping.pop(f"{bias}_mask", None)
        value = trunk.tensors[bias]
        if mask is not None:
            if mask.shape != value.shape or not bool(mask.isfinite().all()):
                raise ValueError(f"{origin} has no number for each bias: the network was saved before it had begun")
            trunk.tensors[bias] = value * mask
            trunk.mapping[bias] = f"{trunk.mapping[bias]} + {origin}"
        elif bool(value.chunk(3)[1].any()):
            raise ValueError(
                f"{bias}_mask is missing: its biases of keys are not zero, as they are where this mask was applied"
            )


def _join_gates(trunk: Trunk) -> None:
    """`w1` over `w2` as the one layer `fc1`, in place. Raises ValueError where they are not two of one shape."""
    import torch

    for gate in [name for name in trunk.tensors if ".mlp.w1." in name]:
        value, joined = gate.replace(".w1.", ".w2."), gate.replace(".w1.", ".fc1.")
        if value not in trunk.tensors or trunk.tensors[value].shape != trunk.tensors[gate].shape:
            raise ValueError(f"{value} is missing, or not of the shape of {gate}")
        trunk.tensors[joined] = torch.cat([trunk.tensors.pop(gate), trunk.tensors.pop(value)])
        trunk.mapping[joined] = f"{trunk.mapping.pop(gate)} + {trunk.mapping.pop(value)}"
