"""The frozen presets, fact by fact, and how an input size changes one."""

from __future__ import annotations

import dataclasses

import pytest

from fewvit.backbones import KS, TEMPERATURE, ClassifierPreset, Protocol, families
from fewvit.errors import UnknownName, UsageError
from fewvit.extraction.protocols import POOLS, find_protocol, protocols
from fewvit.preprocess import Preprocess, parse_size, sized

# name -> interpolation, pool, norm of class tokens; everything else is common to all
FACTS = {
    "dino/1": ("bicubic", "cls", "final"),
    "dinov2/1": ("bicubic", "cls", "final"),
    "mae/1": ("bicubic", "cls", "final"),
    "mae/2": ("bicubic", "cls", "final"),
    "msn/1": ("bilinear", "cls", "none"),
    "timm/1": ("bicubic", "", "final"),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_preset_is_what_the_official_evaluation_does(name):
    protocol = find_protocol(name)
    interpolation, pool, norm = FACTS[name]
    assert protocol.preprocess == Preprocess(
        (256, 256), (224, 224), interpolation, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert (protocol.name, protocol.pool, protocol.norm, protocol.layers) == (name, pool, norm, 1)
    assert (protocol.ks, protocol.temperature) == ((10, 20, 100, 200), 0.07)
    assert protocol.family == name[:-2]


@pytest.mark.parametrize("name", FACTS)
def test_low_shot_evaluation_resizes_as_the_rest_but_dinov2s_to_the_crops_size(name):
    protocol = find_protocol(name)
    lowshot = protocol.transform("lowshot")
    assert protocol.transform() == protocol.transform("knn") == protocol.preprocess
    assert lowshot == dataclasses.replace(protocol.preprocess, cover=(224, 224) if name == "dinov2/1" else (256, 256))


def test_the_logistic_regressions_are_those_of_the_papers():
    for shots in (1, 5, "10%"):
        assert {name: dict(find_protocol(name).preset_of("logistic", shots).options) for name in FACTS} == {
            "msn/1": {"lambd": 0.0025},
            "dino/1": {"lambd": 0.1},
            "dinov2/1": {"lambd": None, "selection": "tenth", "rows": "raw", "intercept": True, "dtype": "float64"},
            "mae/1": {},
            "mae/2": {},
            "timm/1": {},
        }
    for shots in ("1%", "1percent"):
        assert find_protocol("msn/1").preset_of("logistic", shots) == ClassifierPreset(
            "logistic", {"lambd": 0.075}, "MSN's for 1 %", ("1%", "1percent")
        )


def test_what_a_protocol_gives_goes_to_the_classifier_that_it_names_and_the_named_list_comes_first():
    some, rest, other = (
        ClassifierPreset("ridge", {"alpha": 7.0}, only=("3",)),
        ClassifierPreset("ridge", {"alpha": 2.0}),
        ClassifierPreset("knn", {"k": 3}),
    )
    for order in ((some, rest, other), (other, rest, some)):
        protocol = Protocol("x/1", classifiers=order)
        assert [protocol.preset_of("ridge", shots) for shots in (3, "3", 5)] == [some, some, rest]
        assert protocol.preset_of("knn", 3) == other
        assert protocol.preset_of("centroid", 3) == ClassifierPreset("centroid", {})
    assert Protocol("x/1", classifiers=(some,)).preset_of("ridge", 5) == ClassifierPreset("ridge", {})


def test_every_preset_of_the_papers_is_there():
    assert set(FACTS) <= set(protocols())
    pools = ("cls", "cls2", "mean", "cls+mean", "gem", "cls+gem", "cls+dist", "attn")
    assert (KS, TEMPERATURE) == ((10, 20, 100, 200), 0.07)
    assert pools == POOLS


def test_every_familys_own_preset_exists():
    for family in families().values():
        assert find_protocol(family.protocol).name == family.protocol


def test_a_preset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_protocol("dino/1").layers = 4


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"'dino/7'.*dino/1") as error:
        find_protocol("dino/7")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("size", "cover"),
    [
        ((224, 224), (256, 256)),
        ((448, 448), (512, 512)),
        ((96, 96), (110, 110)),
        ((98, 98), (112, 112)),
        ((112, 448), (128, 512)),
        ((518, 518), (592, 592)),
    ],
)
def test_the_resize_keeps_its_proportion_of_256_to_224(size, cover):
    found = sized(Preprocess(interpolation="bilinear"), size)
    assert (found.crop, found.cover, found.interpolation) == (size, cover, "bilinear")


def test_the_proportion_is_the_presets_own():
    assert sized(Preprocess(cover=(384, 384), crop=(384, 384)), (224, 448)).cover == (224, 448)
    assert sized(Preprocess(cover=(248, 256), crop=(224, 224)), (448, 448)).cover == (496, 512)


@pytest.mark.parametrize("size", [32, 96, 160, 208, 224, 240, 384, 448])
def test_mae_2_resizes_as_the_fine_tuning_script_does(size):
    """Its rule: a crop of 224 / 256 of the resized side up to 224 pixels, of all of it above; the side rounded down."""
    portion = 224 / 256 if size <= 224 else 1.0
    found = sized(Preprocess(), (size, size), find_protocol("mae/2").whole_above)
    assert (found.cover, found.crop) == ((int(size / portion),) * 2, (size, size))


def test_mae_1_keeps_its_proportion_at_every_size_and_a_network_its_own_transform_at_its_own_size():
    assert find_protocol("mae/1").whole_above == 0
    own = Preprocess(cover=(512, 512), crop=(448, 448))  # of a run that was trained so
    assert sized(own, (448, 448), 224) == own


def test_no_size_leaves_the_preset_alone():
    assert sized(Preprocess(), None) == Preprocess()


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("112x448", (112, 448)), ("112X448", (112, 448)), ("7", (7, 7))]
)
def test_a_size_is_a_number_or_height_x_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "0", "0x224", "-224", "2.5", "1x2x3", "big", "²", "224 "])
def test_any_other_size_is_refused(text):
    with pytest.raises(UsageError, match="neither N nor HxW"):
        parse_size(text)
