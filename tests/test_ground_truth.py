"""Ground truth from strangers: good pickles give their data, hostile ones are refused by name, and no code runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from fewvit.errors import DataError, IntegrityError
from fewvit.retrieval.ground_truth import read_revisited, revisited_from, save_revisited
from fewvit.retrieval.match_tables import read_copies, read_landmarks
from fewvit.untrusted import plain_pickle
from fewvit.untrusted.plain_pickle import read_plain_pickle

QUERY = {"bbx": [1.5, 2, 30, 40], "easy": [0, 3], "hard": [5], "junk": [1]}
TRUTH = {
    "imlist": [f"image_{i}" for i in range(7)],
    "qimlist": ["query_a", "query_b"],
    "gnd": [QUERY, {"bbx": [0, 0, 7, 3], "easy": [], "hard": [2, 4], "junk": []}],
}


def written(folder: Path, data: bytes) -> Path:
    path = folder / "gnd_toy.pkl"
    path.write_bytes(data)
    return path


def changed(**parts: object) -> dict[str, object]:
    """The truth with other parts; `gnd` gives fields of its first entry."""
    entry = {**QUERY, **parts.pop("gnd")} if isinstance(parts.get("gnd"), dict) else QUERY  # type: ignore[dict-item]
    return {**TRUTH, "gnd": [entry, TRUTH["gnd"][1]], **parts}


# ---- plain data ------------------------------------------------------------------------------------------------------

ARRAYS = {
    **TRUTH,
    "gnd": [
        {"bbx": np.array([1.5, 2, 30, 40], np.float32), "easy": np.array([0, 3]), "hard": [np.int64(5)], "junk": (1,)},
        {"bbx": np.array([0, 0, 7, 3]), "easy": np.array([], np.int32), "hard": np.array([2, 4], ">i2"), "junk": []},
    ],
}
PLAIN = {
    "nothing": None,
    "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -(2**40), 2**63, 0.1, float("inf"), True, False],
    "text": ["", "a", "é ü", "x" * 300, "\ud800"],
    "bytes": [b"", b"\x00\xff", b"y" * 300],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, set(), {3, 7}, frozenset({"a"}), {7: {3: [()]}}],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_from_every_protocol(tmp_path, protocol):
    assert read_plain_pickle(written(tmp_path, pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_scalars_of_numbers_come_back_from_every_protocol(tmp_path, protocol):
    shared = np.arange(3)
    arrays = {
        "f8": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(4, dtype=">i4"),
        "bool": np.array([True, False]),
        "empty": np.array([], np.int32),
        "scalar": np.float32(0.5),
        "twice": [shared, shared],
    }
    found = read_plain_pickle(written(tmp_path, pickle.dumps(arrays, protocol)))
    assert list(found) == list(arrays)
    for name in ("f8", "columns", "big", "bool", "empty"):
        np.testing.assert_array_equal(found[name], arrays[name])
        assert found[name].dtype == arrays[name].dtype
    assert (found["scalar"], type(found["scalar"])) == (0.5, float)
    assert [one.tolist() for one in found["twice"]] == [[0, 1, 2], [0, 1, 2]]


def test_the_spellings_of_numpy_1_and_of_python_2_are_known(tmp_path):
    new = pickle.dumps({"a": np.arange(3), "b": np.int64(7), "c": {3}}, 2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"builtins", b"__builtin__")
    assert old != new
    found = read_plain_pickle(written(tmp_path, old))
    assert (found["a"].tolist(), found["b"], found["c"]) == ([0, 1, 2], 7, {3})
    python_2 = b"(dp0\nS'name'\np1\nS'all_souls'\np2\nsS'n'\np3\nI7\nsS'long'\nL9L\ns."
    assert read_plain_pickle(written(tmp_path, python_2)) == {"name": "all_souls", "n": 7, "long": 9}


def test_lists_that_hold_themselves_do_not_hang(tmp_path):
    loop: list[object] = []
    loop.append(loop)
    found = read_plain_pickle(written(tmp_path, pickle.dumps({"imlist": loop, "qimlist": loop, "gnd": loop})))
    with pytest.raises(DataError, match=r"imlist\[0\] is a list, not a file's name"):
        revisited_from(found, "x.pkl", "toy")


# ---- hostile pickles -------------------------------------------------------------------------------------------------


class Calls:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class WithState:
    """Pickled as an object of a class of its own."""

    def __init__(self) -> None:
        self.x = 1


MARKER = "marker"  # what a payload would make in the current folder


def text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def persistent(protocol: int) -> bytes:
    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return "7" if value is Calls else None

    stream = io.BytesIO()
    Pickler(stream, protocol).dump({"imlist": Calls})
    return stream.getvalue()


def begun(*, shape: bytes, dtype: bytes, raw: bytes) -> bytes:
    """An array in protocol 2 with these parts."""
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    return b"\x80\x02" + made + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb."


def numeric(code: str) -> bytes:
    """A dtype in protocol 2, least byte first."""
    made = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code.encode() + b"\x89\x88\x87R"
    return made + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def endless() -> list[object]:
    """Eighty lists of two: short as a pickle, and 2^80 words when written out."""
    laughs: list[object] = []
    for _ in range(80):
        laughs = [laughs, laughs]
    return laughs


def out_of_band() -> bytes:
    return pickle.dumps(np.arange(7), 5, buffer_callback=[].append)


HOSTILE = {
    "os.system by REDUCE": (pickle.dumps(Calls(os.system, f"mkdir {MARKER}"), 2), "posix.system"),
    "os.system by REDUCE, protocol 4": (pickle.dumps(Calls(os.system, f"mkdir {MARKER}"), 4), "posix.system"),
    "os.system in protocol 0": (b"cos\nsystem\n(S'mkdir marker'\ntR.", "os.system"),
    "os.system by INST": (b"(S'mkdir marker'\nios\nsystem\n.", "os.system"),
    "os.system by OBJ": (b"(cos\nsystem\nS'mkdir marker'\no.", "os.system"),
    "OBJ of what is known": (b"(cnumpy\ndtype\nS'f8'\no.", "an object of a class"),
    "builtins.eval": (pickle.dumps(Calls(eval, f"__import__('os').mkdir('{MARKER}')"), 2), "eval"),
    "builtins.getattr": (b"\x80\x04" + text("builtins") + text("getattr") + b"\x93.", "builtins.getattr"),
    "a dotted name under numpy": (
        b"\x80\x04" + text("numpy") + text("dtype.__class__") + b"\x93.",
        "numpy.dtype.__class__",
    ),
    "numpy's own loader": (b"cnumpy\nload\n(S'x.npy'\nI00\nI01\ntR.", "numpy.load"),
    "NEWOBJ of a class": (pickle.dumps(WithState(), 2), "WithState"),
    "NEWOBJ of what is known": (b"\x80\x02cnumpy\nndarray\n(I3\nt\x81.", "an object of a class"),
    "NEWOBJ_EX of what is known": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "an object of a class"),
    "copyreg": (pickle.dumps(WithState(), 0), "copy_reg._reconstructor"),
    "an ordered dict": (pickle.dumps(OrderedDict(a=1), 2), "collections.OrderedDict"),
    "BUILD of a dict": (b"\x80\x02}}b.", "a state that no plain data has"),
    "BUILD of a list": (b"\x80\x02](K\x01tb.", "gives a list the state"),
    "EXT1": (b"\x80\x02\x82\x07.", "number 7 of the registry of extensions"),
    "EXT4": (b"\x80\x02\x84\x07\x00\x00\x01.", "number 16777223 of the registry"),
    "a persistent id": (persistent(0), "a persistent object"),
    "a binary persistent id": (persistent(4), "a persistent object"),
    "a buffer outside the file": (out_of_band(), "a buffer outside the file"),
    "an array of objects": (pickle.dumps(np.array([{}, None]), 2), "dtype 'O8' is not a numeric one"),
    "an array of objects behind a flag": (
        begun(shape=b"K\x01\x85", dtype=numeric("f8").replace(b"K\x00tb", b"K\x3ftb"), raw=b"U\x08" + b"A" * 8),
        "a state that no numeric one has",
    ),
    "an array whose numbers are a list": (
        begun(shape=b"K\x01\x85", dtype=numeric("f8"), raw=b"]"),
        "an array of objects",
    ),
    "an array of 2^60 numbers": (
        begun(shape=b"\x8a\x08" + struct.pack("<q", 1 << 60) + b"\x85", dtype=numeric("f8"), raw=b"U\x08" + b"A" * 8),
        "shape (1152921504606846976,) in 8 bytes",
    ),
    "an array of 2^60 empty rows": (
        begun(shape=b"\x8a\x08" + struct.pack("<q", 1 << 60) + b"K\x00\x86", dtype=numeric("f8"), raw=b"U\x00"),
        "in 0 bytes",
    ),
    "an array of negative length": (
        begun(shape=b"J\xff\xff\xff\xff\x85", dtype=numeric("f8"), raw=b"U\x00"),
        "whose shape",
    ),
    "an array of a class of its own": (
        b"cnumpy._core.multiarray\n_reconstruct\n(]K\x00\x85U\x01btR.",
        "a kind of its own",
    ),
    "an array of what is no kind": (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00\x85U\x01btR.",
        "a kind of its own",
    ),
    "a record dtype": (pickle.dumps(np.zeros(3, [("a", "f8")]), 2), "dtype 'V8' is not a numeric one"),
    "a dtype called by an endless list": (
        b"\x80\x02cnumpy\ndtype\n" + pickle.dumps(endless(), 2)[2:-1] + b"\x85R.",
        "dtype list is not a numeric one",
    ),
    "a scalar of objects": (pickle.dumps(Calls(np._core.multiarray.scalar, np.dtype("O"), b"x" * 8), 2), "'O8'"),
    "a call of a dtype": (b"\x80\x02" + numeric("f8") + b"(tR.", "no function for plain data"),
    "a whole number of a megabyte": (b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"A" * (1 << 20) + b".", "64 bits"),
    "a million sets": (b"\x80\x04" + b"\x8f" * 1_000_000 + b".", "more than 100,000 lists"),
    "a set of nested tuples": (b"\x80\x04\x8f()" + b"2\x86" * 80 + b"\x90.", "a tuple as key"),
    "a dict with nested tuples as keys": (b"\x80\x02})" + b"2\x86" * 80 + b"K\x01s.", "a tuple as key"),
    "only a function": (b"cnumpy\ndtype\n.", "holds no data"),
}
BROKEN = {
    "nothing": b"",
    "cut": pickle.dumps(TRUTH, 2)[:-9],
    "cut within a number": b"\x80\x02J\x01",
    "text": b"imlist: [a, b]\n",
    "a zip": b"PK\x03\x04" + bytes(40),
    "html": b"<!DOCTYPE html><html></html>",
    "an unknown instruction": b"\x80\x02\xff.",
    "a pop of nothing": b"0.",
    "a mark that is not there": b"\x80\x02t.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "a string of four gigabytes": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "a byte array of an exabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    "an append to a number": b"\x80\x02K\x03K\x07a.",
    "an odd dict": b"\x80\x02(K\x03d.",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, named = HOSTILE[name]
    started = time.monotonic()
    with pytest.raises(IntegrityError) as error:
        read_plain_pickle(written(tmp_path, data))
    assert error.value.exit_code == 4
    assert named in str(error.value)
    assert "refused: " in str(error.value)
    assert len(str(error.value)) < 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gnd_toy.pkl"]
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pickle_is_told_from_a_hostile_one(name, tmp_path):
    with pytest.raises(IntegrityError, match="is no pickle, or a damaged one"):
        read_plain_pickle(written(tmp_path, BROKEN[name]))


def test_the_payloads_of_these_tests_do_run_in_a_loader_without_protection(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("os.system by REDUCE", "os.system in protocol 0", "os.system by INST", "os.system by OBJ"):
        pickle.loads(HOSTILE[name][0])
        (tmp_path / MARKER).rmdir()
    pickle.loads(HOSTILE["builtins.eval"][0])
    assert (tmp_path / MARKER).is_dir()


def test_a_file_of_more_instructions_than_anyone_needs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MOST_INSTRUCTIONS", 1000)
    with pytest.raises(IntegrityError, match="more than 1,000 instructions"):
        read_plain_pickle(written(tmp_path, b"\x80\x02" + b"N0" * 500 + b"N."))
    assert read_plain_pickle(written(tmp_path, b"\x80\x02" + b"N0" * 498 + b"N.")) is None


def test_a_memo_with_a_huge_number_takes_no_memory(tmp_path):
    """Python's own unpickler makes room for every number below."""
    assert read_plain_pickle(written(tmp_path, b"\x80\x02K\x07r\xff\xff\xff\x7f.")) == 7


