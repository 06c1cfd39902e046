"""MAE: what the encoder may see, what the loss counts, what images show.

By hand, by brute force and by invariance.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.backbones.mae import Mae as MaeFiles
from fewvit.checkpoints.filling import fill
from fewvit.errors import CheckpointError, UsageError
from fewvit.methods._mae_task import MaeTask, patchify, random_masking, sincos_positions, unpatchify
from fewvit.methods.mae import Mae
from fewvit.models.vit import VisionTransformer
from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD
from fewvit.training.recipe import Step
from fewvit.views.view import View

RECIPE = Mae(
    architecture=Architecture(24, 2, 3, 4, grid=5, positions="mae"),
    views=(View(20, (0.2, 1.0)),),
    epochs=3,
    batch_size=7,
    warmup_epochs=1,
    decoder_width=16,
    decoder_depth=2,
    decoder_heads=2,
)


def step(index: int = 0, rows: tuple[int, ...] = (3, 7, 4), seed: int = 0) -> Step:
    return Step(index, steps_per_epoch=5, epochs=3, seed=seed, rows=np.array(rows))


@pytest.fixture
def mae() -> MaeTask:
    torch.manual_seed(11)
    method = MaeTask(RECIPE).train()
    with torch.no_grad():
        for parameter in method.parameters():  # also those that start at 0 or 1
            parameter += 0.1 * torch.randn_like(parameter)
    return method


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(5))


# --- patches, masks, positions


def test_a_patch_is_read_row_by_row_and_channel_fastest(images):
    found = patchify(images, 4)
    assert found.shape == (3, 25, 48)
    for image, n, row, column, channel in [(0, 0, 0, 0, 0), (1, 7, 3, 1, 2), (2, 24, 1, 3, 1), (0, 5, 2, 0, 1)]:
        up, left = divmod(n, 5)
        assert (
            found[image, n, (row * 4 + column) * 3 + channel] == images[image, channel, up * 4 + row, left * 4 + column]
        )


def test_patches_go_back_to_the_images_they_are_of(images):
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_the_patches_with_least_noise_are_kept_and_the_others_hidden():
    noise = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.7], [0.2, 0.8, 0.6, 0.4, 0.0]])
    keep, restore, mask = random_masking(noise, 0.6)
    assert keep.tolist() == [[1, 3], [4, 0]]
    assert mask.tolist() == [[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]]
    assert restore.tolist() == [[4, 0, 2, 1, 3], [1, 4, 3, 2, 0]]


@pytest.mark.parametrize(("patches", "kept"), [(196, 49), (256, 64), (64, 16)])
def test_a_quarter_of_the_patches_is_kept(patches, kept):
    keep, _, mask = random_masking(torch.rand(2, patches), 0.75)
    assert keep.shape == (2, kept)
    assert mask.sum(dim=1).tolist() == [patches - kept] * 2


@pytest.mark.parametrize(("ratio", "kept"), [(0.65, 68), (0.9, 19), (0.5, 98)])
def test_a_share_of_the_patches_that_is_no_whole_number_is_cut_down_and_not_rounded(ratio, kept):
    """Of 196 patches 0.35 are 68.6 and 0.1 are 19.6; the official code keeps int(L (1 - ratio))."""
    keep, _, mask = random_masking(torch.rand(2, 196), ratio)
    assert keep.shape == (2, kept)
    assert mask.sum(dim=1).tolist() == [196 - kept] * 2


def test_positions_are_waves_of_the_column_and_then_of_the_row():
    table = sincos_positions(12, 3)
    assert table.shape == (10, 12)
    assert not table[0].any()
    for row, column, channel in [(0, 0, 0), (2, 1, 0), (2, 1, 2), (1, 2, 4), (2, 1, 7), (1, 2, 11), (0, 2, 8)]:
        half, within = divmod(channel, 6)
        wave, k = divmod(within, 3)
        angle = (column, row)[half] * 10000 ** (-k / 3)
        assert table[1 + row * 3 + column, channel] == pytest.approx((math.sin, math.cos)[wave](angle), abs=1e-12)


def test_the_mask_of_an_image_depends_on_seed_epoch_and_row_alone(mae):
    together, alone = mae.noise(step()), mae.noise(step(index=4, rows=(7,)))  # the same epoch
    assert torch.equal(together[1:2], alone)
    for other in (step(seed=1), step(index=5)):
        assert not torch.isclose(mae.noise(other), together).any()
    assert len(set(together.flatten().tolist())) == 75


# --- what the encoder sees, what the loss counts


def test_the_encoder_never_sees_hidden_patches(mae, images):
    noise = mae.noise(step())
    hidden = unpatchify(random_masking(noise, 0.75)[2][:, :, None].expand(-1, -1, 48), 4).bool()
    with torch.no_grad():
        first, _ = mae.predict(images, noise)
        same, _ = mae.predict(torch.where(hidden, 100.0, images), noise)
        other, _ = mae.predict(torch.where(hidden, images, images + 1), noise)
    assert torch.equal(first, same)
    assert (first - other).abs().amax(dim=(1, 2)).min() > 1e-3


def test_a_prediction_stands_at_its_patchs_place_whatever_the_order_of_the_noise(mae, images):
    """Two noises that hide the same patches in other orders say the same."""
    noise = mae.noise(step())
    mask = random_masking(noise, 0.75)[2]
    shuffled = mask + torch.rand(mask.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 2
    with torch.no_grad():
        torch.testing.assert_close(
            mae.predict(images, shuffled)[0], mae.predict(images, noise)[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_the_mean_error_over_hidden_patches(images, normalised):
    mae = MaeTask(dataclasses.replace(RECIPE, normalised_pixels=normalised))
    prediction = torch.randn(3, 25, 48, generator=torch.Generator().manual_seed(8))
    mask = random_masking(torch.rand(3, 25, generator=torch.Generator().manual_seed(9)), 0.75)[2]
    errors = []
    for image in range(3):
        for n in range(25):
            target = patchify(images, 4)[image, n].double().numpy()
            if normalised:
                target = (target - target.mean()) / math.sqrt(target.var(ddof=1) + 1e-6)
            if mask[image, n]:
                errors.append(((prediction[image, n].double().numpy() - target) ** 2).mean())
    assert len(errors) == 57  # 25 - int(25 / 4) in each of 3 images
    assert float(mae.loss(images, prediction, mask)) == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_position_tables_are_not_trained_and_everything_else_is(mae, images):
    loss, _ = mae([images], step())
    loss.backward()
    without = {name for name, p in mae.named_parameters() if p.grad is None}
    assert without == {"trunk.pos_embed", "decoder_pos_embed"}
    trained = [name for group in mae.groups() for name in group["names"]]
    assert len(trained) == len(set(trained)) == len(list(mae.parameters())) - 2
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in mae.parameters() if p.grad is not None))
    assert float(mae.clip()) == pytest.approx(norm, rel=1e-5)


def test_drop_path_is_another_one_in_another_step_and_none_by_default(images):
    torch.manual_seed(3)
    plain = MaeTask(RECIPE)
    dropping = MaeTask(dataclasses.replace(RECIPE, drop_path=0.9))
    dropping.load_state_dict(plain.state_dict())
    noise = plain.noise(step())
    losses = []
    for method, index in ((plain, 0), (plain, 1), (dropping, 0), (dropping, 0), (dropping, 5)):
        method.noise = lambda step, device: noise
        losses.append(float(method([images], step(index))[0].detach()))
    assert losses[0] == losses[1]
    assert losses[2] == losses[3]
    assert len({losses[0], losses[2], losses[4]}) == 3


def test_in_bf16_the_loss_stays_float32_and_near(mae, images):
    exact, _ = mae([images], step())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = mae([images], step())
    assert rough.dtype == torch.float32
    assert 0 < abs(float((rough - exact).detach())) < 0.02 * float(exact.detach())


# --- initialisation, files, images


def test_a_new_model_is_initialised_as_published():
    torch.manual_seed(0)
    mae = MaeTask(
        dataclasses.replace(RECIPE, architecture=Architecture(192, 2, 3, 4, grid=5, positions="mae"))
    ).requires_grad_(False)
    for name, weight, fans in [
        ("qkv", mae.trunk.blocks[0].attn.qkv.weight, 192 + 576),
        ("patch", mae.trunk.patch_embed.proj.weight, 192 + 48),
        ("pred", mae.decoder_pred.weight, 16 + 48),
    ]:
        bound = math.sqrt(6 / fans)
        assert 0.97 * bound < float(weight.abs().max()) <= bound, name
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert {layer.eps for layer in mae.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-6}
    assert float(mae.trunk.cls_token.std()) == pytest.approx(0.02, rel=0.25)
    assert all(
        float(p.abs().max()) == 0
        for name, p in mae.named_parameters()
        if name.endswith(".bias") and "patch_embed" not in name
    )


def test_what_is_exported_is_a_mae_file_whose_trunk_loads_strictly(mae):
    tree = mae.official()
    assert MaeFiles.recognises(tree)
    trunk = MaeFiles.trunk(tree, None)
    backbone = VisionTransformer(RECIPE.architecture)
    fill(backbone, trunk.tensors, "exported")
    assert torch.equal(backbone.blocks[1].mlp.fc2.weight, mae.encoder().blocks[1].mlp.fc2.weight)
    assert {name.split(".")[0] for name in trunk.dropped} == {
        *("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred")
    }
    other = MaeTask(RECIPE)
    other.start_from_official(tree)
    assert all(torch.equal(value, mae.state_dict()[name]) for name, value in other.state_dict().items())


def test_starting_from_a_trunk_leaves_the_decoder_fresh(mae):
    other = MaeTask(RECIPE)
    decoder = {name: p.clone() for name, p in other.state_dict().items() if not name.startswith("trunk.")}
    other.start_from(mae.encoder().state_dict())
    assert all(torch.equal(p, mae.encoder().state_dict()[name]) for name, p in other.encoder().state_dict().items())
    assert all(torch.equal(other.state_dict()[name], p) for name, p in decoder.items())


def test_files_without_decoder_or_of_another_size_are_refused(mae):
    with pytest.raises(CheckpointError, match="no decoder"):
        mae.start_from_official({"model": {n: t for n, t in mae.official()["model"].items() if "decoder" not in n}})
    with pytest.raises(CheckpointError, match="does not fit"):
        MaeTask(dataclasses.replace(RECIPE, decoder_depth=1)).start_from_official(mae.official())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask_ratio": 0.99}, "leave at least one"),
        ({"mask_ratio": 0.0}, "hide some"),
        ({"views": (View(24, (0.2, 1.0)),)}, "24 pixels"),
        ({"views": (View(20, (0.2, 1.0), count=2),)}, "one view"),
        ({"decoder_heads": 3}, "decoder_heads=3"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        MaeTask(dataclasses.replace(RECIPE, **change))


@pytest.mark.parametrize("normalised", [True, False])
def test_images_show_the_original_what_is_seen_and_a_perfect_guess_as_the_original(mae, normalised, monkeypatch):
    mae.recipe = dataclasses.replace(RECIPE, normalised_pixels=normalised)
    pixels = np.random.default_rng(4).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    target = patchify(images, 4)
    if normalised:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    noise = mae.noise(step())
    hidden = (
        unpatchify(random_masking(noise, 0.75)[2][:, :, None].expand(-1, -1, 48), 4).permute(0, 2, 3, 1).bool().numpy()
    )
    honest = mae.reconstructions(images, noise)
    monkeypatch.setattr(mae, "decode", lambda latent, restore: target)
    shown = mae.reconstructions(images, noise)
    np.testing.assert_array_equal(shown["original"], pixels)
    np.testing.assert_array_equal(shown["reconstruction"], pixels)
    np.testing.assert_array_equal(shown["masked"], np.where(hidden, np.array([124, 116, 104], np.uint8), pixels))
    np.testing.assert_array_equal(honest["reconstruction"][~hidden], pixels[~hidden])
    assert (honest["reconstruction"][hidden] != pixels[hidden]).mean() > 0.9
    assert all(image.dtype == np.uint8 for image in shown.values())


@pytest.mark.parametrize("name", Mae.presets)
def test_every_preset_has_the_recipe_it_is_named_after(name):
    r = Mae.presets[name]
    assert r.betas == (0.9, 0.95)
    assert (r.weight_decay, r.final_weight_decay, r.clip, r.drop_path, r.mask_ratio, r.normalised_pixels) == (
        0.05,
        None,
        0,
        0,
        0.75,
        True,
    )
    assert r.architecture.positions == "mae"
    (view,) = r.views
    assert (view.scale, view.interpolation, view.flip) == ((0.2, 1.0), "bicubic", 0.5)
    assert not any((*view.jitter, view.grey, view.blur, view.solarise))
    if name.startswith("paper/"):
        assert r.peak_lr == pytest.approx(2.4e-3)  # at the paper's batch of 4096
        assert (r.decoder_width, r.decoder_depth, r.decoder_heads, r.warmup_epochs, view.size) == (512, 8, 16, 40, 224)
    else:
        assert (r.decoder_width, r.decoder_depth, r.decoder_heads, view.size) == (128, 2, 4, int(name[6:8]))
        assert r.architecture.grid * r.architecture.patch == view.size
