"""The families' tables, fact by fact, and what a weights file is taken for, filled into, or refused as."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fewvit
from fewvit import load_backbone
from fewvit.backbones import BUNDLED, OFFLINE, Architecture, families, find_variant, variants
from fewvit.classifiers.knn import KNNClassifier
from fewvit.datasets import open_dataset
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, DataError, UnknownName, Unobtainable, UsageError
from fewvit.extraction.extract import extract
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Work
from fewvit.files import sha256_of
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.layouts import recognise
from fewvit.models.readout import Readout
from fewvit.models.resolve import is_path, resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.told import Told
from fewvit.models.vit import VisionTransformer
from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD

# ---- the tables; every number from the fact sheet

DINO, MSN, MAE, DINOV2 = (f"https://dl.fbaipublicfiles.com/{name}/" for name in ("dino", "msn", "mae", "dinov2"))
# variant -> width, depth, heads, patch, grid of the position table; the end of the URL
SHAPES = {
    "dino_vits16": ((384, 12, 6, 16, 14), "dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"),
    "dino_vits8": ((384, 12, 6, 8, 28), "dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth"),
    "dino_vitb16": ((768, 12, 12, 16, 14), "dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"),
    "dino_vitb8": ((768, 12, 12, 8, 28), "dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth"),
    "dino_vits8_300ep": ((384, 12, 6, 8, 28), "dino_deitsmall8_300ep_pretrain/dino_deitsmall8_300ep_pretrain.pth"),
    "dino_vits16_gldv2": (
        (384, 12, 6, 16, 14),
        "dino_vitsmall16_googlelandmark_pretrain/dino_vitsmall16_googlelandmark_pretrain.pth",
    ),
    "dino_vitt16": ((192, 12, 3, 16, 14), ""),
    "msn_vits16": ((384, 12, 6, 16, 14), "vits16_800ep.pth.tar"),
    "msn_vitb16": ((768, 12, 12, 16, 14), "vitb16_600ep.pth.tar"),
    "msn_vitl16": ((1024, 24, 16, 16, 14), "vitl16_600ep.pth.tar"),
    "msn_vitb4": ((768, 12, 12, 4, 56), "vitb4_300ep.pth.tar"),
    "msn_vitl7": ((1024, 24, 16, 7, 32), "vitl7_200ep.pth.tar"),
    "mae_vitb16": ((768, 12, 12, 16, 14), "pretrain/mae_pretrain_vit_base.pth"),
    "mae_vitl16": ((1024, 24, 16, 16, 14), "pretrain/mae_pretrain_vit_large.pth"),
    "mae_vith14": ((1280, 32, 16, 14, 16), "pretrain/mae_pretrain_vit_huge.pth"),
    "mae_vitb16_full": ((768, 12, 12, 16, 14), "pretrain/mae_pretrain_vit_base_full.pth"),
    "mae_vitl16_full": ((1024, 24, 16, 16, 14), "pretrain/mae_pretrain_vit_large_full.pth"),
    "mae_vith14_full": ((1280, 32, 16, 14, 16), "pretrain/mae_pretrain_vit_huge_full.pth"),
    "mae_vitl16_visualize": ((1024, 24, 16, 16, 14), "visualize/mae_visualize_vit_large.pth"),
    "mae_vitb16_finetuned": ((768, 12, 12, 16, 14), "finetune/mae_finetuned_vit_base.pth"),
    "mae_vitl16_finetuned": ((1024, 24, 16, 16, 14), "finetune/mae_finetuned_vit_large.pth"),
    "mae_vith14_finetuned": ((1280, 32, 16, 14, 16), "finetune/mae_finetuned_vit_huge.pth"),
    **{
        f"dinov2_vit{size}14{suffix}": (shape, f"dinov2_vit{size}14/dinov2_vit{size}14{file}_pretrain.pth")
        for size, shape in {
            "s": (384, 12, 6, 14, 37),
            "b": (768, 12, 12, 14, 37),
            "l": (1024, 24, 16, 14, 37),
            "g": (1536, 40, 24, 14, 37),
        }.items()
        for suffix, file in (("", ""), ("_reg", "_reg4"))
    },
}
MD5 = {"mae_vitb16": "8cad7c", "mae_vitl16": "b8b06e", "mae_vith14": "9bdbb0"}
MD5 |= {"mae_vitb16_finetuned": "1b25e9", "mae_vitl16_finetuned": "51f550", "mae_vith14_finetuned": "2541f2"}


def shots(one: str, two: str, five: str) -> dict[int, str]:
    return {n: text.replace("±", " ± ") for n, text in ((1, one), (2, two), (5, five))}


PUBLISHED = {
    "dino_vits16": {"knn": 74.5, "linear": 77.0, "1%": 64.5, "lowshot": shots("38.9±0.4", "48.9±0.3", "58.5±0.1")},
    "dino_vits8": {"knn": 78.3, "linear": 79.7, "lowshot": shots("45.5±0.4", "56.0±0.7", "64.7±0.4")},
    "dino_vitb16": {"knn": 76.1, "linear": 78.2, "1%": 67.0, "lowshot": shots("41.8±0.3", "51.9±0.6", "61.4±0.2")},
    "dino_vitb8": {"knn": 77.4, "linear": 80.1, "1%": 70.0, "lowshot": shots("45.8±0.5", "55.9±0.6", "64.6±0.2")},
    "msn_vits16": {"1%": 67.2, "linear": 76.9, "lowshot": shots("47.1±0.1", "55.8±0.6", "62.8±0.3")},
    "msn_vitb16": {"1%": 69.5, "lowshot": shots("49.8±0.2", "58.9±0.4", "65.5±0.3")},
    "msn_vitl16": {"1%": 70.1},
    "msn_vitb4": {"1%": 75.7, "lowshot": shots("54.3±0.4", "64.6±0.7", "72.4±0.3")},
    "msn_vitl7": {"1%": 75.1, "linear": 80.7, "lowshot": shots("57.1±0.6", "66.4±0.6", "72.1±0.2")},
    "mae_vitb16": {"linear": 67.8, "finetune": 83.6, "lowshot": shots("8.2±0.3", "25.0±0.3", "40.5±0.2")},
    "mae_vitl16": {"linear": 76.0, "finetune": 85.9, "lowshot": shots("12.3±0.2", "19.3±1.8", "42.3±0.3")},
    "mae_vith14": {"linear": 77.2, "finetune": 86.9, "lowshot": shots("11.6±0.4", "18.6±0.2", "32.8±0.2")},
    "mae_vitb16_finetuned": {"finetune": 83.664},
    "mae_vitl16_finetuned": {"finetune": 85.952},
    "mae_vith14_finetuned": {"finetune": 86.928},
    "dinov2_vits14": {"knn": 79.0, "linear": 81.1},
    "dinov2_vitb14": {"knn": 82.1, "linear": 84.5},
    "dinov2_vitl14": {"knn": 83.5, "linear": 86.3},
    "dinov2_vitg14": {"knn": 83.5, "linear": 86.5},
    "dinov2_vits14_reg": {"knn": 79.1, "linear": 80.9},
    "dinov2_vitb14_reg": {"knn": 82.0, "linear": 84.6},
    "dinov2_vitl14_reg": {"knn": 83.8, "linear": 86.7},
    "dinov2_vitg14_reg": {"knn": 83.7, "linear": 87.1},
}
FAMILIES = {
    "dino": ("Apache-2.0", DINO, "dino", "dino/1"),
    "dinov2": ("Apache-2.0", DINOV2, "dino", "dinov2/1"),
    "mae": ("CC-BY-NC-4.0", MAE, "mae", "mae/1"),
    "msn": ("CC-BY-NC-4.0", MSN, "msn", "msn/1"),
}


def test_no_official_variant_is_forgotten():
    ours = {name for name in variants() if not find_variant(name)[1].architecture.timm}
    assert {name for name in ours if variants()[name] in FAMILIES} == set(SHAPES) | {OFFLINE}
    assert set(FAMILIES) <= set(families())


def test_no_name_and_no_file_stands_in_two_tables():
    rows = [(name, row) for family in families().values() for name, row in family.variants.items()]
    assert len({name for name, _ in rows}) == len(rows)
    urls = [row.url for _, row in rows if row.url]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_holds_what_the_fact_sheet_says(name):
    family, row = find_variant(name)
    a = row.architecture
    shape, tail = SHAPES[name]
    _, base, positions, _ = FAMILIES[family]
    assert (a.width, a.depth, a.heads, a.patch, a.grid) == shape
    assert row.url == (base + tail if tail else "")
    assert a.positions == ("antialias" if name.endswith("_reg") else positions)
    assert a.registers == (4 if name.endswith("_reg") else 0)
    assert (a.feed_forward, a.hidden) == (("swiglu", 4096) if "vitg" in name else ("mlp", 0))
    assert a.layer_scale == (family == "dinov2")
    assert a.final_norm == ("fc_norm" if name.endswith("_finetuned") else "norm")
    assert row.md5_prefix == MD5.get(name, "")
    assert dict(row.published) == PUBLISHED.get(name, {})
    assert (row.preprocess, a.timm) == ({}, "")
    if name not in PUBLISHED:
        assert row.note  # why there is no number


def test_the_backbone_that_comes_along_is_small_whole_and_what_its_manifest_says(home):
    import tomllib

    row, facts = find_variant(OFFLINE)[1], json.loads((BUNDLED / f"{OFFLINE}.json").read_text())
    file = BUNDLED / row.file_name
    assert sha256_of(file) == row.sha256 == facts["sha256"]
    assert file.stat().st_size <= 12e6
    assert row.architecture.to_dict() == facts["backbone"]["architecture"] == facts["run"]["recipe"]["architecture"]
    assert {name: list(value) for name, value in row.preprocess.items()} == {
        name: facts["backbone"]["preprocess"][name] for name in ("cover", "crop")
    }
    recipe = tomllib.loads((Path(__file__).parents[1] / f"recipes/{OFFLINE}.toml").read_text())
    run = facts["run"]
    assert (recipe["preset"], recipe["seed"], recipe["set"]) == (
        run["preset"],
        run["seed"],
        [f"lr={run['recipe']['lr'] * 1e3:g}e-3"],
    )
    assert [recipe[key] for key in ("epochs", "batch-size", "precision")] == [
        run["recipe"][key] for key in ("epochs", "batch_size", "precision")
    ]
    module = build(resolved(OFFLINE, home), Readout(), (64, 64), engine="eager")
    assert sum(tensor.numel() for tensor in module.model.state_dict().values()) == facts["parameters"] <= 6e6


@pytest.mark.slow
def test_the_backbone_that_comes_along_has_learnt_to_see(home):
    found = {}
    for weights in (None, "random"):
        spec = resolved(OFFLINE, home, weights=weights)
        pipeline = settle(spec, FeatureOptions())
        sets = [extract(pipeline, open_dataset(f"digits/{part}"), None, Work()) for part in ("train", "test")]
        found[weights] = (
            KNNClassifier(k=20).fit(sets[0].features, sets[0].labels).score(sets[1].features, sets[1].labels)
        )
    assert found[None] > 0.85
    assert found["random"] < 0.6


def test_where_weights_cannot_be_had_the_error_names_the_backbone_that_comes_along(home):
    with pytest.raises(Unobtainable, match="--backbone fewvit_tiny"):
        resolved("dino_vits16", home)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_states_its_licence_source_and_protocol(name):
    family = families()[name]
    licence, _, _, protocol = FAMILIES[name]
    assert (family.license, family.protocol) == (licence, protocol)
    assert family.source == f"https://github.com/facebookresearch/{name}"


def test_a_baseline_names_a_model_that_timm_has_with_its_widths_and_transform():
    import timm

    for name, row in families()["supervised"].variants.items():
        a, config = row.architecture, timm.models.get_pretrained_cfg(row.architecture.timm)
        assert config is not None, name
        assert row.url == f"https://huggingface.co/timm/{a.timm}/resolve/main/model.safetensors"
        assert tuple(config.input_size[1:]) == row.preprocess["crop"], name
        assert tuple(int(side / config.crop_pct) for side in config.input_size[1:]) == row.preprocess["cover"], name
        assert config.interpolation == "bicubic"
        assert tuple(config.mean) == row.preprocess.get("mean", (0.485, 0.456, 0.406)), name
        assert tuple(config.std) == row.preprocess.get("std", (0.229, 0.224, 0.225)), name
        assert (row.license or families()["supervised"].license).lower() == str(config.license).lower(), name


@pytest.mark.parametrize("name", ["deit_vitt16", "swin_t", "deit_distilled_vits16"])
def test_a_baselines_row_has_the_width_and_depth_of_timms_model(name):
    import timm

    a = families()["supervised"].variants[name].architecture
    with torch.device("meta"):
        model = timm.create_model(a.timm, num_classes=0)
    assert model.num_features == a.width
    blocks = model.blocks if hasattr(model, "blocks") else [b for stage in model.layers for b in stage.blocks]
    assert len(blocks) == a.depth
    assert blocks[-1].attn.num_heads == a.heads


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_model_of_maps_gives_what_its_own_head_would_be_given(name):
    """The mean over a map's places, not over its channels; ConvNeXt's under the norm of its head."""
    backbone = load_backbone(f"timm:{name}", weights="random")
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        own = backbone.model.trunk.forward_head(backbone.model.trunk.forward_features(images), pre_logits=True)
    assert backbone.encode(images).shape == (3, backbone.model.trunk.num_features)
    torch.testing.assert_close(backbone.encode(images), own)


def test_an_unknown_backbone_is_refused_with_the_nearest_names():
    with pytest.raises(UnknownName, match=r"'dino_vits15'.*dino_vits16") as error:
        find_variant("dino_vits15")
    assert error.value.exit_code == 2
    assert find_variant("dino_vits16")[0] == "dino"


# ---- files made here

TINY = Architecture(128, 2, 2, 16, grid=4)
V2 = Architecture(128, 2, 2, 14, grid=4, registers=4, positions="antialias", layer_scale=True)


def state(architecture: Architecture = TINY, seed: int = 3) -> dict[str, torch.Tensor]:
    model = VisionTransformer(architecture)
    randomise(model, seed)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def prefixed(tensors: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in tensors.items()}


def dinov2_names(tensors: dict) -> dict:
    return {**tensors, "mask_token": torch.zeros(1, 128)}


TREES: dict[str, tuple[str, Callable[[], dict]]] = {
    "flat DINO": ("dino", state),
    "iBOT's state_dict": ("dino", lambda: {"state_dict": state()}),
    "DINO's run": (
        "dino",
        lambda: {
            "student": prefixed(state(seed=7), "module.backbone."),
            "teacher": {**prefixed(state(), "backbone."), "head.mlp.0.weight": torch.zeros(3)},
            "epoch": 3,
            "dino_loss": {"center": torch.zeros(1, 7)},
        },
    ),
    "MSN's run": (
        "msn",
        lambda: {
            "encoder": prefixed(state(seed=7), "module."),
            "target_encoder": prefixed(
                {**state(), "fc.fc1.weight": torch.zeros(3), "fc.bn1.running_mean": torch.zeros(3)}, "module."
            ),
            "prototypes": torch.zeros(3, 7),
            "epoch": 3,
        },
    ),
    "MAE's encoder": ("mae", lambda: {"model": state()}),
    "MAE with decoder": (
        "mae",
        lambda: {
            "model": {**state(), "mask_token": torch.zeros(1, 1, 32), "decoder_embed.weight": torch.zeros(32, 128)}
        },
    ),
    "flat MAE with decoder": ("mae", lambda: {**state(), "decoder_embed.weight": torch.zeros(32, 128)}),
    "MAE fine-tuned": (
        "mae",
        lambda: {
            "model": {**state(dataclasses.replace(TINY, final_norm="fc_norm")), "head.weight": torch.zeros(10, 128)}
        },
    ),
    "flat DINOv2": ("dinov2", lambda: dinov2_names(state(V2))),
    "DINOv2's teacher": ("dinov2", lambda: {"teacher": prefixed(dinov2_names(state(V2)), "backbone.")}),
}
STRANGE = {
    "DeiT": lambda: {"model": {**state(), "head.weight": torch.zeros(10, 128), "head.bias": torch.zeros(10)}},
    "a classifier in timm's names": lambda: {**state(), "head.weight": torch.zeros(10, 128)},
    "a ResNet": lambda: {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.running_mean": torch.zeros(64)},
    "nothing": dict,
}


@pytest.mark.parametrize("kind", TREES)
def test_a_layout_is_recognised_by_exactly_one_family(kind):
    family, tree = TREES[kind]
    made = tree()
    assert [name for name, candidate in families().items() if candidate.recognises(made)] == [family]
    assert recognise(made, Path("x.pth")) == family


@pytest.mark.parametrize(
    "file",
    [
        "dino_backbone.pth",
        "dino_full.pth",
        "msn.pth.tar",
        "mae_pretrain.pth",
        "mae_full.pth",
        "mae_finetuned.pth",
        "dinov2.pth",
        "dinov2_reg4.pth",
        "dinov2_swiglu.pth",
        "dinov2_teacher_chunked.pth",
    ],
)
def test_an_official_file_is_recognised_by_exactly_one_family(file, parity):
    from fewvit.checkpoints.reading import read_checkpoint

    tree = read_checkpoint(parity.folder / file)
    assert [name for name, kind in families().items() if kind.recognises(tree)] == [file.split("_")[0].split(".")[0]]


@pytest.mark.parametrize("kind", STRANGE)
def test_another_layout_is_taken_by_no_family_and_refused_by_its_first_names(kind):
    tree = STRANGE[kind]()
    with pytest.raises(CheckpointError, match="not a layout that is known") as error:
        recognise(tree, Path("x.pth"))
    assert error.value.exit_code == 4
    assert all(name in str(error.value) for name in list(tree)[:4])
    assert "--family" in str(error.value)


@pytest.fixture
def home(tmp_path) -> Access:
    return Access(tmp_path / "cache", offline=True)


# what a layout of DINO's and timm's has to be told, where no name shows whose it is
IMAGENET = Told(mean=IMAGENET_MEAN, std=IMAGENET_STD)


def save(tree: dict, path: Path) -> Path:
    torch.save(tree, path)
    return path


def resolved(name: object, access: Access, **options) -> BackboneSpec:
    return resolve(str(name), access, DigestMemory(), **options)


def weights_in(spec: BackboneSpec) -> dict[str, torch.Tensor]:
    size = 4 * spec.architecture.patch
    return build(spec, Readout(), (size, size), engine="eager").model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", TREES)
def test_every_tensor_of_a_trunk_is_filled_from_its_file(kind, home, tmp_path):
    family, tree = TREES[kind]
    spec = resolved(save(tree(), tmp_path / "x.pth"), home, told=IMAGENET)
    wanted = state(spec.architecture)
    protocol = "mae/2" if kind == "MAE fine-tuned" else families()[family].protocol
    assert (spec.family, spec.name, spec.protocol) == (family, "x.pth", protocol)
    assert spec.weights_sha256 == sha256_of(tmp_path / "x.pth")
    assert same(weights_in(spec), wanted)


def test_the_other_network_of_a_run_is_taken_by_its_key(home, tmp_path):
    for kind, key in (("DINO's run", "student"), ("MSN's run", "encoder")):
        path = save(TREES[kind][1](), tmp_path / "x.pth")
        specs = [resolved(path, home, checkpoint_key=asked) for asked in (None, key)]
        assert same(weights_in(specs[0]), state(seed=3))
        assert same(weights_in(specs[1]), state(seed=7))
        assert specs[0].fingerprint != specs[1].fingerprint


@pytest.mark.parametrize("backbone", ["file", "name"])
def test_a_key_that_no_file_of_the_family_has_is_a_usage_error(backbone, home, tmp_path):
    path = save(state(), tmp_path / "x.pth")
    name, weights = (path, None) if backbone == "file" else ("dino_vitt16", str(path))
    with pytest.raises(UsageError, match=r"--checkpoint-key best: .* teacher and student") as error:
        resolved(name, home, weights=weights, checkpoint_key="best")
    assert error.value.exit_code == 2


@pytest.mark.parametrize("kind", ["flat DINO", "iBOT's state_dict", "MSN's run", "MAE's encoder"])
def test_a_key_that_this_file_has_not_is_an_error_and_never_ignored(kind, home, tmp_path):
    tree = TREES[kind][1]()
    tree.pop("encoder", None)
    key = {"msn": "encoder", "mae": "ema"}.get(TREES[kind][0], "student")
    with pytest.raises(CheckpointError, match=f"no network '{key}'; it has "):
        resolved(save(tree, tmp_path / "x.pth"), home, checkpoint_key=key)


# ---- strict loading


@pytest.fixture(scope="module")
def vit_t() -> dict[str, torch.Tensor]:
    return state(Architecture(192, 12, 3, 16))


FAULTS = {
    "missing": ({"blocks.7.mlp.fc2.bias": None}, "missing blocks.7.mlp.fc2.bias"),
    "unexpected": ({"blocks.3.attn.extra": torch.zeros(7)}, "unexpected blocks.3.attn.extra"),
    "one block more": ({"blocks.12.norm1.bias": torch.zeros(192)}, "unexpected blocks.12.norm1.bias"),
    "another shape": (
        {"blocks.3.attn.qkv.weight": torch.zeros(192, 192)},
        "blocks.3.attn.qkv.weight has (192, 192), want (576, 192)",
    ),
    "another table": ({"pos_embed": torch.zeros(1, 785, 192)}, "pos_embed has (1, 785, 192), want (1, 197, 192)"),
    "NaN": ({"blocks.5.norm2.weight": torch.full((192,), torch.nan)}, "NaN in blocks.5.norm2.weight"),
    "Inf": ({"cls_token": torch.full((1, 1, 192), torch.inf)}, "Inf in cls_token"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_partial_fit_is_refused_naming_the_tensor(fault, vit_t, home, tmp_path):
    change, words = FAULTS[fault]
    tensors = {name: value for name, value in {**vit_t, **change}.items() if value is not None}
    spec = resolved("dino_vitt16", home, weights=str(save(tensors, tmp_path / "x.pth")))
    with pytest.raises(CheckpointError) as error:
        build(spec, Readout(), (224, 224))
    assert words in str(error.value)
    assert str(tmp_path / "x.pth") in str(error.value)
    assert error.value.exit_code == 4


def test_b16_does_not_go_into_s16(home, tmp_path):
    with torch.device("meta"):
        shapes = {
            name: value.shape
            for name, value in VisionTransformer(find_variant("dino_vitb16")[1].architecture).state_dict().items()
        }
    hollow = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # a file of a few kilobytes
    path = save(hollow, tmp_path / "dino_vitbase16_pretrain.pth")
    assert resolved(path, home).architecture == find_variant("dino_vitb16")[1].architecture
    with pytest.raises(CheckpointError, match=r"150 of another shape: cls_token has \(1, 1, 768\), want \(1, 1, 384\)"):
        build(resolved("dino_vits16", home, weights=str(path)), Readout(), (224, 224))


@pytest.mark.parametrize("kind", ["MAE's encoder", "MSN's run", "DINOv2's teacher"])
def test_another_familys_file_under_a_dino_name_is_called_by_its_name(kind, home, tmp_path):
    family, tree = TREES[kind]
    spec = resolved("dino_vits16", home, weights=str(save(tree(), tmp_path / "x.pth")))
    with pytest.raises(CheckpointError, match=rf"this is a {family} file, not weights of dino_vits16 \(dino\)"):
        build(spec, Readout(), (224, 224))


def test_a_file_that_changes_between_naming_and_building_is_refused(home, tmp_path):
    spec = resolved(save(state(), tmp_path / "dino.pth"), home)
    save(state(seed=7), tmp_path / "dino.pth")
    with pytest.raises(CheckpointError, match="sha256"):
        build(spec, Readout(), (64, 64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_embed.proj.weight": torch.zeros(128, 1, 16, 16)}, "(128, 1, 16, 16), expected (D, 3, P, P)"),
        ({"patch_embed.proj.weight": torch.zeros(128, 3, 16, 14)}, "(128, 3, 16, 14), expected (D, 3, P, P)"),
        (state(Architecture(100, 2, 2, 16, grid=4)), "width 100 is not a multiple of the head size 64"),
        ({"pos_embed": torch.zeros(1, 18, 128)}, "a position table of 17 patches is not square"),
        ({"blocks.0.mlp.fc2.weight": None}, "blocks.0.mlp.fc2.weight"),
    ],
)
def test_a_trunk_whose_shapes_spell_no_vit_is_refused(change, words, home, tmp_path):
    tensors = {name: value for name, value in {**state(), **change}.items() if value is not None}
    with pytest.raises(CheckpointError) as error:
        resolved(save(tensors, tmp_path / "x.pth"), home)
    assert words in str(error.value)
    assert "no dino trunk" in str(error.value)


def test_width_1280_has_16_heads_and_others_one_for_64_channels():
    for width, heads in ((1280, 16), (1024, 16), (1536, 24), (64, 1)):
        shapes = {
            "patch_embed.proj.weight": (width, 3, 14, 14),
            "pos_embed": (1, 257, width),
            "blocks.0.mlp.fc1.weight": (4 * width, width),
        }
        shapes["blocks.0.mlp.fc2.weight"] = (width, 4 * width)
        with torch.device("meta"):
            tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
        assert families()["mae"].infer(tensors) == Architecture(width, 1, heads, 14, grid=16, positions="mae")


# ---- what a user says it is


def test_family_overrides_what_a_bare_file_is_taken_for(home, tmp_path):
    path = save(state(), tmp_path / "x.pth")
    for family, positions in (("dino", "dino"), ("msn", "msn"), ("mae", "mae")):
        spec = resolved(path, home, family=family)
        assert (spec.family, spec.architecture.positions, spec.protocol) == (family, positions, f"{family}/1")
        assert same(weights_in(spec), state())
    assert settle(resolved(path, home, family="msn"), FeatureOptions()).norm == "none"
    # what was remembered of it under another word is not mixed up
    assert resolved(path, home, told=IMAGENET).family == "dino"


def test_a_family_whose_layout_the_file_has_not_is_refused(home, tmp_path):
    path = save({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"no dino trunk: a ResNet"):
        resolved(path, home, family="dino")


def test_an_unknown_family_is_refused_by_name(home, tmp_path):
    with pytest.raises(UnknownName, match=r"'dinov9'.*dinov2"):
        resolved(save(state(), tmp_path / "x.pth"), home, family="dinov9")


def test_a_named_variant_keeps_its_family(home):
    with pytest.raises(UsageError, match="--family mae: dino_vits16 is of the family dino"):
        resolved("dino_vits16", home, weights="random", family="mae")
    assert resolved("dino_vits16", home, weights="random", family="dino").family == "dino"


def test_one_file_has_one_fingerprint_under_its_variants_name_and_on_its_own(home, tmp_path):
    path = save(state(Architecture(192, 12, 3, 16)), tmp_path / "dino.pth")
    bare, named = resolved(path, home), resolved("dino_vitt16", home, weights=str(path))
    assert (bare.name, named.name) == ("dino.pth", "dino_vitt16")
    assert bare.fingerprint == named.fingerprint
    assert settle(bare, FeatureOptions()).fingerprint == settle(named, FeatureOptions()).fingerprint


def test_a_spec_carries_its_tables_facts(home):
    spec = resolved("mae_vitb16", home, weights="random", seed=7)
    assert (spec.license, spec.seed, spec.is_random, spec.file) == ("CC-BY-NC-4.0", 7, True, None)
    assert spec.info == {"family": "mae", "license": "CC-BY-NC-4.0", "published": PUBLISHED["mae_vitb16"]}
    swin = resolved("swin_t", home, weights="random")
    assert (swin.license, swin.protocol, swin.preprocess["cover"]) == ("MIT", "timm/1", (248, 248))


def test_a_name_without_weights_here_or_anywhere_is_refused(home):
    with pytest.raises(Unobtainable):
        resolved("dino_vits16", home)
    with pytest.raises(UsageError, match="no published weights"):
        resolved("dino_vitt16", home)


def test_a_file_beside_weights_and_a_file_that_is_not_there_are_refused(home, tmp_path):
    path = save(state(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="a file is its own weights"):
        resolved(path, home, weights=str(path))
    with pytest.raises(DataError, match="no such file"):
        resolved(tmp_path / "gone.pth", home)
    with pytest.raises(DataError, match="no such file"):
        resolved("dino_vits16", home, weights=str(tmp_path / "gone.pth"))


def test_paths_are_told_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "dino_vitb16"):
        (tmp_path / name).write_bytes(b"x")
    assert all(map(is_path, ["a/b", "x.pth", "x.pth.tar", "x.safetensors", "x.bin", "x.pt", "plain"]))
    assert not any(map(is_path, ["dino_vits16", "absent", "dino_vitb16"]))  # a variant's name is never a file's
    assert is_path("./dino_vitb16")


# ---- what a bare file turned out to be is remembered

RESOLVE = """
import sys
from pathlib import Path
from fewvit.digests import DigestMemory
from fewvit.models.resolve import Access, resolve
cache = Path(sys.argv[2])
spec = resolve(sys.argv[1], Access(cache, offline=True), DigestMemory(cache / "digests"))
print(spec.family, spec.fingerprint, "torch" in sys.modules)
"""


def test_a_bare_file_is_opened_once_and_then_known_without_torch(home, tmp_path, python):
    path = save(TREES["MSN's run"][1](), tmp_path / "x.pth.tar")
    first, second = (python(RESOLVE, path, home.cache_dir).stdout.split() for _ in range(2))
    assert first[2] == "True"
    assert second == ["msn", first[1], "False"]
    shutil.copy(path, tmp_path / "renamed.pth")  # the bytes decide, not the name
    assert python(RESOLVE, tmp_path / "renamed.pth", home.cache_dir).stdout.split() == second
    save(TREES["MAE's encoder"][1](), path)
    assert python(RESOLVE, path, home.cache_dir).stdout.split()[0] == "mae"


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"architecture": {"depth": "deep"}}', "another version", "another file"]
)
def test_a_memory_that_cannot_be_trusted_is_made_anew(damage, home, tmp_path):
    path = save(state(), tmp_path / "dino.pth")
    wanted = resolved(path, home)
    [memory] = (home.cache_dir / "backbones").glob("*.json")
    facts = json.loads(memory.read_text())
    changes = {"another version": {"inspection": -1}, "another file": {"sha256": "0" * 64}}
    wrong = {**facts, **changes.get(damage, {}), "family": "mae"}
    memory.write_text(json.dumps(wrong) if damage in changes else damage)
    assert resolved(path, home) == wanted
    assert json.loads(memory.read_text()) == facts


# ---- one file is one family

FAMILY = '''
"""A family in one file."""
from . import Architecture, Family, Variant
from ._layout import infer_vit, split_trunk

class Ijepa(Family):
    """Published numbers: none."""
    license = "CC-BY-NC-4.0"
    source = "https://example.com/ijepa"
    protocol = "mae/1"
    checkpoint_keys = ()
    variants = {"ijepa_tiny": Variant(Architecture(64, 1, 1, 16, grid=4, positions="mae"), "https://example.com/ijepa.pth")}

    @staticmethod
    def recognises(tree):
        return "ijepa" in tree

    @staticmethod
    def trunk(tree, checkpoint_key):
        return split_trunk(tree["ijepa"])

    @staticmethod
    def infer(tensors):
        return infer_vit(tensors, "mae")
'''
USE = """
import sys, torch
from pathlib import Path
import fewvit
from fewvit.backbones import families, variants
assert Path(fewvit.__file__).parent == Path(sys.argv[1]) / "fewvit"
assert variants()["ijepa_tiny"] == "ijepa"
named = fewvit.load_backbone("ijepa_tiny", weights="random", img_size=64, engine="eager")
torch.save({"ijepa": named.model.state_dict()}, sys.argv[1] + "/x.pth")
bare = fewvit.load_backbone(sys.argv[1] + "/x.pth", img_size=64, engine="eager")
x = torch.ones(1, 3, 64, 64)
assert bare.spec.family == "ijepa" and torch.equal(bare.encode(x), named.encode(x))
print(sorted(families()))
"""


def test_a_new_family_is_one_file(tmp_path, python):
    shutil.copytree(Path(fewvit.__file__).parent, tmp_path / "fewvit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fewvit" / "backbones" / "ijepa.py").write_text(FAMILY)
    found = python(USE, tmp_path, PYTHONPATH=str(tmp_path), FEWVIT_CACHE_DIR=str(tmp_path / "cache")).stdout
    assert found.strip() == str(sorted({*families(), "ijepa"}))
