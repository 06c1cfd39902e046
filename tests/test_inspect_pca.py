"""Principal components of patches, and norms of tokens: against scikit-learn, brute force and hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from fewvit.backbones import Architecture
from fewvit.errors import DataError, UsageError
from fewvit.extraction.principal import principal_axes
from fewvit.inspect.components import border_share, components_of, pca
from fewvit.inspect.magnitudes import norm_gap, norms
from fewvit.inspect.pictures import in_parts
from fewvit.inspect.tokens import patch_features

from made_pictures import made_backbone, made_pictures

TINY = Architecture(64, 2, 2, 14, grid=5)
REGISTERED = Architecture(64, 2, 2, 14, grid=5, positions="antialias", registers=4, layer_scale=True)


def with_a_blob(sign: float, pictures: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 7, 11, 13) of noise, in whose middle a blob (7, 11) stands out along the first axis."""
    features = np.random.default_rng(3).normal(0, 0.3, (pictures, 7, 11, 13))
    blob = np.zeros((7, 11), bool)
    blob[2:5, 3:8] = True
    features[:, blob, 0] += sign * 9
    return features, blob


# ---- foreground


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_foreground_is_what_keeps_off_the_border_whichever_sign_the_component_has(sign):
    features, blob = with_a_blob(sign)
    found = components_of(features)
    assert (found.foreground == blob).all()
    assert border_share(found.foreground) == 0
    assert (found.colours[~found.foreground] == 0).all()


def test_a_foreground_that_covers_the_border_stays_where_the_rest_covers_more_of_it():
    features, blob = with_a_blob(1.0)
    features[:, :, :2, 0] += 9  # 9 of the 32 patches of the border belong to it too
    found = components_of(features)
    wanted = blob.copy()
    wanted[:, :2] = True
    assert (found.foreground == wanted).all()


def test_the_border_is_counted_once_per_patch():
    mask = np.zeros((1, 3, 5), bool)
    mask[0, 0] = True  # 5 of 12 patches of the border
    mask[0, 1, 1:4] = True  # none of it
    assert border_share(mask) == pytest.approx(5 / 12)


def test_the_score_is_scikit_learns_first_component_in_deviations():
    features, _ = with_a_blob(1.0)
    tokens = features.reshape(-1, 13)
    wanted = PCA(1).fit_transform(tokens)[:, 0]
    found = components_of(features).score.ravel()
    np.testing.assert_allclose(np.abs(found), np.abs(wanted) / wanted.std(), atol=1e-6)


def test_a_higher_threshold_leaves_less_and_too_little_is_refused():
    features, _ = with_a_blob(1.0)
    some = components_of(features, threshold=2.0).foreground.sum()
    assert 4 <= some < components_of(features, threshold=0.0).foreground.sum() == 45
    with pytest.raises(DataError, match="0 of 231 patches stand out"):
        components_of(features, threshold=50.0)


# ---- colours


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(threshold):
    with pytest.raises(UsageError, match="--threshold"):
        components_of(np.random.default_rng(3).normal(size=(2, 5, 5, 7)), threshold=threshold)


@pytest.mark.parametrize("style", ["dinov2", "dinov3"])
def test_colours_are_scikit_learns_components_of_the_foreground_of_all_pictures(style):
    features, blob = with_a_blob(1.0)
    found = components_of(features, style)
    inside = features[:, blob].reshape(-1, 13)
    fitted = PCA(3, whiten=style == "dinov3", svd_solver="full").fit(inside)
    parts = fitted.transform(inside)
    if style == "dinov3":
        wanted = 1 / (1 + np.exp(-2 * parts))
    else:
        wanted = (parts - parts.min(axis=0)) / (parts.max(axis=0) - parts.min(axis=0))
    colours = found.colours[:, blob].reshape(-1, 3) / 255
    for at in range(3):  # a component and its opposite are alike
        off = min(np.abs(colours[:, at] - one).max() for one in (wanted[:, at], 1 - wanted[:, at]))
        assert off < 0.003
    np.testing.assert_allclose(found.explained, fitted.explained_variance_ratio_, rtol=1e-6)


def test_one_colour_means_one_thing_in_all_pictures():
    features, blob = with_a_blob(1.0)
    features[1] = features[0]
    found = components_of(features)
    np.testing.assert_array_equal(found.colours[1], found.colours[0])
    alone = components_of(features[2:])
    assert (alone.colours[0] != found.colours[2])[blob].any()  # by itself it would have others


def test_the_sign_of_an_axis_is_that_of_its_largest_coordinate():
    rows = np.array([[0.0, 0.0], [-3.0, 1.0], [-6.0, 2.0], [-9.0, 3.0]])
    axes, shares = principal_axes(rows, 1)
    np.testing.assert_allclose(axes, [np.array([3.0, -1.0]) / 10**0.5])
    assert shares == pytest.approx([1.0])


