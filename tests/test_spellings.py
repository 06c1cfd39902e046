"""What folders of sets are called, against a list written by hand."""

from __future__ import annotations

import pytest

from fewvit.errors import DataError
from fewvit.spellings import split_of, splits_among

SPELLED = {
    "train": "train Train TRAIN training trainset train_set training_set training-set Training_Data train2017",
    "val": "val valid validation Valid VAL dev Dev val_set valset validation_set val2017 valid-images",
    "test": "test Test testing test_set testset TEST_DATA test2017 test.set",
    None: "trains trainer trained value valley valuable device deval contest tests retrain cat 2017 set",
}


@pytest.mark.parametrize("split", SPELLED)
def test_a_set_is_known_by_every_spelling_and_a_class_by_none(split):
    assert {name: split_of(name) for name in SPELLED[split].split()} == dict.fromkeys(SPELLED[split].split(), split)
    assert split_of("training set") == "train"
    assert split_of("") is None


def test_folders_of_sets_are_found_among_others_and_two_of_one_set_are_refused():
    assert splits_among("x", ["dev", "cat", "Training"]) == {"train": "Training", "val": "dev"}
    with pytest.raises(DataError, match="val/ and valid/ are both called as the set val"):
        splits_among("x", ["valid", "train", "val"])
