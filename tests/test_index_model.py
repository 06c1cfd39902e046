"""The index as a whole against a dictionary: 500 random sequences of changes, every search equal to brute force."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fewvit.errors import DataError
from fewvit.neighbors.installed import faiss_library
from fewvit.retrieval import adding, growth
from fewvit.retrieval.folder import IndexFolder

from made_indexes import PART, D, Model, asked, built, opened, source_of

SEQUENCES = {"flat": 191, "hnsw": 103, "ivf": 103, "compact": 103}
STEPS = 4
AT_ONCE = 10  # sequences in one test, so that a failure says where it began
CLASSES = ("ox", "<i>hen</i>", "")
NAMES = (
    *(f"x/{i}" for i in range(23)),
    *(f"x-{i}" for i in range(11)),
    *(
        f"{a}{b}"
        for a in ("\u00e9", "e\u0301", "caf\udce9/", "new\nline", "<b>", "\udcff", "\U0001f438/")
        for b in "37"
    ),
    *("x", "x/", "xy", " ", "'\"", "-", "-1", ",", "\t", "\x7f", "%00", "..", "../a", "/", "\udcff\udcff", "z" * 300),
)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    """No power fails here, and a second thread gains nothing on fifty rows."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    faiss = faiss_library()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


class Sequence:
    """One index and its model, changed together."""

    def __init__(self, path, kind: str, seed: int):
        self.random, self.kind, self.path = np.random.default_rng(seed), kind, path / str(seed)
        self.model = Model(half=kind == "compact")
        self.few = [self.random.normal(size=D).astype(np.float32) for _ in range(5)]
        start = self.some(self.random.integers(1, 12) if kind == "flat" else self.random.integers(29, 53))
        changes = built(self.path, start, kind)
        self.model.rows = dict(start)
        assert (changes.added, changes.computed) == (len(start), 0)

    def feature(self) -> np.ndarray:
        """A new feature, or one of a few that many rows share; at times longer, or all zeros."""
        if self.random.random() < 0.4:
            return self.few[self.random.integers(5)] * np.float32(2 ** self.random.integers(3))
        return (self.random.normal(size=D) * (self.random.random() > 0.03)).astype(np.float32)

    def some(self, count: int) -> dict[str, tuple[np.ndarray, str]]:
        names = self.random.permutation(len(NAMES))[:count]
        return {NAMES[i]: (self.feature(), CLASSES[self.random.integers(3)]) for i in names}

    def add(self) -> None:
        """New ids, and of the known ones some as they are, some with another class, some with another feature."""
        given, expected = self.some(int(self.random.integers(1, 17))), dict.fromkeys(("added", "unchanged"), 0)
        expected |= dict.fromkeys(("replaced", "relabelled"), 0)
        for name, (feature, label) in given.items():
            before = self.model.rows.get(name)
            if before is not None and self.random.random() < 0.6:
                feature = before[0]
            if before is not None and self.random.random() < 0.5:
                label = before[1]
            given[name] = (feature, label)
            kept = Model(self.model.half, {name: given[name]}).unit()
            same = before is not None and (kept == Model(self.model.half, {name: before}).unit()).all()
            what = (
                (("unchanged" if label == before[1] else "relabelled") if same else "replaced") if before else "added"
            )
            expected[what] += 1
        changes = adding.add(IndexFolder(self.path), source_of(given), None, "", size=PART)
        assert {name: getattr(changes, name) for name in expected} == expected
        self.model.rows.update(given)

    def remove(self) -> None:
        """A few ids, or all of them."""
        ids = self.model.ids
        count = len(ids) if self.random.random() < 0.07 else int(self.random.integers(0, min(len(ids), 9) + 1))
        names = [ids[i] for i in self.random.permutation(len(ids))[:count]]
        assert growth.remove(IndexFolder(self.path), names).removed == count
        for name in names:
            del self.model.rows[name]

    def compact(self) -> None:
        if not self.model.rows:
            with pytest.raises(DataError, match="no image is left"):
                growth.compact(IndexFolder(self.path), size=PART)
            return
        growth.compact(IndexFolder(self.path), size=PART)
        manifest = opened(self.path).manifest
        assert (manifest.rows, manifest.dead, len(manifest.segments)) == (len(self.model.rows), 0, 1)

    def rename(self) -> None:
        """One feature under another id."""
        free = [name for name in NAMES if name not in self.model.rows]
        if self.model.rows and free:
            old, new = self.random.choice(np.array(self.model.ids, object)), free[0]
            row = {new: self.model.rows.pop(old)}
            growth.remove(IndexFolder(self.path), [old])
            assert adding.add(IndexFolder(self.path), source_of(row), None, "", size=PART).added == 1
            self.model.rows |= row

    def check(self, path=None) -> None:
        """Some searches of many kinds, each equal to the model's."""
        index = opened(path or self.path)
        assert len(index) == len(self.model.rows)
        queries = np.array([self.feature() for _ in range(3)])
        if self.model.rows:
            queries[0] = self.model.rows[self.random.choice(np.array(self.model.ids, object))][0]
        live = len(index)
        for k in {1, max(1, live - 1), max(1, live), live + 3, int(self.random.integers(1, 9))}:
            only = self.only(index.classes)
            threshold = None if self.random.random() < 0.5 else self.threshold(queries[1])
            found = asked(index, queries, k, threshold, **only)
            wanted = [self.model.nearest(query, k, **only, threshold=threshold) for query in queries]
            assert found == wanted, (k, only, threshold)

    def only(self, classes: list[str]) -> dict[str, object]:
        known = [name for name in CLASSES if name in classes]
        picked = [name for name in known if self.random.random() < 0.5] if self.random.random() < 0.5 else []
        folders = ("", "", "x/", "x", "caf\udce9", "\udcff", "e", "\U0001f438/", "nowhere")
        return {"classes": picked, "folder": folders[self.random.integers(len(folders))]}

    def threshold(self, query: np.ndarray) -> float:
        """A score that some row has, exactly."""
        scores = [score for _, score in self.model.nearest(query, 1 << 20)]
        return scores[self.random.integers(len(scores))] if scores else 0.5


