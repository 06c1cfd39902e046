"""Which rows are labelled: nested, disjoint, by seed and class name alone.

DINOv2's subset beside its own lines of code.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fewvit.errors import DataError, UsageError
from fewvit.seeds import generator
from fewvit.splits import Split, dinov2_subset, disjoint, identical, n_per_class, percent_per_class


def official(labels: np.ndarray, n_per_class: int, seed: int) -> list[int]:
    """dinov2 `eval/knn.py`.

    `torch.manual_seed(seed)`, then `create_class_indices_mapping` and `filter_train`, written out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unique, inverse = np.unique(labels, return_inverse=True)
        mapping = {int(unique[i]): (inverse == i).nonzero()[0] for i in range(len(unique))}
        final = []
        for label in mapping:
            index = torch.randperm(len(mapping[label]))[:n_per_class]
            final.append(mapping[label][index])
        return [int(row) for rows in final for row in np.atleast_1d(rows)]


def unbalanced(seed: int = 3) -> np.ndarray:
    """Labels 3, 7 and 11 with 13, 5 and 29 images, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat([3, 7, 11], [13, 5, 29]))


@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.parametrize("trial", [0, 1, 7])
def test_rows_are_those_that_dinov2s_code_draws(shots, trial):
    labels = unbalanced()
    rows = dinov2_subset(labels, shots, trial)
    assert rows.tolist() == official(labels, shots, trial)
    assert labels[rows].tolist() == [3] * shots + [7] * shots + [11] * shots


def test_one_shot_rows_are_a_prefix_of_the_five_shot_rows_class_by_class():
    one, five = (dinov2_subset(unbalanced(), n, 7).reshape(3, n) for n in (1, 5))
    np.testing.assert_array_equal(one[:, 0], five[:, 0])


def test_trials_differ_and_the_same_trial_repeats_whatever_was_drawn_between():
    labels = unbalanced()
    first = dinov2_subset(labels, 2, 0)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    assert dinov2_subset(labels, 2, 1).tolist() != first.tolist()
    assert dinov2_subset(labels, 2, 0).tolist() == first.tolist()
    assert torch.equal(torch.random.get_rng_state(), before)  # the process's own stream is untouched


def test_unlabelled_rows_are_as_if_they_were_not_there():
    labels = unbalanced()
    place = np.array([0, 0, 17, 29, 47])
    mixed = np.insert(labels, place, -1)
    rows = dinov2_subset(mixed, 5, 3)
    np.testing.assert_array_equal(np.flatnonzero(mixed >= 0)[official(labels, 5, 3)], rows)


def test_all_images_of_the_smallest_class_may_be_asked_and_one_more_may_not():
    assert sorted(dinov2_subset(unbalanced(), 5, 0)[5:10]) == np.flatnonzero(unbalanced() == 7).tolist()
    with pytest.raises(DataError, match=r"^1 class has fewer than 6 images: class 7 \(5\)") as error:
        dinov2_subset(unbalanced(), 6, 0)
    assert error.value.exit_code == 3
    with pytest.raises(DataError, match=r"^2 classes have fewer than 14 images: class 3 \(13\), class 7 \(5\)"):
        dinov2_subset(unbalanced(), 14, 0)
    with pytest.raises(DataError, match=r"fewer than 6 images: c7 \(5\)"):
        dinov2_subset(unbalanced(), 6, 0, CLASSES)


@pytest.mark.parametrize("labels", [[], [-1, -1, -1]])
def test_rows_without_any_label_are_a_data_error(labels):
    with pytest.raises(DataError, match="no row has a label"):
        dinov2_subset(np.array(labels, np.int64), 1, 0)


@pytest.mark.parametrize("shots", [0, -1])
def test_less_than_one_shot_is_a_usage_error(shots):
    with pytest.raises(UsageError, match=f"^{shots} images per class"):
        dinov2_subset(unbalanced(), shots, 0)


def test_a_split_is_frozen():
    split = Split(np.array([3]), shots=1)
    assert (split.trial, split.seed, split.test) == (0, 0, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.seed = 1


# ---- n per class

CLASSES = [f"c{number}" for number in range(13)]


def many(seed: int = 5) -> np.ndarray:
    """Labels 3, 7 and 11 with 23, 15 and 29 images, and two images without a label, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat([3, 7, 11, -1], [23, 15, 29, 2]))


