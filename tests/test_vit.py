"""The ViT and the engines that run it.

Positions by hand, shapes and counts of the fact sheet, and rows that depend on nothing but their image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import nn

from fewvit import cpu
from fewvit.backbones import Architecture, families
from fewvit.errors import UsageError
from fewvit.models import engines, products
from fewvit.models.backbone import Backbone, randomise
from fewvit.models.build import build
from fewvit.models.engines import PackedBlock, choose_engine, packing_works, resolve_device, resolve_precision
from fewvit.models.products import bf16_packing_works
from fewvit.models.readout import Readout
from fewvit.models.spec import BackboneSpec
from fewvit.models.timm_model import TimmModel
from fewvit.models.vit import EPS, VisionTransformer, resize_positions

from oracles import resized_positions

PLAIN = {name: row for of in ("dino", "dinov2", "mae", "msn") for name, row in families()[of].variants.items()}
PLAIN = {name: row for name, row in PLAIN.items() if not row.architecture.timm}
TINY = Architecture(128, 3, 2, 16, grid=6)
REGISTERED = Architecture(128, 2, 2, 14, grid=5, positions="antialias", registers=4, layer_scale=True)
SWIGLU = Architecture(128, 2, 2, 14, grid=5, feed_forward="swiglu", hidden=344, layer_scale=True)
TUNED = Architecture(128, 2, 2, 16, grid=6, positions="mae", final_norm="fc_norm")
MODELS = {"plain": TINY, "registers": REGISTERED, "swiglu": SWIGLU, "fc_norm": TUNED}

packed_works = pytest.mark.skipif(not packing_works(), reason="torch has no packed oneDNN layers on this machine")
bf16_packed_works = pytest.mark.skipif(
    not bf16_packing_works(), reason="torch has no packed oneDNN layers in bfloat16 on this machine"
)
CPU_ENGINES = ["eager", pytest.param("packed", marks=packed_works)]


def spec_of(architecture: Architecture, seed: int = 3) -> BackboneSpec:
    return BackboneSpec("toy", "dino", architecture, "dino/1", "random", seed=seed)


def made(
    architecture: Architecture, readout: Readout | None = None, size=(84, 84), *, seed: int = 3, **options
) -> Backbone:
    """A frozen backbone with random weights; layer scales and norms too are made to matter."""
    backbone = build(spec_of(architecture, seed), readout or Readout(), size, engine="eager")
    stream = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.model.named_parameters():
        if "norm" in name or "gamma" in name:
            parameter.add_(torch.rand(parameter.shape, generator=stream) - 0.5)
    return engines.accelerate(backbone, size, device="cpu", **{"precision": "fp32", "engine": "eager", **options})


def images(n: int, height: int = 84, width: int | None = None, seed: int = 7) -> torch.Tensor:
    return torch.randn(n, 3, height, width or height, generator=torch.Generator().manual_seed(seed))


def size_for(architecture: Architecture) -> int:
    return 84 if architecture.patch == 14 else 96


# ---- positions


def table(grid: int, width: int = 5) -> torch.Tensor:
    return torch.randn(1, 1 + grid * grid, width, generator=torch.Generator().manual_seed(grid))


def resize(grid: int, rule: str, rows: int, columns: int) -> torch.Tensor:
    return resize_positions(table(grid), Architecture(64, 1, 1, 16, grid=grid, positions=rule), rows, columns)


SIZES = [(3, 3), (6, 6), (7, 7), (16, 16), (20, 20), (33, 33)]
UNEQUAL = [(5, 7), (11, 16), (7, 28), (28, 7), (4, 49)]


@pytest.mark.parametrize("grid", [14, 37])
@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (rule, size)
        for rule in ("dino", "antialias", "mae", "msn")
        for size in SIZES + UNEQUAL * (rule in ("dino", "antialias"))
    ],
)
def test_a_position_table_is_sampled_as_its_familys_code_does(rule, size, grid):
    wanted = resized_positions(table(grid).numpy(), rule, *size)
    np.testing.assert_allclose(resize(grid, rule, *size).numpy(), wanted, atol=2e-5)


def test_the_rules_give_different_tables_but_for_msns_and_maes_on_squares():
    dino, antialias, mae, msn = (resize(14, rule, 9, 9) for rule in ("dino", "antialias", "mae", "msn"))
    torch.testing.assert_close(mae, msn)
    for one, other in ((dino, mae), (dino, antialias), (antialias, mae)):
        assert (one - other).abs().max() > 0.05


@pytest.mark.parametrize("rule", ["dino", "antialias", "mae", "msn"])
def test_a_square_of_the_tables_own_size_takes_it_as_it_is(rule):
    assert torch.equal(resize(14, rule, 14, 14), table(14))


@pytest.mark.parametrize("rule", ["dino", "antialias", "mae", "msn"])
def test_the_class_tokens_position_is_never_touched(rule):
    assert torch.equal(resize(14, rule, 9, 9)[:, 0], table(14)[:, 0])


def test_at_112_by_448_dino_resizes_and_msn_does_not():
    # 7 x 28 patches are as many as 14 x 14: MSN looks at the number only
    assert torch.equal(resize(14, "msn", 7, 28), table(14))
    np.testing.assert_allclose(
        resize(14, "dino", 7, 28).numpy(), resized_positions(table(14).numpy(), "dino", 7, 28), atol=2e-5
    )
    assert not torch.allclose(resize(14, "dino", 7, 28), table(14), atol=0.1)


def test_half_precision_tables_are_resized_in_float32():
    half = resize_positions(table(14).bfloat16(), Architecture(64, 1, 1, 16), 9, 9)
    assert half.dtype == torch.bfloat16
    wanted = resized_positions(table(14).bfloat16().float().numpy(), "dino", 9, 9)
    np.testing.assert_allclose(half.float().numpy(), wanted, atol=0.02)


@pytest.mark.parametrize("rows", [29, 45, 58, 61])
def test_sizes_at_which_msns_own_code_fails_are_refused(rows):
    # sqrt(n / N) in float64 times 14 falls just below a whole number there, so torch gives one row less
    with pytest.raises(
        UsageError, match=f"msn position rule gives .{rows - 1}, {rows - 1}. patches where {rows}x{rows}"
    ) as error:
        resize(14, "msn", rows, rows)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("architecture", "size", "words"),
    [
        (TINY, (100, 96), "100 is not a multiple of the patch size 16; the nearest are 96 and 112"),
        (TINY, (96, 8), "8 is not a multiple of the patch size 16; the nearest are 16 and 32"),
        (REGISTERED, (84, 96), "96 is not a multiple of the patch size 14; the nearest are 84 and 98"),
        (TUNED, (96, 112), "square images only, not 96x112"),
        (dataclasses.replace(TINY, positions="msn"), (96, 112), "none for 96x112"),
        (dataclasses.replace(TINY, positions="msn"), (112, 96), "Use --img-size 96"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(architecture, size, words):
    with pytest.raises(UsageError) as error:
        architecture.check_size(*size)
    assert words in str(error.value)
    with pytest.raises(UsageError):
        made(architecture, size=(84, 84) if architecture.patch == 14 else (96, 96)).encode(images(1, *size))


def test_sizes_that_fit_are_accepted():
    TINY.check_size(96, 160)
    TINY.check_size(16, 16)
    dataclasses.replace(TINY, positions="msn").check_size(48, 192)  # 3 x 12 patches are 36
    dataclasses.replace(TINY, positions="msn").check_size(32, 32)
    TUNED.check_size(160, 160)
    Architecture(0, 0, 0, 0, positions="timm", timm="any").check_size(7, 11)


# ---- the architectures of the fact sheet


@functools.cache
def on_meta(name: str) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(PLAIN[name].architecture)


MILLIONS = {"vits": 21.67, "vitb": 85.8, "vitb4": 87.5, "vitl": 303.3, "vitl7": 303.5, "vith": 630.8, "vitg": 1136.5}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("dino_vitt16", "fewvit_tiny")])
def test_a_variant_has_as_many_parameters_as_the_fact_sheet_says(name):
    _, _, size = name.partition("_")
    short = size.split("_")[0]
    wanted = MILLIONS.get(short) or MILLIONS[short[:4]]
    found = sum(p.numel() for p in on_meta(name).parameters()) / 1e6
    # DINOv2 has patches of 14, a table of 37 x 37 and layer scales besides; the sheet counts those for g only
    extra = 0 if not name.startswith("dinov2") or short.startswith("vitg") else found - _dinov1_like(name)
    assert found - extra == pytest.approx(wanted, abs=0.006 if short.startswith("vits") else 0.06)


def _dinov1_like(name: str) -> float:
    """Millions of parameters at the same width and depth with DINO's 16-pixel patches and 14 x 14 table, no scales."""
    a = PLAIN[name].architecture
    with torch.device("meta"):
        return sum(p.numel() for p in VisionTransformer(Architecture(a.width, a.depth, a.heads, 16)).parameters()) / 1e6


