"""Where the cells of a sweep run changes no byte of its table, and a process that is killed costs its own cell."""

from __future__ import annotations

import csv
import dataclasses
import io
import signal
from pathlib import Path

import numpy as np
import pytest

from fewvit.digests import DigestMemory
from fewvit.models.spec import Access
from fewvit.sweep.cells import Cell, Scope
from fewvit.sweep.launchers import Here, Jobs
from fewvit.sweep.settings import DataSetting, MethodSetting
from fewvit.sweep.workshop import How, Workshop


@pytest.fixture
def features(tmp_path):
    """Feature files of five classes: 11 train images and 7 test images of each."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(5, 13))
    for name, per_class in (("train", 11), ("test", 7)):
        labels = np.repeat(np.arange(5), per_class)
        rows = (centres[labels] + random.normal(size=(len(labels), 13))).astype(np.float32)
        ids = [f"{name}/{i}" for i in range(len(labels))]
        np.savez(tmp_path / f"{name}.npz", features=rows, labels=labels, ids=ids, classes=[f"c{i}" for i in range(5)])
    return tmp_path / "train.npz", tmp_path / "test.npz"


@pytest.fixture
def sweep(features, capsys, tmp_path):
    """`sweep(out, ...)` runs it: exit code, CSV, stderr."""
    from fewvit_cli import main as cli

    train, test = features
    words = ("--train", train, "--test", test, "--methods", "knn,logistic,centroid,ridge", "--shots", "1,3")

    def run(out: str, *more: object) -> tuple[int, str, str]:
        asked = ("sweep", *words, "--trials", 2, "--format", "csv", "--out", tmp_path / out, *more)
        code = cli.run([*map(str, asked), "--cache-dir", str(tmp_path / "cache")])
        return code, *capsys.readouterr()

    return run


def test_two_processes_give_the_table_of_one(sweep):
    code, one, err = sweep("one")
    assert code == 0, err
    assert len(one.splitlines()) > 20
    code, two, err = sweep("two", "--jobs", 2)
    assert code == 0, err
    assert two == one


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows without their empty cells: a part has the columns of its own rows alone."""
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))]


def test_the_parts_of_a_sweep_are_the_undisturbed_table_in_whatever_order_they_run(sweep):
    undisturbed = sweep("one")[1]
    parts = {}
    for number in (3, 1, 4, 2):
        code, parts[number], err = sweep("parts", "--shard", f"{number}/4")
        assert code == 0, err
    assert [row for number in (1, 2, 3, 4) for row in rows_of(parts[number])] == rows_of(undisturbed)
    code, whole, err = sweep("parts")
    assert (code, whole) == (0, undisturbed)
    assert "9 finished" in err


def test_what_a_launcher_does_not_take_is_a_usage_error(sweep):
    assert "unknown launcher 'rey'. Did you mean ray?" in sweep("x", "--launcher", "rey")[2]
    for words in (("--ray-address", "h:1"), ("--launcher", "ray", "--jobs", "2"), ("--launcher", "ray", "--no-cache")):
        code, _, err = sweep("x", *words)
        assert code == 2, err


def test_without_ray_its_launcher_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    code, _, err = sweep("x", "--launcher", "ray")
    assert code == 2
    assert "pip install 'fewvit[ray]'" in err


# ---- processes that die


class Killer:
    """Whoever reads it from a message dies on the spot."""

    def __reduce__(self) -> tuple[object, ...]:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_cell_that_kills_its_process_fails_alone(features, tmp_path):
    train, test = map(str, features)
    data = DataSetting(train=train, test=test)
    cells = [
        Cell(None, data, MethodSetting("lowshot", name), Scope(shots=shots, trials=2), 0)
        for name in ("centroid", "ridge")
        for shots in (1, 3)
    ]
    deadly = dataclasses.replace(cells[0], method=MethodSetting("lowshot", "centroid", {"option": Killer()}))
    tasks = [(cell, Path(tmp_path / "runs")) for cell in (cells[0], deadly, *cells[1:])]
    shop = Workshop(How(tmp_path / "cache"), Access(tmp_path / "cache", True), lambda line: None)
    jobs = Jobs(shop, 2)
    try:
        found = dict(jobs.run(tasks))
    finally:
        jobs.close()
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert (found[1].result, found[1].exit_code) == (None, 6)
    assert "killed" in found[1].error
    alone = [outcome.result.rows for _, outcome in Here(shop).run([task for task in tasks if task[0] is not deadly])]
    assert [found[place].result.rows for place in (0, 2, 3, 4)] == alone


def test_digests_that_another_process_stored_are_known_after_a_refresh(tmp_path):
    (tmp_path / "x").write_bytes(b"seven")
    mine, others = DigestMemory(tmp_path / "digests"), DigestMemory(tmp_path / "digests")
    identity = b"\0" * 40  # of a file that last changed long ago
    others.put(identity, b"3" * 32)
    others.save()
    assert mine.get(identity) is None
    mine.refresh()
    assert mine.get(identity) == b"3" * 32
    believing_nothing = DigestMemory(tmp_path / "digests", rehash=True)
    believing_nothing.refresh()
    assert believing_nothing.get(identity) is None
