"""`--set`: text becomes what the constructor declares, or a usage error that says what it takes."""

from __future__ import annotations

from typing import Literal

import pytest

from fewvit import options
from fewvit.errors import UnknownName, UsageError
from fewvit.options import Setting, parse_setting, settings_for


class Toy:
    def __init__(
        self,
        k: int = 3,
        scale: float | None = 0.5,
        whole: bool = False,
        metric: Literal["cosine", "euclidean"] = "cosine",
        name: str = "x",
    ):
        pass


class Other:
    def __init__(self, k: int | float = 7):
        pass


@pytest.fixture(autouse=True)
def two_plugins(monkeypatch):
    monkeypatch.setattr(options, "find", lambda kind, name: {"toy": Toy, "the_other": Other, "the-other": Other}[name])


def read(*texts: str, plugins=("toy", "the-other")):
    return settings_for("classifiers", plugins, [parse_setting(text) for text in texts])


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("k=5", Setting("", "k", "5")),
        (" toy.k = 5 ", Setting("toy", "k", "5")),
        ("the-other.big-k==", Setting("the_other", "big_k", "=")),
        ("name=a.b", Setting("", "name", "a.b")),
    ],
)
def test_a_setting_has_a_name_a_value_and_perhaps_a_plugin(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["k", "=5", "toy.=5", ""])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(UsageError, match="name=value"):
        parse_setting(text)


def test_a_bare_name_goes_to_every_plugin_that_has_it_and_a_named_one_to_its_own():
    assert read("k=5", "scale=2") == {"toy": {"k": 5, "scale": 2.0}, "the_other": {"k": 5}}
    assert read("toy.k=5") == {"toy": {"k": 5}, "the_other": {}}
    assert read("k=5", "the-other.k=11") == {"toy": {"k": 5}, "the_other": {"k": 11}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("scale=none", None),
        ("scale=1e-3", 0.001),
        ("whole=yes", True),
        ("whole=0", False),
        ("metric=euclidean", "euclidean"),
        ("name=7", "7"),
        ("k=-2", -2),
    ],
)
def test_values_are_of_the_declared_type(text, value):
    [[found]] = [list(chosen.values()) for chosen in read(text, plugins=("toy",)).values()]
    assert found == value
    assert type(found) is type(value)


def test_a_whole_number_stays_one_where_both_kinds_are_allowed():
    assert type(read("k=5", plugins=("the_other",))["the_other"]["k"]) is int
    assert read("k=5.5", plugins=("the_other",)) == {"the_other": {"k": 5.5}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("k=2.5", "a whole number"),
        ("scale=big", "none or a number|a number or none"),
        ("whole=maybe", "true or false"),
        ("metric=l1", "cosine or euclidean"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_taken(text, says):
    with pytest.raises(UsageError, match=says):
        read(text, plugins=("toy",))


def test_an_option_that_nobody_has_is_unknown_and_the_nearest_is_named():
    with pytest.raises(UnknownName, match="metric"):
        read("metrik=euclidean")
    with pytest.raises(UnknownName):
        read("the-other.scale=2")


def test_a_plugin_that_was_not_chosen_is_refused():
    with pytest.raises(UsageError, match="not among the chosen"):
        read("knn.k=5")