@pytest.mark.parametrize("name", PLAIN)
def test_a_variants_tensors_are_those_of_the_official_files(name):
    a = PLAIN[name].architecture
    d, hidden = a.width, {"mlp": 4 * a.width, "swiglu": 4096}[a.feed_forward]
    first = 2 * hidden if a.feed_forward == "swiglu" else hidden
    block = {
        **{f"norm{i}.{kind}": (d,) for i in (1, 2) for kind in ("weight", "bias")},
        "attn.qkv.weight": (3 * d, d),
        "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d),
        "attn.proj.bias": (d,),
        "mlp.fc1.weight": (first, d),
        "mlp.fc1.bias": (first,),
        "mlp.fc2.weight": (d, hidden),
        "mlp.fc2.bias": (d,),
        **({"ls1.gamma": (d,), "ls2.gamma": (d,)} if a.layer_scale else {}),
    }
    wanted = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + a.grid**2, d),
        "patch_embed.proj.weight": (d, 3, a.patch, a.patch),
        "patch_embed.proj.bias": (d,),
        **({"register_tokens": (1, 4, d)} if a.registers else {}),
        **{f"blocks.{i}.{key}": shape for i in range(a.depth) for key, shape in block.items()},
        f"{a.final_norm}.weight": (d,),
        f"{a.final_norm}.bias": (d,),
    }
    assert {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()} == wanted
    if not name.startswith("dinov2"):
        assert len(wanted) == 6 + 12 * a.depth


