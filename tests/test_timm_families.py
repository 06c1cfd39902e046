"""Families whose models timm builds: what their rows say is what timm builds, and their features are timm's own."""

from __future__ import annotations

import json

import pytest
import torch

from fewvit.backbones import families
from fewvit.backbones._tokens import by_name
from fewvit.digests import DigestMemory
from fewvit.errors import UsageError
from fewvit.extraction.calls import load_backbone
from fewvit.extraction.catalogue import any_facts
from fewvit.extraction.notes import own_reading
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models import hub
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access

from fake_hub import Repository, point_to, running_hub

ROWS = {name: row for kind in families().values() if kind.registry == "timm" for name, row in kind.variants.items()}
SMALL = [
    *("beitv2_vitb16", "eva02_vitt14", "radiov3_vitb16", "pe_core_vitt16", "siglip2_vitb16", "eupe_vitt16"),
    *("eupe_convnext_tiny", "deit_distilled_vits16"),
]
# by the sheet of facts: family -> (class tokens, the head of timm's model, what it is read by)
FACTS = {
    "beitv2_vitb16": (1, "mean", "mean"),
    "eva02_vitt14": (1, "mean", "mean"),
    "ijepa_vith14": (0, "mean", "mean"),
    "radiov4_so400m16": (1, "cls", "cls"),
    "pe_core_vitb16": (1, "attn", "attn"),
    "pe_core_vitg14": (0, "attn", "attn"),
    "siglip2_vitb16": (0, "attn", "attn"),
    "aimv2_vitl14": (0, "mean", "mean"),
    "eupe_vits16": (1, "mean", "cls"),
    "eupe_convnext_tiny": (0, "mean", "mean"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in ROWS])
def test_a_row_says_what_timm_builds(name, tmp_path):
    """Tokens, head, size, widths, pixels and licence, against the model and the configuration of timm."""
    row, kind = ROWS[name], next(kind for kind in families().values() if name in kind.variants)
    own = hub.timm_variant(row.architecture.timm, Access(tmp_path))
    assert row.tokens == own.tokens
    assert row.parameters == own.parameters
    assert row.architecture.width == own.architecture.width
    if own.architecture.depth > 1:
        assert row.architecture.depth == own.architecture.depth
    usual = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic"}
    assert {**usual, **row.preprocess} == own.preprocess
    if own.url.startswith("https://huggingface.co/timm/"):
        assert row.url == own.url
    licence = (row.license or kind.license).lower()
    assert licence == own.license or "timm" in kind.license_note


@pytest.mark.parametrize("name", FACTS)
def test_tokens_head_and_pool_are_those_of_the_sheet_of_facts(name):
    row = ROWS[name]
    assert (row.tokens.classes, row.tokens.head, row.tokens.pool) == FACTS[name]


@pytest.mark.parametrize("name", ["eva02_vitt14", "eupe_vitt16", "pe_core_vitt16"])
def test_features_are_those_of_timms_own_head_or_its_class_token(name, tmp_path, capsys):
    """The mean is what timm's head is given, class token and norm are timm's, whatever the head would take."""
    backbone = load_backbone(name, weights="random", engine="eager", cache_dir=tmp_path)
    trunk, row = backbone.model.trunk, ROWS[name]
    side = row.preprocess["crop"][0]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        tokens = trunk.forward_features(images)
        own = trunk.forward_head(tokens, pre_logits=True)
        features = backbone.encode(images)
    if row.tokens.pool in ("mean", "attn"):
        torch.testing.assert_close(features, own, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(features, tokens[:, 0], atol=1e-5, rtol=1e-5)
        assert float((features - own).abs().max()) > 1e-2  # timm's head gives something else
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "eupe_vits16",
            ["class token, as its authors read it; timm averages the patch tokens", "mean 0.485", "256x256"],
        ),
        ("siglip2_vitb16", ["own attention pool (--pool)", "mean 0.5,0.5,0.5", "resized to"]),
        ("radiov3_vitb16", ["class token (--pool)", "mean 0.481,0.458,0.408", "512x512"]),
        ("timm:vit_base_patch14_reg1_tipsv2.webli", ["class token", "pixels from 0 to 1 as they are", "448x448"]),
        ("timm:vit_small_patch16_dinov3.lvd1689m", ["as its authors read it; timm averages", "--img-size"]),
    ],
)
def test_one_line_says_which_pool_and_pixels_are_taken_and_the_flags(name, words, tmp_path):
    spec = resolve(name, Access(tmp_path), DigestMemory(), weights="random")
    options = FeatureOptions()
    line = own_reading(settle(spec, options), options)
    assert line is not None
    assert [word for word in words if word not in line] == []
    assert "\n" not in line
    asked = FeatureOptions(pool="mean")
    assert "read by its mean patch token (--pool); pixels" in (own_reading(settle(spec, asked), asked) or "")


def test_of_i_jepas_files_the_target_encoder_is_read_and_the_encoder_by_its_key():
    tree = {
        part: {"module.norm.weight": torch.full((2,), value)}
        for part, value in (("encoder", 3.0), ("target_encoder", 7.0))
    }
    kind = families()["ijepa"]
    assert kind.trunk(tree, None).tensors["norm.weight"].tolist() == [7, 7]
    assert kind.trunk(tree, "encoder").tensors["norm.weight"].tolist() == [3, 3]


def test_a_model_of_transformers_whose_files_are_not_read_is_answered_with_the_tables_names(tmp_path, monkeypatch):
    with running_hub() as one:
        one.repositories["some/siglip"] = Repository({"config.json": b'{"model_type": "siglip2"}'})
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        with pytest.raises(UsageError, match="--backbone siglip2_vitb16"):
            resolve("hf:some/siglip", Access(tmp_path / "cache"), DigestMemory())


def test_repositories_of_the_hub_are_described_by_their_configuration_alone(tmp_path, monkeypatch):
    """No weights are in them here: timm's statistics and licence, and transformers' sizes of a row of the table."""
    timms = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "cc-by-nc-4.0"},
    }
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    configs = {
        "some/timms": timms,
        "some/dinov2": {"model_type": "dinov2", **sizes},
        "some/odd": {"model_type": "dinov2", **sizes, "hidden_size": 320},
    }
    memory = DigestMemory()
    with running_hub() as one:
        for name, config in configs.items():
            one.repositories[name] = Repository({"config.json": json.dumps(config).encode()})
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        access = Access(tmp_path / "cache")
        facts = any_facts("hf:some/timms", access, memory)
        assert (facts["mean"], facts["commercial"], facts["head"]) == ([0.1, 0.2, 0.3], "no", "cls")
        facts = any_facts("hf:some/dinov2", access, memory)
        assert (facts["family"], facts["protocol"], facts["parameters"]) == (
            "dinov2",
            "dinov2/1",
            22_056_576 - 384,
        )  # no mask token
        assert (facts["registers"], facts["url"].rpartition("/some/")[2]) == (
            0,
            "dinov2/resolve/main/model.safetensors",
        )
        with pytest.raises(UsageError, match="no dinov2 of the table has its sizes"):
            any_facts("hf:some/odd", access, memory)
        assert {name for _, name, _, _ in one.asked} == {"config.json"}


@pytest.mark.parametrize("name", FACTS)
def test_what_a_name_is_taken_for_has_the_class_tokens_of_its_row_but_where_names_do_not_tell(name):
    """Rows carry their tokens; a name alone is enough for the older families that have none."""
    row = ROWS[name]
    guess = by_name(row.architecture.timm)
    silent = ("aimv2_vitl14",)
    assert (guess.classes == row.tokens.classes) == (name not in silent)
