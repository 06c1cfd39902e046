"""DINOv3's variants against timm's, its layouts in transformers, and its rotary ViTs where they are fine-tuned."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from fewvit.backbones import COMPUTED, ROTARY, Architecture, find_variant, variants
from fewvit.backbones.dinov3 import Dinov3
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.describe import file_facts
from fewvit.extraction.notes import oversized
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.finetune.adapters import blocks_below, prepare
from fewvit.finetune.modes import TuningRecipe
from fewvit.finetune.networks import require_plain_vit
from fewvit.finetune.tuning import ClassificationHead, Tuning
from fewvit.methods._trunk import Trunk
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.engines import accelerate, packing_works
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.told import Told
from fewvit.models.untrained import module_of
from fewvit.pretrain.request import continued_architecture
from fewvit.views.view import View

TINY = Architecture(128, 3, 2, 16, positions=ROTARY, registers=4, layer_scale=True, eps=1e-5)
SWIGLU = dataclasses.replace(TINY, feed_forward="swiglu", hidden=96, qkv_bias=False)
STAGES = ((1, 8), (1, 16), (2, 24), (1, 32))
CONVNEXT = Architecture(32, 5, 0, 32, positions="none", layer_scale=True, stages=STAGES)
VITS = [name for name in Dinov3.variants if "vit" in name]
CONVNEXTS = [name for name in Dinov3.variants if "convnext" in name]


def spec_of(architecture: Architecture, name: str = "tiny", **more) -> BackboneSpec:
    return BackboneSpec(name, "dinov3", architecture, "dinov3/1", "random", **more)


def filled(module: torch.nn.Module, seed: int = 3, scale: float = 0.3) -> torch.nn.Module:
    """With every number drawn, gammas and norms too."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream) * scale)
    return module.eval()


def images(n: int = 3, height: int = 48, width: int = 80) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(7))


# ---- the table


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vits16", 21), ("vits16plus", 29), ("vitb16", 86), ("vitl16", 300), ("vith16plus", 840), ("vit7b16", 6716),
        ("vitl16_sat", 300), ("vit7b16_sat", 6716), ("convnext_tiny", 29), ("convnext_small", 50),
        ("convnext_base", 89), ("convnext_large", 198),
    ],
)  # fmt: skip
def test_a_variant_has_the_published_number_of_parameters(name, millions):
    architecture = Dinov3.variants[f"dinov3_{name}"].architecture
    with torch.device("meta"):
        counted = sum(p.numel() for p in module_of(architecture).parameters())
    assert counted == architecture.parameters
    assert counted / 1e6 == pytest.approx(millions, rel=0.05)  # of a ConvNeXt with a classifier


TIMM = {
    "dinov3_vits16": "vit_small_patch16_dinov3_qkvb",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3_qkvb",
    "dinov3_vitb16": "vit_base_patch16_dinov3_qkvb",
    "dinov3_vitl16": "vit_large_patch16_dinov3_qkvb",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3_qkvb",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
    "lingbot_vits16": "vit_small_patch16_lingbot",
    "lingbot_vitb16": "vit_base_patch16_lingbot",
    "lingbot_vitl16": "vit_large_patch16_lingbot",
    "lingbot_vitg16": "vit_giant_patch16_lingbot",
    "dinov3_convnext_tiny": "convnext_tiny",
    "dinov3_convnext_small": "convnext_small",
    "dinov3_convnext_base": "convnext_base",
    "dinov3_convnext_large": "convnext_large",
}


@pytest.mark.parametrize("name", TIMM)
def test_a_variant_has_the_shapes_of_timms_model(name):
    """All but the biases of keys, which timm has not; where SwiGLU's halves are two layers there, they are one here."""
    import timm

    architecture = Dinov3.variants[name].architecture
    with torch.device("meta"):
        other = timm.create_model(TIMM[name], num_classes=0)
        own = sum(p.numel() for p in module_of(architecture).parameters())
    keys = architecture.depth * architecture.width if architecture.is_vit and architecture.qkv_bias else 0
    assert own - keys == sum(p.numel() for p in other.parameters())
    assert other.num_features == architecture.width
    if architecture.is_vit:
        block = other.blocks[0]
        assert (len(other.blocks), block.attn.num_heads) == (architecture.depth, architecture.heads)


def test_a_gated_variant_says_where_to_ask_and_its_licence_is_its_own(tmp_path):
    for name, variant in Dinov3.variants.items():
        assert bool(variant.gated) == name.startswith("dinov3_")
        assert (variant.license or Dinov3.license) == ("DINOv3-License" if variant.gated else "Apache-2.0")
    assert variants()["dinov3_vits16"] == "dinov3"
    assert find_variant("lingbot_vitb16")[1].file_name == "lingbot-vision-vit-base.pt"
    assert find_variant("dinov3_vitb16")[1].file_name == "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"


