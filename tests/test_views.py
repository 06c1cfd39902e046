"""Views beside torchvision's transforms on Pillow images.

The same pixels for the same draws, and draws of the same distribution.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional as official

from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD
from fewvit.views import colours
from fewvit.views import crops as views_module
from fewvit.views.crops import Drawn, draw, draw_views, make_views
from fewvit.views.resample import as_canvas, resized_by_matmul, resized_one_by_one
from fewvit.views.view import View

JITTER = (0.4, 0.4, 0.2, 0.1)
GLOBAL = View(47, (0.4, 1.0), jitter=JITTER, grey=0.2, blur=0.6, solarise=0.2)
LOCAL = View(23, (0.05, 0.4), count=3, interpolation="bilinear", jitter=JITTER, grey=0.2, blur=0.5)
PLAIN = View(31, (0.2, 1.0), flip=0.0)


def image(seed: int, height: int = 61, width: int = 53) -> np.ndarray:
    """(H, W, 3) uint8: soft shapes, sharp edges, saturated and grey areas, black and white."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.array(soft)
    pixels[: height // 5] = rng.integers(0, 256, (height // 5, width, 3))
    pixels[height // 5 : height // 4, :, :] = rng.integers(0, 256, (1, width, 1))
    pixels[-height // 7 :, : width // 3] = (255, 255, 255)
    pixels[-height // 7 :, width // 2 :] = (0, 0, 0)
    return pixels


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """(3, H, W) with a pixel's values side by side, as images are read."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def levels(view: torch.Tensor) -> np.ndarray:
    """(..., H, W, 3) grey levels of normalised views (..., 3, H, W)."""
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_STD, IMAGENET_MEAN))
    return ((view * std + mean) * 255).movedim(-3, -1).double().numpy()


def pillow_view(pixels: np.ndarray, view: View, drawn: Drawn, i: int, j: int) -> torch.Tensor:
    """Crop j of image i as the published pipelines make it, from what was drawn instead of their own random numbers."""
    top, left, height, width = drawn.boxes[i, j].tolist()
    mode = official.InterpolationMode(view.interpolation)
    image = official.resized_crop(Image.fromarray(pixels), top, left, height, width, (view.size, view.size), mode)
    image = official.hflip(image) if drawn.flipped[i, j] else image
    if drawn.jittered[i, j]:
        steps = (official.adjust_brightness, official.adjust_contrast, official.adjust_saturation, official.adjust_hue)
        for step in drawn.order[i, j].tolist():
            image = steps[step](image, float(drawn.factors[i, j, step])) if view.jitter[step] else image
    image = image.convert("L").convert("RGB") if drawn.greyed[i, j] else image
    image = image.filter(ImageFilter.GaussianBlur(float(drawn.radii[i, j]))) if drawn.blurred[i, j] else image
    image = ImageOps.solarize(image) if drawn.solarised[i, j] else image
    return official.normalize(official.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


# ---- the same draws give the same pixels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [[(61, 53)] * 13, [(61, 53), (40, 97), (19, 17), (130, 71), (61, 53)]], ids=["one size", "many sizes"]
)
def test_views_are_pillows_and_torchvisions_for_the_same_draws(sizes):
    pixels = [image(seed, *size) for seed, size in enumerate(sizes)]
    kinds, rows = (GLOBAL, LOCAL, PLAIN), np.arange(len(sizes)) * 3 + 5
    images = [tensor(p) for p in pixels]
    found = make_views(torch.stack(images) if len(set(sizes)) == 1 else images, kinds, seed=3, epoch=7, rows=rows)
    drawn = draw_views(kinds, np.array(sizes), seed=3, epoch=7, rows=rows)
    places = [(k, j) for k, kind in enumerate(kinds) for j in range(kind.count)]
    assert len(found) == len(places) == 5
    for batch, (k, j) in zip(found, places, strict=True):
        expected = torch.stack([pillow_view(p, kinds[k], drawn[k], i, j) for i, p in enumerate(pixels)])
        assert batch.shape == expected.shape
        assert batch.dtype == torch.float32
        distance = np.abs(levels(batch) - levels(expected)).mean(axis=(1, 2, 3))  # grey levels, by image
        wide = np.array([drawn[k].boxes[i, j, 3] >= drawn[k].boxes[i, j, 2] for i in range(len(sizes))])
        # resampling alone differs by 0.003; the roundings of jitter can make a whole level of that
        assert distance[wide].max(initial=0) < 0.06, (k, j, distance)
        assert distance.max() < 0.4, (k, j, distance)  # Pillow 13 resamples some tall boxes by columns first: see below


def test_every_kind_of_change_was_among_them():
    drawn = draw_views((GLOBAL, LOCAL), np.array([(61, 53)] * 13), seed=3, epoch=7, rows=np.arange(13) * 3 + 5)
    for kind in drawn:
        for name in ("flipped", "jittered", "greyed", "blurred"):
            assert 0 < getattr(kind, name).mean() < 1, name
    assert drawn[0].solarised.any()


STEPS = (official.adjust_brightness, official.adjust_contrast, official.adjust_saturation)


def batch_of(*seeds: int) -> tuple[list[Image.Image], torch.Tensor]:
    pixels = [image(seed) for seed in seeds]
    return [Image.fromarray(p) for p in pixels], torch.stack([tensor(p) for p in pixels]).float()


def as_levels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB")) for image in images]).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize(
    "kinds",
    [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (0, 1, 2, 0, 1)],
    ids=["bright", "contrast", "saturation", "all"],
)
@pytest.mark.parametrize(
    "factors", [(0.0, 0.61, 1.0, 1.37, 1.99), (0.2, 0.4, 0.6, 0.8, 0.93)], ids=["clipped", "never clipped"]
)
def test_brightness_contrast_and_saturation_are_torchvisions_on_pillow_bit_for_bit(kinds, factors):
    pillow, ours = batch_of(1, 2, 3, 4, 5)
    colours.blend(ours, np.array(kinds), np.array(factors))
    np.testing.assert_array_equal(
        ours, as_levels([STEPS[k](p, f) for k, p, f in zip(kinds, pillow, factors, strict=True)])
    )


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.017, 0.0, 0.003, 0.08, 0.5])
def test_hue_is_torchvisions_on_pillow_but_for_roundings(shift):
    values = np.array([0, 1, 50, 51, 100, 127, 128, 170, 200, 254, 255], np.uint8)
    every = np.array(list(itertools.product(values, repeat=3)), np.uint8).reshape(11, 121, 3)
    images = [every, np.random.default_rng(5).integers(0, 256, (11, 121, 3), dtype=np.uint8)]
    ours = torch.stack([tensor(p) for p in images]).float()
    colours.shift_hue(ours, np.array([shift, shift]))
    distance = np.abs(ours.numpy() - as_levels([official.adjust_hue(Image.fromarray(p), shift) for p in images]))
    assert distance.max() <= 6  # one unit of hue is 6/255 of the spread
    assert distance[1].mean() < 0.01  # chance colours
    assert distance[0].mean() < 0.1  # a grid of colours that lie on the boundaries of rounding


def test_each_image_has_its_own_hue():
    pillow, ours = batch_of(1, 2, 3)
    colours.shift_hue(ours, np.array([0.1, -0.07, 0.0]))
    expected = as_levels([official.adjust_hue(p, f) for p, f in zip(pillow, (0.1, -0.07, 0.0), strict=True)])
    assert np.abs(ours.numpy() - expected).mean(axis=(1, 2, 3)).max() < 0.02


def test_grey_levels_of_chance_colours_are_pillows_bit_for_bit():
    # some lie within 1/65536 of a half
    pixels = np.random.default_rng(5).integers(0, 256, (701, 701, 3), dtype=np.uint8)
    found = colours.grey_levels(tensor(pixels)[None].float())[0, 0]
    np.testing.assert_array_equal(found, np.asarray(Image.fromarray(pixels).convert("L")))


def test_grey_and_solarisation_are_pillows_bit_for_bit():
    pillow, ours = batch_of(1, 2)
    colours.solarise(ours)
    np.testing.assert_array_equal(ours, as_levels([ImageOps.solarize(p) for p in pillow]))
    pillow, ours = batch_of(3, 4)
    colours.take_colour(ours)
    np.testing.assert_array_equal(ours, as_levels([p.convert("L") for p in pillow]))


@pytest.mark.parametrize(
    "radii", [(0.11, 0.53, 1.39), (1.43, 1.71, 1.97), (0.13, 1.01, 1.99, 3.31)], ids=["narrow", "wide", "mixed"]
)
def test_blur_is_pillows_bit_for_bit_edges_included(radii):
    """Chance radii: at 1/2 or 1 sums lie halfway between levels, and Pillow's fixed point rounds down."""
    pillow, ours = batch_of(*range(len(radii)))
    colours.blur(ours, torch.from_numpy(colours.blur_boxes(np.array(radii))))
    np.testing.assert_array_equal(
        ours, as_levels([p.filter(ImageFilter.GaussianBlur(r)) for p, r in zip(pillow, radii, strict=True)])
    )


def test_three_boxes_have_the_variance_of_the_radius():
    radii = np.linspace(0.1, 4, 37)
    boxes = colours.blur_boxes(radii).astype(np.float64)
    away = np.arange(boxes.shape[1])
    np.testing.assert_allclose(boxes[:, 0] + 2 * boxes[:, 1:].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(3 * 2 * (boxes * away**2).sum(axis=1), radii**2, rtol=1e-5)


BOXES = [(10, 7, 31, 40), (0, 0, 61, 53), (3, 4, 5, 6), (60, 52, 1, 1), (0, 11, 61, 2), (50, 0, 11, 53)]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 37, 64])
@pytest.mark.parametrize("way", [resized_one_by_one, resized_by_matmul])
def test_crops_are_torchvisions_resized_crops_of_pillow_images(way, size, mode):
    pixels = [image(1), image(2)]
    boxes, flips = np.array([BOXES, BOXES[::-1]]), np.array([[False] * 6, [True] * 6])
    found = way(torch.stack([tensor(p) for p in pixels]), boxes, flips, size, mode).numpy().reshape(2, 6, 3, size, size)
    for i, j in itertools.product(range(2), range(6)):
        crop = official.resized_crop(
            Image.fromarray(pixels[i]), *boxes[i, j].tolist(), (size, size), official.InterpolationMode(mode)
        )
        distance = np.abs(found[i, j] - as_levels([official.hflip(crop) if flips[i, j] else crop])[0])
        # Pillow 13 takes columns before rows where a box is tall: other values are clipped between
        wide = boxes[i, j, 3] >= boxes[i, j, 2]
        assert distance.mean() < (0.03 if wide else 0.2)
        assert distance.max() <= (2 if wide else 10)
    assert set(np.unique(found % 1)) == {0.0}


def test_a_crop_by_products_knows_nothing_of_the_canvas_around_its_image():
    small, large = tensor(image(1, 19, 17)), tensor(image(2))
    boxes, flips = np.array([[(0, 0, 19, 17), (5, 3, 14, 14)]]), np.array([[False, True]])
    alone = resized_by_matmul(small[None], boxes, flips, 29, "bicubic")
    canvas = as_canvas([small, large], "cpu")
    canvas[0][canvas[0] == 0] = 99
    canvas[0, :, :19, :17] = small
    beside = resized_by_matmul(canvas, np.concatenate([boxes, boxes]), np.concatenate([flips, flips]), 29, "bicubic")
    assert torch.equal(alone, beside[:2])


# ---- the draws are torchvision's in distribution -------------------------------------------------------------------

DRAWS = 4001


def drawn_of(view: View, size: tuple[int, int], count: int = DRAWS) -> Drawn:
    return draw_views([view], np.array([size] * count), seed=11, epoch=2, rows=np.arange(count))[0]


@pytest.mark.parametrize("size", [(375, 500), (64, 64), (90, 211)])
@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_have_the_distribution_of_random_resized_crop(size, scale):
    torch.manual_seed(5)
    image = torch.empty(3, *size)
    peer = np.array([transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(DRAWS)])
    ours = drawn_of(View(8, scale), size).boxes[:, 0]
    for boxes in (peer, ours):
        assert (boxes >= [0, 0, 1, 1]).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "bottom": lambda b: b[:, 0] + b[:, 2],
        "place": lambda b: b[:, 1] / np.maximum(1, size[1] - b[:, 3]),
    }.items():
        assert stats.ks_2samp(of(ours), of(peer)).pvalue > 0.001, name
    room = size - ours[:, 2:]
    places = (ours[:, :2] / np.maximum(room, 1))[(room > 0).all(axis=1)]
    assert abs(np.corrcoef(places.T)[0, 1]) < 4 / math.sqrt(len(places))  # down and across are independent


@pytest.mark.parametrize("size", [(30, 300), (300, 30), (1, 60), (60, 1), (1, 1), (40, 41)])
def test_where_no_box_fits_the_largest_central_one_is_torchvisions(size):
    # seven times the area never fits
    peer = transforms.RandomResizedCrop.get_params(torch.empty(3, *size), [7.0, 8.0], [3 / 4, 4 / 3])
    assert drawn_of(View(8, (7.0, 8.0)), size, 1).boxes[0, 0].tolist() == list(peer)


def test_the_first_box_that_fits_is_taken():
    """By hand: at scale 1 a square image holds no oblong box; the third try has ratio 1."""
    numbers = np.full((1, 1, 33), 0.5)
    numbers[0, 0, 1:20:2] = 0.01  # ratio 3/4
    numbers[0, 0, 5] = 0.5  # exp(0) = 1
    numbers[0, 0, 4] = 0.0  # and the area is the smallest
    box = draw(View(8, (0.81, 1.2)), np.array([[100, 100]]), numbers).boxes[0, 0]
    assert box.tolist() == [5, 5, 90, 90]  # half of 11 places each way


def test_factors_and_their_order_have_the_distribution_of_color_jitter():
    torch.manual_seed(5)
    ranges = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
    peer = [transforms.ColorJitter.get_params(*map(list, ranges)) for _ in range(DRAWS)]
    ours = drawn_of(replace(GLOBAL, jitter=JITTER), (64, 64))
    for k in range(4):
        assert stats.ks_2samp(ours.factors[:, 0, k], [factors[k + 1] for factors in peer]).pvalue > 0.001, k
    permutations = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    ours_count = np.bincount([permutations[tuple(order)] for order in ours.order[:, 0].tolist()], minlength=24)
    peer_count = np.bincount([permutations[tuple(factors[0].tolist())] for factors in peer], minlength=24)
    assert stats.chi2_contingency([ours_count, peer_count]).pvalue > 0.001


def test_factors_stop_at_zero_as_color_jitters_do():
    ours = drawn_of(View(8, (0.2, 1.0), jitter=(1.5, 0.3, 1.0, 0.5)), (64, 64))
    low, high = ours.factors[:, 0].min(axis=0), ours.factors[:, 0].max(axis=0)
    np.testing.assert_allclose(low, [0, 0.7, 0, -0.5], atol=0.01)
    np.testing.assert_allclose(high, [2.5, 1.3, 2.0, 0.5], atol=0.01)


def test_each_change_has_its_own_probability_and_is_independent_of_the_others():
    view = View(
        8,
        (0.2, 1.0),
        flip=0.5,
        jitter=JITTER,
        jitter_probability=0.8,
        grey=0.2,
        blur=0.1,
        solarise=0.3,
        blur_radius=(0.3, 1.7),
    )
    ours = drawn_of(view, (64, 64))
    happened = np.stack(
        [getattr(ours, name)[:, 0] for name in ("flipped", "jittered", "greyed", "blurred", "solarised")]
    )
    for share, probability in zip(happened.mean(axis=1), (0.5, 0.8, 0.2, 0.1, 0.3), strict=True):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / DRAWS)
    assert np.abs(np.corrcoef(happened) - np.eye(5)).max() < 4 / math.sqrt(DRAWS)
    assert stats.kstest(ours.radii[:, 0], stats.uniform(0.3, 1.4).cdf).pvalue > 0.001


def test_no_probability_never_happens_and_certainty_always_does():
    never = drawn_of(View(8, (0.2, 1.0), flip=0.0, jitter=JITTER, jitter_probability=0.0), (64, 64), 997)
    always = drawn_of(
        View(8, (0.2, 1.0), flip=1.0, jitter=JITTER, jitter_probability=1.0, grey=1.0, blur=1.0, solarise=1.0),
        (64, 64),
        997,
    )
    for name in ("flipped", "jittered", "greyed", "blurred", "solarised"):
        assert not getattr(never, name).any()
        assert getattr(always, name).all()
    assert not drawn_of(View(8, (0.2, 1.0)), (64, 64), 997).jittered.any()  # without strength there is no jitter


def test_crops_of_one_image_and_neighbouring_images_are_independent():
    areas = draw_views(
        [replace(LOCAL, count=4)], np.array([(211, 211)] * DRAWS), seed=3, epoch=1, rows=np.arange(DRAWS)
    )[0].factors[..., 0]
    assert np.abs(np.corrcoef(areas.T) - np.eye(4)).max() < 4 / math.sqrt(DRAWS)
    assert abs(np.corrcoef(areas[1:, 0], areas[:-1, 0])[0, 1]) < 4 / math.sqrt(DRAWS)


# ---- a view is a function of its image, seed, epoch, row and number ----------------------------------------------

KINDS = (GLOBAL, LOCAL)


def test_a_view_does_not_depend_on_its_batch():
    images = [
        tensor(image(seed, *size))
        for seed, size in enumerate([(61, 53), (40, 97), (61, 53), (19, 17), (61, 53), (64, 64), (61, 53)])
    ]
    rows = np.array([90, 4, 17, 3, 2, 1000, 5])
    together = make_views(images, KINDS, seed=3, epoch=1, rows=rows)
    chosen = [6, 0, 4]
    again = make_views(torch.stack([images[i] for i in chosen]), KINDS, seed=3, epoch=1, rows=rows[chosen])
    for all_of_them, some in zip(together, again, strict=True):
        assert torch.equal(all_of_them[chosen], some)


@pytest.mark.parametrize("values", [1, 20_000, 1 << 30])
def test_how_many_images_are_worked_on_at_a_time_changes_nothing(values, monkeypatch):
    images, rows = torch.stack([tensor(image(seed)) for seed in range(11)]), np.arange(11)
    expected = make_views(images, KINDS, seed=3, epoch=1, rows=rows)
    monkeypatch.setattr(views_module, "_CPU_VALUES", values)
    for a, b in zip(expected, make_views(images, KINDS, seed=3, epoch=1, rows=rows), strict=True):
        assert torch.equal(a, b)


def test_the_number_of_threads_changes_nothing():
    images = torch.stack([tensor(image(seed, 160, 150)) for seed in range(3)])
    large, before = [replace(GLOBAL, size=224)], torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(make_views(images, large, seed=3, epoch=1, rows=np.arange(3))[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_how_a_image_lies_in_memory_changes_nothing():
    images = torch.stack([tensor(image(seed)) for seed in range(3)])
    by_pixel = images.contiguous(memory_format=torch.channels_last)
    for a, b in zip(
        *(make_views(p.clone(), KINDS, seed=3, epoch=1, rows=np.arange(3)) for p in (images, by_pixel)), strict=True
    ):
        assert torch.equal(a, b)


def test_seed_epoch_row_and_number_of_the_crop_each_give_another_view():
    images = tensor(image(1))[None]
    base = make_views(images, [LOCAL], seed=3, epoch=1, rows=np.array([5]))
    others = [
        make_views(images, [LOCAL], seed=seed, epoch=epoch, rows=np.array([row]))
        for seed, epoch, row in ((4, 1, 5), (3, 2, 5), (3, 1, 6))
    ]
    every = [crop for crops in (base, *others) for crop in crops]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(every, 2))


def test_two_kinds_of_views_draw_numbers_of_their_own():
    one, other = make_views(tensor(image(1))[None], [PLAIN, PLAIN], seed=3, epoch=1, rows=np.array([5]))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_batch_lies_in_memory_as_one_that_torch_has_made(count):
    images = torch.stack([tensor(image(seed)) for seed in range(count)])
    for view in make_views(
        images, [replace(PLAIN, size=32), replace(PLAIN, size=16, count=2)], seed=3, epoch=1, rows=np.arange(count)
    ):
        assert view.is_contiguous()
        assert view.data_ptr() % 64 == 0


def test_images_are_left_as_they_were():
    images = torch.stack([tensor(image(seed)) for seed in range(2)])
    before = images.clone()
    make_views(images, [replace(GLOBAL, size=53, jitter_probability=1.0)], seed=3, epoch=1, rows=np.arange(2))
    assert torch.equal(images, before)


def test_a_white_image_is_white_in_every_plain_view():
    white = torch.full((1, 3, 9, 7), 255, dtype=torch.uint8)
    (view,) = make_views(white, [PLAIN], seed=3, epoch=1, rows=np.array([0]))
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        np.testing.assert_allclose(view[0, channel], (1 - mean) / std, rtol=1e-5)


def test_an_image_of_one_pixel_makes_views():
    (view,) = make_views(
        [torch.tensor([[[7]], [[99]], [[250]]], dtype=torch.uint8)], [PLAIN], seed=3, epoch=1, rows=np.array([0])
    )
    np.testing.assert_allclose(levels(view[0]), np.broadcast_to([7, 99, 250], (31, 31, 3)), atol=1e-3)


def test_no_images_make_empty_batches():
    assert [v.shape for v in make_views([], KINDS, seed=3, epoch=1, rows=np.array([], np.int64))] == [
        (0, 3, 47, 47),
        *[(0, 3, 23, 23)] * 3,
    ]


def test_some_of_what_was_drawn_is_the_draw_of_some():
    ours = drawn_of(LOCAL, (64, 64), 7)
    for field in fields(Drawn):
        np.testing.assert_array_equal(getattr(ours[2:5], field.name), getattr(ours, field.name)[2:5])


def test_a_gpu_gets_as_many_images_at_a_time_as_views_and_canvas_leave_room_for(monkeypatch):
    """By hand: 3 x 47^2 = 6627 values a view: two images of up to 2000 pixels fit in 14,000, larger ones go alone."""
    monkeypatch.setattr(views_module, "_GPU_VALUES", 14_000)
    monkeypatch.setattr(views_module, "_CPU_VALUES", 7_000)
    sizes = np.array(
        [(40, 40), (44, 44), (40, 40), (9, 99), (99, 9), (30, 30), (40, 40), (300, 300), (5, 5), (6, 6), (7, 7)]
    )
    blocks = views_module._blocks(sizes, [replace(GLOBAL, size=47)], "cuda")
    assert [(part.start, part.stop) for part in blocks] == [
        (0, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 7),
        (7, 8),
        (8, 10),
        (10, 11),
    ]
    monkeypatch.setattr(views_module, "_GPU_VALUES", 7_000)
    monkeypatch.setattr(views_module, "_CPU_VALUES", 14_000)
    blocks = views_module._blocks(sizes, [replace(GLOBAL, size=47)], "cpu")
    assert [(part.start, part.stop) for part in blocks] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_the_views_of_a_cpu():
    images = [tensor(image(seed, *size)) for seed, size in enumerate([(61, 53), (40, 97), (19, 17), (130, 71)] * 5)]
    ours, theirs = (
        make_views(images, KINDS, seed=3, epoch=1, rows=np.arange(20), device=device) for device in ("cpu", "cuda")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert b.device.type == "cuda"
        assert np.abs(levels(a) - levels(b.cpu())).mean(axis=(1, 2, 3)).max() < 0.05
