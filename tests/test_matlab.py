"""MATLAB's v5 files, read by our own small reader: against SciPy's writer, and whatever bytes are flipped."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_sets import flowers
from scipy.io import savemat

from fewvit.datasets import open_dataset
from fewvit.datasets._devkit import synsets_by_id
from fewvit.errors import DataError
from fewvit.untrusted.matlab import variables_of

TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def saved(values: dict[str, object], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, values, do_compression=compressed)
    return file.getvalue()


def synsets(rows: int = 7) -> np.ndarray:
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    return np.array([(k + 1, f"n{k:08d}", "gull, mew") for k in range(rows)], kinds)[:, None]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(1, 7), (5, 3), (2, 3, 5), (1, 1), (0, 0), (1, 1021)])
def test_numbers_are_what_scipy_wrote(kind, compressed, shape):
    values = np.random.default_rng(3).integers(0, 100, shape).astype(kind)
    found = variables_of(saved({"before": "x", "labels": values, "z": 3}, compressed=compressed), "labels")
    assert list(found) == ["labels"]
    assert found["labels"].dtype == kind
    np.testing.assert_array_equal(found["labels"], values)


@pytest.mark.parametrize("compressed", [False, True])
def test_text_and_structs_are_what_scipy_wrote(compressed):
    data = saved({"synsets": synsets(), "word": "grün"}, compressed=compressed)
    assert variables_of(data, "word") == {"word": "grün"}
    rows = variables_of(data, "synsets")["synsets"]
    assert [(row["ILSVRC2012_ID"].item(), row["WNID"], row["words"]) for row in rows] == [
        (k + 1, f"n{k:08d}", "gull, mew") for k in range(7)
    ]
    assert variables_of(data, "other") == {}


@pytest.mark.parametrize("value", [np.array([[1 + 2j]]), np.array([["a", 3]], object)])
def test_other_kinds_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"complex|cell"):
        variables_of(saved({"x": value}), "x")


def test_what_unpacks_beyond_reason_is_refused_before_it_is_unpacked():
    body = zlib.compress(bytes(200 << 20), 9)
    bomb = saved({})[:128] + struct.pack("<II", 15, len(body)) + body
    with pytest.raises(ValueError, match="more than 64 MiB"):
        variables_of(bomb, "x")


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_bytes_give_a_value_or_a_value_error_and_nothing_else(compressed):
    stream = random.Random(7)
    ids = {"tstid": np.array([[7, 3]], "u2"), "trnid": np.arange(1, 30, dtype="u2")[None]}
    for wanted, data in (("trnid", saved(ids, compressed=compressed)), ("synsets", saved({"synsets": synsets()}))):
        refused = 0
        for _ in range(700):
            changed = bytearray(data)
            for _ in range(stream.choice((1, 1, 2, 5))):
                changed[stream.randrange(len(changed))] = stream.choice((0, 1, 12, 127, 255, stream.randrange(256)))
            try:
                variables_of(bytes(changed[: stream.choice((None, None, stream.randrange(len(data))))]), wanted)
            except ValueError:
                refused += 1
        assert refused > 200


def test_a_damaged_file_of_a_set_is_refused_by_name(tmp_path):
    """With byte 184 at 0, SciPy's reader takes the process with it."""
    root = flowers(tmp_path, [3, 7, 3], {"trnid": [1, 2], "valid": [3], "tstid": [3]})
    path = tmp_path / "setid.mat"
    good = path.read_bytes()
    assert len(open_dataset(f"flowers102:{root}@train")) == 2
    for at in (144, 184, 185):
        path.write_bytes(good[:at] + b"\0" + good[at + 1 :])
        try:
            open_dataset(f"flowers102:{root}@train")
        except DataError as error:
            assert "setid.mat" in str(error)  # noqa: PT017
    path.write_bytes(good[:150])
    with pytest.raises(DataError, match=r"setid\.mat: not a readable \.mat file"):
        open_dataset(f"flowers102:{root}@train")


@pytest.mark.parametrize("value", [np.array([("n1",)], [("WNID", "O")]), np.arange(3), "text"])
def test_a_meta_mat_of_another_kind_is_refused(value, tmp_path):
    savemat(tmp_path / "meta.mat", {"synsets": value})
    with pytest.raises(DataError, match="not the devkit's meta"):
        synsets_by_id(str(Path(tmp_path) / "truth.txt"))
