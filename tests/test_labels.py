"""Labels: two sets under one numbering, and what is said of images without labels and of sets with one class."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.errors import DataError
from fewvit.features import FeatureSet
from fewvit.labels import align, labelled, require_classes, require_known_classes, require_labels, with_images


def features(labels=(1, 0, -1, 1, 1), classes=("n3", "n7"), *, seed=3) -> FeatureSet:
    rows = np.random.default_rng(seed).standard_normal((len(labels), 3)).astype(np.float32)
    return FeatureSet(
        rows, np.array(labels, np.int64), [f"{i}.jpg" for i in range(len(labels))], classes, "abc" * 20, "toy"
    )


def test_aligned_labels_mean_the_same_names_on_both_sides():
    train = features((0, 1, 2), ("n11", "n3", "n7"))
    test = features((1, 0, -1, 1), ("n3", "n11", "unused"), seed=7)
    found = align(train, test)
    assert [found.classes[c] if c >= 0 else None for c in found.labels] == ["n11", "n3", None, "n11"]
    assert list(found.classes) == ["n11", "n3", "n7"]
    assert (list(found.ids), found.fingerprint, found.name) == (list(test.ids), test.fingerprint, "toy")
    assert found.features is test.features


def test_sets_of_equal_classes_are_left_as_they_are():
    test = features(seed=7)
    assert align(features(), test) is test


def test_test_classes_that_train_lacks_are_named_and_unused_ones_are_no_matter():
    train = features((0, 1), ("n3", "n7"))
    strangers = features((0, 1, 2), ("n3", "x", "y"))
    with pytest.raises(DataError, match="2 classes of the test set are not in the training set: x, y\n") as error:
        align(train, strangers)
    assert error.value.exit_code == 3
    many = FeatureSet(np.eye(5, 3), np.arange(5), [str(i) for i in range(5)], list("vwxyz"))
    with pytest.raises(DataError, match="5 classes of the test set are not in the training set: v, w, x, y, z\n"):
        align(train, many)
    six = FeatureSet(np.eye(6, 3), np.arange(6), [str(i) for i in range(6)], list("uvwxyz"))
    with pytest.raises(
        DataError, match="6 classes of the test set are not in the training set: u, v, w, x, y and 1 more"
    ):
        align(train, six)


def test_classes_that_are_bare_numbers_on_one_side_are_told_to_lack_names():
    named, bare = features((0, 1), ("n3", "n7")), features((0, 1), ("0", "1"))
    for train, test, side in ((named, bare, "test"), (bare, named, "training")):
        with pytest.raises(
            DataError,
            match=rf"not in the training set(.|\n)*classes of the {side} features are bare numbers.*no array `classes`",
        ):
            align(train, test)


def test_which_classes_are_known_can_be_told_apart_from_which_have_a_name():
    train, test = features((0, 0), ("n3", "n7")), features((0, 1), ("n3", "n7"))
    assert with_images(train) == ["n3"]
    with pytest.raises(
        DataError, match=r"1 class of the test set is not in the training set: n7\n.*images of 1 class;"
    ):
        require_known_classes(train, test, with_images(train))
    require_known_classes(train, test, train.classes)
    assert align(train, test) is test


def test_a_train_set_without_labels_teaches_no_class_but_nothing_is_asked_of_it_where_test_has_none_either():
    bare = features((-1, -1), ("n3",))
    with pytest.raises(DataError, match="the train images have no labels"):
        align(bare, features())
    assert align(bare, features((-1,), ())).labels.tolist() == [-1]


def test_rows_without_a_label_are_left_out_and_counted():
    lines = []
    found = labelled(features(), "train", lines.append)
    assert list(found.ids) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    assert lines == ["1 unlabelled train image is left out"]
    assert labelled(found, "train", lines.append) is found
    assert len(lines) == 1


def test_a_set_without_any_label_is_refused_by_its_side():
    for side, words in (("test", "the test images have no labels"), ("", "the images have no labels")):
        with pytest.raises(DataError, match=words):
            require_labels(features((-1, -1)), side)


def test_one_class_is_nothing_to_tell_apart_and_two_are():
    with pytest.raises(DataError, match=r"the train images are all of one class \('n7'\)"):
        require_classes(features((1, 1, 1)))
    require_classes(features((1, 0)))
