"""What a bare file's tensors do not say: told by flags or beside it, announced as assumed, or asked for."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import is_path, resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.told import Told
from fewvit.models.vit import VisionTransformer, resize_positions
from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD

TINY = Architecture(128, 2, 2, 16, grid=4)
HALF = (0.5, 0.5, 0.5)


def state(architecture: Architecture = TINY) -> dict[str, torch.Tensor]:
    model = VisionTransformer(architecture)
    randomise(model, 3)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def home(tmp_path, lines) -> Access:
    return Access(tmp_path / "cache", offline=True, notify=lines.append)


def saved(path: Path, tree: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state() if tree is None else tree, path)
    return path


def resolved(path: Path, access: Access, **options) -> BackboneSpec:
    told = {name: options.pop(name) for name in ("heads", "grid", "mean", "std") if name in options}
    return resolve(str(path), access, DigestMemory(), told=Told.of(**told), **options)


# ---- flags


def test_heads_and_grid_change_the_architecture_and_the_fingerprint_and_nothing_else_does(home, tmp_path):
    path = saved(tmp_path / "dino.pth")
    plain = resolved(path, home)
    assert plain.architecture == TINY
    for options, field, value in (({"heads": 8}, "heads", 8), ({"grid": "2x8"}, "grid", (2, 8))):
        spec = resolved(path, home, **options)
        assert spec.architecture == dataclasses.replace(TINY, **{field: value})
        assert spec.fingerprint != plain.fingerprint
    same = resolved(path, home, heads=2, grid="4x4", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert same.fingerprint == plain.fingerprint
    assert settle(same, FeatureOptions()).fingerprint == settle(plain, FeatureOptions()).fingerprint


def test_the_fingerprint_of_a_file_of_which_nothing_is_told_is_what_it_always_was(home, tmp_path):
    spec = resolved(saved(tmp_path / "dino.pth"), home)
    spec = dataclasses.replace(spec, weights_sha256="0" * 64)
    assert spec.fingerprint == "210fd9fc3b6b2c31dff02a4e2733d370fc42cc95e60a47f55c5151368d573932"


def test_statistics_enter_the_pipelines_fingerprint(home, tmp_path):
    path = saved(tmp_path / "dino.pth")
    plain, half = resolved(path, home), resolved(path, home, mean=".5,.5,.5", std=".5,.5,.5")
    pipelines = [settle(spec, FeatureOptions()) for spec in (plain, half)]
    assert pipelines[1].preprocess == dataclasses.replace(pipelines[0].preprocess, mean=HALF, std=HALF)
    assert pipelines[0].fingerprint != pipelines[1].fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "--heads 3 does not divide the width 128"),
        ({"grid": "3x5"}, "--grid 3x5 is 15 positions, and the file's table has 16"),
        ({"family": "msn_", "heads": 2}, "msn_"),
    ],
)
def test_what_contradicts_the_files_shapes_is_a_usage_error_naming_both(options, words, home, tmp_path):
    with pytest.raises(UsageError, match=words) as error:
        resolved(saved(tmp_path / "dino.pth"), home, **options)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("heads", value) for value in ("0", "-3", "6.5", "six", "", True)],
        *[("grid", value) for value in ("14", "7x", "7x28x1", "0x4", "axb", (7,))],
        *[("mean", value) for value in ("0.5", "0.5,0.5", "a,b,c", "123.7,116.3,103.5", "nan,0,0", "-1,0,0", (0.5,))],
        *[("std", value) for value in ("0,0,0", "58.4,57.1,57.4", "inf,1,1", "")],
    ],
)
def test_a_value_that_makes_no_sense_is_a_usage_error_naming_its_flag(flag, value):
    with pytest.raises(UsageError, match=f"--{flag} "):
        Told.of(**{flag: value})


def test_values_are_taken_as_flags_toml_and_python_spell_them():
    wanted = Told(12, (7, 28), HALF, HALF)
    assert Told.of("12", "7X28", "0.5, .5,5e-1", ".5,.5,.5") == wanted
    assert Told.of(12, [7, 28], [0.5, 0.5, 0.5], HALF) == wanted
    assert Told.of_record(json.loads(json.dumps(wanted.facts))) == dataclasses.replace(wanted, recorded=True)


@pytest.mark.parametrize("name", ["dino_vits16", "fewvit_tiny", "timm:vit_small_patch16_224"])
@pytest.mark.parametrize("told", [{"heads": 6}, {"grid": "14x14"}, {"mean": HALF}, {"std": HALF}])
def test_of_a_named_backbone_nothing_is_told(name, told, home):
    with pytest.raises(UsageError, match=rf"--{next(iter(told))}: nothing of {name} is open"):
        resolve(name, home, DigestMemory(), weights="random", told=Told.of(**told))


def test_odd_widths_and_tables_are_read_once_they_are_told(home, tmp_path):
    odd = dataclasses.replace(TINY, width=96, heads=8)
    path = saved(tmp_path / "dino.pth", state(odd))
    with pytest.raises(CheckpointError, match="--heads N"):
        resolved(path, home)
    assert resolved(path, home, heads=8).architecture == odd
    wide = dataclasses.replace(TINY, grid=(3, 5))
    path = saved(tmp_path / "dino.pth", state(wide))
    with pytest.raises(CheckpointError, match="--grid HxW"):
        resolved(path, home)
    assert resolved(path, home, grid="3x5").architecture == wide


@pytest.mark.parametrize("positions", ["dino", "antialias", "mae", "msn"])
def test_a_table_that_is_no_square_serves_its_own_shape_as_it_is(positions):
    own = dataclasses.replace(TINY, grid=(3, 5), positions=positions)
    table = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(3))
    assert torch.equal(resize_positions(table, own, 3, 5), table)


@pytest.mark.parametrize("positions", ["dino", "antialias", "mae"])
def test_a_table_that_is_no_square_is_resized_along_its_own_sides(positions):
    """A table that hangs on the row alone gives rows that hang on the row alone."""
    own = dataclasses.replace(TINY, grid=(3, 5), positions=positions)
    rows = torch.arange(3.0).repeat_interleave(5)[:, None].expand(15, 128)
    found = resize_positions(torch.cat([torch.zeros(1, 128), rows])[None], own, 6, 6)[0, 1:, 0].reshape(6, 6)
    assert torch.allclose(found, found[:, :1].expand(6, 6), atol=1e-5)
    assert (found[1:, 0] > found[:-1, 0]).all()


# ---- what is assumed is said


def test_one_line_says_what_a_file_is_taken_for_and_what_of_it_is_assumed(home, lines, tmp_path):
    path = saved(tmp_path / "w.pth", {"teacher": state()})
    for _ in range(2):
        resolved(path, home)
    assert lines == [
        "w.pth: the ViT under teacher is taken for dino (assumed; --family), ViT of width 128, 2 blocks, patch 16: "
        "heads 2 (assumed; --heads), positions 4x4 (assumed from 16; --grid), mean/std ImageNet (assumed; --mean "
        "--std), readout cls (dino/1; --pool, --protocol), licence unknown"
    ]


def test_what_was_told_is_not_called_assumed(home, lines, tmp_path):
    path = saved(tmp_path / "w.pth")
    resolved(path, home, heads=8, grid="2x8", mean=HALF, std=HALF, family="msn")
    [line] = lines
    for words in ("msn (--family)", "heads 8 (--heads)", "positions 2x8 (--grid)", "mean 0.5,0.5,0.5 std 0.5,0.5,0.5"):
        assert words in line
    assert line.count("assumed") == 1  # the licence
    assert "readout cls before the final norm (msn/1" in line


@pytest.mark.parametrize("name", ["dino_vits16", "fewvit_tiny"])
def test_of_a_named_backbone_nothing_is_announced(name, home, lines):
    resolve(name, home, DigestMemory(), weights="random")
    assert lines == []


# ---- what is open is asked


UNMARKED = {
    "flat": lambda t: t,
    "model_state_dict": lambda t: {"model_state_dict": t, "epoch": 3},
    "Lightning": lambda t: {"state_dict": {f"model.backbone.{name}": value for name, value in t.items()}},
    "timm's own training": lambda t: {"state_dict": t, "arch": "vit_tiny", "optimizer": {"momentum_buffer": t}},
}


@pytest.mark.parametrize("kind", UNMARKED)
def test_a_layout_with_two_sorts_of_statistics_stops_until_it_is_told_which(kind, home, lines, tmp_path):
    path = saved(tmp_path / "weights.pth", UNMARKED[kind](state()))
    with pytest.raises(UsageError, match="mean and std are open") as error:
        resolved(path, home)
    assert error.value.exit_code == 2
    assert "--family dino" in str(error.value)
    assert "--mean R,G,B --std R,G,B" in str(error.value)
    assert "heads 2 (assumed" in lines[0]
    with pytest.raises(UsageError, match="open"):
        resolved(path, home, mean=HALF)
    half = resolved(path, home, mean=HALF, std=HALF)
    assert settle(half, FeatureOptions()).preprocess.mean == HALF
    assert half.license == "unknown"
    named = resolved(path, home, family="dino")
    assert settle(named, FeatureOptions()).preprocess.mean == IMAGENET_MEAN
    assert named.license == "Apache-2.0"


@pytest.mark.parametrize("name", ["dino_deitsmall16_pretrain.pth", "swav-teacher.pth", "mocov3_vits.pth", "my.DINO.pt"])
def test_a_files_name_may_show_whose_it_is_and_the_line_says_so(name, home, lines, tmp_path):
    assert resolved(saved(tmp_path / name), home).family == "dino"
    assert "taken for dino (by the file's name; --family)" in lines[0]


def test_a_name_that_tells_another_family_of_the_layout_is_believed(home, lines, tmp_path):
    found = resolved(saved(tmp_path / "ibot_vits16_teacher.pth"), home)
    assert (found.family, found.protocol) == ("ibot", "ibot/1")
    assert "taken for ibot (by the file's name; --family)" in lines[0]
    assert resolved(saved(tmp_path / "ibot_b.pth"), home, family="dino").family == "dino"


@pytest.mark.parametrize("name", ["dinosaurs.pth", "vit_small_augreg.pth", "maersk.pth", "remsn1.pth"])
def test_a_name_that_only_holds_the_letters_shows_nothing(name, home, tmp_path):
    with pytest.raises(UsageError, match="open"):
        resolved(saved(tmp_path / name), home)


# ---- a configuration beside the file


def model_folder(folder: Path, *, tree: dict | None = None, preprocessor: dict | None = None, **config) -> Path:
    saved(folder / "pytorch_model.bin", tree)
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


OWN = {"hidden_size": 128, "num_hidden_layers": 2, "patch_size": 16}
STATISTICS = {"image_mean": list(HALF), "image_std": list(HALF)}


@pytest.mark.parametrize("given", ["folder", "file"])
def test_heads_statistics_and_family_are_read_beside_the_weights(given, home, lines, tmp_path):
    folder = model_folder(
        tmp_path / "mine", preprocessor=STATISTICS, model_type="vit_msn", num_attention_heads=8, image_size=64, **OWN
    )
    spec = resolved(folder if given == "folder" else folder / "pytorch_model.bin", home)
    assert spec.architecture == dataclasses.replace(TINY, heads=8, positions="msn")
    assert (spec.family, spec.name) == ("msn", "mine" if given == "folder" else "pytorch_model.bin")
    assert settle(spec, FeatureOptions()).preprocess.std == HALF
    assert "heads 8 (config.json)" in lines[0]
    assert "msn (config.json)" in lines[0]
    assert "(preprocessor_config.json)" in lines[0]


def test_flags_are_above_what_stands_beside_the_file(home, tmp_path):
    folder = model_folder(tmp_path / "mine", preprocessor=STATISTICS, num_attention_heads=8, **OWN)
    spec = resolved(folder, home, heads=4, mean=IMAGENET_MEAN)
    assert spec.architecture.heads == 4
    assert (spec.preprocess["mean"], spec.preprocess["std"]) == (IMAGENET_MEAN, HALF)


@pytest.mark.parametrize(
    "config", [{"hidden_size": 384}, {"num_hidden_layers": 12}, {"patch_size": 14}, {"num_attention_heads": 3}]
)
def test_a_configuration_of_another_model_is_not_used_and_that_is_said(config, home, lines, tmp_path):
    folder = model_folder(tmp_path / "mine", **{**OWN, "num_attention_heads": 8, "model_type": "vit_msn", **config})
    spec = resolved(folder / "pytorch_model.bin", home, mean=HALF, std=HALF)
    assert (spec.architecture.heads, spec.family) == (2, "dino")
    assert "config.json beside it " in lines[0]
    assert lines[0].endswith("not used")


def test_timms_configuration_gives_statistics_and_licence_of_a_file(home, lines, tmp_path):
    pretrained = {"mean": list(HALF), "std": list(HALF), "license": "apache-2.0"}
    folder = model_folder(tmp_path / "mine", architecture="vit_tiny", num_features=128, pretrained_cfg=pretrained)
    spec = resolved(folder / "pytorch_model.bin", home)
    assert settle(spec, FeatureOptions()).preprocess.mean == HALF
    assert spec.license == "apache-2.0"


def test_a_configuration_that_is_no_json_is_told_beside_a_file_and_stops_a_folder(home, lines, tmp_path):
    folder = model_folder(tmp_path / "mine", **OWN)
    (folder / "config.json").write_text("{")
    resolved(folder / "pytorch_model.bin", home, family="dino")
    assert lines[0].endswith("config.json beside it is not JSON and not used")
    with pytest.raises(CheckpointError, match="not JSON"):
        resolved(folder, home, family="dino")


def test_a_folder_without_weights_or_with_parts_of_them_says_so(home, tmp_path):
    folder = model_folder(tmp_path / "mine", **OWN)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UsageError, match=r"without model\.safetensors or pytorch_model\.bin"):
        resolved(folder, home)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="in several parts"):
        resolved(folder, home)


def test_a_saved_models_folder_is_a_backbone_by_its_bare_name_too(tmp_path, monkeypatch):
    model_folder(tmp_path / "mine", **OWN)
    monkeypatch.chdir(tmp_path)
    assert is_path("mine")
    assert not is_path("other")


# ---- features are made again as they were


def test_what_was_told_or_read_beside_a_file_goes_into_the_recipe(home, lines, tmp_path):
    from fewvit.evaluate.inputs import Backbones
    from fewvit.extraction.recipe import Recipe

    folder = model_folder(tmp_path / "mine", num_attention_heads=8, model_type="vit_msn", **OWN)
    file = folder / "pytorch_model.bin"
    first = settle(resolved(file, home, mean=HALF, std=HALF), FeatureOptions())
    recipe = Backbones([str(file)], home, told=Told.of(mean=HALF, std=HALF)).recipe(first)
    recipe = Recipe.of_json(json.loads(json.dumps(dataclasses.asdict(recipe))))
    moved = saved(tmp_path / "alone.pth")
    lines.clear()
    again = resolve(str(moved), home, DigestMemory(), family=recipe.family, told=recipe.told_of_file)
    assert again.fingerprint == dataclasses.replace(first.spec, weights_sha256=again.weights_sha256).fingerprint
    assert settle(again, FeatureOptions()).preprocess == first.preprocess
    assert lines == []


def test_a_recipe_from_before_anything_was_told_is_read_without_asking(home, lines, tmp_path):
    spec = resolve(str(saved(tmp_path / "x.pth")), home, DigestMemory(), told=Told.of_record(None))
    assert (spec.family, lines) == ("dino", [])


def test_heads_decide_the_features(home, tmp_path):
    path, found = saved(tmp_path / "dino.pth"), []
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for heads in (2, 8):
        found.append(build(resolved(path, home, heads=heads), Readout(), (64, 64), engine="eager").encode(images))
    assert not np.allclose(found[0], found[1])


def test_a_table_of_its_own_grid_gives_the_features_of_timms_model_of_such_images(home, tmp_path):
    from timm.models.vision_transformer import VisionTransformer as Official

    model = Official((48, 80), embed_dim=128, depth=2, num_heads=2, num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    spec = resolved(saved(tmp_path / "dino.pth", model.state_dict()), home, grid="3x5")
    images = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        right = model.forward_features(images)[:, 0]
    assert torch.allclose(build(spec, Readout(), (48, 80), engine="eager").encode(images), right, atol=1e-5)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_pipe_beside_the_weights_is_not_waited_for(name, home, tmp_path):
    os.mkfifo(tmp_path / name)
    assert resolved(saved(tmp_path / "dino.pth"), home).architecture.heads == resolved_alone(home, tmp_path)


def resolved_alone(home: Access, tmp_path: Path) -> int:
    (tmp_path / "alone").mkdir()
    return resolved(saved(tmp_path / "alone/dino.pth"), home).architecture.heads


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"pretrained_cfg": {"mean": [float("nan")] * 3, "std": [0, 0, 0]}}, "config.json: what it says of"),
        ({"image_mean": [1]}, "config.json: what it says of"),
    ],
)
def test_impossible_values_beside_the_weights_are_told_with_their_file_and_no_flag(config, words, home, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as told:
        resolved(saved(tmp_path / "dino.pth"), home)
    assert not told.value.what.count("--")


def test_a_size_that_is_none_says_nothing(home, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"image_size": -224}))
    assert resolved(saved(tmp_path / "dino.pth"), home).architecture == TINY


def test_half_of_the_statistics_are_asked_for_by_name(home, tmp_path):
    with pytest.raises(UsageError, match="--std is missing"):
        resolved(saved(tmp_path / "w.pth"), home, mean="0.5,0.5,0.5")