def drawn(labels: np.ndarray, split: Split, label: int) -> list[int]:
    return [row for row in split.train.tolist() if labels[row] == label]


def test_every_class_gives_as_many_images_as_asked_and_unlabelled_ones_none():
    labels = many()
    for split in n_per_class(labels, CLASSES, [1, 2, 5], 3, seed=7):
        assert split.per_class(labels) == (split.shots, split.shots, 3)
        assert len(set(split.train.tolist())) == 3 * split.shots
    assert [(split.shots, split.trial, split.seed) for split in n_per_class(labels, CLASSES, [2, 1], 2, seed=7)] == [
        (2, 0, 7),
        (2, 1, 7),
        (1, 0, 7),
        (1, 1, 7),
    ]


def test_the_smaller_set_is_the_beginning_of_the_larger_one():
    labels = many()
    splits = {
        (split.shots, split.trial): split.train.tolist() for split in n_per_class(labels, CLASSES, [1, 2, 5], 3, seed=7)
    }
    for trial in range(3):
        assert splits[5, trial][:6] == splits[2, trial]
        assert splits[2, trial][:3] == splits[1, trial]
        assert sorted(labels[splits[1, trial]]) == [3, 7, 11]


def test_trials_share_no_image_while_they_last():
    labels = many()
    trials = [set(split.train.tolist()) for split in n_per_class(labels, CLASSES, [5], 3, seed=7)]
    assert not trials[0] & trials[1]
    assert not trials[0] & trials[2]
    assert not trials[1] & trials[2]


def test_a_trial_takes_its_block_of_one_permutation_and_one_that_does_not_fit_is_drawn_afresh():
    labels = many()
    splits = n_per_class(labels, CLASSES, [5], 4, seed=7)
    for label, blocks in ((3, 4), (7, 3), (11, 5)):
        rows = np.flatnonzero(labels == label)
        order = generator("split", 7, CLASSES[label]).permutation(rows)
        for trial in range(4):
            alone = generator("split", 7, CLASSES[label], trial).permutation(rows)[:5]
            expected = order[5 * trial : 5 * trial + 5] if trial < blocks else alone
            assert drawn(labels, splits[trial], label) == expected.tolist()


def test_a_one_shot_split_does_not_depend_on_other_shots_or_other_classes():
    labels = many()
    alone = n_per_class(labels, CLASSES, [1], 3, seed=7)
    beside = [split for split in n_per_class(labels, CLASSES, [5, 1, 2], 3, seed=7) if split.shots == 1]
    assert [split.train.tolist() for split in alone] == [split.train.tolist() for split in beside]
    fewer = np.where(labels == 7, -1, labels)
    for whole, part in zip(alone, n_per_class(fewer, CLASSES, [1], 3, seed=7), strict=True):
        assert drawn(labels, whole, 11) == drawn(labels, part, 11)


def test_more_than_five_shots_make_longer_blocks():
    labels = np.repeat([3, 7], 17)
    first, second = n_per_class(labels, CLASSES, [7], 2, seed=3)
    assert not set(first.train.tolist()) & set(second.train.tolist())
    order = generator("split", 3, "c7").permutation(np.arange(17, 34))
    assert drawn(labels, second, 7) == order[7:14].tolist()


def test_another_seed_draws_other_images():
    labels = many()
    assert (
        n_per_class(labels, CLASSES, [5], 1, seed=1)[0].train.tolist()
        != n_per_class(labels, CLASSES, [5], 1, seed=2)[0].train.tolist()
    )


