"""Mixup, cutmix, label smoothing, erasing and RandAugment against timm's own, and what is drawn for each image."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing

from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD
from fewvit.views import randaugment as own_randaugment
from fewvit.views.mixing import Blend, draw_blend, erase, erased_boxes, mix, soft_targets
from fewvit.views.randaugment import Change, apply_change, draw_changes, randaugment

SIZE = (19, 23)
LABELS = torch.tensor([4, 0, 2, 2, 6])
CLASSES = 7


def made_images(n: int = 5, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(n))


# ---- blends


class Fixed(Mixup):
    """timm's mixup with a blend that is not drawn."""

    def __init__(self, share: float, use_cutmix: bool, smoothing: float):
        super().__init__(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=smoothing, num_classes=CLASSES)
        self.fixed = share, use_cutmix

    def _params_per_batch(self):
        return self.fixed


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.77, 1.0])
def test_blended_images_and_targets_are_timms(share, smoothing):
    images, targets = Fixed(share, False, smoothing)(made_images(6), torch.cat([LABELS, LABELS[:1]]))
    ours = mix(made_images(6), soft_targets(torch.cat([LABELS, LABELS[:1]]), CLASSES, smoothing), Blend(share))
    torch.testing.assert_close(ours[0], images, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours[1], targets, atol=1e-6, rtol=1e-6)


def test_cut_images_and_targets_are_timms_and_so_are_the_boxes(monkeypatch):
    drawn = [draw_blend(3, step, SIZE, 0.0, 1.0) for step in range(200)]
    for step in range(200):
        stream = own_stream(step)
        share = stream.beta(1.0, 1.0)
        centre = iter([int(stream.integers(length)) for length in SIZE])
        monkeypatch.setattr(np.random, "randint", lambda low, high, size=None, centre=centre: next(centre))
        images, targets = Fixed(share, True, 0.1)(made_images(6), torch.cat([LABELS, LABELS[:1]]))
        ours = mix(made_images(6), soft_targets(torch.cat([LABELS, LABELS[:1]]), CLASSES, 0.1), drawn[step])
        torch.testing.assert_close(ours[0], images, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours[1], targets, atol=1e-6, rtol=1e-6)
    areas = [1 - blend.share for blend in drawn]
    assert min(areas) < 0.02
    assert max(areas) > 0.7


def own_stream(step: int) -> np.random.Generator:
    from fewvit.seeds import generator

    return generator(3, "mixing", step)


def test_half_of_the_batches_are_cut_and_shares_are_beta_distributed():
    drawn = [draw_blend(0, step, SIZE, 0.8, 1.0) for step in range(3000)]
    cut = [blend for blend in drawn if blend.box is not None]
    assert 0.47 < len(cut) / 3000 < 0.53
    shares = np.array([blend.share for blend in drawn if blend.box is None])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06)  # of Beta(0.8, 0.8)


def test_only_what_is_asked_for_is_drawn_and_a_step_always_draws_the_same():
    assert draw_blend(0, 5, SIZE, 0.0, 0.0) is None
    assert all(draw_blend(0, step, SIZE, 0.8, 0.0).box is None for step in range(50))
    assert all(draw_blend(0, step, SIZE, 0.0, 1.0).box is not None for step in range(50))
    assert draw_blend(0, 5, SIZE, 0.8, 1.0) == draw_blend(0, 5, SIZE, 0.8, 1.0)
    assert len({draw_blend(seed, step, SIZE, 0.8, 0.0).share for seed in range(5) for step in range(5)}) == 25


def test_soft_targets_by_hand():
    found = soft_targets(torch.tensor([2, 0]), 4, 0.2)
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert torch.equal(soft_targets(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))


# ---- erasing

ROWS = np.arange(4000)


def test_erased_rectangles_have_timms_distribution():
    boxes = erased_boxes(0.25, (64, 64), seed=1, epoch=0, rows=ROWS)
    found = np.array([box for box in boxes if box is not None])
    assert len(found) / len(ROWS) == pytest.approx(0.25, abs=0.02)
    theirs = np.array([timms_box() for _ in range(3000)])
    for ours, other in (
        (found[:, 2] * found[:, 3], theirs[:, 2] * theirs[:, 3]),
        (found[:, 2], theirs[:, 2]),
        (found[:, 0], theirs[:, 0]),
    ):
        quantiles = [np.quantile(values, [0.1, 0.3, 0.5, 0.7, 0.9]) for values in (ours, other)]
        np.testing.assert_allclose(*quantiles, rtol=0.12, atol=2.5)
    assert (found[:, 0] + found[:, 2]).max() <= 64
    assert (found[:, 1] + found[:, 3]).max() <= 64


def timms_box(side: int = 64) -> tuple[int, int, int, int]:
    """Where timm's eraser puts its rectangle in an image of ones."""
    image = torch.ones(1, side, side)
    RandomErasing(probability=1.0, mode="const", device="cpu")._erase(image, 1, side, side, image.dtype)
    rows, columns = (torch.where((image[0] == 0).any(dim=d))[0] for d in (1, 0))
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    torch.manual_seed(0)