def test_a_file_of_more_than_sixteen_mebibytes_is_refused_unread(tmp_path):
    with pytest.raises(IntegrityError, match="more than 16 MiB"):
        read_plain_pickle(written(tmp_path, b"\x80\x02" + bytes(17 << 20)))


TEXT = b"X" + struct.pack("<I", 1 << 18) + b"a" * (1 << 18) + b"q\x00"
COPIED = {  # what is remembered, and what makes a copy of it: 256 KiB of text, a list of 200,000 numbers
    "a text as bytes": (
        TEXT + b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02",
        b"h\x01h\x00h\x02\x86R",
    ),
    "a list as a set": (
        b"]q\x00(" + b"".join(b"J" + struct.pack("<i", i) for i in range(200_000)) + b"ecbuiltins\nset\nq\x01",
        b"h\x01h\x00\x85R",
    ),
    "the numbers of an array": (
        TEXT + numeric("u1") + b"q\x01J\x00\x00\x04\x00\x85q\x02",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01h\x02h\x01I00\nh\x00tb",
    ),
}


@pytest.mark.parametrize("name", COPIED)
def test_what_stands_in_the_file_once_is_not_copied_again_and_again(name, tmp_path):
    begun_, copied = COPIED[name]
    once = read_plain_pickle(written(tmp_path, b"\x80\x02" + begun_ + b"](" + copied * 2 + b"e."))
    assert [len(one) for one in once] == [len(once[0])] * 2
    assert len(once[0]) >= 200_000
    with pytest.raises(IntegrityError, match="the same data copied again and again"):
        read_plain_pickle(written(tmp_path, b"\x80\x02" + begun_ + b"](" + copied * 20 + b"e."))


