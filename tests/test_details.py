"""What is kept of a result image by image: it comes back whole, and a damaged file is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from fewvit.errors import DataError
from fewvit.evaluate.details import Details, EpisodeScores, load_details, save_details
from fewvit.evaluate.predictions import Predicted

_IDS = ["a/1.png", "b/\udcff.png", "b/two\nlines.png"]
_CLASSES = ["a", "b"]


def _details() -> Details:
    first = Predicted(
        {"method": "knn", "k": 3}, _IDS, np.array([0, 1, -1]), np.array([1, 1, 0]), np.array([0.5, 1.0, 0.75]), _CLASSES
    )
    second = Predicted(
        {"method": "knn", "k": 7}, _IDS, np.array([0, 1, -1]), np.array([0, 1, 1]), np.array([0.25, 1.0, 0.5]), _CLASSES
    )
    return Details([first, second], [EpisodeScores({"method": "centroid", "shots": 3}, np.array([100.0, 33.3]))])


def test_details_come_back_with_their_names_and_numbers(tmp_path):
    save_details(tmp_path / "x.npz", _details())

    found = load_details(tmp_path / "x.npz")

    assert [one.which for one in found.predicted] == [{"method": "knn", "k": 3}, {"method": "knn", "k": 7}]
    assert [one.predictions.tolist() for one in found.predicted] == [[1, 1, 0], [0, 1, 1]]
    assert found.predicted[1].probabilities.tolist() == [0.25, 1.0, 0.5]
    assert found.predicted[0].ids == _IDS
    assert found.predicted[0].labels.tolist() == [0, 1, -1]
    assert found.predicted[0].classes == _CLASSES
    assert found.episodes[0].which == {"method": "centroid", "shots": 3}
    assert found.episodes[0].accuracies.tolist() == [100.0, 33.3]


def test_the_same_details_are_the_same_bytes(tmp_path):
    for name in ("x.npz", "y.npz"):
        save_details(tmp_path / name, _details())
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_cut_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "x.npz"
    save_details(path, _details())
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError) as raised:
        load_details(path)
    assert str(raised.value.file) == str(path)


def test_a_prediction_beyond_the_classes_is_refused(tmp_path):
    wrong = Predicted({}, _IDS, np.array([0, 1, -1]), np.array([0, 1, 2]), np.ones(3), _CLASSES)
    save_details(tmp_path / "x.npz", Details([wrong]))
    with pytest.raises(DataError, match="classes that are none"):
        load_details(tmp_path / "x.npz")


def test_a_file_with_any_bit_turned_is_read_or_refused(tmp_path):
    """Whatever zipfile, zlib, NumPy or json say of it."""
    path, random = tmp_path / "x.npz", np.random.default_rng(3)
    save_details(path, _details())
    whole, refused = path.read_bytes(), 0
    for place in random.choice(len(whole), 300, replace=False).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << int(random.integers(8)))]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            refused += 1
            load_details(path)
            refused -= 1
    assert refused > 100
