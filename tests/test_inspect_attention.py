"""Attention maps, their masks and colours, and rollout, against the official outputs, brute force and hand."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import timm
import torch

import fewvit
from fewvit.backbones import Architecture
from fewvit.errors import UsageError
from fewvit.inspect.figure import Figure
from fewvit.inspect.flow import added_flow, rollout
from fewvit.inspect.heads import attention
from fewvit.inspect.masks import COLOURS, enlarged, in_colours, mass_mask, shown_through
from fewvit.inspect.pictures import Pictures, in_parts, picked

from made_pictures import made_backbone, made_pictures

TINY = Architecture(64, 3, 2, 14, grid=5)
REGISTERED = Architecture(64, 2, 2, 14, grid=5, positions="antialias", registers=4, layer_scale=True)
DISTILLED = "deit_tiny_distilled_patch16_224"
TUNED = Architecture(64, 2, 2, 14, grid=5, positions="mae", final_norm="fc_norm")


def of_timm(name: str) -> Architecture:
    return Architecture(0, 0, 0, 0, positions="timm", timm=name)


@pytest.fixture
def two_blocks(monkeypatch):
    """timm's models with two blocks, for speed."""
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))


# ---- the official outputs


@pytest.mark.parametrize(
    ("file", "key", "view", "size"),
    [
        ("dino_backbone.pth", "dino_backbone/s224", np.s_[:], "224"),
        ("dino_backbone.pth", "dino_backbone/s96", np.s_[:, 64:160, 64:160], "96"),
        ("dino_backbone.pth", "dino_backbone/s160x224", np.s_[:, 32:192], "160x224"),
        ("dino_full.pth", "dino_full.teacher/s96", np.s_[:, 64:160, 64:160], "96"),
    ],
)
def test_maps_of_official_weights_are_the_official_rows_without_the_class_token(parity, file, key, view, size):
    height, width = (int(n) for n in (size.split("x") * 2)[:2])
    backbone = fewvit.load_backbone(str(parity.folder / file), family="dino", img_size=(height, width))
    pixels = parity.arrays("preprocess.npz")["dino"][view][:2]
    figure = attention(backbone, Pictures(["a", "b"], np.array([3, 7]), ["x"] * 8, pixels))
    maps, others = figure.arrays["attention"], figure.arrays["others"]
    assert maps.shape[2:] == (height // 16, width // 16)
    row = np.concatenate([others[..., None], maps.reshape(*maps.shape[:2], -1)], axis=-1)
    parity.check("features.npz", f"{key}/attn_cls_row", row)


# ---- one pass


def test_any_blocks_are_taken_in_one_pass_that_ends_with_the_last_of_them():
    backbone, calls = made_backbone(TINY), []
    x = next(in_parts(backbone, made_pictures(2)))
    model = backbone.model
    tokens, wanted = model.embed(x), []
    for block in model.blocks:
        q, k, _ = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
        heads = [torch.softmax(q[..., h : h + 32] @ k[..., h : h + 32].mT / 32**0.5, dim=-1) for h in (0, 32)]
        wanted.append(torch.stack(heads, dim=1))
        tokens = block(tokens)
    for block in model.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    first, second = backbone.attend(x, [0, 1])
    assert len(calls) == 1  # nothing behind block 1 runs, and block 1 itself no further than its attention
    torch.testing.assert_close(first, wanted[0])
    torch.testing.assert_close(second, wanted[1])
    [row] = backbone.attend(x, [2], queries=slice(0, 1))
    torch.testing.assert_close(row, wanted[2][:, :, :1])
    torch.testing.assert_close(backbone.attention(x), wanted[2])


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"]
)
def test_attention_of_timms_models_times_their_values_is_what_their_own_layer_gives(name, two_blocks):
    """With relative biases, rotary positions and norms of queries, as a model has them; and nothing stays changed."""
    backbone = made_backbone(of_timm(name), "64")
    layer, seen = backbone.model.trunk.blocks[1].attn, {}
    layer.register_forward_pre_hook(lambda _, given: seen.update(given=given[0]))
    hook = layer.proj.register_forward_pre_hook(lambda _, given: seen.update(mixed=given[0]))
    x = next(in_parts(backbone, made_pictures(2, 64)))
    before = backbone.encode(x)  # by the fused kernel
    mixed = seen["mixed"]
    hook.remove()
    found = backbone.attention(x)
    biases = getattr(layer, "v_bias", None)
    value = torch.nn.functional.linear(seen["given"], layer.qkv.weight.chunk(3)[2], biases)
    if biases is None and layer.qkv.bias is not None:
        value = value + layer.qkv.bias.chunk(3)[2]
    value = value.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    torch.testing.assert_close((found @ value).transpose(1, 2).flatten(2), mixed, atol=1e-5, rtol=1e-4)
    assert layer.fused_attn
    assert not layer.attn_drop._forward_hooks
    torch.testing.assert_close(backbone.encode(x), before, atol=0, rtol=0)