@pytest.mark.parametrize("name", PLAIN)
def test_norms_heads_and_activations_are_the_official_ones(name):
    a, model = PLAIN[name].architecture, on_meta(name)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6} == {EPS}
    heads = 16 if a.width == 1280 else a.width // 64  # ViT-H has heads of 80
    assert {block.attn.num_heads for block in model.blocks} == {heads} == {a.heads}
    act = {type(block.mlp.act) for block in model.blocks}
    assert act == {nn.SiLU if a.feed_forward == "swiglu" else nn.GELU}
    if a.feed_forward == "mlp":
        assert {block.mlp.act.approximate for block in model.blocks} == {"none"}


@pytest.mark.parametrize("name", PLAIN)
def test_the_architecture_read_from_a_variants_tensors_is_its_tables(name):
    family = next(kind for kind in families().values() if name in kind.variants)
    assert family.infer(on_meta(name).state_dict()) == PLAIN[name].architecture


# ---- reading


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", ["cls", "mean", "cls+mean"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("norm", ["final", "none"])
def test_a_feature_is_the_concatenation_of_what_its_readout_names(kind, pool, layers, norm):
    a = MODELS[kind]
    backbone, x = made(a, Readout(pool, layers, norm), (size_for(a),) * 2), images(3, size_for(a))
    model, first = backbone.model, 1 + a.registers
    kept = model.last_blocks(x, layers)
    if kind == "fc_norm":
        classes = [t[:, 0] for t in kept]
        means = [model.fc_norm(t[:, first:].mean(dim=1)) for t in kept]
    else:
        classes = [t[:, 0] if norm == "none" else model.norm(t)[:, 0] for t in kept]
        means = [model.norm(t)[:, first:].mean(dim=1) for t in kept]
    wanted = torch.cat({"cls": classes, "mean": means, "cls+mean": [*classes, means[-1]]}[pool], dim=1)
    found = backbone.encode(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert found.shape[1] == backbone.readout.width(a.width)
    assert found.dtype == torch.float32


def test_the_width_of_a_readout_counts_its_parts():
    widths = [Readout(pool, 3).width(7) for pool in ("cls", "mean", "cls+mean", "cls+gem", "cls+dist")]
    assert widths == [21, 21, 28, 28, 42]


@pytest.mark.parametrize("kind", ["plain", "registers", "swiglu"])
@pytest.mark.parametrize("norm", ["final", "none"])
def test_the_generalised_mean_is_of_the_normed_patch_tokens_in_which_nothing_is_negative(kind, norm):
    """In float64: (mean of max(x, 1e-6)^4)^(1/4) for each channel, behind the class token of each layer."""
    a = MODELS[kind]
    backbone, x = made(a, Readout("cls+gem", 2, norm), (size_for(a),) * 2), images(3, size_for(a))
    plain = made(a, Readout("cls", 2, norm), (size_for(a),) * 2).encode(x)
    patches = backbone.tokens(x)[-1][:, 1 + a.registers :].double().numpy()  # normed
    assert (patches < 0).any()
    wanted = np.power(np.mean(np.maximum(patches, 1e-6) ** 4, axis=1), 0.25)
    found = backbone.encode(x)
    np.testing.assert_allclose(found[:, : 2 * a.width], plain, atol=1e-5)
    np.testing.assert_allclose(found[:, 2 * a.width :], wanted, rtol=1e-4)
    assert found.shape[1] == backbone.readout.width(a.width)


def test_tokens_are_class_registers_and_patches_in_that_order():
    backbone, x = made(REGISTERED), images(2)
    model = backbone.model
    tokens = model.embed(x)
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    positions = resize_positions(model.pos_embed, REGISTERED, 6, 6)
    torch.testing.assert_close(tokens[:, :1], (model.cls_token + positions[:, :1]).expand(2, -1, -1))
    torch.testing.assert_close(tokens[:, 1:5], model.register_tokens.expand(2, -1, -1))  # registers have no position
    torch.testing.assert_close(tokens[:, 5:], patches + positions[:, 1:])
    assert model.prefix == 5


def test_patches_are_numbered_row_by_row():
    backbone = made(TINY, size=(96, 96))
    x = torch.zeros(1, 3, 96, 64)
    x[:, :, 32:48, 16:32] = 1  # row 2, column 1 of 6 x 4 patches
    blank = backbone.model.patch_embed.proj(torch.zeros(1, 3, 96, 64)).flatten(2)
    differs = (backbone.model.patch_embed.proj(x).flatten(2) - blank).abs().sum(dim=1)[0] > 0
    assert differs.nonzero().flatten().tolist() == [2 * 4 + 1]


def test_attention_is_softmax_of_scaled_products_head_by_head():
    backbone, x = made(TINY, size=(96, 96)), images(2, 96)
    model = backbone.model
    before = model.last_blocks(x, 2)[0]  # what enters the last block
    last = model.blocks[-1]
    q, k, _ = last.attn.qkv(last.norm1(before)).chunk(3, dim=-1)
    found = backbone.attention(x)
    for head in range(2):
        own = slice(64 * head, 64 * head + 64)
        wanted = torch.softmax(q[..., own] @ k[..., own].transpose(1, 2) / 8, dim=-1)
        torch.testing.assert_close(found[:, head], wanted)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 2, 37))