def test_lists_of_lists_of_lists_without_end_are_no_names(tmp_path):
    """A billion laughs: eighty lists of two take a kilobyte, and would be 2^80 words when written out."""
    data = pickle.dumps(endless(), 2)
    assert len(data) < 1000
    found = read_plain_pickle(written(tmp_path, data))
    with pytest.raises(DataError, match="a list where a dict"):
        revisited_from(found, "x.pkl", "toy")
    with pytest.raises(DataError, match=r"imlist\[0\] is a list"):
        revisited_from({**TRUTH, "imlist": found}, "x.pkl", "toy")


def test_the_same_array_in_every_query_is_counted_again_and_again(tmp_path):
    n = 1500
    many = {
        "imlist": [str(i) for i in range(n)],
        "qimlist": [f"q{i}" for i in range(n)],
        "gnd": [{"bbx": None, "easy": np.arange(n), "hard": [], "junk": []}] * n,
    }
    with pytest.raises(DataError, match="more than 2,000,000 images"):
        revisited_from(read_plain_pickle(written(tmp_path, pickle.dumps(many))), "x.pkl", "toy")


def test_hundreds_of_damaged_pickles_end_in_data_or_in_one_error(tmp_path):
    random = np.random.default_rng(7)
    refused = 0
    for number in range(400):
        data = bytearray(pickle.dumps(ARRAYS, number % 6))
        for _ in range(1 + number % 3):
            data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        try:
            revisited_from(read_plain_pickle(written(tmp_path, bytes(data))), "x.pkl", "toy")
        except (IntegrityError, DataError):
            refused += 1
    assert refused > 200


