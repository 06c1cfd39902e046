"""Backbones of other registries.

Timm's configuration, the hub's two kinds of repositories, and transformers' names turned back.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from fewvit.backbones import Architecture, family_of_registry
from fewvit.digests import DigestMemory
from fewvit.errors import Unobtainable, UsageError
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models import hub
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.timm_model import TimmModel
from fewvit.models.vit import VisionTransformer

from fake_hub import Repository, point_to, running_hub

SIZES = {
    "dinov2": Architecture(64, 2, 1, 14, grid=5, registers=4, positions="antialias", layer_scale=True),
    "msn": Architecture(64, 2, 1, 16, grid=4, positions="msn"),
    "mae": Architecture(64, 2, 1, 16, grid=4, positions="mae"),
}


def transformers_names(state: dict[str, torch.Tensor], dinov2: bool) -> dict[str, torch.Tensor]:
    """A trunk under transformers' names, written from its model definitions rather than from our table."""
    out = {"embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"]}
    if "register_tokens" in state:
        out["embeddings.register_tokens"] = state["register_tokens"]
    for kind in ("weight", "bias"):
        out[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        out[f"layernorm.{kind}"] = state[f"norm.{kind}"]
    for i in range(2):
        old, new = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            query, key, value = state[f"{old}.attn.qkv.{kind}"].chunk(3)
            out |= {
                f"{new}.attention.attention.query.{kind}": query.contiguous(),
                f"{new}.attention.attention.key.{kind}": key.contiguous(),
                f"{new}.attention.attention.value.{kind}": value.contiguous(),
            }
            out[f"{new}.attention.output.dense.{kind}"] = state[f"{old}.attn.proj.{kind}"]
            out[f"{new}.{'norm1' if dinov2 else 'layernorm_before'}.{kind}"] = state[f"{old}.norm1.{kind}"]
            out[f"{new}.{'norm2' if dinov2 else 'layernorm_after'}.{kind}"] = state[f"{old}.norm2.{kind}"]
            out[f"{new}.{'mlp.fc1' if dinov2 else 'intermediate.dense'}.{kind}"] = state[f"{old}.mlp.fc1.{kind}"]
            out[f"{new}.{'mlp.fc2' if dinov2 else 'output.dense'}.{kind}"] = state[f"{old}.mlp.fc2.{kind}"]
        for scale in ("1", "2") if dinov2 else ():
            out[f"{new}.layer_scale{scale}.lambda1"] = state[f"{old}.ls{scale}.gamma"]
    return out


@pytest.mark.parametrize(
    ("family", "model_type"), [("dinov2", "dinov2_with_registers"), ("msn", "vit_msn"), ("mae", "vit_mae")]
)
def test_weights_under_transformers_names_give_the_official_features(tmp_path, monkeypatch, family, model_type):
    architecture = SIZES[family]
    model = VisionTransformer(architecture)
    randomise(model, 3)
    prefix = {"dinov2": "", "msn": "vit.", "mae": "vit."}[family]
    renamed = {
        prefix + name: tensor for name, tensor in transformers_names(model.state_dict(), family == "dinov2").items()
    }
    if family == "mae":
        renamed["decoder.mask_token"] = torch.zeros(1, 1, 8)
    weights = save({name: tensor.clone() for name, tensor in renamed.items()})
    files = {"model.safetensors": weights, "config.json": json.dumps({"model_type": model_type}).encode()}
    with running_hub() as one:
        one.repositories["some/model"] = Repository(files)
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        spec = resolve("hf:some/model", Access(tmp_path / "cache", accept=["cc-by-nc-4.0"]), DigestMemory())
    assert resolve("hf:some/model", Access(tmp_path / "cache", offline=True), DigestMemory()) == spec
    assert (spec.name, spec.family) == ("hf:some/model", family)
    pixels = architecture.patch * architecture.grid
    images = torch.randn(3, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    loaded = build(spec, Readout(norm="none"), (pixels, pixels), engine="eager")
    np.testing.assert_allclose(
        loaded.encode(images), model.eval().read(images, Readout(norm="none")).detach(), atol=1e-6
    )


def of_transformers(config: dict, preprocessor: dict | None) -> dict[str, bytes]:
    """A repository's files: MSN's trunk of width 64, which is one head by its width."""
    model = VisionTransformer(SIZES["msn"])
    randomise(model, 3)
    renamed = {f"vit.{name}": tensor.clone() for name, tensor in transformers_names(model.state_dict(), False).items()}
    files = {
        "model.safetensors": save(renamed),
        "config.json": json.dumps({"model_type": "vit_msn", **config}).encode(),
    }
    return files if preprocessor is None else files | {"preprocessor_config.json": json.dumps(preprocessor).encode()}


def test_heads_and_statistics_of_a_repository_are_those_of_its_configurations_offline_too(tmp_path, monkeypatch):
    statistics = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.75]}
    with running_hub() as one:
        one.repositories["some/model"] = Repository(of_transformers({"num_attention_heads": 4}, statistics))
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        spec = resolve("hf:some/model", Access(tmp_path / "cache", accept=["cc-by-nc-4.0"]), DigestMemory())
    assert spec.architecture.heads == 4
    preprocess = settle(spec, FeatureOptions()).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
    assert resolve("hf:some/model", Access(tmp_path / "cache", offline=True), DigestMemory()) == spec