# ---- frozen


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_a_backbone_stays_frozen_whatever_is_asked_of_it(engine):
    backbone = made(TINY, size=(96, 96), engine=engine)
    before = backbone.encode(images(3, 96))
    assert backbone.train() is backbone
    nn.Sequential(backbone, nn.Linear(128, 7)).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(backbone(images(3, 96)), before)
    assert not before.requires_grad


def test_a_head_can_be_trained_on_what_a_backbone_gives():
    head = nn.Linear(128, 7)
    head(made(TINY, size=(96, 96)).encode(images(3, 96))).sum().backward()
    assert head.weight.grad.abs().sum() > 0


# ---- random weights


def test_random_weights_are_a_function_of_the_seed_alone():
    one, again, other = (made(TINY, size=(96, 96), seed=seed).encode(images(2, 96)) for seed in (3, 3, 7))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.1)


def test_random_weights_neither_read_nor_move_torchs_own_stream():
    torch.manual_seed(11)
    model = VisionTransformer(TINY)
    state = torch.random.get_rng_state()
    randomise(model, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    first = model.cls_token.clone()
    torch.manual_seed(13)
    randomise(model, 3)
    assert torch.equal(model.cls_token, first)


def test_random_weights_are_the_official_initialisation():
    model = VisionTransformer(dataclasses.replace(TINY, width=384, heads=6, layer_scale=True))
    randomise(model, 3)
    for name, parameter in model.state_dict().items():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("gamma"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.numel() > 10_000:
            assert parameter.std() == pytest.approx(0.02, rel=0.05), name
            assert parameter.mean().abs() < 0.001, name
        else:
            assert parameter.std() > 0.01, name


# ---- engines


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_row_never_depends_on_its_neighbours_or_its_place(engine, kind):
    a = MODELS[kind]
    size = size_for(a)
    backbone = made(a, Readout("mean"), (size, size), engine=engine)
    one = images(1, size, seed=11)
    rows = []
    for place, seed in ((0, 13), (3, 17), (6, 19)):
        batch = images(7, size, seed=seed)
        batch[place] = one[0]
        rows.append(backbone.encode(batch)[place])
    rows.append(backbone.encode(one.repeat(7, 1, 1, 1))[2])
    assert all(torch.equal(row, rows[0]) for row in rows)


def test_a_row_in_bf16_never_depends_on_its_neighbours_either():
    backbone = made(TINY, size=(96, 96), precision="bf16", engine="auto")
    batches = [images(5, 96, seed=seed) for seed in (13, 17)]
    for place, batch in zip((0, 4), batches, strict=True):
        batch[place] = images(1, 96, seed=11)[0]
    assert torch.equal(backbone.encode(batches[0])[0], backbone.encode(batches[1])[4])


@packed_works
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_packed_layers_give_eager_features(kind, pool):
    a = MODELS[kind]
    x = images(3, size_for(a))
    eager, packed = (made(a, Readout(pool), (size_for(a),) * 2, engine=engine) for engine in ("eager", "packed"))
    assert all(isinstance(block, PackedBlock) for block in packed.model.blocks)
    torch.testing.assert_close(packed.encode(x), eager.encode(x), atol=1e-5, rtol=1e-5)
    if kind != "fc_norm":
        torch.testing.assert_close(packed.tokens(x)[0], eager.tokens(x)[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(packed.attention(x), eager.attention(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["registers", "swiglu"])
def test_openvino_gives_eager_features_where_positions_are_resized(kind):
    pytest.importorskip("openvino")
    x = images(3, 84, 112)
    eager, compiled = (
        made(MODELS[kind], Readout("mean"), (84, 112), engine=engine) for engine in ("eager", "openvino")
    )
    torch.testing.assert_close(compiled.encode(x), eager.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled(x[:2]), eager.encode(x[:2]), atol=1e-5, rtol=1e-5)  # another batch size
    with pytest.raises(UsageError, match="compiled for 84x112"):
        compiled.encode(images(1, 84))
    torch.testing.assert_close(compiled.tokens(images(1, 84))[0], eager.tokens(images(1, 84))[0])  # another image size


@pytest.mark.parametrize("engine", ["eager", pytest.param("packed", marks=bf16_packed_works), "openvino"])
def test_bf16_is_near_fp32_and_not_the_same(engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    full, half = made(TINY, size=(96, 96)), made(TINY, size=(96, 96), precision="bf16", engine=engine)
    x = images(5, 96)
    cosine = nn.functional.cosine_similarity(full.encode(x), half.encode(x))
    assert cosine.min() > 0.999
    assert half.encode(x).dtype == torch.float32
    if engine != "openvino" or cpu.computes_bf16():
        assert not torch.equal(full.encode(x), half.encode(x))


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("eager", "fp32"),
        ("eager", "bf16"),
        pytest.param("packed", "fp32", marks=packed_works),
        pytest.param("packed", "bf16", marks=bf16_packed_works),
    ],
)
def test_calling_a_backbone_is_encoding(engine, precision):
    backbone, x = made(TINY, size=(96, 96), engine=engine, precision=precision), images(2, 96)
    assert torch.equal(backbone(x), backbone.encode(x))


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        (TINY, {"engine": "pakced"}, "pakced"),
        (TINY, {"engine": "packed", "precision": "fp16"}, "fp16"),
        (Architecture(192, 12, 3, 16, positions="timm", timm="vit_tiny_patch16_224"), {"engine": "packed"}, "packed"),
    ],
)
def test_an_engine_that_cannot_run_a_model_is_refused(architecture, options, words):
    with pytest.raises(UsageError, match=words):
        build(spec_of(architecture), Readout(), (224, 224), **options)


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        Architecture(width=128, depth=3, heads=2, patch=14, grid=5, registers=4, layer_scale=True),
        Architecture(
            width=64, depth=1, heads=1, patch=8, grid=3, feed_forward="swiglu", hidden=176, final_norm="fc_norm"
        ),
    ],
)
def test_the_number_of_parameters_is_that_of_the_module(architecture):
    assert architecture.parameters == sum(one.numel() for one in VisionTransformer(architecture).parameters())