# ---- the structure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [TRUTH, ARRAYS], ids=["lists", "arrays"])
def test_a_truth_goes_from_a_pickle_through_json_unchanged(tree, tmp_path):
    truth = revisited_from(read_plain_pickle(written(tmp_path, pickle.dumps(tree, 2))), "x.pkl", "toy")
    save_revisited(tmp_path / "gnd.json", truth)
    assert read_revisited(tmp_path / "gnd.json") == truth
    assert truth.truth[0].box == (1.5, 2, 30, 40)
    assert (truth.truth[0].easy, truth.truth[0].hard, truth.truth[0].junk) == ((0, 3), (5,), (1,))
    assert (truth.truth[1].easy, truth.truth[1].hard) == ((), (2, 4))
    assert (truth.name, truth.queries[1], truth.images[6]) == ("toy", "query_b", "image_6")
    json_keys = set(json.loads((tmp_path / "gnd.json").read_text()))
    assert json_keys == {"schema", "name", "imlist", "qimlist", "gnd"}


WRONG = {
    "no dict": ([1, 2], "a list where a dict"),
    "no gnd": ({"imlist": ["a"], "qimlist": ["b"]}, "no gnd; its keys are imlist, qimlist"),
    "no images": (changed(imlist=[]), "imlist is empty"),
    "a number as name": (changed(imlist=["a", 7]), r"imlist\[1\] is 7, not a file's name"),
    "a path as name": (changed(imlist=["../../etc/passwd"]), "not a file's name"),
    "a name twice": (changed(imlist=["a", "b", "a", "a"]), "imlist has 2 names more than once"),
    "a query among the images": (changed(qimlist=["query_a", "image_3"]), "image_3 stands in imlist and in qimlist"),
    "an entry too few": ({**TRUTH, "gnd": [QUERY]}, "gnd has 1 entry for 2 queries"),
    "an entry that is none": ({**TRUTH, "gnd": [QUERY, "x"]}, r"gnd\[1\] is a str, not a dict"),
    "the truth before the revision": (
        {**TRUTH, "gnd": [QUERY, {"ok": [3], "junk": []}]},
        r"gnd\[1\] has no easy, hard\. It is the ground truth before the revision",
    ),
    "a row too large": (changed(gnd={"hard": [7]}), r"gnd\[0\]\.hard has 7, but imlist has 7 images, counted from 0"),
    "a negative row": (changed(gnd={"junk": [-1]}), r"gnd\[0\]\.junk has -1, but"),
    "half a row": (changed(gnd={"easy": [0.5]}), r"gnd\[0\]\.easy has 0\.5, not a whole number"),
    "no row": (changed(gnd={"easy": [float("nan")]}), r"gnd\[0\]\.easy has nan, not a whole number"),
    "a truth value": (changed(gnd={"easy": [True]}), r"gnd\[0\]\.easy has True, not a whole number"),
    "a row twice": (changed(gnd={"easy": [3, 3]}), r"gnd\[0\]\.easy names an image twice"),
    "junk that is right": (changed(gnd={"junk": [5]}), r"gnd\[0\]: image 5 is both hard and junk"),
    "easy that is hard": (changed(gnd={"hard": [3]}), r"gnd\[0\]: image 3 is both easy and hard"),
    "no list": (changed(gnd={"easy": 3}), r"gnd\[0\]\.easy is a int, not a list"),
    "a box of three": (changed(gnd={"bbx": [1, 2, 3]}), r"gnd\[0\]\.bbx is not four numbers"),
    "an endless box": (changed(gnd={"bbx": [1, 2, 3, float("inf")]}), r"gnd\[0\]\.bbx is not four numbers"),
    "an empty box": (changed(gnd={"bbx": [5, 2, 5, 7]}), r"gnd\[0\]\.bbx is empty: from 5, 2 to 5, 7"),
    "markup in a key": ({"<b>\n": 1}, r"its keys are <b>\\n$"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_truth_of_another_structure_is_refused_with_the_place(name):
    tree, words = WRONG[name]
    with pytest.raises(DataError, match=words) as error:
        revisited_from(tree, "gnd_toy.pkl", "toy")
    assert error.value.exit_code == 3
    assert str(error.value).startswith("gnd_toy.pkl: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\x80\x04}.", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "schema is not fewvit.revisited/1"),
        (b'{"imlist": [], "qimlist": [], "gnd": []}', "schema is not fewvit.revisited/1"),
        (b'{"schema": "fewvit.revisited/1", "imlist": ["a"]}', "no qimlist, gnd"),
        (b'{"schema": "fewvit.revisited/1", "imlist": [' + b"9" * 5000 + b"]}", "not JSON"),
    ],
)
def test_a_json_file_that_is_no_ground_truth_is_refused(content, words, tmp_path):
    (tmp_path / "gnd.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_revisited(tmp_path / "gnd.json")


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    for read in (read_revisited, read_plain_pickle, read_copies, read_landmarks):
        with pytest.raises(DataError, match="No such file"):
            read(tmp_path / "none")


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_table_of_copies_keeps_queries_without_a_reference(tmp_path):
    (tmp_path / "gt.csv").write_text("query_id,reference_id\nQ3,R7\nQ5,\nQ3,R11\nQ7,R7\n")
    table = read_copies(tmp_path / "gt.csv")
    assert table.queries == ["Q3", "Q5", "Q7"]
    assert table.pairs == [("Q3", "R7"), ("Q3", "R11"), ("Q7", "R7")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("query_id,reference_id\nQ3,R7\nQ5,\nQ3,R7\n", "line 4 repeats the pair Q3, R7 of line 2"),
        ("query,reference\nQ3,R7\n", "no 2 columns query_id, reference_id; its columns are query, reference"),
        ("query_id,reference_id\n,R7\n", "no query_id in line 2"),
        ("query_id,reference_id\nQ3,\n", "no query has a reference"),
        ("", "its columns are none"),
    ],
)
def test_a_table_of_copies_with_a_fault_is_refused_with_its_line(lines, words, tmp_path):
    (tmp_path / "gt.csv").write_text(lines)
    with pytest.raises(DataError, match=words):
        read_copies(tmp_path / "gt.csv")


