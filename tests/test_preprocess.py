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
    with pytest.raises(UnknownName, match="lanczos"):
        Preprocess(interpolation="lanczos")


def test_what_is_for_retrieval_is_named_only_where_it_is_set_so_that_older_features_are_found_again():
    plain = Preprocess().to_dict()
    assert Preprocess(longest=0, stretched=False, scales=(1.0,)).to_dict() == plain
    assert Preprocess(stretched=True).to_dict() == {**plain, "stretched": True}
    large = Preprocess(longest=512, interpolation="lanczos", scales=(1.0, 0.5))
    assert large.to_dict() == {**plain, "interpolation": "lanczos", "longest": 512, "scales": (1.0, 0.5)}


def test_a_longer_side_is_one_number_and_leaves_proportions_alone():
    shrunk = Preprocess(longest=224, interpolation="lanczos")
    assert sized(shrunk, (512, 512)) == Preprocess(longest=512, interpolation="lanczos")
    with pytest.raises(UsageError, match="512x256: images keep their proportions"):
        sized(shrunk, (512, 256))


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