def test_a_cpu_engine_is_refused_on_a_gpu():
    with pytest.raises(UsageError, match="packed engine runs on CPUs"):
        engines.accelerate(made(TINY, size=(96, 96)), (96, 96), device="cuda", precision="fp32", engine="packed")


def test_without_packed_layers_the_packed_engine_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "packing_works", lambda: False)
    with pytest.raises(UsageError, match="packed engine cannot run"):
        made(TINY, size=(96, 96), engine="packed")


@pytest.mark.parametrize(
    ("asked", "packing", "openvino", "chosen"),
    [
        (("fp32", "cpu"), True, True, "packed"),
        (("fp32", "cpu"), False, True, "eager"),
        (("bf16", "cpu"), True, True, "openvino"),
        (("bf16", "cpu"), True, False, "packed"),
        (("bf16", "cpu"), False, False, "eager"),
        (("fp16", "cpu"), True, True, "eager"),
        (("fp32", "cuda"), True, True, "eager"),
        (("bf16", "cuda:1"), True, True, "eager"),
    ],
)
def test_auto_is_the_fastest_engine_that_runs_here(asked, packing, openvino, chosen, monkeypatch):
    monkeypatch.setattr(engines, "packing_works", lambda: packing)
    monkeypatch.setattr(engines, "bf16_packing_works", lambda: True)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object() if openvino else None)
    assert choose_engine(*asked) == chosen
    assert choose_engine(*asked, plain_vit=False) == "eager"
    monkeypatch.setattr(engines, "bf16_packing_works", lambda: False)  # a CPU with AVX2 alone
    assert choose_engine(*asked) == ("eager" if asked[0] == "bf16" and chosen == "packed" else chosen)