# ---- which tokens a map has


@pytest.mark.parametrize(
    ("architecture", "size", "prefix", "told"),
    [
        (REGISTERED, "84", 5, "the class token and 4 register tokens"),
        (of_timm(DISTILLED), "96", 2, "the class token and the distillation token"),
        (of_timm("vit_small_patch16_dinov3"), "96", 5, "the class token and 4 register tokens"),
    ],
)
def test_registers_storage_and_distillation_tokens_are_no_patches(architecture, size, prefix, told, two_blocks):
    backbone, pictures = made_backbone(architecture, size), made_pictures(2, int(size))
    figure = attention(backbone, pictures)
    row = backbone.attention(next(in_parts(backbone, pictures)))[:, :, 0].numpy()
    np.testing.assert_allclose(figure.arrays["attention"].reshape(*row.shape[:2], -1), row[..., prefix:], atol=1e-6)
    np.testing.assert_allclose(figure.arrays["others"], row[..., :prefix].sum(axis=-1), atol=1e-6)
    assert figure.arrays["attention"].shape[2:] == (6, 6)
    assert any(f"left out of each map: {told}" in note for note in figure.notes)


def test_without_a_class_token_that_is_read_the_patches_are_the_query_and_it_is_told(two_blocks):
    for architecture, size, prefix in (
        (TUNED, "84", 1),
        (of_timm("vit_medium_patch16_reg4_gap_256"), "96", 4),
    ):
        backbone, pictures = made_backbone(architecture, size), made_pictures(2, int(size))
        figure = attention(backbone, pictures)
        full = backbone.attention(next(in_parts(backbone, pictures))).numpy()
        wanted = full[:, :, prefix:, prefix:].mean(axis=2).reshape(figure.arrays["attention"].shape)
        np.testing.assert_allclose(figure.arrays["attention"], wanted, atol=1e-6)
        assert "--query mean" in figure.notes[0]
    with pytest.raises(UsageError, match="no class token"):
        attention(backbone, pictures, query="cls")


@pytest.mark.parametrize("block", [0, 4, -4])
def test_a_block_that_is_not_there_is_refused_with_those_that_are(block):
    with pytest.raises(UsageError, match=rf"--block {block}: toy has 3 blocks, so give 1 to 3, or -1 to -3"):
        attention(made_backbone(TINY), made_pictures(1), block=block)


def test_blocks_count_from_one_and_from_the_end():
    backbone, pictures = made_backbone(TINY), made_pictures(1)
    found = {block: attention(backbone, pictures, block=block).arrays["attention"] for block in (1, 2, 3, -1, -3)}
    np.testing.assert_array_equal(found[-1], found[3])
    np.testing.assert_array_equal(found[-3], found[1])
    assert np.abs(found[1] - found[2]).max() > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "xcit_nano_12_p16_224"])
def test_a_backbone_without_attention_between_tokens_is_told_what_is_possible(name):
    backbone = made_backbone(of_timm(name), "224")
    for draw in (attention, rollout):
        with pytest.raises(UsageError, match="inspect pca"):
            draw(backbone, made_pictures(1, 224))


