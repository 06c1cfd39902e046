"""DINOv3: every stored array, against what the official code gave for it; and files that lack something."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.protocols import find_protocol
from fewvit.images import decode
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.engines import packing_works
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.rotary import RotaryPositions
from fewvit.models.spec import Access, BackboneSpec

from ..conftest import Parity

VITS = {
    "dinov3_vits": ("s256", "s160x224", "s224"),
    "dinov3_vitsplus": ("s256", "s160x224", "s224"),
    "dinov3_vit7b": ("s256", "s160x224", "s224"),
}
OF_A_VIT = (
    "cls",
    "storage",
    "patchtokens_sub",
    "patchmean",
    "prenorm_cls",
    "inter_cls",
    "inter_patchmean",
    "inter_storage_img0",
    "inter_patchtokens_sub",
)
OF_A_CONVNEXT = (
    "cls",
    "patchtokens_img0",
    "patchmean",
    "inter_cls_last",
    "inter_patchmean_last",
    "stage2_cls",
    "stage2_patchmean",
    "patch16_map_img0",
)
VIEWS = {"s256": (slice(0, 256), slice(0, 256)), "s160x224": (slice(48, 208), slice(16, 240))}
VIEWS["s224"] = (slice(16, 240), slice(16, 240))
KEYS = [f"{name}/{view}/{what}" for name, views in VITS.items() for view in views for what in OF_A_VIT]
KEYS += [f"dinov3_convnext/{view}/{what}" for view in VIEWS for what in OF_A_CONVNEXT]


@pytest.fixture(scope="module")
def official(parity) -> Parity:
    return Parity(parity.folder / "dinov3")


@pytest.fixture(scope="module")
def spec_of(official, tmp_path_factory) -> Callable[[str], BackboneSpec]:
    access, memory = Access(tmp_path_factory.mktemp("cache"), offline=True), DigestMemory()
    return functools.cache(lambda name: resolve(str(official.folder / f"{name}.pth"), access, memory))


@pytest.fixture(scope="module")
def backbone_of(spec_of) -> Callable[[str, str], Backbone]:
    return functools.cache(lambda name, engine: build(spec_of(name), Readout(), (224, 224), engine=engine))


@pytest.fixture(scope="module")
def images(official) -> Mapping[str, torch.Tensor]:
    """The eight images of each view, normalised."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(official.arrays("preprocess.npz")["dinov3"]).permute(0, 3, 1, 2)
    x = (pixels.float() / 255 - mean) / std
    return {view: x[:, :, rows, columns] for view, (rows, columns) in VIEWS.items()}


def encode(backbone: Backbone, x: torch.Tensor, pool: str = "cls", layers: int = 1) -> torch.Tensor:
    return Backbone(backbone.model, backbone.spec, Readout(pool, layers)).encode(x)


def per_layer(features: torch.Tensor, depth: int) -> torch.Tensor:
    """(B, depth D) as (depth, B, D)."""
    return features.view(len(features), depth, -1).transpose(0, 1)


def reading(backbone: Backbone, x: torch.Tensor, what: str, at: torch.Tensor) -> torch.Tensor:
    """What features.npz stores of a ViT under the name `what` for the images of a view."""
    depth, prefix = backbone.spec.architecture.depth, backbone.model.prefix
    with torch.inference_mode():
        match what:
            case "cls":
                return encode(backbone, x)
            case "patchmean":
                return encode(backbone, x, "mean")
            case "inter_cls":
                return per_layer(encode(backbone, x, layers=depth), depth)
            case "inter_patchmean":
                return per_layer(encode(backbone, x, "mean", depth), depth)
            case "storage":
                return backbone.tokens(x[:2])[0][:, 1:prefix]
            case "patchtokens_sub":
                return backbone.tokens(x[:2])[0][:, prefix:][:, at]
            case "inter_storage_img0":
                return torch.stack([tokens[0, 1:prefix] for tokens in backbone.tokens(x[:1], layers=depth)])
            case "inter_patchtokens_sub":
                return torch.stack([tokens[:, prefix:][:, at] for tokens in backbone.tokens(x[:2], layers=depth)])
            case "prenorm_cls":
                return backbone.model.last_blocks(x)[0][:, 0]
    raise KeyError(what)


