"""Franca, TIPSv2, iBOT, Web-SSL and MoCo v3: their tables, whose a file is taken for, and files that are refused."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture, families, find_variant
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import is_path, resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.told import Told
from fewvit.models.vit import VisionTransformer

GIT = "https://github.com/valeoai/Franca/releases/download/"
TIPS = "https://storage.googleapis.com/tips_data/v2_0/checkpoints/pytorch/"
IBOT = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/"
META = "https://dl.fbaipublicfiles.com/"
B, L, G = (768, 12, 12), (1024, 24, 16), (1536, 40, 24)
# name -> (width, depth, heads), patch, grid, hidden of SwiGLU or of the MLP (0: four times the width), address
ROWS: dict[str, tuple[tuple[int, int, int], int, int, int, str]] = {
    "franca_vitb14": (B, 14, 37, 2048, f"{GIT}v1.0.0/franca_vitb14_In21K.pth"),
    "franca_vitb14_224": (B, 14, 16, 2048, f"{GIT}v1.1.0/franca_vitb14_In21K_224.pth"),
    "franca_vitl14": (L, 14, 16, 2736, ""),
    "franca_vitl14_laion": (L, 14, 37, 2736, f"{GIT}v1.1.0/franca_vitl14_Laion_518.pth"),
    "franca_vitl14_laion_224": (L, 14, 16, 2736, f"{GIT}v1.1.0/franca_vitl14_Laion600M_224.pth"),
    "franca_vitg14": (G, 14, 16, 4096, ""),
    "franca_vitg14_laion": (G, 14, 16, 4096, f"{GIT}v1.0.0/franca_vitg14_Laion600M_chunked.tar.gz.part_aa"),
    "franca_dinov2_vitb14": (B, 14, 16, 2048, f"{GIT}v1.1.0/franca_vitb14_Dinov2_In21K.pth"),
    "franca_dinov2_vitb14_518": (B, 14, 37, 2048, f"{GIT}v1.1.0/franca_vitb14_Dinov2_In21K_518.pth"),
    "franca_dinov2_vitl14": (L, 14, 16, 2736, f"{GIT}v1.1.0/franca_vitl14_Dinov2_In21K.pth"),
    "franca_dinov2_vitl14_518": (L, 14, 37, 2736, f"{GIT}v1.1.0/franca_vitl14_Dinov2_In21K_518.pth"),
    "tipsv2_vitb14": (B, 14, 32, 0, f"{TIPS}tips_v2_oss_b14_vision.npz"),
    "tipsv2_vitl14": (L, 14, 32, 0, f"{TIPS}tips_v2_oss_l14_vision.npz"),
    "tipsv2_vitso400m14": ((1152, 27, 16), 14, 32, 4304, f"{TIPS}tips_v2_oss_so14_vision.npz"),
    "tipsv2_vitg14": (G, 14, 32, 4096, f"{TIPS}tips_v2_oss_g14_vision.npz"),
    "ibot_vits16": ((384, 12, 6), 16, 14, 0, f"{IBOT}vits_16/checkpoint_teacher.pth"),
    "ibot_vitb16": (B, 16, 14, 0, f"{IBOT}vitb_16/checkpoint_teacher.pth"),
    "ibot_vitb16_rand": (B, 16, 14, 0, f"{IBOT}vitb_16_rand_mask/checkpoint_teacher.pth"),
    "ibot_vitl16": (L, 16, 14, 0, f"{IBOT}vitl_16/checkpoint_teacher.pth"),
    "ibot_vitl16_rand": (L, 16, 14, 0, f"{IBOT}vitl_16_rand_mask/checkpoint_teacher.pth"),
    "ibot_vitb16_22k": (B, 16, 14, 0, f"{IBOT}vitb_16_pt22k/checkpoint_student.pth"),
    "ibot_vitl16_22k": (L, 16, 14, 0, f"{IBOT}vitl_16_pt22k/checkpoint_student.pth"),
    "mocov3_vits16": ((384, 12, 12), 16, 14, 0, f"{META}moco-v3/vit-s-300ep/vit-s-300ep.pth.tar"),
    "mocov3_vitb16": (B, 16, 14, 0, f"{META}moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"),
    "webssl_dino300m": (L, 14, 16, 2736, f"{META}webssl/webssl_dino300m_full2b_224.pth"),
    "webssl_dino1b": (G, 14, 16, 4096, f"{META}webssl/webssl_dino1b_full2b_224.pth"),
    "webssl_dino2b": ((2688, 24, 21), 14, 16, 7168, f"{META}webssl/webssl_dino2b_full2b_224.pth"),
    "webssl_dino3b": ((3072, 26, 24), 14, 16, 8192, f"{META}webssl/webssl_dino3b_full2b_224.pth"),
    "webssl_dino5b": ((3584, 32, 28), 14, 16, 9560, f"{META}webssl/webssl_dino5b_full2b_224.pth"),
    "webssl_dino7b": ((4096, 32, 32), 14, 16, 10928, f"{META}webssl/webssl_dino7b_full8b_224.pth"),
    "webssl_dino7b_378": ((4096, 32, 32), 14, 27, 10928, f"{META}webssl/webssl_dino7b_full8b_378.pth"),
    "webssl_dino7b_518": ((4096, 32, 32), 14, 37, 10928, f"{META}webssl/webssl_dino7b_full8b_518.pth"),
    "webssl_dino2b_light": ((2688, 24, 21), 14, 16, 7168, f"{META}webssl/webssl_dino2b_light2b_224.pth"),
    "webssl_dino2b_heavy": ((2688, 24, 21), 14, 16, 7168, f"{META}webssl/webssl_dino2b_heavy2b_224.pth"),
    "webssl_dino3b_light": ((3072, 26, 24), 14, 16, 8192, f"{META}webssl/webssl_dino3b_light2b_224.pth"),
    "webssl_dino3b_heavy": ((3072, 26, 24), 14, 16, 8192, f"{META}webssl/webssl_dino3b_heavy2b_224.pth"),
    "webssl_mae300m": (L, 16, 14, 0, f"{META}webssl/webssl_mae300m_full2b_224.pth"),
    "webssl_mae700m": ((1280, 32, 16), 14, 16, 0, f"{META}webssl/webssl_mae700m_full2b_224.pth"),
    "webssl_mae1b": (G, 14, 16, 0, f"{META}webssl/webssl_mae1b_full2b_224.pth"),
    "webssl_mae2b": ((2688, 24, 21), 14, 16, 0, f"{META}webssl/webssl_mae2b_full2b_224.pth"),
    "webssl_mae3b": ((3072, 26, 24), 14, 16, 0, f"{META}webssl/webssl_mae3b_full2b_224.pth"),
}
NUMBERS = {  # k-NN, linear
    "franca_vitb14": (79.6, 82.6),
    "franca_vitb14_224": (77.5, 82.0),
    "franca_vitl14": (82.6, 84.2),
    "franca_vitl14_laion": (82.5, 85.2),
    "franca_vitl14_laion_224": (82.2, 84.5),
    "franca_vitg14": (83.1, 85.9),
    "franca_vitg14_laion": (82.8, 85.0),
    "tipsv2_vitb14": (79.8, None),
    "tipsv2_vitl14": (82.5, None),
    "tipsv2_vitso400m14": (82.8, None),
    "tipsv2_vitg14": (83.7, None),
    "ibot_vits16": (75.2, 77.9),
    "ibot_vitb16": (77.1, 79.5),
    "ibot_vitl16": (78.0, 81.0),
    "ibot_vitb16_22k": (71.1, 79.0),
    "ibot_vitl16_22k": (72.9, 82.3),
    "mocov3_vits16": (None, 73.2),
    "mocov3_vitb16": (None, 76.7),
}
FAMILIES = ("franca", "ibot", "mocov3", "tipsv2", "webssl")


def test_no_row_is_forgotten_and_each_file_has_a_name_of_its_own():
    rows = {name: row for family in FAMILIES for name, row in families()[family].variants.items()}
    assert set(rows) == set(ROWS)
    files = [row.file_name for row in rows.values() if row.url]
    assert len(set(files)) == len(files)
    assert find_variant("ibot_vitb16")[1].file_name == "ibot_vitb_16_teacher.pth"


@pytest.mark.parametrize("name", ROWS)
def test_a_row_holds_what_the_official_code_says(name):
    family, row = find_variant(name)
    a = row.architecture
    shape, patch, grid, hidden, url = ROWS[name]
    assert (a.width, a.depth, a.heads) == shape
    assert (a.patch, a.grid, a.hidden, row.url) == (patch, grid, hidden, url)
    gated = family == "franca" or name.startswith("webssl_dino") or name == "tipsv2_vitg14"
    assert (a.feed_forward == "swiglu") == gated
    assert a.layer_scale == (family in ("franca", "tipsv2") or name.startswith("webssl_dino"))
    assert a.registers == (family == "tipsv2")
    positions = {"tipsv2": "tipsv2", "mocov3": "mae"}.get(family, "mae" if "mae" in name else "dino")
    assert (a.positions, a.eps) == (positions, 1e-6)
    knn, linear = NUMBERS.get(name, (row.published.get("knn"), row.published.get("linear")))
    assert (row.published.get("knn"), row.published.get("linear")) == (knn, linear)
    assert (row.preprocess, a.timm) == ({}, "")


def test_licences_forbid_commerce_where_their_authors_do():
    found = {family: families()[family].license for family in FAMILIES}
    assert found == {
        "franca": "Franca-Research-RAIL",
        "ibot": "Apache-2.0",
        "mocov3": "CC-BY-NC-4.0",
        "tipsv2": "Apache-2.0",
        "webssl": "CC-BY-NC-4.0",
    }


def test_protocols_are_the_official_transforms():
    settled = {name: settle(spec_named(name), FeatureOptions()) for name in ("franca_vitb14", "tipsv2_vitb14")}
    settled |= {name: settle(spec_named(name), FeatureOptions()) for name in ("mocov3_vitb16", "webssl_mae700m")}
    usual = {"cover": (256, 256), "crop": (224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    tips = {"cover": (448, 448), "crop": (448, 448), "mean": (0, 0, 0), "std": (1, 1, 1), "stretched": True}
    assert settled["franca_vitb14"].preprocess.to_dict() == {**usual, "interpolation": "bicubic"}
    assert settled["webssl_mae700m"].preprocess.to_dict() == {**usual, "interpolation": "bicubic"}
    assert settled["mocov3_vitb16"].preprocess.to_dict() == {**usual, "interpolation": "bilinear"}
    assert settled["tipsv2_vitb14"].preprocess.to_dict() == {**tips, "interpolation": "bilinear"}
    low = settle(spec_named("tipsv2_vitb14"), FeatureOptions(protocol="tipsv2-lowres/1")).preprocess
    other = settle(spec_named("tipsv2_vitb14"), FeatureOptions(protocol="dino/1")).preprocess
    assert (low.cover, low.crop, low.mean, low.std) == ((224, 224), (224, 224), (0, 0, 0), (1, 1, 1))
    assert (other.mean, other.std) == ((0, 0, 0), (1, 1, 1))  # the model's, whatever the protocol
    with pytest.raises(UsageError, match="another mean"):
        spec_named("tipsv2_vitb14").require_imagenet_statistics()


def spec_named(name: str) -> BackboneSpec:
    return resolve(name, Access(Path("unused"), offline=True), DigestMemory(), weights="random")


@pytest.mark.parametrize("norm", ["final", "raw"])
def test_the_second_class_token_is_for_models_that_have_one(norm, tmp_path):
    assert settle(spec_named("tipsv2_vitb14"), FeatureOptions(pool="cls2")).pool == "cls2"
    for name in ("dino_vits16", "dinov2_vits14_reg", "deit_distilled_vits16"):
        with pytest.raises(UsageError, match="one class token"):
            settle(spec_named(name), FeatureOptions(pool="cls2"))
    spec, x = resolved(save(tips(), tmp_path / "t.pth"), tmp_path), torch.randn(2, 3, 70, 56)
    both = build(spec, Readout(layers=2), (70, 56), engine="eager").tokens(x, layers=2)
    raw = build(spec, Readout(), (70, 56), engine="eager").model.last_blocks(x, 2)
    wanted = torch.cat([tokens[:, 1] for tokens in (both if norm == "final" else raw)], dim=1)
    found = build(spec, Readout("cls2", 2, norm), (70, 56), engine="eager")
    torch.testing.assert_close(found.encode(x), wanted)
    assert found.readout.width(64) == wanted.shape[1]


# ---- files


TINY = Architecture(64, 2, 1, 14, grid=4, layer_scale=True)
GATED = dataclasses.replace(TINY, feed_forward="swiglu", hidden=176)


def state(architecture: Architecture, seed: int = 3) -> dict[str, torch.Tensor]:
    model = VisionTransformer(architecture)
    randomise(model, seed)
    names = {"fc1": "w12", "fc2": "w3"} if architecture.feed_forward == "swiglu" else {}
    found = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        found[name] = value.clone()
    return found


def v2(architecture: Architecture) -> dict[str, torch.Tensor]:
    return {**state(architecture), "mask_token": torch.zeros(1, architecture.width)}


def tips(registers: int = 1, **changed: Any) -> dict[str, torch.Tensor]:
    return v2(dataclasses.replace(TINY, registers=registers, **changed))


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def wide(width: int, cells: int = 16, **more: int) -> dict[str, torch.Tensor]:
    """The names and shapes of a DINOv2 with SwiGLU, without memory: to be recognised, not to be built."""
    named = {"blocks.0.ls1.gamma": (width,), "mask_token": (1, width), "blocks.0.mlp.w12.weight": (8, width)}
    named |= {"patch_embed.proj.weight": (width, 3, 14, 14), "pos_embed": (1, 1 + cells, width)}
    return {name: torch.empty(shape, device="meta") for name, shape in named.items()}


PLAIN = dataclasses.replace(TINY, layer_scale=False)
MOCO = Architecture(384, 1, 12, 16, grid=2, positions="mae")


def moco() -> dict[str, Any]:
    base, momentum = under("module.base_encoder.", state(MOCO)), under("module.momentum_encoder.", state(MOCO, 7))
    heads = {"module.base_encoder.head.0.weight": torch.zeros(3), "module.predictor.0.weight": torch.zeros(3)}
    return {"epoch": 300, "arch": "vit_small", "state_dict": {**base, **momentum, **heads}, "optimizer": {}}


TREES: dict[str, tuple[str, Any]] = {
    "one register": ("tipsv2", tips),
    "four registers": ("dinov2", lambda: tips(4)),
    "a teacher with SwiGLU": ("franca", lambda: {"teacher": under("backbone.", v2(GATED))}),
    "a teacher without": ("dinov2", lambda: {"teacher": under("backbone.", v2(TINY))}),
    "SwiGLU under bare names": ("dinov2", lambda: v2(GATED)),
    "SwiGLU as wide as B": ("franca", lambda: wide(768)),
    "SwiGLU as wide as L": ("webssl", lambda: wide(1024)),
    "DINOv2's g": ("dinov2", lambda: wide(1536, 37 * 37)),
    "Web-SSL's 1B": ("webssl", lambda: wide(1536, 256)),
    "Web-SSL's 7B": ("webssl", lambda: wide(4096, 256)),
    "iBOT's student": ("ibot", lambda: {**state(PLAIN), "masked_embed": torch.zeros(1, 64)}),
    "iBOT's run": (
        "ibot",
        lambda: {
            "student": under("module.backbone.", {**state(PLAIN, 7), "masked_embed": torch.zeros(1, 64)}),
            "teacher": {**under("backbone.", state(PLAIN)), "head.mlp.0.weight": torch.zeros(3)},
            "ibot_loss": {"center": torch.zeros(1, 3)},
        },
    ),
    "iBOT's teacher": ("dino", lambda: {"state_dict": state(PLAIN)}),
    "MoCo v3": ("mocov3", moco),
}


@pytest.mark.parametrize("kind", TREES)
def test_a_layout_is_recognised_by_exactly_one_family(kind):
    family, tree = TREES[kind]
    made = tree()
    assert [name for name, one in families().items() if one.recognises(made)] == [family]


def save(tree: Any, path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in tree.items()})
    else:
        torch.save(tree, path)
    return path


def resolved(
    file: Path, folder: Path, told: list[str] | None = None, name: str = "", said: Told | None = None, **options: Any
) -> BackboneSpec:
    notify = told.append if told is not None else (lambda line: None)
    options |= {"told": said} if said is not None else {}
    access = Access(folder / "cache", offline=True, notify=notify)
    given = {"weights": str(file)} if name else {}
    return resolve(name or str(file), access, DigestMemory(), **given, **options)


def test_an_npz_and_a_torch_file_of_one_encoder_are_one_backbone(tmp_path):
    tree, x = tips(), torch.randn(2, 3, 70, 56)
    specs = [resolved(save(tree, tmp_path / f"t{suffix}"), tmp_path) for suffix in (".npz", ".pth")]
    assert is_path("t.npz")
    assert [(spec.family, spec.protocol) for spec in specs] == [("tipsv2", "tipsv2/1")] * 2
    features = [build(spec, Readout("cls2"), (70, 56), engine="eager").encode(x) for spec in specs]
    assert torch.equal(*features)


def test_what_is_assumed_of_a_file_of_tipsv2_is_told_and_can_be_told_otherwise(tmp_path):
    file, told = save(tips(), tmp_path / "t.npz"), []
    spec = resolved(file, tmp_path, told)
    assert "taken for tipsv2 (by its layout)" in told[0]
    assert "mean 0,0,0 std 1,1,1 (assumed; --mean --std)" in told[0]
    assert (spec.preprocess["mean"], spec.preprocess["std"]) == ((0, 0, 0), (1, 1, 1))
    half = resolved(file, tmp_path, said=Told.of(mean="0,0,0", std="1,1,1"))
    assert half.preprocess == {"mean": (0, 0, 0), "std": (1, 1, 1)}
    other = resolved(file, tmp_path, said=Told.of(mean="0.5,0.5,0.5"))
    assert settle(other, FeatureOptions()).preprocess.mean == (0.5, 0.5, 0.5)


def test_the_width_of_so400m_has_16_heads():
    tensors = {"blocks.0.mlp.fc2.weight": (1152, 4304), "register_tokens": (1, 1, 1152), "pos_embed": (1, 1025, 1152)}
    tensors |= {"patch_embed.proj.weight": (1152, 3, 14, 14), "blocks.26.norm1.weight": (1152,)}
    tensors |= {"blocks.0.ls1.gamma": (1152,)}
    shapes = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
    assert families()["tipsv2"].infer(shapes) == find_variant("tipsv2_vitso400m14")[1].architecture


@pytest.mark.parametrize(("width", "heads"), [(2688, 21), (3072, 24), (3584, 28), (4096, 32), (1024, 16)])
def test_the_widths_of_web_ssl_have_its_heads(width, heads):
    tensors = {**wide(width, 256), "blocks.0.mlp.fc2.weight": torch.empty(width, 8, device="meta")}
    assert families()["webssl"].infer(tensors).heads == heads


@pytest.mark.parametrize("name", ["", "tipsv2_vitb14"])
def test_three_class_tokens_where_two_are_is_refused_by_name(name, tmp_path):
    options = {} if name else {"family": "tipsv2"}
    with pytest.raises(CheckpointError, match=r"3 class tokens .*TIPSv2 has 2|is a dinov2 file, not weights of tipsv2"):
        build(resolved(save(tips(2), tmp_path / "t.npz"), tmp_path, name=name, **options), Readout(), (224, 224))
    twice = {**tips(), "cls_token": torch.zeros(1, 2, 64)}
    with pytest.raises(CheckpointError, match=r"cls_token has \(1, 2, 64\)"):
        build(resolved(save(twice, tmp_path / "u.npz"), tmp_path, name=name), Readout(), (224, 224))


def test_what_a_file_may_be_besides_franca_is_told_and_family_corrects_it(tmp_path):
    told: list[str] = []
    file = save(TREES["a teacher with SwiGLU"][1](), tmp_path / "f.pth")
    spec = resolved(file, tmp_path, told)
    assert "taken for franca (by its layout, which DINOv2's own runs with SwiGLU share; --family)" in told[0]
    other = resolved(file, tmp_path, told, family="dinov2")
    assert "taken for dinov2 (--family)" in told[1]
    assert (spec.license, other.license) == ("Franca-Research-RAIL", "Apache-2.0")
    x = torch.randn(2, 3, 70, 56)
    assert torch.equal(*(build(one, Readout(), (70, 56), engine="eager").encode(x) for one in (spec, other)))


@pytest.mark.parametrize("family", ["tipsv2", "mocov3", "msn"])
def test_a_wrong_family_is_refused(family, tmp_path):
    with pytest.raises((CheckpointError, UsageError)):
        resolved(save(TREES["a teacher with SwiGLU"][1](), tmp_path / "f.pth"), tmp_path, family=family)


def test_moco_v3s_small_vit_has_12_heads_and_says_so(tmp_path):
    told: list[str] = []
    file = save(moco(), tmp_path / "m.pth.tar")
    spec = resolved(file, tmp_path, told)
    assert (spec.family, spec.architecture, spec.license) == ("mocov3", MOCO, "CC-BY-NC-4.0")
    assert "taken for mocov3 (by its layout), ViT of width 384" in told[0]
    assert "heads 12 (assumed; --heads)" in told[0]
    for key, seed in ((None, 3), ("momentum_encoder", 7)):
        one = resolved(file, tmp_path, checkpoint_key=key)
        made = build(one, Readout(), (32, 32), engine="eager").model.state_dict()
        assert all(torch.equal(made[name], value) for name, value in state(MOCO, seed).items())


def test_ibots_networks_are_chosen_by_their_keys(tmp_path):
    file = save(TREES["iBOT's run"][1](), tmp_path / "i.pth")
    for key, seed in ((None, 3), ("student", 7)):
        spec = resolved(file, tmp_path, checkpoint_key=key)
        made = build(spec, Readout(), (56, 56), engine="eager").model.state_dict()
        assert spec.protocol == "ibot/1"
        assert all(torch.equal(made[name], value) for name, value in state(PLAIN, seed).items())


def test_ibots_mean_without_the_norm_is_its_protocols_and_not_for_timms_models():
    pipeline = settle(spec_named("ibot_vits16"), FeatureOptions(protocol="ibot-avgpool/1"))
    assert (pipeline.pool, pipeline.norm) == ("mean", "raw")
    with pytest.raises(UsageError, match="before the final norm"):
        settle(spec_named("deit_vits16"), FeatureOptions(protocol="ibot-avgpool/1"))


# ---- .npz files that anyone may have made


def npz(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def lying(shape: str) -> bytes:
    """A header that announces another shape than the four numbers behind it have."""
    return npy(np.zeros(4, np.float32)).replace(b"(4,), }" + b" " * (len(shape) - 4), shape.encode() + b", }")


HOSTILE = {
    "a pickle": ({"x.npy": npy(np.array([{}], object))}, "are no numbers"),
    "text": ({"x.npy": npy(np.array(["cls_token"]))}, "are no numbers"),
    "more than is there": ({"x.npy": lying("(4000000000000,)")}, "announces 16,000,000,000,000 bytes and has 16"),
    "less than is there": ({"x.npy": lying("(2,)")}, "announces 8 bytes and has 16"),
    "half a number": ({"x.npy": npy(np.zeros(4, np.float32))[:-2]}, "announces 16 bytes and has 14"),
    "no array": ({"x.npy": b"hello"}, "EOF: reading magic string"),
    "a number that torch has not": ({"x.npy": npy(np.zeros(4, np.longdouble))}, "damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_npz_that_is_no_weights_is_refused(kind, tmp_path):
    members, words = HOSTILE[kind]
    with pytest.raises(CheckpointError, match=words) as error:
        read_checkpoint(npz(tmp_path / "x.npz", members))
    assert error.value.exit_code == 4
    assert str(error.value).count("\n") <= 1


def test_a_damaged_a_cut_and_a_huge_npz_are_refused(tmp_path):
    whole = npz(tmp_path / "x.npz", {"x.npy": npy(np.arange(999, dtype=np.float32))}).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data, words in ((bytes(flipped), "Bad CRC-32"), (whole[: len(whole) // 2], "cut or damaged")):
        (tmp_path / "y.npz").write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(tmp_path / "y.npz")
    bomb = npz(tmp_path / "z.npz", {"x.npy": npy(np.zeros(1 << 22))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="would come out of"):
        read_checkpoint(bomb)


def test_numbers_of_any_order_and_kind_come_out_as_they_are(tmp_path):
    arrays = {
        "rows": np.arange(12.0, dtype=np.float32).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big": np.arange(5, dtype=">f4"),
        "half": np.arange(5, dtype=np.float16),
        "none": np.zeros((0, 3), np.float32),
        "one": np.float32(7),
    }
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    for name in ("plain.npz", "packed.npz"):
        found = read_checkpoint(tmp_path / name)
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key].numpy(), value)
            assert found[key].shape == np.shape(value)
