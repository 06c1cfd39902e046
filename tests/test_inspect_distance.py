"""Mean attention distance, against loops, and attention whose distance is known by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.errors import UsageError
from fewvit.extraction.calls import load_backbone
from fewvit.inspect.attention_distance import distance, looked_at, patch_distances
from fewvit.inspect.pictures import Pictures, normalised
from fewvit.models.backbone import Backbone


def softmax(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).softmax(-1)


def by_loops(attention: np.ndarray, prefix: int, rows: int, columns: int, patch: int) -> np.ndarray:
    """(B, heads), patch by patch."""
    images, heads, _, _ = attention.shape
    found = np.zeros((images, heads))
    places = [(r * patch, c * patch) for r in range(rows) for c in range(columns)]
    for b in range(images):
        for h in range(heads):
            total = 0.0
            for i, (y, x) in enumerate(places):
                row = attention[b, h, prefix + i, prefix:]
                total += sum(a * math.hypot(y - v, x - u) for a, (v, u) in zip(row, places, strict=True)) / sum(row)
            found[b, h] = total / len(places)
    return found


def test_distances_between_patches_are_those_of_their_centres():
    found = patch_distances(2, 3, 7)
    assert found[0].tolist() == pytest.approx([0, 7, 14, 7, 7 * math.sqrt(2), 7 * math.sqrt(5)])
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_distance_is_that_of_loops_over_queries_and_keys(prefix):
    attention = softmax(3, 2, 3, prefix + 15, prefix + 15)
    found, _ = looked_at(attention, prefix, torch.from_numpy(patch_distances(3, 5, 16)))
    np.testing.assert_allclose(found.numpy(), by_loops(attention.numpy(), prefix, 3, 5, 16), rtol=1e-12)


def test_a_head_that_looks_at_itself_alone_looks_nowhere():
    found, share = looked_at(torch.eye(7)[None, None], 1, torch.from_numpy(patch_distances(2, 3, 16)).float())
    assert found.item() == 0
    assert share.item() == 1


def test_uniform_attention_on_two_patches_side_by_side_is_half_a_patch_far():
    """Each of the two looks half at itself, 0 pixels, and half at the other, 16."""
    found, _ = looked_at(torch.full((1, 1, 2, 2), 0.5), 0, torch.from_numpy(patch_distances(1, 2, 16)).float())
    assert found.item() == 8


def test_uniform_attention_on_a_square_of_four_patches_is_known_by_hand():
    """One patch itself, two 10 pixels away, one 10 sqrt 2."""
    found, _ = looked_at(torch.full((1, 1, 4, 4), 0.25), 0, torch.from_numpy(patch_distances(2, 2, 10)).float())
    assert found.item() == pytest.approx((0 + 10 + 10 + 10 * math.sqrt(2)) / 4)


def test_what_falls_on_the_class_token_and_registers_is_no_distance():
    """Uniform over 3 tokens without a place and 4 patches; the rows are scaled again to sum to 1, not left at 4/7."""
    found, share = looked_at(torch.full((1, 1, 7, 7), 1 / 7), 3, torch.from_numpy(patch_distances(2, 2, 10)).float())
    assert found.item() == pytest.approx((20 + 10 * math.sqrt(2)) / 4, rel=1e-6)
    assert share.item() == pytest.approx(4 / 7, rel=1e-6)


def test_where_tokens_without_a_place_look_changes_nothing():
    attention = softmax(5, 2, 2, 9, 9)
    other = attention.clone()
    other[:, :, :3] = softmax(6, 2, 2, 3, 9)
    distances = torch.from_numpy(patch_distances(2, 3, 4))
    assert torch.equal(looked_at(attention, 3, distances)[0], looked_at(other, 3, distances)[0])


def test_a_patch_that_looks_at_the_class_token_alone_is_left_out():
    attention = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0.5, 0.5]])[None, None]
    found, share = looked_at(attention, 1, torch.from_numpy(patch_distances(1, 2, 16)).float())
    assert found.item() == 8
    assert share.item() == 0.5


# --- of whole models

REGISTERED = Architecture(width=24, depth=3, heads=3, patch=4, grid=5, registers=2)


def opened(architecture: Architecture, size: int) -> tuple[Backbone, Pictures]:
    """A backbone of random weights, strong enough that heads differ, and three pictures of random pixels."""
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.models.build import build
    from fewvit.models.readout import Readout
    from fewvit.models.spec import BackboneSpec

    spec = BackboneSpec("made", "dino", architecture, "dino/1", "random")
    backbone = build(spec, Readout(), (size, size), engine="eager")
    stream = torch.Generator().manual_seed(11)
    for name, parameter in backbone.named_parameters():
        if "norm" not in name:
            parameter.copy_(torch.randn(parameter.shape, generator=stream) * 0.3)
    backbone.pipeline = settle(spec, FeatureOptions(img_size=str(size)))
    pixels = np.random.default_rng(5).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    return backbone, Pictures(["a", "b", "c"], np.array([3, 7, 3]), ["x"], pixels)


def of_timm(name: str) -> tuple[Backbone, Pictures]:
    """A model of timm with random weights, and two pictures."""
    pixels = np.random.default_rng(5).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    return load_backbone(f"timm:{name}", weights="random"), Pictures(["a", "b"], np.array([3, 7]), ["x"], pixels)


def test_the_figure_has_the_mean_over_images_of_each_head_without_registers():
    backbone, pictures = opened(REGISTERED, 20)
    figure = distance(backbone, pictures)
    images = normalised(pictures.pixels, backbone.pipeline.preprocess)
    tokens, expected = backbone.model.embed(images), []
    for block in backbone.model.blocks:
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(3, 28, 3, 3, 8).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
        expected.append(by_loops(attention.double().numpy(), 3, 5, 5, 4))
        tokens = block(tokens)
    np.testing.assert_allclose(figure.arrays["per_image"], np.stack(expected, axis=1), rtol=1e-4)
    np.testing.assert_allclose(figure.arrays["distance"], np.stack(expected, axis=1).mean(axis=0), rtol=1e-4)
    assert [row["value"] for row in figure.rows] == pytest.approx(np.mean(expected, axis=1).ravel(), abs=1e-3)
    assert "(class, register)" in figure.notes[0]


def test_the_distance_of_uniform_attention_is_the_mean_of_all_distances():
    backbone, pictures = opened(REGISTERED, 20)
    for block in backbone.model.blocks:
        block.attn.qkv.weight.zero_()
        block.attn.qkv.bias.zero_()
    figure = distance(backbone, pictures)
    np.testing.assert_allclose(figure.arrays["distance"], patch_distances(5, 5, 4).mean(), rtol=1e-6)
    np.testing.assert_allclose(figure.arrays["distance"], figure.arrays["uniform"], rtol=1e-6)
    np.testing.assert_allclose(figure.arrays["patch_share"], 25 / 28, rtol=1e-6)


def test_how_many_images_go_through_at_once_changes_nothing():
    backbone, pictures = opened(REGISTERED, 20)
    together = distance(backbone, pictures).arrays["per_image"]
    alone = [
        distance(
            backbone, dataclasses.replace(pictures, ids=pictures.ids[i : i + 1], pixels=pictures.pixels[i : i + 1])
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate([one.arrays["per_image"] for one in alone]), rtol=1e-5)


def test_a_distilled_model_has_two_tokens_without_a_place():
    backbone, pictures = of_timm("deit_tiny_distilled_patch16_224")
    for block in backbone.model.trunk.blocks:
        block.attn.qkv.weight.zero_()
        block.attn.qkv.bias.zero_()
    figure = distance(backbone, pictures)
    np.testing.assert_allclose(figure.arrays["patch_share"], 196 / 198, rtol=1e-6)
    np.testing.assert_allclose(figure.arrays["distance"], patch_distances(14, 14, 16).mean(), rtol=1e-6)


def test_swin_is_refused_with_what_is_possible():
    backbone, pictures = of_timm("swin_tiny_patch4_window7_224")
    with pytest.raises(UsageError, match="inspect pca"):
        distance(backbone, pictures)
