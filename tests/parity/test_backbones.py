"""Every encoding in features.npz, against what the official code of DINO, MSN, MAE and DINOv2 gave for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.backbones import families
from fewvit.digests import DigestMemory
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.engines import packing_works
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.vit import EPS
from fewvit.neighbors import normalise

# name in features.npz -> (file, --checkpoint-key)
FILES = {
    "dino_backbone": ("dino_backbone.pth", None),
    "dino_full.teacher": ("dino_full.pth", None),  # the default
    "dino_full.student": ("dino_full.pth", "student"),
    "msn.target_encoder": ("msn.pth.tar", None),
    "mae_pretrain": ("mae_pretrain.pth", None),
    "mae_full": ("mae_full.pth", None),
    "mae_finetuned": ("mae_finetuned.pth", None),
    "dinov2": ("dinov2.pth", None),
    "dinov2_reg4": ("dinov2_reg4.pth", None),
    "dinov2_swiglu": ("dinov2_swiglu.pth", None),
    "dinov2_teacher_chunked": ("dinov2_teacher_chunked.pth", None),
}

VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "s224": lambda x: x,
    "s96": lambda x: x[:, :, 64:160, 64:160],
    "s160x224": lambda x: x[:, :, 32:192, :],
    "s112x448": lambda x: torch.cat([x[:, :, :112, :], x[:, :, 112:, :]], dim=3),
    "s98": lambda x: x[:, :, 63:161, 63:161],
    "s154x224": lambda x: x[:, :, 35:189, :],
    "s70": lambda x: x[:, :, 77:147, 77:147],
    "s42": lambda x: x[:, :, 91:133, 91:133],
    "s64": lambda x: x[:, :, 80:144, 80:144],
}

DINO = ("cls", "inter_cls", "inter_patchmean", "patchtokens_sub", "attn_cls_row")
MSN = ("forward_blocks1", "forward_blocks_all", "forward", "n2_avgpool")
MAE = ("cls", "global_pool")
DINOV2 = (
    "x_norm_clstoken",
    "patchtokens_mean",
    "patchtokens_sub",
    "x_prenorm_cls",
    "x_prenorm_sub",
    "inter_cls",
    "inter_patchmean",
    "inter_patch_sub",
    "inter_nonorm_cls_last",
)
# checkpoint -> view -> what is stored of it
COVERED: dict[str, dict[str, tuple[str, ...]]] = {
    "dino_backbone": {
        "s224": DINO,
        "s96": (*DINO, "attn_full_img0"),
        "s160x224": DINO,
        "s112x448": DINO,
        "multi_scale": ("img0", "img1"),
    },
    "dino_full.teacher": {"s224": DINO, "s96": (*DINO, "attn_full_img0")},
    "dino_full.student": {"s96": (*DINO, "attn_full_img0")},
    "msn.target_encoder": {"s224": (*MSN, "attn_cls_row"), "s96": MSN, "s112x448": MSN},
    "mae_pretrain": {"s224": MAE, "s96": MAE},
    "mae_full": {"s64": MAE, "s96": MAE, "s224": MAE},
    "mae_finetuned": {"s224": ("feat",), "s96": ("feat",)},
    "dinov2": {
        "s224": (*DINOV2, "model_with_normalize"),
        "s98": DINOV2,
        "s154x224": DINOV2,
        "s70": DINOV2,
        "s42": (*DINOV2, "x_norm_patchtokens_full"),
    },
    "dinov2_reg4": {
        "s224": (*DINOV2, "x_norm_regtokens"),
        "s98": (*DINOV2, "x_norm_regtokens"),
        "s154x224": (*DINOV2, "x_norm_regtokens"),
        "s42": (*DINOV2, "x_norm_regtokens", "x_norm_patchtokens_full"),
    },
    "dinov2_swiglu": {"s224": DINOV2, "s98": DINOV2, "s154x224": DINOV2, "s42": (*DINOV2, "x_norm_patchtokens_full")},
    "dinov2_teacher_chunked": {"s224": DINOV2, "s70": DINOV2},
}
MASKED, PROJECTION = "pretraining masks patches, reading features never does", "the projector is no part of the trunk"
NOT_COVERED = {
    "msn.target_encoder/s224/masked_patch_drop_0.15": MASKED,
    "msn.target_encoder/s224/masked_kept_tokens": MASKED,
    "dinov2/s42/masked/masks": MASKED,
    "dinov2/s42/masked/x_norm_patchtokens": MASKED,
    "dinov2/s42/masked/x_norm_clstoken": MASKED,
    "msn.target_encoder/s224/projection_eval": PROJECTION,
    "msn.target_encoder/s224/projection_train": PROJECTION,
    "mae_finetuned/s224/logits": "the classifier that was fine-tuned is no part of the trunk",
    "mae_finetuned/s96/logits": "the classifier that was fine-tuned is no part of the trunk",
}
KEYS = [f"{name}/{view}/{what}" for name, views in COVERED.items() for view, whats in views.items() for what in whats]


def test_no_stored_encoding_is_forgotten(parity):
    stored = {key for key in parity.arrays("features.npz") if not key.startswith("tok_idx/")}
    assert set(KEYS) | set(NOT_COVERED) == stored
    assert not set(KEYS) & set(NOT_COVERED)
    assert len(KEYS) == len(set(KEYS))


@pytest.fixture(scope="module")
def spec_of(parity, tmp_path_factory) -> Callable[[str], BackboneSpec]:
    access, memory = Access(tmp_path_factory.mktemp("cache"), offline=True), DigestMemory()
    return functools.cache(
        lambda name: resolve(str(parity.folder / FILES[name][0]), access, memory, checkpoint_key=FILES[name][1])
    )


@pytest.fixture(scope="module")
def backbone_of(spec_of) -> Callable[[str, str], Backbone]:
    """The backbone of a checkpoint under an engine, built as the library builds it."""
    return functools.cache(lambda name, engine: build(spec_of(name), Readout(), (224, 224), engine=engine))


@pytest.fixture(scope="module")
def images(parity) -> Mapping[str, torch.Tensor]:
    """The eight images (8, 3, 224, 224), normalised, under DINO's and MSN's transform."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = {
        kind: torch.from_numpy(parity.arrays("preprocess.npz")[kind]).permute(0, 3, 1, 2) for kind in ("dino", "msn")
    }
    return {kind: (x.float() / 255 - mean) / std for kind, x in pixels.items()}


