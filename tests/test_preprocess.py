"""The transform of a protocol as numbers: its defaults, its other sizes, and how a size is spelled."""

from __future__ import annotations

import pytest

from fewvit.errors import UnknownName, UsageError
from fewvit.preprocess import Preprocess, parse_size, sized


def test_by_default_images_are_resized_to_256_and_cropped_to_224_with_the_mean_colour_of_imagenet():
    assert Preprocess().to_dict() == {
        "cover": (256, 256),
        "crop": (224, 224),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    with pytest.raises(UnknownName, match="nearest"):
        Preprocess(interpolation="nearest")


@pytest.mark.parametrize(
    ("size", "cover"),
    [
        ((448, 224), (512, 256)),
        ((112, 448), (128, 512)),
        ((98, 63), (112, 72)),
        ((32, 48), (37, 55)),
        (None, (256, 256)),
    ],
)
def test_another_size_keeps_the_proportion_of_resize_to_crop_on_each_side(size, cover):
    found = sized(Preprocess(interpolation="bilinear"), size)
    assert (found.cover, found.crop, found.interpolation) == (cover, size or (224, 224), "bilinear")


def test_both_sides_have_their_own_proportion():
    assert sized(Preprocess(cover=(300, 200), crop=(100, 50)), (10, 20)).cover == (30, 80)


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("32x48", (32, 48)), ("48X1", (48, 1)), ("1", (1, 1))])
def test_a_size_is_one_number_or_height_and_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0x5", "5x0", "x5", "5x", "-3", "1.5", "5x5x5", "a", "5 x 5", "²"])
def test_any_other_size_is_refused(text):
    with pytest.raises(UsageError, match="neither N nor HxW"):
        parse_size(text)