# ---- masks and colours


def test_a_mask_holds_the_largest_attention_beyond_the_rest_by_hand():
    row = np.array([0.3, 0.1, 0.4, 0.2])  # ascending sums 0.1, 0.3, 0.6, 1.0
    assert mass_mask(row, 0.6).tolist() == [True, False, True, False]
    assert mass_mask(row, 0.75).tolist() == [True, False, True, True]
    assert mass_mask(0.37 * row, 0.6).tolist() == [True, False, True, False]  # what others got does not count


@pytest.mark.parametrize("mass", [0.05, 0.6, 0.95, 1.0])
def test_masks_are_those_of_a_loop_over_sorted_patches(mass):
    rows = np.random.default_rng(3).gamma(0.5, size=(7, 13)).astype(np.float32)
    for row, found in zip(rows, mass_mask(rows, mass), strict=True):
        wanted, reached = set(), 0.0
        for at in sorted(range(13), key=lambda i: row[i]):
            reached += float(row[at]) / float(row.astype(np.float64).sum())
            if reached > 1 - mass:
                wanted.add(at)
        assert set(np.flatnonzero(found)) == wanted


@pytest.mark.parametrize("mass", [0, -0.1, 1.1, float("nan")])
def test_a_mass_that_is_no_share_is_refused(mass):
    with pytest.raises(UsageError, match="--mass"):
        mass_mask(np.ones(3), mass)


def test_enlarging_repeats_each_patch_and_gives_what_is_over_to_the_last():
    patches = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(enlarged(patches, 14, 21), np.kron(patches, np.ones((7, 7), int)))
    assert enlarged(patches, 15, 23)[14, 22] == 5
    assert enlarged(patches, 15, 23)[0].tolist() == [0] * 7 + [1] * 7 + [2] * 9


def test_outside_a_mask_pixels_are_dark_and_inside_as_they_were():
    pixels = np.full((14, 14, 3), 200, np.uint8)
    shown = shown_through(pixels, np.array([[True, False]]))
    assert (shown[:, :7] == 200).all()
    assert (shown[:, 7:] == 44).all()


def test_a_patch_has_the_colour_of_the_head_that_looks_at_it_most_and_none_below_a_fifth():
    pixels = np.full((1, 3, 3), 100, np.uint8)
    maps = np.array([[[0.4, 0.1, 0.07]], [[0.02, 0.1, 0.01]]])  # in parts of the largest: 1, .25, .175; .2, 1, .1
    found = in_colours(pixels, maps)[0].astype(int)
    one, two = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2])
    np.testing.assert_allclose(found[0], 0.85 * np.array(one) + 0.15 * 75, atol=1)
    np.testing.assert_allclose(found[1], 0.85 * np.array(two) + 0.15 * 75, atol=1)
    assert found[2].tolist() == [75, 75, 75]


def test_heads_in_colours_are_six_at_most_and_must_be_there():
    backbone, pictures = made_backbone(TINY), made_pictures(1)
    for wrong in ([3], [0], []):
        with pytest.raises(UsageError, match="--coloured"):
            attention(backbone, pictures, coloured=wrong)
    eight = made_backbone(Architecture(64, 1, 8, 14, grid=5))
    notes = attention(eight, pictures).notes
    assert any("in colours: heads" in note for note in notes)
    assert not any("in colours" in note for note in attention(eight, pictures, coloured=[8, 1]).notes)


# ---- rollout


def test_rollout_of_two_blocks_is_the_later_times_the_earlier_by_hand():
    first, second = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]), torch.tensor([[[0.2, 0.8], [0.6, 0.4]]])
    flow = added_flow(second, added_flow(first, None, 0.0), 0.0)
    # (A+I)/2: [[.75, .25], [.125, .875]] and [[.6, .4], [.3, .7]]; the other order would begin with .525
    torch.testing.assert_close(flow, torch.tensor([[[0.5, 0.5], [0.3125, 0.6875]]]))