def test_an_image_loses_its_rectangle_to_noise_of_its_own_and_nothing_else():
    rows = np.arange(40)
    images = torch.full((40, 3, 32, 32), 7.0)
    erase(images, 0.5, seed=2, epoch=3, rows=rows)
    noise = []
    for image, box in zip(images, erased_boxes(0.5, (32, 32), seed=2, epoch=3, rows=rows), strict=True):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        if box is not None:
            top, left, tall, wide = box
            inside[top : top + tall, left : left + wide] = True
            noise.append(image[:, inside].flatten())
        assert (image[:, ~inside] == 7).all()
        assert (image[:, inside] != 7).all()
    values = torch.cat(noise)
    assert abs(float(values.mean())) < 0.05
    assert float(values.std()) == pytest.approx(1, abs=0.05)
    assert len({float(part[0]) for part in noise}) == len(noise)


def test_what_is_erased_depends_on_seed_epoch_and_row_not_on_the_batch():
    whole = torch.zeros(12, 3, 32, 32)
    erase(whole, 1.0, seed=2, epoch=1, rows=np.arange(12))
    part = torch.zeros(3, 3, 32, 32)
    erase(part, 1.0, seed=2, epoch=1, rows=np.array([7, 0, 11]))
    assert torch.equal(part, whole[[7, 0, 11]])
    for other in ({"seed": 3, "epoch": 1}, {"seed": 2, "epoch": 2}):
        again = torch.zeros(12, 3, 32, 32)
        erase(again, 1.0, rows=np.arange(12), **other)
        assert not torch.equal(again, whole)
    erase(whole.zero_(), 0.0, seed=2, epoch=1, rows=np.arange(12))
    assert not whole.any()


# ---- RandAugment

TIMMS = {  # ours -> timm's name in the policy `inc1`
    "auto_contrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing", "solarize_add": "SolarizeAdd", "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing", "sharpness": "SharpnessIncreasing", "shear_x": "ShearX", "shear_y": "ShearY",
    "translate_x_rel": "TranslateXRel", "translate_y_rel": "TranslateYRel",
}  # fmt: skip


def made_image(seed: int = 0, size: tuple[int, int] = (37, 41)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_the_changes_are_those_of_timms_policy():
    assert {TIMMS[name] for name in own_randaugment._NAMES} == set(auto_augment._RAND_INCREASING_TRANSFORMS)
    assert len(own_randaugment._NAMES) == 15


@pytest.mark.parametrize("name", TIMMS)
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_each_change_is_timms_at_every_magnitude_and_sign(name, magnitude, sign, monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.1 if sign > 0 else 0.9)  # above one half timm turns the sign
    hparams = {
        "img_mean": tuple(round(255 * v) for v in IMAGENET_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
        "magnitude_std": 0,
    }
    ours = apply_change(made_image(), own_randaugment._change(name, magnitude / 10, sign))
    if name == "posterize" and magnitude == 10:
        magnitude = 9  # where timm asks Pillow for 0 bits, which it refuses
    theirs = auto_augment.AugmentOp(TIMMS[name], prob=1.0, magnitude=magnitude, hparams=hparams)(made_image())
    np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def test_two_changes_are_drawn_each_with_probability_one_half_and_a_normal_magnitude():
    drawn = draw_changes(9, seed=0, epoch=0, rows=np.arange(6000))
    counts = np.bincount([len(own) for own in drawn], minlength=3) / 6000
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.02)
    names = [change.name for own in drawn for change in own]
    assert {name: pytest.approx(len(names) / 15, rel=0.2) for name in TIMMS} == {
        name: names.count(name) for name in TIMMS
    }
    ends = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3, "translate_x_rel": 0.45, "translate_y_rel": 0.45}
    shares = np.array([change.argument / ends[change.name] for own in drawn for change in own if change.name in ends])
    assert 0.47 < (shares < 0).mean() < 0.53
    levels = 10 * np.abs(shares)
    assert levels.max() == 10
    assert (levels > 9.999).mean() == pytest.approx(
        0.5 * math.erfc(2 / math.sqrt(2)), rel=0.3
    )  # two deviations above: cut off
    assert np.median(levels) == pytest.approx(9, abs=0.05)
    assert np.quantile(levels, 0.16) == pytest.approx(8.5, abs=0.05)


def test_images_are_changed_by_their_own_rows_in_whole_grey_levels():
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    levels = torch.stack([torch.from_numpy(np.array(made_image(i))).permute(2, 0, 1).float() for i in range(8)])
    images = (levels - mean) / std
    rows = np.array([3, 9, 27, 81, 5, 6, 7, 8])
    randaugment(images, 9, seed=4, epoch=2, rows=rows)
    for i, own in enumerate(draw_changes(9, seed=4, epoch=2, rows=rows)):
        expected = made_image(i)
        for change in own:
            expected = apply_change(expected, change)
        found = (images[i] * std + mean).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, np.array(expected), atol=1e-3)
    assert any(own for own in draw_changes(9, seed=4, epoch=2, rows=rows))
    again = (levels - mean) / std
    randaugment(again[[5, 2]], 9, seed=4, epoch=2, rows=rows[[5, 2]])
    assert draw_changes(9, seed=4, epoch=2, rows=rows[[5, 2]]) == [
        draw_changes(9, seed=4, epoch=2, rows=rows)[i] for i in (5, 2)
    ]
    assert draw_changes(9, seed=4, epoch=3, rows=rows) != draw_changes(9, seed=4, epoch=2, rows=rows)


def test_a_change_without_argument_has_none():
    assert own_randaugment._change("invert", 0.9, -1.0) == Change("invert", None)
