"""Rows by digest, against a dictionary that knows the first row of every digest."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest

from fewvit.extraction.row_index import RowIndex


def digest(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def alike(n: int) -> bytes:
    """Digests of the same first word."""
    return b"12345678" + n.to_bytes(24, "little")


def array(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), "V32")


def index_of(parts: list[list[bytes]]) -> tuple[RowIndex, dict[bytes, int]]:
    index, first = RowIndex(), {}
    for part in parts:
        index.add(array(part))
    for row, known in enumerate(known for part in parts for known in part):
        first.setdefault(known, row)
    return index, first


PARTS = {
    "none": [],
    "one": [[digest(n) for n in range(7)]],
    "three, one empty": [[digest(n) for n in range(7)], [], [digest(n) for n in range(7, 60)]],
    "repeated": [[digest(3), digest(1), digest(3)], [digest(1), digest(4)], [digest(4)]],
    "same first word": [[alike(3), alike(1), digest(0), alike(2)], [alike(9), alike(1)]],
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "with questions between"])
def test_every_digest_is_found_at_its_first_row_and_no_other_is(name, late):
    index = RowIndex()
    for part in PARTS[name]:
        index.add(array(part))
        if late:
            assert all(known in index for known in part)
            assert digest(99) not in index
    _, first = index_of(PARTS[name])
    asked = [digest(98), *reversed(first), alike(77), *first]
    assert index.find(asked).tolist() == [first.get(known, -1) for known in asked]
    assert all(known in index for known in first)
    assert digest(99) not in index
    assert alike(78) not in index
    assert len(index) == len(first)


def test_whole_parts_are_found_in_any_order_and_part_of_one_too():
    parts = [[digest(n) for n in range(start, start + 5)] for start in range(0, 40, 5)]
    index, first = index_of(parts)
    for order in ([5, 0, 3], range(8), [7], [2, 2]):
        asked = [known for place in order for known in parts[place]]
        assert index.find(asked).tolist() == [first[known] for known in asked]
    for asked in (parts[3][:3], parts[3] + parts[4][:2], parts[3][1:], parts[2][:4] + parts[2][:4]):
        assert index.find(asked).tolist() == [first[known] for known in asked]


def test_nothing_asked_is_nothing_found():
    index, _ = index_of(PARTS["one"])
    assert index.find([]).tolist() == []


def test_threads_ask_while_rows_are_added():
    index, missed = RowIndex(), []

    def ask():
        for _ in range(300):
            if digest(0) not in index or digest(-1) in index:
                missed.append(1)

    index.add(array([digest(0)]))
    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for n in range(1, 200):
        index.add(array([digest(n)]))
    for asker in askers:
        asker.join()
    assert not missed
    assert len(index) == 200
    assert all(digest(n) in index for n in range(200))