def test_satellite_models_take_their_own_statistics():
    spec = BackboneSpec(
        "sat", "dinov3", TINY, "dinov3/1", "random", preprocess=Dinov3.variants["dinov3_vitl16_sat"].preprocess
    )
    found = settle(spec, FeatureOptions()).preprocess
    assert (found.mean, found.std) == ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
    with pytest.raises(UsageError, match="another mean"):
        require_plain_vit(spec)


def test_lingbot_shows_the_squashed_picture_at_512():
    variant = Dinov3.variants["lingbot_vits16"]
    spec = spec_of(variant.architecture, preprocess=variant.preprocess)
    found = settle(spec, FeatureOptions(img_size="256")).preprocess
    assert settle(spec, FeatureOptions()).preprocess.crop == (512, 512)
    assert (found.cover, found.crop, found.stretched, found.interpolation) == ((256, 256), (256, 256), True, "bilinear")


# ---- against timm's forward


def test_a_vit_gives_the_features_of_timms_model_with_the_same_periods():
    import timm

    own = filled(module_of(dataclasses.replace(find_variant("dinov3_vits16")[1].architecture, depth=2)), scale=0.05)
    official = _official_names(own.state_dict())
    other = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0, depth=2, global_pool="token").eval()
    convert = __import__("timm.models.eva", fromlist=["x"]).checkpoint_filter_fn
    other.load_state_dict(convert(official, other), strict=True)
    other.rope.periods.copy_(own.rope_embed.periods)
    x = images(2, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(own.read(x, Readout()), other(x), atol=2e-5, rtol=1e-5)


def test_a_convnext_gives_the_features_of_timms_model():
    import timm

    own = filled(module_of(CONVNEXT))
    other = timm.create_model("convnext_tiny", num_classes=0, depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)).eval()
    convert = __import__("timm.models.convnext", fromlist=["x"]).checkpoint_filter_fn
    state = {("norms.3" if k.startswith("norm.") else "") + (k[4:] if k.startswith("norm.") else k): v
             for k, v in own.state_dict().items()}  # fmt: skip
    other.load_state_dict(convert(own.state_dict() | state, other), strict=False)
    assert set(other.state_dict()) == set(convert(own.state_dict(), other))
    x = images(2, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(own.read(x, Readout()), other(x), atol=2e-5, rtol=1e-5)


def _official_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ViT's tensors under DINOv3's names, biases of keys masked."""
    found = {re.sub("^register_tokens$", "storage_tokens", name): value.clone() for name, value in state.items()}
    for name in [name for name in found if name.endswith("qkv.bias")]:
        mask = torch.ones_like(found[name])
        mask.chunk(3)[1].zero_()
        found[f"{name}_mask"] = mask
        state[name].chunk(3)[1].zero_()
    return found


# ---- transformers


def saved_by_transformers(folder: Path, *, gated: bool = False, old: bool = False, config: bool = True):
    """A small DINOv3 ViT as `save_pretrained` writes it, and the model."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.DINOv3ViTConfig(
        hidden_size=96, num_attention_heads=2, num_hidden_layers=2, intermediate_size=80, use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu", num_register_tokens=4,
    )  # fmt: skip
    model = filled(transformers.DINOv3ViTModel(settings), scale=0.1)
    return model, _saved(folder, model, (r"^model\.layer\.", "layer."), old=old, config=config)


def _saved(folder: Path, model, older: tuple[str, str], *, old: bool, config: bool = True) -> Path:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    bare = {re.sub(*older, name): value for name, value in tensors.items()}
    newer = {re.sub(r"^(layer|stages)\.", r"model.\1.", name): value for name, value in bare.items()}
    save_file(bare if old else newer, file)
    if not config:
        (folder / "config.json").unlink()
    return file


@pytest.mark.parametrize(("gated", "old"), [(False, False), (False, True), (True, False)])
def test_a_vit_of_transformers_gives_its_features(gated, old, tmp_path):
    model, file = saved_by_transformers(tmp_path / "m", gated=gated, old=old)
    lines: list[str] = []
    spec = resolve(str(file.parent), Access(tmp_path / "c", offline=True, notify=lines.append), DigestMemory())
    assert (spec.family, spec.architecture.positions, spec.architecture.heads) == ("dinov3", COMPUTED, 2)
    assert "computed in float32" in lines[0]
    assert "heads 2 (config.json)" in lines[0]
    x = images()
    with torch.inference_mode():
        torch.testing.assert_close(build(spec, Readout(), None).encode(x), model(x).pooler_output, atol=1e-5, rtol=1e-5)


