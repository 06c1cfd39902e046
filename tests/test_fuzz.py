"""A sample of the fuzzers on every run of the suite, and proof that their judge sees each kind of fault."""

from __future__ import annotations

import random
import time

import pytest

from fewvit.errors import DataError, IntegrityError, ResourceError

from fuzz import judging
from fuzz.judging import TOLD, Judge, Mutant
from fuzz.mutations import damaged, written_json
from fuzz.running import FORMATS, format_of

SAMPLE = 15  # inputs of each format


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_in_a_line_or_give_what_the_whole_file_gives(name, tmp_path):
    judge = Judge(format_of(name), tmp_path / name)
    faults = {number: judge.fault(judge.mutant(20261, number)) for number in range(SAMPLE)}
    assert {number: fault for number, fault in faults.items() if fault} == {}


class Toy:
    """A file of one byte."""

    codes = frozenset({3})

    def __init__(self, reader):
        self.reader = reader

    def make(self, folder):
        (folder / "toy").write_bytes(b"a")

    def mutant(self, files, stream):
        return Mutant({"toy": b"b"}, checked=True)

    def read(self, folder, changed):
        data = (folder / "toy").read_bytes()
        return data if data == b"a" else self.reader(folder / "toy")


def _raises(error):
    def reader(path):
        raise error(path)

    return reader


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (lambda path: b"a", ""),
        (lambda path: TOLD, ""),
        (_raises(lambda path: DataError("no", file=path)), ""),
        (lambda path: b"b", "a silent difference"),
        (_raises(lambda path: KeyError("x")), "raw KeyError"),
        (_raises(lambda path: RecursionError()), "raw RecursionError"),
        (_raises(lambda path: DataError("no")), "names no file"),
        (_raises(lambda path: IntegrityError("no", file=path)), "exit code 4"),
        (_raises(lambda path: ResourceError("no memory", file=path)), "asks for memory"),
        (lambda path: time.sleep(60), "took more than"),
    ],
    ids=["same", "told", "refused", "silent", "raw", "deep", "nameless", "code", "memory", "slow"],
)
def test_the_judge_sees_each_kind_of_fault(reader, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "SECONDS", 0.2)
    judge = Judge(Toy(reader), tmp_path / "toy")
    found = judge.fault(judge.mutant(0, 0))
    assert found.startswith(fault)
    assert bool(found) == bool(fault)
    assert (tmp_path / "toy/toy").read_bytes() == b"a"


def test_an_error_of_three_lines_is_a_fault(tmp_path):
    class ThreeLines(DataError):
        def __str__(self):
            return f"{tmp_path}: one\ntwo\nthree"

    judge = Judge(Toy(_raises(lambda path: ThreeLines("x", file=path))), tmp_path / "toy")
    assert judge.fault(judge.mutant(0, 0)).startswith("no one or two printable lines")


def test_a_seed_gives_its_inputs_again_and_another_seed_others():
    def inputs(seed):
        stream = random.Random(seed)
        return [damaged(bytes(range(97)), stream) for _ in range(31)] + [
            written_json({"a": [1, {"b": "x"}], "c": 0.5}, stream) for _ in range(31)
        ]

    assert inputs("0 7") == inputs("0 7")
    assert sum(a == b for a, b in zip(inputs("0 7"), inputs("1 7"), strict=True)) < 20
    assert len(set(inputs("0 7"))) > 40
