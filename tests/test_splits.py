"""DINOv2's n-per-class subset: its own lines of code beside ours, and what must be refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fewvit.errors import DataError, UsageError
from fewvit.splits import Split, dinov2_subset


def official(labels: np.ndarray, n_per_class: int, seed: int) -> list[int]:
    """dinov2 `eval/knn.py`: `torch.manual_seed(seed)`, then `create_class_indices_mapping` and `filter_train`, written out."""
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
    with pytest.raises(DataError, match=r"1 classes have fewer than 6 images .*class 7 has 5") as error:
        dinov2_subset(unbalanced(), 6, 0)
    assert error.value.exit_code == 3
    with pytest.raises(DataError, match=r"2 classes have fewer than 14 images .*class 3 has 13"):
        dinov2_subset(unbalanced(), 14, 0)


@pytest.mark.parametrize("labels", [[], [-1, -1, -1]])
def test_rows_without_any_label_are_a_data_error(labels):
    with pytest.raises(DataError, match="no row has a label"):
        dinov2_subset(np.array(labels, np.int64), 1, 0)


@pytest.mark.parametrize("shots", [0, -1])
def test_less_than_one_shot_is_a_usage_error(shots):
    with pytest.raises(UsageError, match=f"^{shots} images per class"):
        dinov2_subset(unbalanced(), shots, 0)


def test_a_split_is_frozen():
    split = Split(np.array([3]), np.array([7]), shots=1, seed=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.seed = 1