def test_heads_of_a_vit_of_transformers_are_told_where_no_configuration_is(tmp_path):
    _, file = saved_by_transformers(tmp_path / "m", config=False)
    access = Access(tmp_path / "c", offline=True)
    with pytest.raises(CheckpointError, match="width 96 is not a multiple of the head size 64"):
        resolve(str(file), access, DigestMemory())
    assert resolve(str(file), access, DigestMemory(), told=Told.of(heads=2)).architecture.heads == 2
    with pytest.raises(UsageError, match="--heads 16: heads of rotary positions have a multiple of four"):
        resolve(str(file), access, DigestMemory(), told=Told.of(heads=16))


def test_a_convnext_of_transformers_gives_its_features(tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    model = filled(transformers.DINOv3ConvNextModel(settings))
    x = images(2, 64, 96)
    for old in (True, False):
        file = _saved(tmp_path / str(old), model, (r"^model\.stages\.", "stages."), old=old)
        spec = resolve(str(file.parent), Access(tmp_path / "c", offline=True), DigestMemory())
        assert spec.architecture == CONVNEXT
        with torch.inference_mode():
            torch.testing.assert_close(
                build(spec, Readout(), None).encode(x), model(x).pooler_output, atol=1e-5, rtol=1e-5
            )


def test_a_file_of_transformers_without_weights_of_keys_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    _, file = saved_by_transformers(tmp_path / "m")
    tensors = {name: value for name, value in load_file(file).items() if "1.attention.k_proj" not in name}
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="_proj"):
        resolve(str(file.parent), Access(tmp_path / "c", offline=True), DigestMemory())


# ---- what a ConvNeXt cannot do


def test_what_a_convnext_cannot_do_is_refused_by_name():
    spec = spec_of(CONVNEXT)
    backbone = build(spec, Readout(), (64, 64))
    for asked in ("2", "each"):
        with pytest.raises(UsageError, match=f"--layers {asked}: tiny is a ConvNeXt"):
            settle(spec, FeatureOptions(layers=asked))
    assert settle(spec, FeatureOptions(layers="1", pool="mean")).pool == "mean"
    with pytest.raises(UsageError, match="convolutions do not attend"):
        backbone.attention(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="is a ConvNeXt, and only ViTs are fine-tuned"):
        require_plain_vit(spec)
    with pytest.raises(UsageError, match="not a multiple of the patch size 32"):
        settle(spec, FeatureOptions(img_size="100"))
    with pytest.raises(UsageError, match="packed engine cannot run tiny"):
        build(spec, Readout(), (64, 64), engine="packed")


def test_nothing_is_pretrained_from_rotary_positions_or_stages():
    with pytest.raises(UsageError, match="rotary positions"):
        continued_architecture(spec_of(TINY), Architecture(128, 3, 2, 16))
    with pytest.raises(CheckpointError, match="no plain ViT"):
        continued_architecture(spec_of(CONVNEXT), Architecture(128, 3, 2, 16))


def test_sizes_are_not_compared_with_a_table_that_is_not_there():
    options = FeatureOptions()
    for architecture in (TINY, CONVNEXT):
        spec = spec_of(dataclasses.replace(architecture, grid=1))
        assert oversized(settle(spec, options), options) is None


# ---- engines


