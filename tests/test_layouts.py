"""One whole trunk in a stranger's file: under any prefix, in other names; several of them; none, and what is near."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.describe import file_facts
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.vit import VisionTransformer

TINY = Architecture(128, 2, 2, 16, grid=4)


def state(seed: int = 3) -> dict[str, torch.Tensor]:
    model = VisionTransformer(TINY)
    randomise(model, seed)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def under(prefix: str, tensors: dict) -> dict:
    return {prefix + name: value for name, value in tensors.items()}


def renamed(tensors: dict, *pairs: tuple[str, str]) -> dict:
    found = {}
    for name, value in tensors.items():
        for old, new in pairs:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def in_mmpretrain(tensors: dict) -> dict:
    pairs = [(r"^norm\.", "ln1."), (r"\.norm", ".ln"), (r"^blocks", "layers"), ("proj", "projection")]
    pairs += [("attn.projection", "attn.proj"), (r"mlp\.fc1", "ffn.layers.0.0"), (r"mlp\.fc2", "ffn.layers.1")]
    return renamed(tensors, *pairs)


def in_transformers(tensors: dict) -> dict:
    found = renamed(
        tensors,
        (r"^norm\.", "layernorm."),
        (r"^cls_token", "embeddings.cls_token"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^blocks", "encoder.layer"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"attn\.proj", "attention.output.dense"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    )
    for name in [name for name in found if "attn.qkv" in name]:
        for part, value in zip(("query", "key", "value"), found.pop(name).chunk(3), strict=True):
            found[name.replace("attn.qkv", f"attention.attention.{part}")] = value
    return found


ONE = {
    "module": lambda t: under("module.", t),
    "compiled and parallel": lambda t: under("module._orig_mod.", t),
    "fully sharded": lambda t: renamed(
        t, (r"^blocks\.(\d+)\.", r"_fsdp_wrapped_module.blocks.\1._fsdp_wrapped_module.")
    ),
    "DINO's run, compiled": lambda t: {
        "teacher": under("_orig_mod.backbone.", t),
        "student": under("module._orig_mod.backbone.", state(7)),
    },
    "a lone teacher": lambda t: {"teacher": under("module.backbone.", t), "epoch": 3},
    "Lightning": lambda t: {"state_dict": {**under("model.backbone.", t), "model.head.weight": torch.zeros(3, 128)}},
    "dicts in dicts": lambda t: {"app": {"model": {"net": under("vit.", t)}}, "optimizer": {"state": {0: {}}}},
    "lightly": lambda t: {
        "state_dict": {**under("backbone.vit.", t), "projection_head.layers.0.weight": torch.zeros(3)}
    },
    "mmpretrain": lambda t: {"meta": {}, "state_dict": under("backbone.", in_mmpretrain(t))},
    "transformers": lambda t: in_transformers(t),
    "transformers' ViT with a head": lambda t: {
        **under("vit.", in_transformers(t)),
        "classifier.weight": torch.zeros(10, 128),
        "vit.pooler.dense.weight": torch.zeros(128, 128),
    },
    "transformers in Lightning": lambda t: {"state_dict": under("net.vit.", in_transformers(t))},
}
TWO = {
    "student_backbone teacher_backbone": lambda a, b: {
        "state_dict": {**under("student_backbone.", a), **under("teacher_backbone.", b), "head.weight": torch.zeros(3)}
    },
    "backbone momentum_backbone": lambda a, b: {
        "state_dict": {**under("backbone.", a), **under("momentum_backbone.", b)}
    },
    "student teacher": lambda a, b: {"state_dict": {**under("backbone.student.", a), **under("backbone.teacher.", b)}},
    "weights average": lambda a, b: {"weights": under("vit.", a), "average": under("vit.", b)},
}


@pytest.fixture
def home(tmp_path) -> Access:
    return Access(tmp_path / "cache", offline=True)


def spec_of(tree: dict, folder: Path, access: Access, **options) -> BackboneSpec:
    torch.save(tree, folder / "x.pth")
    return resolve(str(folder / "x.pth"), access, DigestMemory(), **{"family": "dino", **options})


def holds(spec: BackboneSpec, tensors: dict) -> bool:
    found = build(spec, Readout(), (64, 64), engine="eager").model.state_dict()
    return set(found) == set(tensors) and all(torch.equal(found[name], tensors[name]) for name in found)


@pytest.mark.parametrize("kind", ONE)
def test_one_trunk_is_found_under_any_prefix_and_in_other_libraries_names(kind, home, tmp_path):
    assert holds(spec_of(ONE[kind](state()), tmp_path, home), state())


@pytest.mark.parametrize("kind", TWO)
def test_of_several_trunks_each_is_chosen_by_the_words_that_the_error_lists(kind, home, tmp_path):
    tree = TWO[kind](state(3), state(7))
    with pytest.raises(UsageError, match="2 whole ViTs") as error:
        spec_of(tree, tmp_path, home)
    keys = re.findall(r"--checkpoint-key ([\w.]+\w)", str(error.value))
    assert keys == kind.split()
    for key, seed in zip(keys, (3, 7), strict=True):
        assert holds(spec_of(tree, tmp_path, home, checkpoint_key=key), state(seed))
    with pytest.raises(UsageError, match="chooses none of 2 whole ViTs"):
        spec_of(tree, tmp_path, home, checkpoint_key="other")


def test_where_the_trunk_was_found_is_told_once(tmp_path):
    told: list[str] = []
    home = Access(tmp_path / "cache", offline=True, notify=told.append)
    for _ in range(2):
        spec_of({"state_dict": under("net.", in_mmpretrain(state()))}, tmp_path, home)
    assert len(told) == 1
    where = "x.pth: the ViT under state_dict.net in mmpretrain's names is taken for dino (--family), "
    assert told[0].startswith(where)


def test_a_named_variant_finds_its_trunk_under_a_prefix_too(home, tmp_path):
    model = VisionTransformer(Architecture(192, 12, 3, 16))
    randomise(model, 3)
    torch.save({"net": under("_orig_mod.", model.state_dict())}, tmp_path / "x.pth")
    spec = resolve("dino_vitt16", home, DigestMemory(), weights=str(tmp_path / "x.pth"))
    found = build(spec, Readout(), (224, 224), engine="eager").model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_check_maps_each_tensor_to_its_name_in_the_file_and_says_where_the_trunk_is(home, tmp_path):
    torch.save({"state_dict": {**under("module.net.", state()), "head.weight": torch.zeros(3)}}, tmp_path / "x.pth")
    facts = file_facts(tmp_path / "x.pth", home, DigestMemory(), checkpoint_key=None, family="dino", whole=True)
    assert facts["network"] == "state_dict.net"
    assert "module.net.cls_token -> cls_token (1, 1, 128)" in facts["mapping"]
    assert facts["left_aside"] == ["head.weight"]


def without(*names: str) -> dict:
    return {name: value for name, value in state().items() if name not in names}


NONE = {
    "a model that averages": (
        lambda: {"encoder": under("module.", without("cls_token"))},
        "encoder has no class token",
    ),
    "I-JEPA's run": (
        lambda: {k: under("module.", without("cls_token")) for k in ("encoder", "target_encoder")},
        "no class token: I-JEPA by its keys encoder and target_encoder",
    ),
    "timm's DINOv3": (
        lambda: {**without("pos_embed"), "rope.periods": torch.zeros(16)},
        "rotary positions under timm's",
    ),
    "no first block": (lambda: without("blocks.0.attn.qkv.weight"), "incomplete: missing blocks.0.attn.qkv.weight"),
    "no patch embedding": (lambda: without("patch_embed.proj.weight"), "incomplete: missing patch_embed.proj.weight"),
    "a ResNet": (lambda: {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, "ResNet"),
}


@pytest.mark.parametrize("kind", NONE)
@pytest.mark.parametrize("family", [None, "dino"])
def test_where_no_trunk_is_whole_the_error_says_what_is_missing(kind, family, home, tmp_path):
    tree, words = NONE[kind]
    with pytest.raises(CheckpointError, match=words) as error:
        spec_of(tree(), tmp_path, home, family=family)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.weight", "blocks.1.norm1.bias", "norm.weight"])
def test_a_trunk_that_lacks_a_tensor_is_called_incomplete_by_its_name(name, home, tmp_path):
    for wrapped in (lambda t: t, lambda t: {"net": under("module.", t)}):
        with pytest.raises(CheckpointError, match=f"is incomplete: .*missing {name}") as error:
            spec_of(wrapped(without(name)), tmp_path, home)
        assert "architecture" not in str(error.value)
        assert "check" not in str(error.value).replace("checkpoint", "")


def test_a_trunk_that_lacks_a_kind_of_tensor_in_every_block_is_of_another_architecture(home, tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)does not fit .*another architecture"):
        spec_of(without("blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.bias"), tmp_path, home)