def test_a_repository_without_statistics_is_asked_for_them_once_and_its_word_is_kept(tmp_path, monkeypatch):
    with running_hub() as one:
        one.repositories["some/model"] = Repository(of_transformers({}, None))
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        access = Access(tmp_path / "cache", accept=["cc-by-nc-4.0"])
        spec = resolve("hf:some/model", access, DigestMemory())
        assert resolve("hf:some/model", access, DigestMemory()) == spec
        assert [name for _, name, _, _ in one.asked].count("preprocessor_config.json") == 1
    assert spec.preprocess == {}
    assert resolve("hf:some/model", Access(tmp_path / "cache", offline=True), DigestMemory()) == spec


def test_statistics_that_cannot_be_asked_for_are_no_guess(tmp_path, monkeypatch):
    with running_hub() as one:
        one.repositories["some/model"] = Repository(
            of_transformers({}, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        )
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        resolve("hf:some/model", Access(tmp_path / "cache", accept=["cc-by-nc-4.0"]), DigestMemory())
    (kept,) = (tmp_path / "cache").rglob("*preprocessor_config.json")
    kept.unlink()
    with pytest.raises(Unobtainable, match=r"preprocessor_config\.json"):
        resolve("hf:some/model", Access(tmp_path / "cache", offline=True), DigestMemory())


def test_a_timm_repository_brings_its_own_normalisation_and_licence(tmp_path, monkeypatch):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architecture": "vit_tiny_patch16_224",
                "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "apache-2.0"},
            }
        )
    )
    monkeypatch.setattr(hub, "_fetched", lambda repository, name, license_, access: tmp_path / name)
    spec = resolve("hf:some/tiny", Access(tmp_path / "cache"), DigestMemory())
    pipeline = settle(spec, FeatureOptions())
    assert (pipeline.preprocess.mean, pipeline.preprocess.std, spec.license) == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        "apache-2.0",
    )
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    expected = model.eval().forward_features(images)[:, 0].detach()
    np.testing.assert_allclose(build(spec, Readout(), (224, 224)).encode(images), expected, atol=1e-5)


def test_timm_s_transform_is_taken_over_and_remembered(tmp_path, monkeypatch):
    access = Access(tmp_path)
    variant = hub.timm_variant("vit_base_patch32_clip_224.openai", access)
    assert variant.preprocess["cover"] == (248, 248)
    assert variant.preprocess["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert re.fullmatch(
        r"https://huggingface\.co/timm/vit_base_patch32_clip_224\.openai/resolve/main/model\.safetensors", variant.url
    )
    monkeypatch.setattr(hub, "_ask_timm", lambda name: pytest.fail("timm was asked again"))
    again = hub.timm_variant("vit_base_patch32_clip_224.openai", access)
    assert again.architecture == variant.architecture
    assert tuple(again.preprocess["crop"]) == (224, 224)