def test_classes_with_too_few_images_are_listed_or_kept_on_demand():
    labels = np.repeat([3, 7, 11], [2, 6, 1])
    with pytest.raises(DataError, match=r"^2 classes have fewer than 5 images: c3 \(2\), c11 \(1\)") as error:
        n_per_class(labels, CLASSES, [1, 5], 2, seed=0)
    assert "--allow-fewer" in str(error.value)
    kept = n_per_class(labels, CLASSES, [5], 2, seed=0, allow_fewer=True)
    for split in kept:
        assert [len(drawn(labels, split, label)) for label in (3, 7, 11)] == [2, 5, 1]
        assert split.per_class(labels) == (1, 5, 3)


def test_five_short_classes_are_all_named_and_of_six_the_rest_is_left_out():
    for count, end in ((5, "c4 (1)"), (6, "c4 (1) …")):
        with pytest.raises(DataError) as error:
            n_per_class(np.arange(count), CLASSES, [2], 1, seed=0)
        assert str(error.value).splitlines()[0].endswith(end)


@pytest.mark.parametrize(("shots", "trials"), [([], 1), ([0], 1), ([1, -2], 1), ([1], 0)])
def test_nothing_to_learn_from_is_a_usage_error(shots, trials):
    with pytest.raises(UsageError, match="nothing to learn from"):
        n_per_class(many(), CLASSES, shots, trials, seed=0)
    with pytest.raises(UsageError):
        percent_per_class(many(), CLASSES, shots, trials, seed=0)


def test_without_labels_nothing_can_be_drawn():
    with pytest.raises(DataError, match="no row has a label"):
        n_per_class(np.full(7, -1), CLASSES, [1], 1, seed=0)


# ---- percent


def test_a_percentage_of_each_class_is_rounded_and_at_least_one():
    labels = many()
    for split in percent_per_class(labels, CLASSES, [10, 1], 2, seed=7):
        wanted = {"10%": [2, 2, 3], "1%": [1, 1, 1]}[split.shots]
        assert [len(drawn(labels, split, label)) for label in (3, 7, 11)] == wanted


def test_percentages_are_nested_and_trials_disjoint():
    labels = many()
    splits = {
        (split.shots, split.trial): split.train.tolist()
        for split in percent_per_class(labels, CLASSES, [10, 33.3], 2, seed=7)
    }
    for trial in range(2):
        assert set(splits["10%", trial]) < set(splits["33.3%", trial])
    assert not set(splits["33.3%", 0]) & set(splits["33.3%", 1])
    assert [len(drawn(labels, Split(np.array(splits["33.3%", 0]), 1), label)) for label in (3, 7, 11)] == [8, 5, 10]


@pytest.mark.parametrize("percent", [0, -1, 100.5])
def test_a_percentage_outside_its_range_is_a_usage_error(percent):
    with pytest.raises(UsageError, match="--percent"):
        percent_per_class(many(), CLASSES, [percent], 1, seed=0)
    assert len(percent_per_class(many(), CLASSES, [100], 1, seed=0)[0].train) == 67


def test_a_number_given_twice_is_drawn_once():
    labels = unbalanced()
    again = n_per_class(labels, CLASSES, [1, 2, 1, 1], 2, seed=7)
    assert [(s.shots, s.trial) for s in again] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    shares = percent_per_class(labels, CLASSES, [10, 10.0, 20], 2, seed=7)
    assert [(s.shots, s.trial) for s in shares] == [("10%", 0), ("10%", 1), ("20%", 0), ("20%", 1)]


def test_trials_that_share_no_image_are_counted():
    splits = [Split(np.array(rows), 2, trial) for trial, rows in enumerate(([3, 7], [7, 11], [13, 17], [5, 3]))]
    assert [disjoint(splits[:n]) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert not identical(splits)
    assert not identical(splits[:1])
    assert identical([Split(np.array([3, 7]), 2, 0), Split(np.array([7, 3]), 2, 1)])
