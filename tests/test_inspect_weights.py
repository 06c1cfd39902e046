"""Pictures of weights: position tables and patch filters, against tables made by hand and NumPy's own decomposition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.errors import UsageError
from fewvit.extraction.calls import load_backbone
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.inspect.mosaic import stretched, tiled
from fewvit.inspect.paper_figure import vit_paper
from fewvit.inspect.patch_filters import filters, principal_filters
from fewvit.inspect.pictures import Pictures
from fewvit.inspect.position_table import cosine_similarity, positions
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.spec import BackboneSpec


def test_the_similarity_of_two_positions_is_their_cosine():
    table = np.array([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0], [-2.0, 0.0]])
    root = 1 / np.sqrt(2)
    by_hand = [[1, 0, root, -1], [0, 1, root, 0], [root, root, 1, -root], [-1, 0, -root, 1]]
    np.testing.assert_allclose(cosine_similarity(table), by_hand, atol=1e-12)


def test_a_position_of_zeros_is_like_no_other():
    found = cosine_similarity(np.array([[0.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(found, [[0, 0], [0, 1]])


def test_tiles_stand_row_by_row_with_a_gap_between():
    tiles = np.arange(3)[:, None, None] * np.ones((3, 2, 3))
    found = tiled(tiles, 2, gap=1, ground=-1)
    expected = [
        [0, 0, 0, -1, 1, 1, 1],
        [0, 0, 0, -1, 1, 1, 1],
        [-1, -1, -1, -1, -1, -1, -1],
        [2, 2, 2, -1, -1, -1, -1],
        [2, 2, 2, -1, -1, -1, -1],
    ]
    np.testing.assert_array_equal(found, expected)


def test_each_tile_is_stretched_by_itself():
    tiles = np.array([[[1.0, 3.0], [2.0, 1.0]], [[-8.0, 0.0], [-6.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 1], [0.5, 0]], [[0, 1], [0.25, 0.75]], [[0.5, 0.5], [0.5, 0.5]]]
    np.testing.assert_allclose(stretched(tiles), expected)


def made_filters(rank: int, channels: int = 31, patch: int = 3, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, 3, P, P) that are a mean filter and `rank` orthonormal ones (rank, 3, P, P) of falling strength."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((3 * patch**2, rank)))[0].T  # (rank, 3P²)
    loads = rng.standard_normal((channels, rank))
    loads = np.linalg.qr(loads - loads.mean(axis=0))[0] * 0.5 ** np.arange(rank)  # centred, orthogonal, falling
    mean = 5 * rng.standard_normal(3 * patch**2)
    weights = (mean + loads @ basis).reshape(channels, 3, patch, patch)
    return weights, basis.reshape(rank, 3, patch, patch)


def test_the_principal_filters_are_the_ones_the_weights_were_made_of():
    weights, basis = made_filters(rank=5)
    found, explained = principal_filters(weights, 28)
    assert len(found) == 5  # no direction is shown in which nothing varies
    cosines = np.abs((found * basis).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    strengths = 0.25 ** np.arange(5)
    np.testing.assert_allclose(explained, strengths / strengths.sum(), atol=1e-9)


def test_the_filters_are_centred_before_their_components_are_taken():
    """The mean filter is fifty times as strong here, and is no component."""
    weights, _ = made_filters(rank=2)
    found, _ = principal_filters(weights, 28)
    mean = weights.mean(axis=0)
    raw = np.linalg.svd(weights.reshape(len(weights), -1), full_matrices=False)[2][0]
    assert abs(float(raw @ mean.ravel())) / np.linalg.norm(mean) > 0.99  # what stands there where nothing is centred
    centred = np.linalg.svd((weights - mean).reshape(len(weights), -1), full_matrices=False)[2][:2]
    np.testing.assert_allclose(np.abs((centred * found.reshape(2, -1)).sum(axis=1)), 1, atol=1e-6)


def test_the_sign_of_a_component_does_not_depend_on_that_of_the_weights():
    weights, _ = made_filters(rank=4)
    np.testing.assert_allclose(principal_filters(weights, 3)[0], principal_filters(-weights, 3)[0], atol=1e-9)


@pytest.mark.parametrize("most", [1, 3, 28])
def test_there_are_no_more_components_than_are_asked_for(most):
    assert len(principal_filters(made_filters(rank=7)[0], most)[0]) == min(most, 7)


# --- of whole models

WIDE = Architecture(width=24, depth=1, heads=3, patch=4, grid=(3, 5), registers=2)


def made(architecture: Architecture = WIDE) -> Backbone:
    """A backbone of random weights, as load_backbone gives it."""
    spec = BackboneSpec("made", "dino", architecture, "dino/1", "random")
    size = tuple(side * architecture.patch for side in architecture.table)
    backbone = build(spec, Readout(), size, engine="eager")
    backbone.pipeline = settle(spec, FeatureOptions(img_size="x".join(map(str, size))))
    return backbone


def test_a_tile_stands_where_its_patch_does_and_the_class_token_has_none():
    """Of 3 x 5 patches; a table that took the class token for the first patch would be shifted by one."""
    backbone = made()
    figure = positions(backbone)
    table = backbone.model.pos_embed[0].double().numpy()
    for r, c, s, d in [(0, 0, 0, 0), (0, 1, 2, 3), (2, 4, 0, 0), (1, 3, 2, 0), (2, 4, 2, 3)]:
        one, other = table[1 + 5 * r + c], table[1 + 5 * s + d]
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert figure.arrays["similarity"][r, c, s, d] == pytest.approx(expected, abs=1e-6)
    assert figure.arrays["similarity"].shape == (3, 5, 3, 5)
    assert "1 row" in figure.notes[0]


def test_the_numbers_tell_neighbours_from_what_is_far():
    """Four positions in a row whose cosines are known by hand; the last is the first again."""
    backbone = made(dataclasses.replace(WIDE, grid=(1, 4)))
    table = backbone.model.pos_embed
    table.zero_()
    for place, (x, y, z) in enumerate([(1, 0, 0), (0.8, 0.6, 0), (0, 1, 0), (0.9, 0, 0)]):
        table[0, 1 + place, :3] = torch.tensor([x, y, z])
    rows = {row["metric"]: row["value"] for row in positions(backbone).rows}
    assert rows["similarity_beside"] == pytest.approx((0.8 + 0.6 + 0) / 3, abs=1e-6)
    assert rows["similarity_elsewhere"] == pytest.approx((0 + 1 + 0.8) / 3, abs=1e-6)
    assert rows["nearest_is_beside"] == 0.5  # the first and the last are nearest to each other


def test_maes_fixed_table_is_called_so_and_a_learnt_one_is_not():
    assert any("not learnt" in note for note in positions(load_backbone("fewvit_tiny")).notes)
    assert not any("not learnt" in note for note in positions(made()).notes)


@pytest.mark.parametrize(
    ("name", "kept", "grid"),
    [
        ("deit_tiny_distilled_patch16_224", slice(2, None), (14, 14)),  # class and distillation token first
        ("vit_small_patch14_reg4_dinov2", slice(None), (37, 37)),  # a table of patches alone
    ],
)
def test_timms_tables_lose_what_belongs_to_no_patch(name, kept, grid):
    size = {"img_size": 518} if "dinov2" in name else {}
    backbone = load_backbone(f"timm:{name}", weights="random", **size)
    table = backbone.model.trunk.pos_embed[0, kept].double().numpy()
    found = positions(backbone).arrays["similarity"]
    assert found.shape == (*grid, *grid)
    np.testing.assert_allclose(found.reshape(len(table), -1)[7], cosine_similarity(table)[7], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_small_patch16_dinov3", r"rotary positions(.|\n)*inspect distance"),
        ("beit_base_patch16_224", r"no table(.|\n)*inspect distance"),
        ("swin_tiny_patch4_window7_224", r"no table(.|\n)*inspect filters"),
        ("resnet18", r"no table"),
    ],
)
def test_models_without_a_table_say_what_is_impossible_and_what_is_not(name, words):
    with pytest.raises(UsageError, match=words):
        positions(load_backbone(f"timm:{name}", weights="random"))


def test_filters_are_those_of_the_patch_embedding():
    backbone = made()
    weights, basis = made_filters(rank=3, channels=24, patch=4)
    backbone.model.patch_embed.proj.weight.copy_(torch.from_numpy(weights))
    figure = filters(backbone)
    np.testing.assert_allclose(np.abs((figure.arrays["components"] * basis).sum(axis=(1, 2, 3))), 1, atol=1e-4)
    assert figure.notes == ["made's 24 filters vary in 3 directions alone"]
    swin = load_backbone("timm:swin_tiny_patch4_window7_224", weights="random")
    assert filters(swin, 2).arrays["components"].shape == (2, 3, 4, 4)
    with pytest.raises(UsageError, match="no tokens of patches"):
        filters(load_backbone("timm:resnet18", weights="random"))


def pictures(size: int) -> Pictures:
    pixels = np.random.default_rng(5).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    return Pictures(["a", "b"], np.array([3, 7]), ["x"], pixels)


def test_the_papers_figure_has_the_arrays_of_its_parts():
    backbone = made(dataclasses.replace(WIDE, grid=5))
    figure = vit_paper(backbone, pictures(20))
    np.testing.assert_array_equal(figure.arrays["positions/similarity"], positions(backbone).arrays["similarity"])
    np.testing.assert_array_equal(figure.arrays["filters/explained"], filters(backbone).arrays["explained"])
    assert figure.arrays["distance/per_image"].shape == (2, 1, 3)
    assert [panel.title for panel in figure.panels] == ["Patch filters", "Positions", "Mean attention distance"]


def test_the_papers_figure_leaves_out_what_a_model_cannot_show_and_says_so():
    swin = vit_paper(load_backbone("timm:swin_tiny_patch4_window7_224", weights="random"), pictures(224))
    assert [panel.title for panel in swin.panels] == ["Patch filters"]
    assert [note.partition(":")[0] for note in swin.notes] == ["left out, positions", "left out, distance"]
    with pytest.raises(UsageError, match="none of the figure's three parts"):
        vit_paper(load_backbone("timm:resnet18", weights="random"), pictures(224))
