"""Feature sets: what survives a file, which files are refused and by which words, and how two sets are paired."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest

from fewvit.errors import DataError, FingerprintMismatch, NumericalError
from fewvit.features import FeatureSet, require_one_backbone, shared_rows, warn_of_shared_rows

ODD_IDS = ("a/ü.jpg", "b\udcff/7.jpg", "c, d.jpg", "e\nf.jpg", "")


def features(
    labels=(1, 0, -1, 1, 1), classes=("n3", "n7"), *, ids=ODD_IDS, width=3, fingerprint="abc" * 20, seed=3
) -> FeatureSet:
    rows = np.random.default_rng(seed).standard_normal((len(labels), width)).astype(np.float32)
    return FeatureSet(rows, np.array(labels, np.int64), ids[: len(labels)], classes, fingerprint, "toy")


def same(one: FeatureSet, other: FeatureSet) -> bool:
    plain = (list(one.ids), list(one.classes), one.fingerprint, one.name) == (
        list(other.ids),
        list(other.classes),
        other.fingerprint,
        other.name,
    )
    arrays = zip((one.features, one.labels), (other.features, other.labels), strict=True)
    return plain and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in arrays)


def test_a_set_comes_back_from_its_file_bit_for_bit(tmp_path):
    features().save(tmp_path / "x.npz")
    assert same(FeatureSet.load(tmp_path / "x.npz"), features())


def test_the_file_is_plain_numpy_of_the_promised_kinds(tmp_path):
    features().save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        found = {
            key: (
                archive[key].dtype.kind,
                archive[key].dtype.itemsize * (archive[key].dtype.kind != "U"),
                archive[key].shape,
            )
            for key in archive
        }
    text = ("U", 0)
    assert found == {
        "features": ("f", 4, (5, 3)),
        "labels": ("i", 8, (5,)),
        "ids": (*text, (5,)),
        "classes": (*text, (2,)),
        "fingerprint": (*text, ()),
        "name": (*text, ()),
        "backbone": (*text, ()),
        "weights": (*text, ()),
        "protocol": (*text, ()),
    }


def test_an_empty_set_comes_back(tmp_path):
    empty = FeatureSet(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), [], [], "", "none")
    empty.save(tmp_path / "x.npz")
    assert same(FeatureSet.load(tmp_path / "x.npz"), empty)


def test_a_file_with_features_and_labels_alone_is_enough(tmp_path):
    np.savez(tmp_path / "mine.npz", features=np.eye(3, 2), labels=np.array([3, -1, 0], np.int8))
    found = FeatureSet.load(tmp_path / "mine.npz")
    assert (list(found.ids), list(found.classes), found.fingerprint, found.name) == (
        ["0", "1", "2"],
        ["0", "1", "2", "3"],
        "",
        "mine",
    )
    assert (found.features.dtype, found.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found.features, np.eye(3, 2))
    assert found.labels.tolist() == [3, -1, 0]


def test_names_that_are_numbers_in_the_file_are_text_in_the_set(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.eye(2), labels=[0, 1], ids=np.array([11, 13]), classes=np.array([3, 7]))
    found = FeatureSet.load(tmp_path / "x.npz")
    assert (list(found.ids), list(found.classes)) == (["11", "13"], ["3", "7"])


GOOD = {
    "features": np.eye(3, dtype=np.float32),
    "labels": np.array([0, 1, 1]),
    "ids": np.array(["a", "b", "c"]),
    "classes": np.array(["x", "y"]),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": None}, "no array features"),
        ({"features": None, "labels": None}, "no array features and no labels; it has classes, ids"),
        ({"features": np.eye(3).reshape(3, 3, 1)}, "(3, 3, 1)"),
        ({"features": np.float32(3)}, "()"),
        ({"features": np.eye(3) * 1j}, "complex128"),
        ({"features": np.array([["a"]] * 3)}, "<U1"),
        ({"features": np.eye(3).astype(bool)}, "bool"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, "float64"),
        ({"labels": np.array(["x", "y", "y"])}, "<U1"),
        ({"labels": np.array([[0], [1], [1]])}, "(3, 1)"),
        ({"labels": np.int64(1)}, "()"),
        ({"labels": np.array([0, 1])}, "do not belong together"),
        ({"ids": np.array(["a", "b"])}, "2 ids"),
        ({"labels": np.array([0, 1, 2])}, "0 to 2, but there are 2 classes"),
        ({"labels": np.array([0, -2, 1])}, "-2 to 1"),
        ({"ids": np.array([b"a", b"\xff", b"c"])}, "not text"),
    ],
)
def test_a_file_of_another_make_is_refused_and_told_why(change, words, tmp_path):
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError) as error:
        FeatureSet.load(tmp_path / "x.npz")
    assert words in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "x.npz"))
    assert error.value.exit_code == 3


def test_a_file_without_labels_is_taken_only_where_none_are_looked_at(tmp_path):
    np.savez(tmp_path / "x.npz", features=GOOD["features"], ids=GOOD["ids"])
    found = FeatureSet.load(tmp_path / "x.npz", unlabelled=True)
    assert (found.labels.tolist(), list(found.ids), list(found.classes)) == ([-1, -1, -1], ["a", "b", "c"], [])
    with pytest.raises(DataError, match="no array labels"):
        FeatureSet.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", **GOOD)
    assert FeatureSet.load(tmp_path / "y.npz", unlabelled=True).labels.tolist() == [0, 1, 1]
    np.savez(tmp_path / "z.npz", classes=GOOD["classes"])
    with pytest.raises(DataError, match="no array features"):
        FeatureSet.load(tmp_path / "z.npz", unlabelled=True)


def test_labels_that_are_names_are_told_where_names_go(tmp_path):
    np.savez(tmp_path / "x.npz", **{**GOOD, "labels": np.array(["x", "y", "y"])})
    with pytest.raises(DataError, match=r"expected whole numbers(.|\n)*an array `classes`"):
        FeatureSet.load(tmp_path / "x.npz")


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


def damaged(kind: str, path, tmp_path) -> None:
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        at = whole.index(np.eye(3, dtype=np.float32).tobytes())
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("features,labels\n1,2\n")
    elif kind == "one array":
        with open(path, "wb") as handle:
            np.save(handle, np.eye(3))
    elif kind == "another zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", b"no array")
            archive.writestr("labels.npy", b"")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    elif kind == "objects":
        np.savez(path, **{**GOOD, "ids": np.array([Marker(tmp_path / "ran")] * 3, dtype=object)}, allow_pickle=True)
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["cut", "flipped", "empty", "text", "one array", "another zip", "pickle", "objects", "folder"]
)
def test_a_damaged_or_hostile_file_is_a_data_error_and_runs_nothing(kind, tmp_path):
    damaged(kind, tmp_path / "x.npz", tmp_path)
    with pytest.raises(DataError) as error:
        FeatureSet.load(tmp_path / "x.npz")
    assert str(tmp_path / "x.npz") in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        FeatureSet.load(tmp_path / "x.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 65535, 65536, 70000])
def test_features_that_are_not_finite_are_a_numerical_error_naming_the_image(row, value, tmp_path):
    rows = np.zeros((70001, 2), np.float32)
    rows[row, 1] = rows[-1, 0] = value
    bad = FeatureSet(rows, np.zeros(70001, np.int64), [f"i{i}" for i in range(70001)], ["x"])
    with pytest.raises(NumericalError, match=f"'i{row}'") as error:
        bad.require_finite("x.npz")
    assert error.value.exit_code == 5
    assert str(error.value).startswith("x.npz: ")


def test_loading_refuses_features_that_are_not_finite(tmp_path):
    np.savez(tmp_path / "x.npz", **{**GOOD, "features": np.full((3, 2), np.nan)})
    with pytest.raises(NumericalError, match=r"x\.npz.*'a'"):
        FeatureSet.load(tmp_path / "x.npz")


def test_features_beyond_float32_are_not_finite(tmp_path):
    np.savez(tmp_path / "x.npz", **{**GOOD, "features": np.diag([1.0, 1e300, 1.0])})
    with pytest.raises(NumericalError, match="'b'"):
        FeatureSet.load(tmp_path / "x.npz")


def test_a_selection_keeps_order_classes_and_fingerprint():
    whole = features()
    part = whole.select(np.array([4, 1, 1]))
    np.testing.assert_array_equal(part.features, whole.features[[4, 1, 1]])
    assert (part.labels.tolist(), part.ids) == ([1, 0, 0], ["", "b\udcff/7.jpg", "b\udcff/7.jpg"])
    assert (part.classes, part.fingerprint, part.name) == (whole.classes, whole.fingerprint, "toy")
    assert len(part) == 3


def test_a_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        features().name = "other"


# ---- two sets


def test_different_fingerprints_do_not_mix_and_a_missing_one_does():
    with pytest.raises(FingerprintMismatch, match=r"abcabcabcabc.*dddddddddddd") as error:
        require_one_backbone(features(), features(fingerprint="d" * 64))
    assert error.value.exit_code == 4
    for one, other in (("", "d" * 64), ("d" * 64, ""), ("", "")):
        require_one_backbone(features(fingerprint=one), features(fingerprint=other))


def test_different_widths_do_not_mix():
    with pytest.raises(FingerprintMismatch, match="3 columns, test features 5"):
        require_one_backbone(features(), features(width=5))


def test_test_rows_that_are_train_rows_are_counted():
    random = np.random.default_rng(3)
    rows = random.normal(size=(13, 7)).astype(np.float32)
    other = random.normal(size=(11, 7)).astype(np.float32)
    other[[3, 7]], other[5] = rows[[12, 0]], 0
    rows[4] = 0  # constant features say nothing
    train, test = (
        FeatureSet(x, np.zeros(len(x), np.int64), [str(i) for i in range(len(x))], ["a"]) for x in (rows, other)
    )
    assert shared_rows(train, test) == 2
    lines: list[str] = []
    warn_of_shared_rows(train, test, lines.append, "labelled image")
    warn_of_shared_rows(train, FeatureSet(other[:3], np.zeros(3, np.int64), ["0", "1", "2"], ["a"]), lines.append)
    assert lines == ["2 of the 11 test images have exactly the features of a labelled image: are they the same images?"]
    assert shared_rows(test, train) == 2
    assert shared_rows(train, FeatureSet(other[:, :3], test.labels, test.ids, ["a"])) == 0


def test_what_made_the_features_is_kept_in_the_file(tmp_path):
    made = FeatureSet(
        np.ones((3, 2), np.float32), np.zeros(3, np.int64), ["a", "b", "c"], ["x"], "f", "set", "dino_vits16", "random"
    )
    made.save(tmp_path / "x.npz")
    again = FeatureSet.load(tmp_path / "x.npz").select(np.array([2, 0]))
    assert (again.backbone, again.weights, again.name, again.fingerprint) == ("dino_vits16", "random", "set", "f")


def test_numbers_whose_squares_float32_cannot_hold_are_refused_by_their_image_and_size(tmp_path):
    rows = np.ones((5, 3), np.float32)
    rows[3] = 1.1e19  # three squares of it are more than float32 holds, one is not
    np.savez(tmp_path / "x.npz", features=rows, labels=np.array([3, 7, 3, 7, 7]), ids=list("abcde"))
    with pytest.raises(NumericalError, match=r"'d' reach 1\.1e\+19: float32 has no room"):
        FeatureSet.load(tmp_path / "x.npz")
    rows[3] = 1e19  # three squares are 3e38
    np.savez(tmp_path / "x.npz", features=rows, labels=np.array([3, 7, 3, 7, 7]), ids=list("abcde"))
    assert len(FeatureSet.load(tmp_path / "x.npz")) == 5