def test_the_table_of_landmarks_leaves_out_ignored_queries(tmp_path):
    (tmp_path / "solution.csv").write_text("id,images,Usage\na3,r1 r2 r2,Public\nb5,None,Ignored\nc7,r3,Private\n")
    table = read_landmarks(tmp_path / "solution.csv")
    assert table.images == {"a3": ["r1", "r2"], "c7": ["r3"]}
    assert table.usage == {"a3": "public", "c7": "private"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("id,images,Usage\na,r1,Secret\n", "line 2: the usage 'Secret' is not Public, Private, Ignored"),
        ("id,images,Usage\na,r1,Public\na,r2,Public\n", "line 3 repeats the query a"),
        ("id,images,Usage\na,,Public\n", "line 2: the query a has no images"),
        ("id,images,Usage\na,None,Ignored\n", "every query is ignored"),
        ("id,landmarks\na,1\n", "no 2 columns images, Usage"),
    ],
)
def test_a_table_of_landmarks_with_a_fault_is_refused_with_its_line(lines, words, tmp_path):
    (tmp_path / "solution.csv").write_text(lines)
    with pytest.raises(DataError, match=words):
        read_landmarks(tmp_path / "solution.csv")


def test_bytes_that_are_no_text_are_no_table(tmp_path):
    (tmp_path / "gt.csv").write_bytes(b"query_id,reference_id\n\xff\xfe,\x00\n")
    with pytest.raises(DataError, match="not a table that can be read"):
        read_copies(tmp_path / "gt.csv")