@pytest.mark.parametrize(
    ("flags", "gpu", "device", "precision"),
    [
        ({"avx512_bf16"}, False, "cpu", "bf16"),
        ({"amx_bf16"}, False, "cpu", "bf16"),
        ({"avx512f"}, False, "cpu", "fp32"),
        (set(), True, "cuda:1", "bf16"),
        ({"avx512_bf16"}, False, "cuda", "fp32"),
    ],
)
def test_auto_precision_is_bf16_where_the_device_computes_in_it(flags, gpu, device, precision, monkeypatch):
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu)
    assert resolve_precision("auto", device) == precision
    assert [resolve_precision(asked, device) for asked in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


def test_devices_are_auto_cpu_and_gpus_that_are_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    for device in ("cuda", "cuda:1", "tpu", "cuda:x", "", "CPU"):
        with pytest.raises(UsageError, match=f"--device '?{device}"):
            resolve_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (resolve_device("auto"), resolve_device("cuda:1"), resolve_device("cpu")) == ("cuda", "cuda:1", "cpu")


@pytest.mark.parametrize("fault", ["no operator", "wrong numbers", "wrong gelu", "fused add wrong"])
def test_packed_layers_are_tried_before_they_are_trusted(fault, monkeypatch):
    right = products.packed_product
    if fault == "no operator":
        monkeypatch.setattr(products, "packed", lambda weight: (_ for _ in ()).throw(AttributeError("mkldnn")))
    elif fault == "wrong numbers":
        monkeypatch.setattr(
            products, "packed_product", lambda x, weight, bias=None, activation="none": torch.zeros(13, 32)
        )
    elif fault == "wrong gelu":
        monkeypatch.setattr(
            products, "packed_product", lambda x, weight, bias=None, activation="none": right(x, weight, bias)
        )
    else:
        monkeypatch.setattr(products, "packed_sum", lambda x, residual, weight, bias: residual)
    packing_works.cache_clear()
    assert packing_works() is False
    packing_works.cache_clear()


# ---- timm's models

BASELINES = {
    "deit_tiny_distilled_patch16_224": (96, 96),
    "swin_tiny_patch4_window7_224": (224, 224),
    "beit_base_patch16_224": (96, 96),
    "vit_tiny_r_s16_p8_224": (96, 96),  # a ResNet stem
}
SMALLER = {
    "swin_tiny_patch4_window7_224": {"depths": (1, 2), "embed_dim": 24, "num_heads": (1, 2)},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 128, "num_heads": 2},
}


