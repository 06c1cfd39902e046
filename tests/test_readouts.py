"""Which blocks and tokens are read: explicit sums over what hooks see, official heads, keys that stay, and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture, families
from fewvit.errors import UsageError
from fewvit.extraction.cache import key_digest
from fewvit.extraction.pipeline import FeatureOptions, own_head, settle
from fewvit.extraction.protocols import attention_pooled
from fewvit.models.backbone import randomise
from fewvit.models.build import build
from fewvit.models.readout import Layers, Readout, number_of_layers
from fewvit.models.spec import BackboneSpec
from fewvit.models.timm_model import TimmModel

TINY = Architecture(width=64, depth=5, heads=1, patch=16, grid=6)
SPEC = BackboneSpec("toy", "dino", Architecture(128, 7, 2, 16), "dino/1", "3" * 64)
ATTENDING = "test_vit3.r160_in1k"  # timm's smallest with an attention pool: a class token, and 96 channels


def options(**asked) -> FeatureOptions:
    return FeatureOptions(device="cpu", **asked)


def timm_spec(name: str) -> BackboneSpec:
    """What is known of a model of timm by its name."""
    return dataclasses.replace(
        SPEC, name=name, family="supervised", protocol="timm/1", architecture=Architecture(96, 12, 0, 0, timm=name)
    )


# ---- what --layers means


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("4", Layers(4)),
        ("last4", Layers(4)),
        ("each", Layers(7, each=True)),
        ("block2", Layers(1, blocks=(2,))),
        ("block6,block2", Layers(2, blocks=(2, 6))),  # oldest first, in whatever order they were named
        ("block7", Layers(1)),  # the last one is the last one
        ("block6, block7", Layers(2)),
        ("block1,block2,block3,block4,block5,block6,block7", Layers(7)),
    ],
)
def test_layers_are_the_last_n_or_blocks_by_their_number_from_one(asked, wanted):
    found = Layers.of(asked, 7, "toy")
    assert found == wanted
    assert asked == "each" or Layers.of(found.text, 7, "toy") == found


@pytest.mark.parametrize(
    "asked",
    ["block0", "block8", "last8", "last0", "-1", "block-1", "block2,8", "2,3", "block", "", "block2,", "Block2"],
)
def test_blocks_that_there_are_not_are_refused_with_the_depth(asked):
    with pytest.raises(UsageError, match=r"toy has 7 blocks, so give 1 to 7 .* `block1` to `block7`"):
        settle(SPEC, options(layers=asked))


def test_a_block_twice_is_refused():
    with pytest.raises(UsageError, match="names a block twice"):
        settle(SPEC, options(layers="block2,block2"))


def test_what_reads_a_number_of_blocks_takes_no_others():
    assert [number_of_layers(asked) for asked in (None, "4", "last4")] == [None, 4, 4]
    for asked in ("each", "block2"):
        with pytest.raises(UsageError, match=f"--layers {asked} goes with knn and lowshot; a head reads a number"):
            number_of_layers(asked)


# ---- keys


# of the first 16 digits of keys as they were before blocks could be named, but for the decoder's version
STORED = {
    "8ff1a4e4d108841e": {},
    "f6236f4e058e674b": {"layers": "4"},
    "8115565e9929a385": {"layers": "each"},
    "0eb4792bc07c0d9d": {"pool": "mean"},
    "c659413fb5c3a91b": {"pool": "cls+gem"},
    "acda6b2a528514b4": {"layers": "3", "pool": "cls+mean"},
    "7c7100017f7f9e07": {"reading": {"longest": 224, "interpolation": "lanczos", "scales": (1.0, 0.5)}},
}


@pytest.mark.parametrize("digest", STORED)
def test_features_that_are_stored_are_still_found(digest):
    key = settle(SPEC, options(**STORED[digest])).key
    assert key_digest({**key, "decoder": "fast/x"})[:16] == digest


def test_each_choice_of_blocks_and_tokens_has_a_key_of_its_own_and_two_ways_to_say_one_share_it():
    layers = [None, "2", "each", "block1", "block2", "block1,block2", "block2,block5"]
    asked = [{"layers": one} for one in layers] + [{"pool": pool} for pool in ("mean", "gem", "cls+gem", "cls+mean")]
    asked += [{"pool": "each", "layers": "each"}, {"pool": "mean", "layers": "block2"}]
    assert len({settle(SPEC, options(**one)).fingerprint for one in asked}) == len(asked)
    for one, other in (("last2", "2"), ("block6,block7", "2"), ("block7", "1")):
        assert settle(SPEC, options(layers=one)).fingerprint == settle(SPEC, options(layers=other)).fingerprint


# ---- values


@pytest.fixture(scope="module")
def backbone():
    made = build(BackboneSpec("toy", "dino", TINY, "dino/1", "random", seed=3), Readout(), None, engine="eager")
    stream = torch.Generator().manual_seed(7)
    for parameter in made.model.parameters():
        parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=stream))
    return made


def seen(blocks, forward) -> list[torch.Tensor]:
    """What leaves each block, as hooks see it."""
    kept: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: kept.append(output)) for block in blocks]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    return kept


def pixels(n: int = 2, side: int = 96) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(5))


def gem(patches: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy((np.maximum(patches.double().numpy(), 1e-6) ** 4).mean(axis=1) ** 0.25).float()


@pytest.mark.parametrize("pool", ["cls", "mean", "gem", "cls,mean"])
@pytest.mark.parametrize("blocks", [(2,), (1, 4), ()])
def test_blocks_of_our_vits_are_what_leaves_them_under_the_final_norm(backbone, pool, blocks):
    x, model = pixels(), backbone.model
    outputs = seen(model.blocks, lambda: model.last_blocks(x))
    tokens = [model.norm(outputs[block - 1]).detach() for block in blocks or (4, 5)]
    parts = {"cls": [t[:, 0] for t in tokens], "mean": [t[:, 1:].mean(dim=1) for t in tokens]}
    parts |= {"gem": [gem(t[:, 1:]) for t in tokens], "cls,mean": [*parts["cls"], *parts["mean"]]}
    readout = Readout(pool, len(tokens), blocks=blocks)
    with torch.no_grad():
        found = model.read(x, readout)
    torch.testing.assert_close(found, torch.cat(parts[pool], dim=1), atol=1e-5, rtol=1e-4)
    assert found.shape[1] == readout.width(64)


def test_no_block_after_the_last_one_that_is_read_runs(backbone):
    x, model = pixels(), backbone.model
    assert len(seen(model.blocks, lambda: model.read(x, Readout("cls", 2, blocks=(1, 3))))) == 3


@pytest.fixture(scope="module")
def attending():
    model = TimmModel(Architecture(96, 0, 0, 0, positions="timm", timm=ATTENDING), (160, 160))
    randomise(model, 3)
    with torch.no_grad():
        model.trunk.attn_pool.latent.normal_(generator=torch.Generator().manual_seed(7))
    return model.eval()


@pytest.mark.parametrize("pool", ["cls", "mean", "gem", "cls,mean"])
@pytest.mark.parametrize("blocks", [(2,), (1, 3)])
def test_blocks_of_timms_vits_are_what_leaves_them_under_the_final_norm(attending, pool, blocks):
    x, trunk = pixels(side=160), attending.trunk
    outputs = seen(trunk.blocks, lambda: trunk.forward_features(x))
    tokens, prefix = [trunk.norm(outputs[block - 1]).detach() for block in blocks], attending.prefix
    parts = {"cls": [t[:, 0] for t in tokens], "mean": [t[:, prefix:].mean(dim=1) for t in tokens]}
    parts |= {"gem": [gem(t[:, prefix:]) for t in tokens], "cls,mean": [*parts["cls"], *parts["mean"]]}
    with torch.no_grad():
        found = attending.read(x, Readout(pool, len(blocks), blocks=blocks))
    torch.testing.assert_close(found, torch.cat(parts[pool], dim=1), atol=1e-5, rtol=1e-4)


def test_the_generalised_mean_of_a_timm_model_is_of_its_patches_alone(attending):
    x = pixels(side=160)
    with torch.no_grad():
        tokens = attending.trunk.forward_features(x)
        found = attending.read(x, Readout("gem"))
    torch.testing.assert_close(found, gem(tokens[:, attending.prefix :]), atol=1e-5, rtol=1e-4)


# ---- attention pools


def test_an_attention_pool_is_a_latents_softmax_over_all_tokens_then_a_residual_mlp(attending):
    """By hand, in timm's parameters: one learnt query, 2 or more heads, and x + mlp(norm(x))."""
    x, pool = pixels(side=160), attending.trunk.attn_pool
    with torch.no_grad():
        tokens = attending.trunk.forward_features(x)
        if not attending.trunk.pool_include_prefix:
            tokens = tokens[:, attending.prefix :]
        b, n, d = tokens.shape
        heads, size = pool.num_heads, d // pool.num_heads
        q = pool.q(pool.latent.expand(b, -1, -1)).view(b, -1, heads, size).transpose(1, 2)
        k, v = pool.kv(tokens).view(b, n, 2, heads, size).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(q @ k.transpose(-2, -1) / size**0.5, dim=-1)
        pooled = pool.proj((shares @ v).transpose(1, 2).reshape(b, 1, d))
        wanted = attending.trunk.fc_norm((pooled + pool.mlp(pool.norm(pooled)))[:, 0])
        found = attending.read(x, Readout("attn"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert found.std() > 0


@pytest.mark.parametrize(
    ("name", "pools", "own"),
    [
        ("vit_base_patch16_siglip_224.webli", ("mean", "gem", "attn"), "attn"),
        ("vit_so400m_patch14_siglip_gap_224.pali_mix", ("mean", "gem"), "mean"),
        ("vit_pe_core_base_patch16_224.fb", ("cls", "mean", "gem", "attn"), "attn"),
        ("vit_pe_core_gigantic_patch14_448.fb", ("mean", "attn"), "attn"),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", ("cls", "mean", "gem", "cls+mean"), "cls"),
        ("swin_tiny_patch4_window7_224.ms_in1k", ("mean", "gem"), "mean"),
    ],
)
def test_a_model_is_read_by_its_own_heads_pool_and_refuses_what_it_has_not(name, pools, own):
    spec = timm_spec(name)
    settled = settle(spec, options())
    assert settled.pool == own
    told = own_head(settled, options())
    assert (told is not None) == (own == "attn")
    assert told is None or "attention pool of its own head (--pool attn)" in told
    for pool in ("cls", "mean", "gem", "attn", "cls+mean"):
        if pool in pools:
            assert settle(spec, options(pool=pool)).pool == pool
            assert own_head(settle(spec, options(pool=pool)), options(pool=pool)) is None
        elif pool == "attn":
            with pytest.raises(UsageError, match=r"no attention pool\n.*--pool"):
                settle(spec, options(pool=pool))


def test_the_names_with_an_attention_pool_are_those_of_timms_models_that_have_one():
    """Over small and over a few large ones, built without memory."""
    import timm

    named = [
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224",
        "vit_pe_core_tiny_patch16_384",
        "vit_pe_core_gigantic_patch14_448",
        "vit_pe_spatial_tiny_patch16_512",
        "vit_so150m_patch16_reg4_map_256",
        "vit_so150m_patch16_reg4_gap_256",
        "vit_tiny_patch16_224",
    ]
    with torch.device("meta"):
        for name in named:
            pool = getattr(timm.create_model(name, pretrained=False, num_classes=0), "attn_pool", None)
            assert attention_pooled(name) == (pool is not None), name


def test_an_attention_pool_is_of_the_last_block_alone():
    siglip = timm_spec("vit_base_patch16_siglip_224.webli")
    for layers in ("2", "block3"):
        with pytest.raises(UsageError, match="own head over its last block"):
            settle(siglip, options(pool="attn", layers=layers))
    assert settle(siglip, options(layers="each", pool="each")).pool == "mean"  # it has no class token


def test_a_model_without_attention_pool_that_is_asked_for_it_all_the_same_says_so():
    model = TimmModel(Architecture(0, 0, 0, 0, positions="timm", timm="test_vit"), (160, 160))
    with pytest.raises(UsageError, match="no attention pool to read"):
        model.read(pixels(1, 160), Readout("attn"))


def test_rows_for_each_kind_of_token_go_with_rows_for_each_block():
    assert settle(SPEC, options(layers="each", pool="each")).pool == "cls,mean"
    with pytest.raises(UsageError, match="goes with --layers each"):
        settle(SPEC, options(pool="each"))
    with pytest.raises(UsageError, match="one token per block"):
        settle(SPEC, options(layers="each", pool="cls+mean"))


def test_a_fine_tuned_mae_has_no_normed_patches_for_a_generalised_mean():
    row = families()["mae"].variants["mae_vitb16_finetuned"]
    spec = dataclasses.replace(SPEC, family="mae", architecture=row.architecture, protocol="mae/1")
    with pytest.raises(UsageError, match="no class token"):
        settle(spec, options(pool="gem"))