FIRST = [(kind, first) for kind, count in SEQUENCES.items() for first in range(0, count, AT_ONCE)]


@pytest.mark.parametrize(("kind", "first"), FIRST)
def test_every_search_after_every_change_is_that_of_a_dictionary(kind, first, tmp_path):
    for seed in range(first, min(first + AT_ONCE, SEQUENCES[kind])):
        sequence = Sequence(tmp_path, kind, seed)
        sequence.check()
        for _ in range(STEPS):
            change = (sequence.add, sequence.add, sequence.remove, sequence.compact, sequence.rename)
            change[sequence.random.integers(len(change))]()
            sequence.check()
        opened(sequence.path).verify()


@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_grown_index_a_compacted_one_and_a_fresh_one_give_the_same_answers(kind, tmp_path):
    sequence = Sequence(tmp_path, kind, 1009)
    for _ in range(3):
        sequence.add()
        sequence.remove()
    sequence.add()
    queries = np.random.default_rng(3).normal(size=(11, D)).astype(np.float32)
    folder, k = IndexFolder(sequence.path), len(sequence.model.rows) + 1
    grown = asked(opened(folder.path), queries, k)
    assert len(opened(folder.path).segments) > 1
    growth.compact(folder, size=PART)
    built(tmp_path / "fresh", sequence.model.rows, kind)
    assert asked(opened(folder.path), queries, k) == grown
    assert asked(opened(tmp_path / "fresh"), queries, k) == grown
    one, other = (
        next(s.features.sha256 for s in opened(p).manifest.segments) for p in (folder.path, tmp_path / "fresh")
    )
    assert one == other  # rewritten rows are the rows that were given, to the last bit