# ---- what is read of a backbone


def test_no_token_before_the_patches_is_a_patch():
    backbone, pictures = made_backbone(REGISTERED), made_pictures(2)
    x = next(in_parts(backbone, pictures))
    tokens, grid = patch_features(backbone, x)
    assert grid == (6, 6)
    torch.testing.assert_close(tokens, backbone.tokens(x)[0][:, 5:])
    figure = pca(backbone, pictures)
    wanted = components_of(tokens.reshape(2, 6, 6, 64).numpy())
    np.testing.assert_array_equal(figure.arrays["colours"], wanted.colours)
    np.testing.assert_array_equal(figure.arrays["foreground"], wanted.foreground)


def test_a_map_in_place_of_tokens_is_read_row_by_row():
    backbone = made_backbone(Architecture(0, 0, 0, 0, positions="timm", timm="resnet18"), "224")
    x = next(in_parts(backbone, made_pictures(1, 96, 160)))
    tokens, grid = patch_features(backbone, x)
    with torch.no_grad():
        wanted = backbone.model.trunk.forward_features(x)  # (1, 512, 3, 5)
    assert grid == (3, 5)
    torch.testing.assert_close(tokens[0, 1 * 5 + 2], wanted[0, :, 1, 2])


def test_one_picture_and_a_borrowed_foreground_are_told():
    backbone = made_backbone(TINY)
    assert "one picture has components of its own" in pca(backbone, made_pictures(1)).notes[0]
    assert pca(backbone, made_pictures(2)).notes == []
    assert "logistic regression" in pca(backbone, made_pictures(2), style="dinov3").notes[0]
    with pytest.raises(UsageError, match="--style"):
        pca(backbone, made_pictures(2), style="dino")


# ---- norms


def test_the_gap_is_the_largest_step_of_the_logarithms_over_the_median():
    at, step = norm_gap(np.array([10.0, 11, 12, 13, 60, 66, 72]))
    assert at == pytest.approx((13 * 60) ** 0.5)
    assert step == pytest.approx(60 / 13)
    # in absolute terms 60 to 100 is the larger step; a token that is small stands apart too, and is none of them
    assert norm_gap(np.array([0.1, 10.0, 11, 12, 20, 60, 100]))[0] == pytest.approx((20 * 60) ** 0.5)
    assert norm_gap(np.array([7.0]))[1] == 1.0


@pytest.mark.parametrize("architecture", [TINY, REGISTERED])
def test_norms_are_those_of_tokens_that_no_norm_layer_has_seen(architecture):
    backbone, pictures = made_backbone(architecture), made_pictures(3)
    prefix = backbone.model.prefix
    tokens = backbone.model.embed(next(in_parts(backbone, pictures)))
    for place, block in enumerate(backbone.model.blocks):
        tokens = block(tokens)
        wanted = np.sqrt((tokens.double().numpy() ** 2).sum(axis=-1))
        figure = norms(backbone, pictures, block=place + 1)
        np.testing.assert_allclose(figure.arrays["norms"].reshape(3, -1), wanted[:, prefix:], rtol=1e-5)
        np.testing.assert_allclose(figure.arrays["prefix"], wanted[:, :prefix], rtol=1e-5)


def test_patches_over_the_cutoff_are_counted_and_without_a_gap_there_are_none():
    backbone, pictures = made_backbone(TINY), made_pictures(2)
    plain = norms(backbone, pictures)
    values = {row["metric"]: row["value"] for row in plain.rows if row["token"] == "patch"}
    assert values["above"] == 0
    assert "cutoff" not in values
    assert any("no patch stands apart" in note for note in plain.notes)
    found = plain.arrays["norms"]
    limit = float(np.sort(found.ravel())[-5])
    over = norms(backbone, pictures, cutoff=limit)
    assert {row["metric"]: row["value"] for row in over.rows if row["token"] == "patch"}["above"] == 4 / 72
    assert over.arrays["above"].sum() == 4
    with pytest.raises(UsageError, match="--cutoff"):
        norms(backbone, pictures, cutoff=0.0)


def test_patches_that_stand_apart_are_found_by_themselves():
    backbone, pictures = made_backbone(TINY), made_pictures(2)

    def inflated(_, __, tokens):
        tokens = tokens.clone()
        tokens[0, 1 + 17] *= 9
        tokens[1, 0] *= 50  # the class token is none of them
        return tokens

    backbone.model.blocks[-1].register_forward_hook(inflated)
    figure = norms(backbone, pictures)
    assert np.argwhere(figure.arrays["above"]).tolist() == [[0, 17 // 6, 17 % 6]]
    assert any(note.startswith("cutoff") for note in figure.notes)
