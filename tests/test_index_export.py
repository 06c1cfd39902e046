"""An index as files, in Qdrant and in Lance: what is read back is what the index holds, and gives its answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fewvit.errors import DataError, IntegrityError, UsageError
from fewvit.features import FeatureSet
from fewvit.retrieval import exported, load_qdrant, to_qdrant
from fewvit.retrieval.exported import Rows, export_files, verified
from fewvit.retrieval.growth import Wish
from fewvit.retrieval.index import ImageIndex
from fewvit.retrieval.to_lance import export_lance
from fewvit_cli import main as cli

from made_images import folder_of, tiny_weights
from oracles import unit_rows

NAMES = ["b/3.jpg", "b/20.jpg", "a\udce9.jpg", "two\nlines.jpg", "z", "y", "x"]


@pytest.fixture
def fewvit(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def a_set(names: list[str], seed: int = 3, d: int = 13) -> FeatureSet:
    rows = np.random.default_rng(seed).standard_normal((len(names), d)).astype(np.float32)
    labels = np.arange(len(names)) % 3 - 1
    return FeatureSet(rows, labels, names, ["cat", "d\udcffg"], "abc")


@pytest.fixture
def grown(tmp_path):
    """An index of two segments and a dead row, and its features by id: 6 images, of 7 and 3 of which 4 went."""
    first, second = a_set(NAMES), a_set(["c", "A", "b/4.jpg"], seed=5)
    index = ImageIndex.build(tmp_path / "idx", first).add(second).remove(["z", "y", "x", "c"])
    of = {name: row for part in (first, second) for name, row in zip(part.ids, unit_rows(part.features), strict=True)}
    return index, of


def many(tmp_path, n: int = 997, kind: str = "flat") -> ImageIndex:
    return ImageIndex.build(tmp_path / "many", a_set([f"{i:04d}" for i in range(n)]), wish=Wish(kind))


def parquet(folder):
    from pyarrow.parquet import read_table

    return read_table(folder / "metadata.parquet").to_pylist()


def test_files_hold_the_live_images_in_the_order_of_their_ids(grown, tmp_path):
    index, of = grown
    export_files(index, tmp_path / "out")
    wanted = ["A", "a\udce9.jpg", "b/20.jpg", "b/3.jpg", "b/4.jpg", "two\nlines.jpg"]
    shown = ["A", "a\\udce9.jpg", "b/20.jpg", "b/3.jpg", "b/4.jpg", "two\\nlines.jpg"]
    features = np.load(tmp_path / "out" / "features.npy")
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, [of[name] for name in wanted])
    assert (tmp_path / "out" / "ids.txt").read_text().splitlines() == shown
    table = parquet(tmp_path / "out")
    assert [row["id"] for row in table] == shown
    assert [row["label"] for row in table] == ["cat", "d\\udcffg", "cat", None, "d\\udcffg", None]
    assert {row["digest"] for row in table} == {row["path"] for row in table} == {None}


def test_the_manifest_says_what_it_is_and_has_the_digest_of_every_file(grown, tmp_path):
    export_files(grown[0], tmp_path / "out")
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {key: told[key] for key in ("schema", "images", "dimension", "fingerprint", "escaped")} == {
        "schema": "fewvit.export/1", "images": 6, "dimension": 13, "fingerprint": "abc", "escaped": 2,
    }  # fmt: skip
    assert set(told["files"]) == {"features.npy", "ids.txt", "metadata.parquet"}
    for name, file in told["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_images_have_their_paths_and_the_digests_of_their_bytes(fewvit, tmp_path):
    weights = tiny_weights(tmp_path / "tiny.pth")
    train = folder_of(tmp_path / "train", {"cat": 3, "dog": 2})
    words = ("--img-size", "32", "--data", train, "--index", tmp_path / "idx")
    assert fewvit("index", "build", "-m", weights, *words)[0] == 0
    code, out, err = fewvit("index", "export", "--index", tmp_path / "idx", "--out", tmp_path / "out")
    assert code == 0, err
    assert "images       5" in out
    for row in parquet(tmp_path / "out"):
        data = (train / row["id"]).read_bytes()
        assert (row["digest"], row["path"]) == (hashlib.sha256(data).hexdigest(), str(train / row["id"]))


def test_blocks_join_without_a_seam_and_half_precision_is_made_unit_again(tmp_path, monkeypatch):
    index = many(tmp_path, kind="compact")
    assert index.manifest.dtype == "<f2"
    export_files(index, tmp_path / "one")
    monkeypatch.setattr(exported, "BLOCK", 101)
    export_files(index, tmp_path / "other")
    for name in ("features.npy", "ids.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert parquet(tmp_path / "one") == parquet(tmp_path / "other")
    lengths = np.linalg.norm(np.load(tmp_path / "other" / "features.npy").astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-7)


def test_an_export_that_fails_leaves_the_one_before_and_nothing_else(grown, tmp_path, monkeypatch):
    index, _ = grown
    export_files(index, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(exported, "commit", lambda folder, facts: os.unlink(folder / "gone"))
    with pytest.raises(DataError, match="out"):
        export_files(index.remove(["A"]), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idx", "out"]
    monkeypatch.undo()
    export_files(index.remove(["b/3.jpg"]), tmp_path / "out")
    assert len(np.load(tmp_path / "out" / "features.npy")) == 4


def test_what_a_user_put_into_an_export_is_not_replaced(grown, tmp_path):
    index, _ = grown
    export_files(index, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"something else too \(notes\.txt\)"):
        export_files(index, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "notes.txt").unlink()
    export_files(index, tmp_path / "out")


# ---- Qdrant


def test_a_shard_of_qdrant_gives_the_answers_of_the_index(grown, tmp_path):
    import qdrant_edge as edge

    index, of = grown
    facts = to_qdrant.export_shard(index, tmp_path / "out")
    assert facts["verified"] == {"queries": 6, "neighbours": 6, "agree": 6}
    shard = edge.EdgeShard.load(str(tmp_path / "out" / "shard"))
    query = edge.Query.Nearest(of["b/4.jpg"].tolist())
    [point] = shard.search(edge.SearchRequest(query, 1, with_payload=True))
    assert shard.count(edge.CountRequest()) == 6
    assert point.payload == {"id": "b/4.jpg", "label": "d\\udcffg", "digest": None, "path": None}
    assert point.score == pytest.approx(1, abs=1e-6)
    shard.close()


@pytest.mark.parametrize("int8", [False, True])
def test_a_larger_index_agrees_with_its_shard(tmp_path, int8, monkeypatch):
    monkeypatch.setattr(load_qdrant, "BLOCK", 101)
    facts = to_qdrant.export_shard(many(tmp_path, kind="ivf"), tmp_path / "out", int8=int8)
    assert facts["verified"] == {"queries": 20, "neighbours": 10, "agree": 20}


@pytest.mark.filterwarnings("ignore")
def test_a_collection_gives_the_answers_of_the_index_and_loading_again_doubles_nothing(tmp_path):
    from qdrant_client import QdrantClient

    index, client = many(tmp_path), QdrantClient(":memory:")
    export_files(index, tmp_path / "out")
    for _ in range(2):
        load_qdrant.load_server(client, tmp_path / "out", "pictures", int8=True)
    assert client.count("pictures").count == 997
    found = verified(Rows(index), to_qdrant.finder(client, "pictures"), "Qdrant")
    assert found["agree"] == 20


def test_the_script_that_is_exported_runs_by_itself(grown, tmp_path):
    index, _ = grown
    to_qdrant.export_shard(index, tmp_path / "out")
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "out", moved)
    words = [sys.executable, "-I", str(moved / "load_qdrant.py"), "--shard", str(tmp_path / "shard"), "--eight-bit"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert to_qdrant.verified_shard(Rows(index), tmp_path / "shard")["agree"] == 6


def test_a_shard_that_gives_other_answers_is_not_kept(tmp_path, monkeypatch):
    index, honest = many(tmp_path), load_qdrant.blocks

    def wrong(folder):
        for ids, vectors, payloads in honest(folder):
            yield ids, vectors[1:] + vectors[:1], payloads

    monkeypatch.setattr(load_qdrant, "blocks", wrong)
    with pytest.raises(IntegrityError, match="Qdrant finds other images"):
        to_qdrant.export_shard(index, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_images_that_tie_with_the_last_one_may_differ():
    own = [("a", 1.0), ("b", 0.8), ("c", 0.8)]
    assert exported._agree(own, [("a", 0.9999999), ("d", 0.8), ("b", 0.8)])
    assert not exported._agree(own, [("d", 1.0), ("b", 0.8), ("c", 0.8)])
    assert not exported._agree(own, [("a", 1.0), ("b", 0.8), ("d", 0.7)])
    assert not exported._agree(own, [("b", 1.0), ("b", 0.8), ("c", 0.8)])
    assert not exported._agree(own, own[:2])


# ---- Lance


def test_a_table_of_lance_holds_every_row_bit_for_bit(grown, tmp_path):
    import lance

    index, of = grown
    facts = export_lance(index, tmp_path / "out")
    assert facts["verified"]["agree"] == 6
    table = lance.dataset(str(tmp_path / "out" / "images.lance")).to_table().to_pylist()
    assert [row["id"] for row in table] == [
        "A", "a\\udce9.jpg", "b/20.jpg", "b/3.jpg", "b/4.jpg", "two\\nlines.jpg",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.float32(table[4]["vector"]), of["b/4.jpg"])
    assert set(table[0]) == {"id", "label", "vector", "digest"}


def test_what_lance_gives_back_is_compared_with_what_was_written(tmp_path, monkeypatch):
    index, honest = many(tmp_path), Rows.features
    export_lance(index, tmp_path / "out")
    calls = []

    def drifting(self, rows):
        calls.append(len(rows))
        found = honest(self, rows).copy()
        found[0, 0] += len(calls) * 1e-3
        return found

    monkeypatch.setattr(Rows, "features", drifting)
    with pytest.raises(IntegrityError, match="row 0"):
        export_lance(index, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--to", "milvus", "--out", "o"), 2, "milvus"),
        ((), 2, "--out DIR"),
        (("--to", "lance", "--url", "http://x", "--out", "o"), 2, "--to qdrant"),
        (("--eight-bit", "--out", "o"), 2, "--to qdrant"),
        (("--out", "photos"), 2, "no export"),
        (("--out", "a.txt"), 2, "a.txt"),
        (("--out", "idx"), 2, "name one file"),
        (("--to", "qdrant", "--url", "./folder"), 2, "no address"),
        (("--to", "qdrant", "--url", ":memory:"), 2, "no address"),
        (("--to", "qdrant", "--url", "http://localhost:1"), 2, "Is Qdrant running"),
    ],
)
def test_what_cannot_be_exported_is_refused(fewvit, tmp_path, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    ImageIndex.build(tmp_path / "idx", a_set(NAMES))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"mine")
    (tmp_path / "a.txt").write_text("mine")
    found, out, err = fewvit("index", "export", "--index", "idx", *words)
    assert (found, out) == (code, "")
    assert told in err
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"mine"


def test_an_export_without_its_package_names_the_extra(fewvit, tmp_path, monkeypatch):
    ImageIndex.build(tmp_path / "idx", a_set(NAMES))
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name: None)
    for to, extra in (("files", "table"), ("qdrant", "qdrant"), ("lance", "lance")):
        code, _, err = fewvit("index", "export", "--index", tmp_path / "idx", "--to", to, "--out", tmp_path / "out")
        assert code == 2
        assert f"fewvit[{extra}]" in err


def test_an_index_without_live_images_is_refused(tmp_path):
    index = ImageIndex.build(tmp_path / "idx", a_set(NAMES)).remove(NAMES)
    with pytest.raises(DataError, match="no image"):
        export_files(index, tmp_path / "out")
