"""`fewvit knn --leave-one-out`: which set it judges."""

from __future__ import annotations

import json

import pytest


def test_left_alone_a_set_is_judged_by_itself_from_either_flag(fewvit, files):
    flag, train = files[:2]
    code, out, err = fewvit("knn", flag, train, "--leave-one-out", "--k", "3", "--format", "json")
    assert code == 0, err
    assert {(row["n_train"], row["n_test"]) for row in json.loads(out)["rows"]} == {(54, 55)}
    assert (
        fewvit("knn", "--data", train, "--leave-one-out", "--k", "3", "--format", "json")[1].split('"run"')[0]
        == out.split('"run"')[0]
    )


@pytest.mark.parametrize(
    "given", [("train", "test"), ("data", "train"), ("data", "test"), ("test",), ()], ids=" and ".join
)
def test_left_alone_there_is_one_set_and_no_test_set(fewvit, files, given):
    code, _, err = fewvit(
        "knn", *(word for name in given for word in (f"--{name}", files[1])), "--leave-one-out", "--k", "3"
    )
    assert code == 2
    assert "--leave-one-out evaluates one set" in err