# ---- the command -----------------------------------------------------------------------------------------------------


def convert(*words: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from fewvit_cli.main import main; main()"
    command = [sys.executable, "-c", code, "data", "convert", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_json_and_says_what_is_in_it(tmp_path):
    done = convert(written(tmp_path, pickle.dumps(TRUTH, 2)), "--out", tmp_path / "gnd.json", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == [
        {"name": "toy", "images": 7, "queries": 2, "easy": 2, "hard": 3, "junk": 1}
    ]
    assert read_revisited(tmp_path / "gnd.json").queries == ["query_a", "query_b"]
    assert convert(tmp_path / "gnd_toy.pkl", "--out", tmp_path / "gnd.json").returncode == 0  # what it wrote itself


@pytest.mark.parametrize(
    ("data", "code"), [(HOSTILE["os.system by REDUCE"][0], 4), (BROKEN["cut"], 4), (pickle.dumps([1, 2]), 3)]
)
def test_the_command_ends_with_the_exit_code_of_the_fault_and_writes_nothing(data, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = convert(written(tmp_path, data), "--out", tmp_path / "gnd.json")
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["gnd_toy.pkl"]


def test_the_command_replaces_no_foreign_file_and_wants_a_name(tmp_path):
    source = written(tmp_path, pickle.dumps(TRUTH, 2))
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    assert convert(source, "--out", tmp_path / "notes.json").returncode == 2
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'
    assert convert(source).returncode == 2