def test_a_misspelt_timm_model_is_answered_with_the_nearest_name(tmp_path):
    with pytest.raises(UsageError, match="vit_base_patch16_224"):
        resolve("timm:vit_base_patch16_242", Access(tmp_path), DigestMemory(), weights="random")


@pytest.mark.parametrize("name", ["hf:", "hf:org", "hf:a/b/c"])
def test_a_hub_name_must_be_org_and_name(tmp_path, name):
    with pytest.raises(UsageError, match="hf:ORG/NAME"):
        resolve(name, Access(tmp_path), DigestMemory())


def test_the_hub_offline_says_where_to_put_the_files(tmp_path):
    with pytest.raises(Unobtainable, match=r"config\.json"):
        resolve("hf:facebook/vit-msn-small", Access(tmp_path, offline=True), DigestMemory())


@pytest.mark.parametrize(
    ("name", "told"), [("gated/model", "accepted its terms"), ("none/none", "no none/none"), ("a--b/c", "no name")]
)
def test_what_the_hub_refuses_is_an_error_of_usage_before_anything_is_kept(tmp_path, monkeypatch, name, told):
    with running_hub() as one:
        one.repositories["gated/model"] = Repository({"config.json": b"{}"}, "gated")
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        with pytest.raises(UsageError, match=told):
            resolve(f"hf:{name}", Access(tmp_path / "cache"), DigestMemory())
    assert not list(tmp_path.rglob("*config.json*"))


def test_a_model_of_unknown_kind_asks_for_its_family(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    monkeypatch.setattr(hub, "_fetched", lambda repository, name, license_, access: tmp_path / name)
    with pytest.raises(UsageError, match="--family"):
        resolve("hf:some/bert", Access(tmp_path), DigestMemory())


def test_non_commercial_weights_stay_so_by_way_of_timm(tmp_path):
    from fewvit.errors import LicenseRequired

    assert hub.timm_variant("vit_base_patch16_224.mae", Access(tmp_path)).license == "cc-by-nc-4.0"
    with pytest.raises(LicenseRequired):
        resolve("timm:vit_base_patch16_224.mae", Access(tmp_path), DigestMemory())


@pytest.mark.parametrize(
    "name",
    ["vit_medium_patch16_gap_240.sw_in12k", "vit_base_patch16_siglip_224.webli", "vit_huge_patch14_gap_224.in1k_ijepa"],
)
def test_a_vit_of_timm_without_a_class_token_takes_the_mean_and_refuses_cls(name, tmp_path):
    """SigLIP's and I-JEPA's patches are all there is; none of them stands for the image."""
    row = hub.timm_variant(name, Access(tmp_path))
    spec = BackboneSpec(
        f"timm:{name}", family_of_registry("timm"), row.architecture, "timm/1", "0" * 64, tokens=row.tokens
    )
    assert settle(spec, FeatureOptions()).pool == ("attn" if "_siglip_" in name else "mean")
    for pool in ("cls", "cls+mean"):
        with pytest.raises(UsageError, match=f"--pool {re.escape(pool)}: .* has no class token"):
            settle(spec, FeatureOptions(pool=pool))


def test_the_mean_of_a_vit_without_a_class_token_is_over_every_patch():
    architecture = Architecture(512, 12, 0, 0, grid=0, positions="timm", timm="vit_medium_patch16_gap_240")
    model = TimmModel(architecture, (240, 240)).eval()
    images = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model.trunk(images)  # timm's own pooling and norm, without its head
        np.testing.assert_allclose(model.read(images, Readout(pool="mean")), expected, atol=1e-5)
    with pytest.raises(UsageError, match="no class token"):
        model.read(images, Readout())
