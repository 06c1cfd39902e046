"""`--pca` and `--whiten` of knn and lowshot: as on files of the coordinates that NumPy's SVD gives."""

from __future__ import annotations

import json

import numpy as np
import pytest


def by_svd(train: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    plain = train.astype(np.float64)
    _, _, axes = np.linalg.svd(plain - plain.mean(axis=0), full_matrices=False)
    return (other.astype(np.float64) - plain.mean(axis=0)) @ axes[:count].T


@pytest.mark.parametrize("command", ["knn", "lowshot"])
def test_a_command_measures_on_the_coordinates_and_says_what_they_are(command, fewvit, files, tmp_path):
    own = {"knn": ("--k", 3), "lowshot": ("--shots", 2, "--trials", 2, "--classifier", "centroid")}[command]
    train, test = (dict(np.load(files[at])) for at in (1, 3))
    reduced = [str(tmp_path / f"reduced-{name}.npz") for name in ("train", "test")]
    for place, side in zip(reduced, (train, test), strict=True):
        np.savez(place, **{**side, "features": by_svd(train["features"], side["features"], 4).astype(np.float32)})
    code, out, err = fewvit(command, *files, *own, "--pca", 4, "--format", "json")
    assert code == 0, err
    assert "4 principal axes of the 55 train images" in err
    found = json.loads(out)
    wanted = json.loads(fewvit(command, "--train", reduced[0], "--test", reduced[1], *own, "--format", "json")[1])
    assert [row["value"] for row in found["rows"]] == pytest.approx([row["value"] for row in wanted["rows"]], abs=1e-3)
    assert found["run"]["reduction"]["pca"] == 4
    assert "reduction" not in wanted["run"]


def test_what_principal_axes_do_not_go_with_is_refused(fewvit, files):
    alone = ("--train", files[1], "--leave-one-out", "--k", 3)
    for words, said in (
        (("knn", *alone, "--whiten"), "leave-one-out"),
        (("knn", *files, "--pca", 3, "--explain"), "published numbers"),
        (("lowshot", *files, "--pca", 3, "--explain"), "published numbers"),
        (("knn", *files, "--pca", 99), "have 13 principal axes"),
        (("lowshot", *files, "--pca", 0), "--pca"),
    ):
        code, _, err = fewvit(*words)
        assert (code, said in err) == (2, True), err
