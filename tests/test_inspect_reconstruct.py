"""What a MAE reconstructs, against its official outputs and NumPy."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.errors import UsageError
from fewvit.extraction.calls import load_backbone
from fewvit.inspect.pictures import Pictures, normalised
from fewvit.inspect.pretraining_files import MaeAsked, open_mae
from fewvit.inspect.reconstruction import reconstruct, reconstructed
from fewvit.methods._mae_task import MaeTask
from fewvit.methods.mae import Mae
from fewvit.models.spec import BackboneSpec
from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD
from fewvit.runs.folder import RunFolder
from fewvit.training.state import Checkpoints
from fewvit.views.view import View

PATCH, GRID = 4, 5


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """A MAE of strong random weights, which says nothing of the pixels that it was trained on."""
    recipe = Mae(
        architecture=Architecture(24, 2, 3, PATCH, grid=GRID, positions="mae"),
        views=(View(PATCH * GRID, (0.2, 1.0)),),
        epochs=1,
        batch_size=1,
        decoder_width=64,
        decoder_depth=2,
        decoder_heads=2,
    )
    task, stream = MaeTask(recipe), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream) * 0.1)
    path = tmp_path_factory.mktemp("mae") / "mae.pth"
    torch.save(task.official(), path)
    return str(path)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    pixels = np.random.default_rng(5).integers(0, 256, (7, 20, 20, 3), dtype=np.uint8)
    return Pictures([f"{i}.png" for i in range(7)], np.array([3, 7] * 3 + [3]), ["a"], pixels)


def opened(file: str, **options):
    return load_backbone(file, heads=3, img_size=20, engine="eager", **options)


def cut(images: np.ndarray) -> np.ndarray:
    """Patches (N, 25, P, P, 3) of pictures (N, 20, 20, 3), by slices."""
    places = [(r * PATCH, c * PATCH) for r in range(GRID) for c in range(GRID)]
    return np.stack([[image[y : y + PATCH, x : x + PATCH] for y, x in places] for image in images])


def in_pixels(patches: np.ndarray) -> np.ndarray:
    """uint8 of normalised values (..., 3)."""
    return np.rint(255 * (patches * IMAGENET_STD + IMAGENET_MEAN)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_mask_and_prediction_are_the_official_ones(parity, ratio):
    backbone = load_backbone(str(parity.folder / "mae_full.pth"), img_size=64)
    task, notes = open_mae(backbone.spec, MaeAsked(ratio))
    given = parity.arrays("losses.npz")
    found = reconstructed(task, torch.from_numpy(given["mae/imgs"]), given["mae/noise"], backbone.pipeline.preprocess)
    name = f"mae/normpix0_ratio{ratio}"
    parity.check("losses.npz", f"{name}/pred", found["prediction"])
    parity.check("losses.npz", f"{name}/mask", found["hidden"].reshape(2, 16).astype(np.float32))
    parity.check("losses.npz", f"{name}/loss", np.float32(found["error"].mean()))
    drawn = given[f"{name}/pred"].reshape(2, 4, 4, 16, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 64, 64, 3)
    assert np.abs(found["reconstruction"].astype(int) - in_pixels(drawn)).max() <= 1
    assert not any("normalised pixels" in note for note in notes)  # the file says that it was not


@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_the_loss_of_normalised_pixels_is_the_official_one(parity, ratio):
    backbone = load_backbone(str(parity.folder / "mae_full.pth"), img_size=64)
    task, _ = open_mae(backbone.spec, MaeAsked(ratio, norm_pix=True))
    given = parity.arrays("losses.npz")
    found = reconstructed(task, torch.from_numpy(given["mae/imgs"]), given["mae/noise"], backbone.pipeline.preprocess)
    parity.check("losses.npz", f"mae/normpix1_ratio{ratio}/loss", np.float32(found["error"].mean()))


def test_a_prediction_of_normalised_pixels_gets_back_its_own_patchs_mean_and_deviation(file, pictures):
    backbone = opened(file)
    arrays = reconstruct(backbone, pictures, seed=3, norm_pix=True).arrays
    values = normalised(pictures.pixels, backbone.pipeline.preprocess).permute(0, 2, 3, 1).double().numpy()
    for image in range(7):
        for place, patch in enumerate(cut(values)[image]):
            prediction = arrays["prediction"][image, place].reshape(PATCH, PATCH, 3)
            drawn = prediction * np.sqrt(patch.var(ddof=1) + 1e-6) + patch.mean()
            shown = cut(arrays["reconstruction"])[image, place]
            assert np.abs(shown.astype(int) - in_pixels(drawn)).max() <= 1
            forgotten = np.abs(shown.astype(int) - in_pixels(prediction)).max()
            assert forgotten > 10  # what stands there where the normalisation is not undone
    other = reconstruct(backbone, pictures, seed=3, norm_pix=False).arrays
    np.testing.assert_array_equal(other["prediction"], arrays["prediction"])
    assert (
        np.abs(cut(other["reconstruction"]).astype(int) - in_pixels(other["prediction"].reshape(7, 25, 4, 4, 3))).max()
        <= 1
    )


def test_what_is_seen_stays_as_it_was_and_what_is_hidden_is_drawn(file, pictures):
    arrays = reconstruct(opened(file), pictures, seed=5).arrays
    hidden = arrays["hidden"].reshape(7, 25)
    np.testing.assert_array_equal(arrays["original"], pictures.pixels)
    seen, whole, drawn = cut(arrays["masked"]), cut(arrays["with_visible"]), cut(arrays["reconstruction"])
    np.testing.assert_array_equal(seen[~hidden], cut(pictures.pixels)[~hidden])
    np.testing.assert_array_equal(seen[hidden].reshape(-1, 3), np.tile(in_pixels(np.zeros(3)), (hidden.sum() * 16, 1)))
    np.testing.assert_array_equal(whole[~hidden], cut(pictures.pixels)[~hidden])
    np.testing.assert_array_equal(whole[hidden], drawn[hidden])


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 19), (0.5, 13), (0.9, 23)])
def test_of_25_patches_the_share_that_is_asked_for_is_hidden(file, pictures, ratio, hidden):
    arrays = reconstruct(opened(file), pictures, mask_ratio=ratio).arrays
    assert arrays["hidden"].sum(axis=(1, 2)).tolist() == [hidden] * 7


def test_masks_follow_from_the_seed_and_differ_from_image_to_image(file, pictures):
    first, same, other = (reconstruct(opened(file), pictures, seed=s).arrays["hidden"] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert len({one.tobytes() for one in first}) == 7


def test_the_file_says_whether_pixels_were_normalised_and_a_flag_overrules_it(file, tmp_path):
    tree = read_checkpoint(file)
    for told in (True, False):
        torch.save({**tree, "args": argparse.Namespace(norm_pix_loss=told)}, tmp_path / "mae.pth")
        spec = opened(str(tmp_path / "mae.pth")).spec
        task, notes = open_mae(spec, MaeAsked(decoder_heads=2))
        assert (task.recipe.normalised_pixels, notes) == (told, [])
        assert open_mae(spec, MaeAsked(norm_pix=not told))[0].recipe.normalised_pixels is not told


def test_what_the_file_does_not_say_is_assumed_aloud(file, tmp_path):
    task, notes = open_mae(opened(file).spec, MaeAsked())
    assert task.recipe.normalised_pixels
    assert task.recipe.decoder_heads == 2  # 32 channels each
    assert ["--no-norm-pix" in notes[0], "--decoder-heads" in notes[1]] == [True, True]
    visualize = tmp_path / "mae_visualize_vit_large.pth"  # published as trained on raw pixels
    torch.save(read_checkpoint(file), visualize)
    task, notes = open_mae(opened(str(visualize)).spec, MaeAsked())
    assert not task.recipe.normalised_pixels
    assert "--norm-pix" in notes[0]


def test_other_heads_of_the_decoder_draw_something_else(file, pictures):
    two, one = (reconstruct(opened(file), pictures, decoder_heads=n).arrays["prediction"] for n in (2, 1))
    assert np.abs(two - one).max() > 0.01


def test_what_has_no_decoder_is_refused_with_what_to_take(file, pictures, tmp_path):
    with pytest.raises(UsageError, match=r"fewvit_tiny holds no decoder(.|\n)*mae_vitb16_full"):
        reconstruct(load_backbone("fewvit_tiny"), pictures)
    with pytest.raises(UsageError, match="is untrained"):
        reconstruct(load_backbone("mae_vitb16", weights="random"), pictures)
    with pytest.raises(UsageError, match="is no MAE"):
        reconstruct(load_backbone("dino_vits16", weights="random"), pictures)


def test_images_of_another_size_than_the_decoders_are_refused(file, pictures):
    larger = dataclasses.replace(pictures, pixels=np.zeros((7, 40, 40, 3), np.uint8))
    with pytest.raises(UsageError, match="draws 20x20 pixels, and the images have 40x40"):
        reconstruct(opened(file), larger)


@pytest.mark.parametrize("normalised_pixels", [True, False])
def test_a_runs_decoder_is_its_newest_checkpoints_and_its_recipe_says_the_rest(tmp_path, normalised_pixels):
    recipe = Mae(
        architecture=Architecture(24, 2, 3, PATCH, grid=GRID, positions="mae"),
        views=(View(PATCH * GRID, (0.2, 1.0)),),
        epochs=3,
        batch_size=1,
        normalised_pixels=normalised_pixels,
        decoder_width=24,
        decoder_depth=1,
        decoder_heads=3,
    )
    run, task = RunFolder(tmp_path / "run"), MaeTask(recipe)
    run.begin({"command": "pretrain", "method": "mae", "recipe": dataclasses.asdict(recipe)}, {})
    tensors = {f"task.{name}": tensor for name, tensor in task.state_dict().items()}
    Checkpoints(run.checkpoints).save(5, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, {})
    Checkpoints(run.checkpoints).save(7, tensors, {})
    spec = BackboneSpec("run", "mae", recipe.architecture, "mae/1", "7" * 64, file=run.encoder)
    found, notes = open_mae(spec, MaeAsked(0.5))
    assert (found.recipe.decoder_heads, found.recipe.normalised_pixels, notes) == (3, normalised_pixels, [])
    images, noise = torch.rand(2, 3, 20, 20), torch.rand(2, 25)
    task.recipe = dataclasses.replace(recipe, mask_ratio=0.5)
    with torch.no_grad():
        for one, other in zip(found.predict(images, noise), task.eval().predict(images, noise), strict=True):
            torch.testing.assert_close(one, other)