def of_convnext(backbone: Backbone, x: torch.Tensor, what: str) -> torch.Tensor:
    """The same of a ConvNeXt."""
    with torch.inference_mode():
        match what:
            case "cls" | "inter_cls_last":
                return encode(backbone, x)
            case "patchmean" | "inter_patchmean_last":
                return encode(backbone, x, "mean")
            case "patchtokens_img0":
                return backbone.tokens(x[:1])[0][0, 1:]
            case "stage2_cls":
                return backbone.tokens(x, layers=2)[0][:, 0]
            case "stage2_patchmean":
                return backbone.tokens(x, layers=2)[0][:, 1:].mean(dim=1)
            case "patch16_map_img0":  # the last map resized to a ViT's, then normed
                height, width = x.shape[-2:]
                cells = backbone.model.last_blocks(x[:1])[0][:, 1:].transpose(1, 2)
                wide = torch.nn.functional.interpolate(
                    cells.unflatten(2, (height // 32, width // 32)),
                    (height // 16, width // 16),
                    mode="bilinear",
                    antialias=True,
                )
                return backbone.model.final_norm(wide[0].permute(1, 2, 0)).permute(2, 0, 1)
    raise KeyError(what)


def test_no_stored_array_is_forgotten(official):
    stored = {key for key in official.arrays("features.npz") if "tok_idx" not in key}
    assert set(KEYS) == stored
    assert len(KEYS) == len(set(KEYS))


@pytest.mark.parametrize("engine", ["eager", "packed"])
@pytest.mark.parametrize("key", KEYS)
def test_an_encoding_is_the_official_one(key, engine, official, backbone_of, images):
    name, view, what = key.split("/")
    if engine == "packed" and (name == "dinov3_convnext" or not packing_works()):
        pytest.skip("no packed oneDNN layers for it on this machine")
    backbone, x = backbone_of(name, engine), images[view]
    if name == "dinov3_convnext":
        found = of_convnext(backbone, x, what)
    else:
        at = torch.from_numpy(official.arrays("features.npz")[f"tok_idx/{view}"])
        found = reading(backbone, x, what, at)
    official.check("features.npz", key, found.numpy())


@pytest.mark.parametrize("name", [*VITS, "dinov3_convnext"])
def test_the_official_linear_probe_reads_cls_and_mean(name, official, backbone_of, images):
    """`create_linear_input` is the class token and the patch mean of the last block, one after the other."""
    found = encode(backbone_of(name, "eager"), images["s224"], "cls+mean").numpy()
    parts = ("cls", "patchmean") if name == "dinov3_convnext" else ("inter_cls", "inter_patchmean")
    stored = [official.arrays("features.npz")[f"{name}/s224/{what}"] for what in parts]
    wanted = np.concatenate([part if part.ndim == 2 else part[-1] for part in stored], axis=1)
    np.testing.assert_allclose(found, wanted, atol=4e-5)


@pytest.mark.parametrize(
    "name", ["dinov3_vits", *(pytest.param(n, marks=pytest.mark.slow) for n in (*list(VITS)[1:], "dinov3_convnext"))]
)
def test_openvino_in_fp32_gives_the_official_class_token(name, official, spec_of, images):
    pytest.importorskip("openvino")
    found = build(spec_of(name), Readout(), (160, 224), engine="openvino").encode(images["s160x224"])
    stored = official.arrays("features.npz")[f"{name}/s160x224/cls"]
    np.testing.assert_allclose(found.numpy(), stored, atol=5e-5)


@pytest.mark.parametrize("name", [*VITS, "dinov3_convnext"])
def test_autocast_stays_near_the_official_class_token(name, official, spec_of, images):
    found = build(spec_of(name), Readout(), (224, 224), engine="eager", precision="bf16").encode(images["s224"])
    stored = official.arrays("features.npz")[f"{name}/s224/cls"]
    assert 1e-4 < np.abs(found.numpy() - stored).max() < 0.1


@pytest.mark.parametrize(("head", "file"), [(64, "dinov3_vits"), (128, "dinov3_vit7b")])
def test_periods_and_their_cosines_and_sines_are_the_official_ones(head, file, official, backbone_of):
    cosines, sines = backbone_of(file, "eager").model.rope_embed.turn(14, 10, 0)
    official.check("rope.npz", f"head{head}/14x10/cos", cosines.numpy())
    official.check("rope.npz", f"head{head}/14x10/sin", sines.numpy())
    official.check("rope.npz", f"head{head}/periods_used", backbone_of(file, "eager").model.rope_embed.periods.numpy())
    official.check("rope.npz", f"head{head}/periods_regenerated_fp32", RotaryPositions(head).periods.numpy())


@pytest.mark.parametrize("policy", ["fast", "pil"])
@pytest.mark.parametrize(("protocol", "stored"), [("dinov3/1", "dinov3_eval224_first2"), ("dinov3-square/1", "dinov3")])
def test_pixels_under_a_protocol_are_the_official_ones_within_two(protocol, stored, policy, official, shared):
    wanted, preprocess = official.arrays("preprocess.npz")[stored], find_protocol(protocol).preprocess
    with zipfile.ZipFile(shared / "data" / "imagenet18.zip") as archive:
        for name, pixels in zip(official.arrays("preprocess.npz")["file_names"], wanted, strict=False):
            found, _ = decode(archive.read(str(name)), preprocess, policy)
            assert np.abs(found.astype(int) - pixels.astype(int)).max() <= 2


# ---- files that lack something, and typical mistakes of a loader


@pytest.fixture
def saved(official, tmp_path) -> Callable[..., str]:
    """Saves an official file as `change` leaves it, and gives its path."""

    def save(name: str, change: Callable[[dict[str, Any]], Any]) -> str:
        tree = torch.load(official.folder / f"{name}.pth", weights_only=True)
        change(tree)
        torch.save(tree, tmp_path / "changed.pth")
        return str(tmp_path / "changed.pth")

    return save


def resolved(path: str, tmp_path, **options) -> BackboneSpec:
    return resolve(path, Access(tmp_path / "cache", offline=True), DigestMemory(), **options)


def without(ending: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for name in [name for name in tree if name.endswith(ending)]:
            del tree[name]

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("dinov3_vits", without("storage_tokens"), "storage_tokens is missing(.|\n)*EUPE"),
        ("dinov3_vits", without("bias_mask"), r"blocks\.0\.attn\.qkv\.bias_mask is missing"),
        ("dinov3_vits", without("rope_embed.periods"), r"rope_embed\.periods is missing"),
        ("dinov3_vits", lambda tree: tree["blocks.1.attn.qkv.bias_mask"].fill_(np.nan), r"blocks\.1.*bias_mask has no"),
        ("dinov3_vits", lambda tree: tree.update({"rope_embed.periods": torch.ones(24)}), "24 periods are(.|\n)*128"),
        ("dinov3_vits", without("rope_embed.periods"), r"rope_embed\.periods"),
        ("dinov3_vitsplus", without("0.mlp.w2.weight"), r"blocks\.0\.mlp\.w2\.weight is missing"),
        ("dinov3_vits", without("blocks.0.ls1.gamma"), "ls1.gamma"),
        ("dinov3_convnext", without("stages.2.1.gamma"), "gamma"),
        ("dinov3_convnext", without("stages.2.0.gamma"), "gamma"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_its_name(name, change, words, saved, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        resolved(saved(name, change), tmp_path)


def test_a_mask_is_not_missed_where_keys_have_no_bias(saved, tmp_path, official, images):
    """As where it was applied before the file was saved: SwiGLU's file has zeros there."""
    spec = resolved(saved("dinov3_vitsplus", without("bias_mask")), tmp_path)
    official.check(
        "features.npz", "dinov3_vitsplus/s224/cls", build(spec, Readout(), None).encode(images["s224"]).numpy()
    )


def test_masked_biases_have_no_effect(saved, tmp_path, official, images):
    def change(tree):
        for name in [name for name in tree if name.endswith("qkv.bias")]:
            tree[name].chunk(3)[1].fill_(99)

    spec = resolved(saved("dinov3_vits", change), tmp_path)
    official.check("features.npz", "dinov3_vits/s224/cls", build(spec, Readout(), None).encode(images["s224"]).numpy())


def test_the_second_of_two_norms_is_the_one_that_counts(saved, tmp_path, official, images):
    spec = resolved(saved("dinov3_convnext", lambda tree: tree.update({"norm.weight": torch.ones(32)})), tmp_path)
    found = build(spec, Readout(), None).encode(images["s224"]).numpy()
    official.check("features.npz", "dinov3_convnext/s224/cls", found)


@pytest.mark.parametrize(
    ("mistake", "least"),
    [("periods in float32", 0.005), ("eps", 1e-4), ("mean", 1.0), ("pairs", 0.1), ("corners", 0.1), ("swapped", 0.1)],
)
def test_a_typical_mistake_would_be_seen(mistake, least, official, spec_of, images, monkeypatch):
    """Each changes the class token by far more than what the parity tests allow."""
    backbone = build(spec_of("dinov3_vits"), Readout(), (160, 224), engine="eager")
    rope, read = backbone.model.rope_embed, "cls"
    if mistake == "periods in float32":
        rope.periods.copy_(RotaryPositions(64).periods)
    elif mistake == "eps":
        for part in backbone.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.eps = 1e-6
    elif mistake == "mean":
        read = "mean"
    elif mistake == "pairs":
        import fewvit.models.rotary as rotary

        def pairs(x, cosines, sines):
            turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
            return x * cosines + turned * sines

        monkeypatch.setattr(rotary, "turned", pairs)
    elif mistake == "corners":
        at = [torch.linspace(-1, 1, n) for n in (10, 14)]
        places = torch.stack(torch.meshgrid(*at, indexing="ij"), -1).flatten(0, 1)
        angles = (2 * np.pi * places[:, :, None] / rope.periods).flatten(1).tile(2)
        monkeypatch.setattr(type(rope), "angles", lambda self, rows, columns: angles)
    else:
        angles = rope.angles(10, 14).unflatten(1, (2, 2, 16)).flip(2).flatten(1)
        monkeypatch.setattr(type(rope), "angles", lambda self, rows, columns: angles)
    found = encode(backbone, images["s160x224"], read).numpy()
    assert np.abs(found - official.arrays("features.npz")["dinov3_vits/s160x224/cls"]).max() > least


# ---- what is said of a file, and what cannot be


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("dinov3_vits", {"heads": 4}, "--heads 4: its periods are those of 2 heads"),
        ("dinov3_vits", {"grid": "14x14"}, "--grid 14x14: its positions are rotary"),
        ("dinov3_convnext", {"heads": 4}, "--heads 4: a ConvNeXt has no heads"),
        ("dinov3_convnext", {"grid": "7x7"}, "--grid 7x7: a ConvNeXt has no position table"),
    ],
)
def test_what_periods_or_stages_settle_is_not_told_otherwise(name, flags, words, official, tmp_path):
    from fewvit.models.told import Told

    with pytest.raises(UsageError, match=words):
        resolved(str(official.folder / f"{name}.pth"), tmp_path, told=Told.of(**flags))


def test_a_file_is_announced_with_what_it_says_itself(official, tmp_path):
    lines: list[str] = []
    access = Access(tmp_path / "cache", offline=True, notify=lines.append)
    for name in ("dinov3_vit7b", "dinov3_convnext"):
        resolve(str(official.folder / f"{name}.pth"), access, DigestMemory())
    assert "ViT of width 128, 1 blocks, patch 16: heads 1 (by its periods), positions rotary, mean/std" in lines[0]
    assert "ConvNeXt of width 32, 5 blocks, patch 32: mean/std" in lines[1]