@pytest.fixture(scope="module")
def baseline() -> Callable[[str], TimmModel]:
    @functools.cache
    def model(name: str) -> TimmModel:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timm, "create_model", functools.partial(timm.create_model, **SMALLER.get(name, {})))
            made = TimmModel(Architecture(0, 0, 0, 0, positions="timm", timm=name), BASELINES[name])
        randomise(made, 3)
        return made.eval()

    return model


@pytest.mark.parametrize("name", BASELINES)
def test_a_baselines_own_pooling_is_what_timms_head_would_see(name, baseline):
    model, x = baseline(name), images(2, *BASELINES[name])
    with torch.no_grad():
        tokens = model.trunk.forward_features(x)
        head = model.trunk.forward_head(tokens, pre_logits=True)
        if "swin" in name or "beit" in name:
            found = model.read(x, Readout("mean"))
        elif "distilled" in name:
            both = model.read(x, Readout("cls+dist"))
            assert torch.equal(both, torch.cat([tokens[:, 0], tokens[:, 1]], dim=1))
            found = (both[:, :192] + both[:, 192:]) / 2  # timm averages the two heads' inputs
        else:
            found = model.read(x, Readout("cls"))
    torch.testing.assert_close(found, head, atol=1e-5, rtol=1e-5)
    assert head.std() > 0


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("deit_tiny_distilled_patch16_224", 2), ("vit_tiny_r_s16_p8_224", 1), ("beit_base_patch16_224", 1)],
)
def test_a_baselines_class_token_and_patch_mean_leave_each_other_out(name, prefix, baseline):
    model, x = baseline(name), images(2, *BASELINES[name])
    with torch.no_grad():
        tokens = model.trunk.forward_features(x)
        mean = tokens[:, prefix:].mean(dim=1)
        mean = model.trunk.fc_norm(mean) if "beit" in name else mean
        assert torch.equal(model.read(x, Readout("cls")), tokens[:, 0])
        torch.testing.assert_close(model.read(x, Readout("mean")), mean)
        torch.testing.assert_close(model.read(x, Readout("cls+mean")), torch.cat([tokens[:, 0], mean], dim=1))
        gem = tokens[:, prefix:].clamp(min=1e-6).pow(4).mean(dim=1).sqrt().sqrt()
        torch.testing.assert_close(model.read(x, Readout("cls+gem")), torch.cat([tokens[:, 0], gem], dim=1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_several_layers_of_a_baseline_are_its_last_blocks_normed_oldest_first(pool, baseline):
    model, x = baseline("deit_tiny_distilled_patch16_224"), images(2, 96)
    kept = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: kept.append(output))
        for block in model.trunk.blocks[-3:]
    ]
    with torch.no_grad():
        model.trunk.forward_features(x)
        normed = [model.trunk.norm(tokens) for tokens in kept]
        wanted = [tokens[:, 0] if pool == "cls" else tokens[:, 2:].mean(dim=1) for tokens in normed]
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(model.read(x, Readout(pool, 3)), torch.cat(wanted, dim=1), atol=1e-5, rtol=1e-5)


def test_what_a_baseline_has_not_is_refused(baseline):
    swin = baseline("swin_tiny_patch4_window7_224")
    with pytest.raises(UsageError, match="--layers 3"):
        swin.read(images(1, 224), Readout("mean", 3))
    with pytest.raises(UsageError, match=r"--pool cls\+mean"):
        baseline("deit_tiny_distilled_patch16_224").read(images(1, 96), Readout("cls+mean", 3))
    backbone = Backbone(swin, spec_of(swin.architecture), Readout("mean"))
    with pytest.raises(UsageError, match="attention maps"):
        backbone.attention(images(1, 224))
    with pytest.raises(UsageError, match="several layers"):
        backbone.tokens(images(1, 224), layers=2)


def test_a_model_or_size_that_timm_has_not_is_refused():
    with pytest.raises(UsageError, match="timm cannot build no_such_vit"):
        TimmModel(Architecture(0, 0, 0, 0, timm="no_such_vit"), (224, 224))
