"""Split files: lists as the papers publish them, tables as they are saved, and lists of other data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from fewvit.errors import DataError
from fewvit.evaluate.subsets import read_splits, save_splits
from fewvit.features import FeatureSet
from fewvit.splits import Split, n_per_class

SYNSETS = ["n01440764", "n02102040", "n03000684"]


def folder_like(per_class=(7, 5, 11), extra: str = "") -> FeatureSet:
    ids = [
        f"train/{SYNSETS[c]}/{SYNSETS[c]}_{n}{extra}.JPEG" for c, count in enumerate(per_class) for n in range(count)
    ]
    labels = np.repeat([0, 1, 2], per_class)
    return FeatureSet(np.zeros((len(ids), 2), np.float32), labels, ids, SYNSETS)


def write(path: Path, lines) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def listed(*numbers: int, classes=SYNSETS) -> list[str]:
    return [f"{synset}_{n}.JPEG" for synset in classes for n in numbers]


def test_a_list_names_its_images_and_its_lines_say_how_many_shots_it_is(tmp_path):
    train = folder_like()
    one, other = write(tmp_path / "1imgs_class.txt", listed(3)), write(tmp_path / "elsewhere.txt", listed(4))
    five = write(tmp_path / "3imgs_class.txt", listed(0, 1, 2, 3, 4))  # misnamed, as MSN's third list is
    splits = read_splits([one, five, other], train)
    assert [(split.shots, split.trial) for split in splits] == [(1, 0), (5, 0), (1, 1)]
    assert [train.ids[row] for row in splits[0].train] == [f"train/{synset}/{synset}_3.JPEG" for synset in SYNSETS]
    assert splits[1].per_class(train.labels) == (5, 5, 3)


def test_lists_of_uneven_classes_are_called_by_their_file(tmp_path):
    [split] = read_splits([write(tmp_path / "1percent.txt", [*listed(0, 1), "n03000684_2.JPEG"])], folder_like())
    assert split.shots == "1percent"
    assert len(split.train) == 7


def test_images_that_are_not_there_are_counted_and_named_or_left_out_on_demand(tmp_path):
    path = write(tmp_path / "list.txt", [*listed(0), "n04999999_7.JPEG", "n01440764_999.JPEG"])
    with pytest.raises(
        DataError, match=r"2 of its 5 images are not among the train images: n04999999_7.JPEG, n01440764_999.JPEG"
    ):
        read_splits([path], folder_like())
    said: list[str] = []
    [split] = read_splits([path], folder_like(), allow_fewer=True, notify=said.append)
    assert len(split.train) == 3
    assert "2 of 5" in said[0]


def test_a_list_of_another_data_set_is_refused_even_with_allow_fewer(tmp_path):
    path = write(tmp_path / "list.txt", ["n04999999_7.JPEG"])
    with pytest.raises(DataError, match="another data set"):
        read_splits([path], folder_like(), allow_fewer=True)


def test_an_image_in_the_folder_of_another_class_is_not_the_listed_one(tmp_path):
    train = folder_like()
    moved = FeatureSet(train.features, (train.labels + 1) % 3, train.ids, SYNSETS)
    with pytest.raises(DataError, match="3 of its 3 images"):
        read_splits([write(tmp_path / "list.txt", listed(0))], moved)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        ("n01440764_0.JPEG\nn01440764_0.JPEG\n", "listed twice"),
    ],
)
def test_empty_lists_and_repeated_lines_are_refused(text, says, tmp_path):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        read_splits([str(tmp_path / "list.txt")], folder_like())


def test_files_that_are_no_lists_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_splits([str(tmp_path / "nothing.txt")], folder_like())
    with pytest.raises(DataError, match=r"a folder, not a list of file names\b(?!.*Errno)"):
        read_splits([str(tmp_path)], folder_like())
    with pytest.raises(DataError, match="no saved split: it has the columns path,label, not shots,trial,id,label"):
        read_splits([write(tmp_path / "table.csv", ["path,label", "a/0.jpg,a"])], folder_like())
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a list"):
        read_splits([str(tmp_path / "binary")], folder_like())
    with pytest.raises(DataError, match="line 3"):
        read_splits([write(tmp_path / "x.csv", ["shots,trial,id,label", "1,0,a,b", "1,zero,a,b"])], folder_like())


def test_the_same_images_given_twice_are_one_trial_and_that_is_said(tmp_path):
    train, said = folder_like(), []
    one, same = write(tmp_path / "one.txt", listed(3)), write(tmp_path / "same.txt", listed(3)[::-1])
    other = write(tmp_path / "other.txt", listed(4))
    splits = read_splits([one, one, same, other], train, notify=said.append)
    assert [(split.shots, split.trial) for split in splits] == [(1, 0), (1, 1)]
    assert said == [f"{name}: the same images as in {one}, counted once" for name in (one, same)]
    uneven = [write(tmp_path / f"{name}.txt", [*listed(0), "n03000684_2.JPEG"]) for name in ("a", "b")]
    assert [split.shots for split in read_splits(uneven, train)] == ["a"]


def test_two_tables_whose_trials_have_the_same_numbers_are_trials_of_one_another(tmp_path):
    train = folder_like()
    for name, rows in (("a", [0, 7, 12]), ("b", [1, 8, 13])):
        save_splits(tmp_path / f"{name}.csv", [Split(np.array(rows), 1, 0)], train)
    a, b = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    assert [(s.trial, s.train.tolist()) for s in read_splits([a, b, a], train)] == [(0, [0, 7, 12]), (1, [1, 8, 13])]


def test_saved_splits_come_back_as_they_were(tmp_path):
    train = folder_like()
    splits = [*n_per_class(train.labels, train.classes, [1, 2], 2, seed=3), Split(np.array([4, 13]), "1%", 1)]
    save_splits(tmp_path / "split.csv", splits, train)
    assert (tmp_path / "split.csv").read_text().splitlines()[0] == "shots,trial,id,label"
    again = read_splits([str(tmp_path / "split.csv")], train)
    assert [(s.shots, s.trial, s.train.tolist()) for s in again] == [
        (s.shots, s.trial, s.train.tolist()) for s in splits
    ]


def test_a_saved_split_of_another_data_set_is_refused(tmp_path):
    train, other = folder_like(), folder_like(extra="x")
    save_splits(tmp_path / "split.csv", n_per_class(train.labels, train.classes, [2], 1, seed=3), train)
    with pytest.raises(DataError, match="6 of its 6 images"):
        read_splits([str(tmp_path / "split.csv")], other)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data with the published lists")
@pytest.mark.parametrize(("folder", "five"), [(1, "5imgs_class"), (2, "5imgs_class"), (3, "3imgs_class")])
def test_the_published_lists_are_whole_and_nested(folder, five):
    base = SHARED / "data" / f"imagenet_subsets{folder}"
    names = [line.strip() for line in (base / f"{five}.txt").read_text().splitlines()]
    classes = sorted({name.partition("_")[0] for name in names})
    train = FeatureSet(
        np.zeros((len(names), 1), np.float32),
        np.array([classes.index(n.partition("_")[0]) for n in names]),
        names,
        classes,
    )
    splits = read_splits([str(base / f"{name}.txt") for name in ("1imgs_class", "2imgs_class", five)], train)
    assert [split.shots for split in splits] == [1, 2, 5]
    assert [split.per_class(train.labels) for split in splits] == [(1, 1, 1000), (2, 2, 1000), (5, 5, 1000)]
    assert set(splits[0].train.tolist()) < set(splits[1].train.tolist()) < set(splits[2].train.tolist())