@pytest.mark.parametrize("architecture", [TINY, SWIGLU, CONVNEXT], ids=["mlp", "swiglu", "convnext"])
@pytest.mark.parametrize("engine", ["packed", "openvino"])
def test_every_engine_gives_the_same_features(architecture, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    elif architecture.stages or not packing_works():
        pytest.skip("no packed layers")
    x, readout = images(2, 64, 96), Readout("cls+mean")
    eager = Backbone(filled(module_of(architecture), scale=0.1), spec_of(architecture), readout)
    wanted = eager.encode(x).clone()
    found = accelerate(eager, (64, 96), device="cpu", precision="fp32", engine=engine).encode(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", [TINY, SWIGLU], ids=["mlp", "swiglu"])
def test_attention_is_the_same_under_packed_layers(architecture):
    """Queries and keys are interleaved there; both, so that what they are to each other stays."""
    if not packing_works():
        pytest.skip("no packed layers")
    x = images(2, 48, 80)
    eager = Backbone(filled(module_of(architecture), scale=0.1), spec_of(architecture), Readout())
    wanted = eager.attention(x)
    found = accelerate(eager, (48, 80), device="cpu", precision="fp32", engine="packed").attention(x)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert wanted.std(dim=-1).max() > 1e-4  # it does not look everywhere alike


def test_packed_layers_in_bf16_stay_near():
    from fewvit.models.products import bf16_packing_works

    if not (packing_works() and bf16_packing_works()):
        pytest.skip("no packed layers in bf16")
    x = images(2, 48, 80)
    eager = Backbone(filled(module_of(TINY), scale=0.1), spec_of(TINY), Readout())
    wanted = eager.encode(x).clone()
    found = accelerate(eager, (48, 80), device="cpu", precision="bf16", engine="packed").encode(x)
    assert (found - wanted).abs().max() < 0.03


# ---- what is looked into


def test_the_table_of_positions_of_a_rotary_vit_is_refused_in_the_words_for_others():
    from fewvit.inspect.position_table import patch_positions

    with pytest.raises(UsageError, match=r"rotary positions(.|\n)*inspect distance"):
        patch_positions(Backbone(module_of(TINY), spec_of(TINY), Readout()))


# ---- fine-tuning


def tuning(mode: str, size: tuple[int, int], **options) -> Tuning:
    recipe = TuningRecipe(
        mode=mode, architecture=TINY, views=(View(64, (0.5, 1.0)),), epochs=3, batch_size=2, lr=0.1, **options
    )
    trunk = filled(Trunk(TINY), scale=0.2)
    prepare(trunk, recipe, True, torch.Generator().manual_seed(0))
    head = ClassificationHead(torch.randn(5, 128), torch.zeros(5), "raw", with_bias=True)
    return Tuning(recipe, trunk, Readout(), head, size)


@pytest.mark.parametrize(("mode", "options", "below"), [("lora", {"blocks": 2}, 1), ("last-block", {"blocks": 1}, 2)])
def test_tokens_that_were_kept_give_what_images_give_where_positions_are_rotary(mode, options, below):
    x = images(3, 48, 80)  # not square: rows and columns must be told apart
    task = tuning(mode, (48, 80), **options).eval()
    assert blocks_below(task.trunk) == below
    if mode == "lora":
        for name, parameter in task.trunk.named_parameters():
            if name.endswith("lora_b"):
                torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        of_images, tokens = task.features(x), task.enter(x)
        torch.testing.assert_close(task.features(tokens), of_images, atol=1e-5, rtol=1e-5)
        task.size = (80, 48)
        assert (task.features(tokens) - of_images).abs().max() > 1e-2


def test_a_rotary_vit_learns_from_kept_tokens_as_from_images():
    grads = []
    for kept in (False, True):
        torch.manual_seed(0)
        task = tuning("last-block", (48, 80), blocks=1)
        x = images(3, 48, 80)
        task.features(task.enter(x).detach() if kept else x).square().sum().backward()
        grads.append({n: p.grad for n, p in task.trunk.named_parameters() if p.grad is not None})
    assert set(grads[0]) == set(grads[1])
    assert all(name.startswith(("blocks.2.", "norm.")) for name in grads[0])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-4)


def test_a_trunk_in_training_gives_the_features_of_the_frozen_vit():
    trunk, frozen = filled(Trunk(TINY), scale=0.1), filled(module_of(TINY), scale=0.1)
    x = images()
    with torch.no_grad():
        found = trunk.class_token(x)
        torch.testing.assert_close(found, frozen.read(x, Readout()), atol=1e-6, rtol=1e-6)
        for block in trunk.blocks:
            block.attn.fused_attn = False
        torch.testing.assert_close(trunk.class_token(x), found, atol=1e-5, rtol=1e-5)
    trunk.recompute = True
    torch.testing.assert_close(trunk.class_token(x), found, atol=1e-5, rtol=1e-5)


# ---- the command that looks into files


def test_check_shows_how_a_file_maps(tmp_path):
    state = _official_names(filled(module_of(SWIGLU)).state_dict())
    for name in [name for name in state if ".mlp.fc1." in name]:
        for part, value in zip(("w1", "w2"), state.pop(name).chunk(2), strict=True):
            state[name.replace("fc1", part)] = value
    state = {name.replace("mlp.fc2", "mlp.w3"): value for name, value in state.items()}
    torch.save(state | {"mask_token": torch.zeros(1, 128)}, tmp_path / "v3.pth")
    facts = file_facts(
        tmp_path / "v3.pth", Access(tmp_path / "c", offline=True), DigestMemory(),
        checkpoint_key=None, family=None, whole=True,
    )  # fmt: skip
    assert facts["family"] == "dinov3"
    assert facts["left_aside"] == ["mask_token"]
    assert "blocks.0.mlp.w1.weight + blocks.0.mlp.w2.weight -> blocks.0.mlp.fc1.weight (192, 128)" in facts["mapping"]
    assert "storage_tokens -> register_tokens (1, 4, 128)" in facts["mapping"]