def test_what_is_discarded_counts_as_nothing_before_rows_are_made_to_sum_to_one():
    mean = torch.tensor([[[0.1, 0.9], [0.4, 0.6]]])
    wanted = torch.tensor([[[1 / 1.9, 0.9 / 1.9], [0.0, 1.0]]])
    torch.testing.assert_close(added_flow(mean, None, 0.5), wanted)


@pytest.mark.parametrize("architecture", [TINY, REGISTERED])
def test_a_rollout_is_the_product_over_all_blocks_of_the_mean_over_heads(architecture):
    backbone, pictures = made_backbone(architecture), made_pictures(3)
    x = next(in_parts(backbone, pictures))
    prefix, flow = backbone.model.prefix, np.eye(36 + backbone.model.prefix)
    for block in range(architecture.depth):
        [found] = backbone.attend(x, [block])
        mean = found.double().numpy().mean(axis=1) + np.eye(flow.shape[-1])
        flow = (mean / mean.sum(axis=-1, keepdims=True)) @ flow
    figure = rollout(backbone, pictures)
    np.testing.assert_allclose(figure.arrays["rollout"].reshape(3, -1), flow[:, 0, prefix:], atol=1e-6)
    np.testing.assert_allclose(figure.arrays["others"], flow[:, 0, :prefix].sum(axis=-1), atol=1e-6)
    np.testing.assert_allclose(figure.arrays["last"].reshape(3, -1), found.mean(dim=1)[:, 0, prefix:], atol=1e-6)


# ---- files


def test_the_same_figure_gives_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    figure = attention(made_backbone(TINY), made_pictures(2))
    for ending in (".npz", ".png", ".svg"):
        figure.save(tmp_path / f"a{ending}")
        monkeypatch.setattr("time.time", lambda: 2e9)
        figure.save(tmp_path / f"b{ending}")
        monkeypatch.undo()
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    with np.load(tmp_path / "a.npz") as arrays:
        assert str(arrays["figure"]) == "attention"
        np.testing.assert_array_equal(arrays["mask"], figure.arrays["mask"])
    assert figure._repr_png_() == (tmp_path / "a.png").read_bytes()


def test_where_nothing_flows_nothing_is_marked_and_nothing_is_divided_by_it():
    with np.errstate(all="raise"):
        assert not mass_mask(np.zeros((2, 5)), 0.6).any()
        black = np.zeros((6, 6, 3), np.uint8)
        assert not in_colours(black, np.zeros((2, 3, 3))).any()


def test_a_picture_says_that_weights_were_never_trained_and_what_was_discarded():
    backbone, pictures = made_backbone(TINY, "70"), made_pictures(2, 70)
    assert attention(backbone, pictures).panels[0].title.startswith("toy (random weights), block 3")
    assert rollout(backbone, pictures, discard=0.25).panels[0].title.endswith("3, 25 % of each discarded")
    trained = dataclasses.replace(backbone.spec, weights_sha256="a" * 64)
    backbone.spec = trained
    assert attention(backbone, pictures).panels[0].title.startswith("toy, block 3")


def test_a_figure_prints_itself_in_a_line_without_its_arrays():
    figure = Figure("attention", [], {"attention": np.zeros((2, 3, 5, 5))})
    assert repr(figure) == "<Figure attention: 0 panels; arrays attention (2, 3, 5, 5); .save(path) writes it>"


def test_a_figure_in_no_known_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no figure is written so"):
        Figure("none", [], {}).save(tmp_path / "figure.jpg")


def test_a_sample_is_picked_by_its_seed_in_the_order_of_the_listing():
    dataset = range(1797)  # of which only the length counts
    rows = picked(dataset, 7, 3)
    assert rows == sorted(set(rows))
    assert len(rows) == 7
    assert rows == picked(dataset, 7, 3) != picked(dataset, 7, 4)
    assert picked(dataset, None, 3) == picked(dataset, 5000, 3) == list(range(1797))