def encode(
    backbone: Backbone, x: torch.Tensor, pool: str = "cls", layers: int = 1, norm: str = "final"
) -> torch.Tensor:
    return Backbone(backbone.model, backbone.spec, Readout(pool, layers, norm)).encode(x)


def per_layer(features: torch.Tensor, depth: int) -> torch.Tensor:
    """(B, depth D) as (depth, B, D)."""
    return features.view(len(features), depth, -1).transpose(0, 1)


def multi_scale(backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    """DINO's `utils.multi_scale`: scales 1, 1/sqrt 2, 1/2.

    158 pixels hold 9 whole patches; the convolution never sees the rest.
    """
    total = torch.zeros(1)
    for scale in (1, 1 / math.sqrt(2), 1 / 2):
        small = (
            x
            if scale == 1
            else torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        )
        whole = small.shape[-1] // 16 * 16
        total = total + encode(backbone, small[:, :, :whole, :whole])
    return total / 3 / (total / 3).norm()


def reading(backbone: Backbone, x: torch.Tensor, what: str, sampled: Mapping[str, np.ndarray]) -> torch.Tensor:
    """What features.npz stores under the name `what` for the images of a view."""
    architecture, model = backbone.spec.architecture, backbone.model
    depth, prefix = architecture.depth, 1 + architecture.registers
    patches = (x.shape[-2] // architecture.patch) * (x.shape[-1] // architecture.patch)
    at = torch.from_numpy(sampled[f"tok_idx/{patches}"])
    with torch.inference_mode():
        match what:
            case "cls" | "x_norm_clstoken" | "forward":
                return encode(backbone, x)
            case "model_with_normalize":
                return torch.from_numpy(normalise(encode(backbone, x).numpy()))
            case "inter_cls":
                return per_layer(encode(backbone, x, layers=depth), depth)
            case "inter_patchmean":
                return per_layer(encode(backbone, x, "mean", depth), depth)
            case "patchtokens_mean" | "feat":
                return encode(backbone, x, "mean")
            case "forward_blocks1" | "inter_nonorm_cls_last":
                return encode(backbone, x, norm="none")
            case "forward_blocks_all":
                return encode(backbone, x, layers=depth, norm="none")
            case "n2_avgpool":
                return encode(backbone, x, "cls+mean", 2)
            case "patchtokens_sub":
                return backbone.tokens(x[:2])[0][:, prefix:][:, at]
            case "x_norm_patchtokens_full":
                return backbone.tokens(x[:2])[0][:, prefix:]
            case "x_norm_regtokens":
                return backbone.tokens(x[:2])[0][:, 1:prefix]
            case "inter_patch_sub":
                return torch.cat([tokens[:, prefix:][:, at] for tokens in backbone.tokens(x[:1], layers=depth)])
            case "attn_cls_row":
                return backbone.attention(x[:2])[:, :, 0]
            case "attn_full_img0":
                return backbone.attention(x[:1])[0]
            case "x_prenorm_cls":
                return model.last_blocks(x)[0][:, 0]
            case "x_prenorm_sub":  # registers count as patches here
                return model.last_blocks(x[:1])[0][:, 1:][:, at]
            case "global_pool":
                mean = model.last_blocks(x)[0][:, prefix:].mean(dim=1)
                return torch.nn.functional.layer_norm(mean, mean.shape[-1:], eps=EPS)
    raise KeyError(what)


@pytest.mark.parametrize("engine", ["eager", "packed"])
@pytest.mark.parametrize("key", KEYS)
def test_an_encoding_is_the_official_one(key, engine, parity, backbone_of, images):
    if engine == "packed" and not packing_works():
        pytest.skip("torch has no packed oneDNN layers on this machine")
    name, view, what = key.split("/")
    backbone, x = backbone_of(name, engine), images["msn" if name.startswith("msn") else "dino"]
    if view == "multi_scale":
        found = multi_scale(backbone, x[int(what[-1]) :][:1])
    else:
        found = reading(backbone, VIEWS[view](x), what, parity.arrays("features.npz"))
    parity.check("features.npz", key, found.numpy())


def test_openvino_in_fp32_gives_the_official_class_token(parity, spec_of, images):
    pytest.importorskip("openvino")
    backbone = build(spec_of("dinov2_reg4"), Readout(), (154, 224), engine="openvino")
    found = backbone.encode(VIEWS["s154x224"](images["dino"]))
    parity.check("features.npz", "dinov2_reg4/s154x224/x_norm_clstoken", found.numpy())


def test_each_official_file_is_taken_for_what_it_is(spec_of):
    found = {name: (spec.family, spec.architecture.positions, spec.protocol) for name, spec in _specs(spec_of)}
    dino, mae, dinov2 = ("dino", "dino", "dino/1"), ("mae", "mae", "mae/1"), ("dinov2", "dino", "dinov2/1")
    assert found == {
        **dict.fromkeys(("dino_backbone", "dino_full.teacher", "dino_full.student"), dino),
        "msn.target_encoder": ("msn", "msn", "msn/1"),
        **dict.fromkeys(("mae_pretrain", "mae_full"), mae),
        "mae_finetuned": ("mae", "mae", "mae/2"),
        **dict.fromkeys(("dinov2", "dinov2_swiglu", "dinov2_teacher_chunked"), dinov2),
        "dinov2_reg4": ("dinov2", "antialias", "dinov2/1"),
    }


def test_the_architecture_of_each_file_is_the_one_its_manifest_states(parity, spec_of):
    for name, spec in _specs(spec_of):
        facts, a = parity.manifest["files"][FILES[name][0]], spec.architecture
        native = (a.grid * a.patch, a.width, a.depth, a.heads, a.patch)
        assert native == tuple(facts[key] for key in ("native_img", "embed_dim", "depth", "heads", "patch")), name
        assert a.registers == facts.get("constructor", {}).get("num_register_tokens", 0)
        assert (a.hidden or 4 * a.width) == facts.get("ffn_hidden", 4 * a.width)


def test_every_tensor_of_a_file_is_either_in_the_trunk_or_left_aside(parity):
    from fewvit.checkpoints.reading import read_checkpoint

    for name, (file, key) in FILES.items():
        family = _family_of(name)
        tree = read_checkpoint(parity.folder / file)
        trunk = families()[family].trunk(tree, key)
        network = tree.get(key or _DEFAULT_KEYS.get(name, ""), tree)
        assert sorted([*trunk.mapping.values(), *trunk.dropped]) == sorted(network), name
        left = {part.split(".")[0] for part in (d.removeprefix("module.") for d in trunk.dropped)}
        assert left <= {"head", "fc", "mask_token", "backbone", "dino_head", *_DECODER}, (name, left)


_DEFAULT_KEYS = {
    "dino_full.teacher": "teacher",
    "msn.target_encoder": "target_encoder",
    "dinov2_teacher_chunked": "teacher",
    "mae_pretrain": "model",
    "mae_full": "model",
    "mae_finetuned": "model",
}
_DECODER = ("decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred")


def _family_of(name: str) -> str:
    return name.split("_")[0].split(".")[0]


def _specs(spec_of: Any) -> Iterator[tuple[str, BackboneSpec]]:
    return ((name, spec_of(name)) for name in FILES)


def test_evaluating_the_student_needs_its_key_and_gives_other_features(parity, backbone_of, images):
    x = VIEWS["s96"](images["dino"])
    student, teacher = (encode(backbone_of(f"dino_full.{name}", "eager"), x) for name in ("student", "teacher"))
    assert (student - teacher).abs().max() > 1  # 4.8 in the manifest's list of typical mistakes


def test_the_parity_files_are_not_changed_by_reading_them(parity, spec_of):
    from fewvit.files import sha256_of

    for name, spec in _specs(spec_of):
        assert sha256_of(Path(spec.file)) == parity.manifest["files"][FILES[name][0]]["sha256"] == spec.weights_sha256
