"""Files whose sums are right and whose content is not: one test for each kind of fault that the fuzzers found."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from fewvit.bundles.checks import grown
from fewvit.bundles.file import _digest, load_bundle
from fewvit.errors import CheckpointError, DataError, IntegrityError, UsageError
from fewvit.features import FeatureSet
from fewvit.finetune.held_out import Curve
from fewvit.linear.head_files import load_head
from fewvit.linear.linear_head import LinearHead
from fewvit.models.products import of_rows
from fewvit.models.spec import BUNDLE_SCHEMA
from fewvit.runs.folder import RunFolder
from fewvit.training.log import Log, read_log
from fewvit.untrusted import arrays, texts
from fewvit_cli.main import run

from fuzz.formats import _bundles

# ---- JSON, TOML, npz


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200])
def test_json_that_is_nested_beyond_reason_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested too deep"):
        texts.json_of(text)


def test_json_as_deep_as_ours_and_as_long_comes_back():
    value = {"a": [{"b": [[[1, 2.5, None]]]}] * 100}
    assert texts.json_of(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "k = " + "[" * 5000, "k = " + "9" * 5000, "k" + ".a" * 3000 + " = 1", "k = \xff"],
    ids=["tables", "lists", "digits", "dots", "latin"],
)
@pytest.mark.parametrize("command", [["knn", "--config"], ["sweep"]], ids=["config", "sweep"])
def test_a_toml_file_that_is_none_ends_with_2_and_is_named(text, command, tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_bytes(text.encode("latin-1"))
    assert run([*command, str(file), *(["--out", str(tmp_path / "o")] if command == ["sweep"] else [])]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert str(file) in lines[0]
    assert len(lines) <= 2


def test_a_table_where_an_option_takes_one_value_is_refused(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text("[k]\na = 1\n")
    assert run(["knn", "--config", str(file)]) == 2
    assert f"{file}: k is a table" in capsys.readouterr().err


def test_an_output_that_is_a_number_is_the_file_of_that_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('out = 1.5\ntrain = "nowhere.npz"\ntest = "nowhere.npz"\n')
    assert run(["knn", "--config", "c.toml"]) in (2, 3)
    assert "internal error" not in capsys.readouterr().err


def test_an_npz_whose_header_ends_in_the_middle_is_a_value_error(tmp_path):
    member = io.BytesIO()
    np.lib.format.write_array(member, np.zeros((7, 3)))
    path = tmp_path / "x.npz"
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member.getvalue().replace(b"(7, 3)", b"((((((", 1))
    with pytest.raises(ValueError, match=r"\w"):
        arrays.arrays_of(path)


def test_a_class_of_half_a_character_is_refused(tmp_path):
    rows, labels = np.zeros((3, 5), np.float32), np.array([0, 1, 1])
    np.savez(tmp_path / "x.npz", features=rows, labels=labels, classes=np.array(["a", "\ud800"]))
    with pytest.raises(DataError, match="half a character"):
        FeatureSet.load(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", features=rows, labels=labels, classes=np.array(["a", "\udcff"]))
    assert FeatureSet.load(tmp_path / "x.npz").classes == ["a", "\udcff"]  # a file name's byte that is no UTF-8


def test_names_in_rows_and_columns_are_refused(tmp_path):
    rows, labels = np.zeros((3, 5), np.float32), np.array([0, 1, 1])
    np.savez(tmp_path / "x.npz", features=rows, labels=labels, ids=np.array([["a"], ["b"], ["c"]]))
    with pytest.raises(DataError, match="not text"):
        FeatureSet.load(tmp_path / "x.npz")


def test_a_label_beyond_reason_asks_for_no_memory(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.zeros((3, 5), np.float32), labels=np.array([0, 2**62, 1]))
    with pytest.raises(DataError, match=f"a label is {2**62}"):
        FeatureSet.load(tmp_path / "x.npz")
    names = {"classes": np.array(["a", "b"])}
    np.savez(tmp_path / "y.npz", features=np.zeros((3, 5), np.float32), labels=np.array([0, 2**62, 1]), **names)
    with pytest.raises(DataError, match="labels run from 0"):
        FeatureSet.load(tmp_path / "y.npz")


# ---- errors


def test_words_out_of_a_file_bring_neither_lines_nor_control_codes_into_an_error():
    told = str(DataError("a version 'x\x1b[31m\ny\nz' of old", file="f", fix="try\nagain"))
    assert told == "f: a version 'x\\x1b[31m. y. z' of old.\n  try. again."
    assert len(str(DataError("x" * 10_000))) < 1100
    assert str(DataError("one\n  two")) == "one\n  two"  # an error in an error keeps its advice


# ---- bundles


def signed(path, change):
    """Write the bundle again after `change(manifest, arrays)`, with the digest that belongs to it."""
    data = path.read_bytes()
    stored = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"][BUNDLE_SCHEMA])
    change(manifest, stored)
    manifest["sha256"] = _digest(manifest, stored)
    path.write_bytes(safetensors.numpy.save(stored, {BUNDLE_SCHEMA: json.dumps(manifest)}))


def _put(name, value):
    return lambda manifest, stored: manifest.update({name: value})


def _renumber(part, number):
    def change(manifest, stored):
        for name in stored:
            if name.startswith(part) and stored[name].dtype.kind == "f":
                stored[name] = np.full_like(stored[name], number)

    return change


def _cut(part):
    def change(manifest, stored):
        for name in stored:
            if name.startswith(part):
                stored[name] = stored[name][..., :-1].copy()

    return change


CHANGES = {
    "temperature below zero": _put("temperature", -1.0),
    "temperature of 400 digits": _put("temperature", 10**400),
    "a threshold that is a list": _put("threshold", [0.5]),
    "a class twice": _put("classes", ["ant", "ant", "dog"]),
    "classes of numbers": _put("classes", [1, 2, 3]),
    "a class too few": _put("classes", ["ant", "dog"]),
    "counts of words": _put("counts", ["1", "2", "3"]),
    "half a character": _put("classes", ["ant", "\ud800", "dog"]),
    "no width": _put("width", 0),
    "another width": _put("width", 7),
    "a width beyond memory": _put("width", 1 << 60),
    "a fingerprint that is a list": _put("fingerprint", [1, "a"]),
    "no state": _put("state", {}),
    "weights that are NaN": _renumber("state.", np.nan),
    "weights a column short": _cut("state."),
    "strangeness without spread": _renumber("strangeness.", 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bundle_with_a_right_digest_that_is_no_classifier_is_refused_by_name(name, tmp_path):
    path = tmp_path / "b.bundle"
    _bundles.made_bundle(path, "logistic", "mahalanobis")
    load_bundle(path)
    signed(path, CHANGES[name])
    if name == "strangeness without spread":  # its numbers are no longer those of any rows
        signed(path, lambda manifest, stored: stored["strangeness.products"].fill(-1))
    with pytest.raises(IntegrityError, match="cannot be used here") as caught:
        load_bundle(path)
    assert caught.value.file == path
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("wrong", [-1, 3, 2**31 - 1])
def test_rows_of_a_class_that_a_bundle_has_not_are_refused(wrong, tmp_path):
    path = tmp_path / "b.bundle"
    _bundles.made_bundle(path, "knn", "nearest")

    def change(manifest, stored):
        found = [name for name in stored if name.endswith("labels")]
        assert len(found) == 1
        stored[found[0]][3] = wrong

    if not any(name.endswith("labels") for name in safetensors.numpy.load(path.read_bytes())):
        pytest.skip("knn keeps its rows under another name")
    signed(path, change)
    with pytest.raises(IntegrityError, match="cannot be used here"):
        load_bundle(path)


def test_a_manifest_that_is_nested_beyond_reason_is_refused(tmp_path):
    path = tmp_path / "b.bundle"
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(1)}, {BUNDLE_SCHEMA: "[" * 5000 + "]" * 5000}))
    with pytest.raises(IntegrityError, match="its manifest cannot be read"):
        load_bundle(path)


def test_a_bundle_that_cannot_take_what_its_kind_takes_says_so_before_anything_is_written(tmp_path):
    path = tmp_path / "b.bundle"
    _bundles.made_bundle(path, "centroid", "nearest")
    bundle = load_bundle(path)
    more = _bundles.features(6, 8)
    assert grown(bundle, path, more.features, more.labels, bundle.classes).counts == [10, 10, 9]
    broken = load_bundle(path)
    broken.estimator.add = lambda features, labels: [][1]
    with pytest.raises(IntegrityError, match="cannot take more images: IndexError") as caught:
        grown(broken, path, more.features, more.labels, broken.classes)
    assert caught.value.file == path


def test_a_product_of_shapes_that_do_not_fit_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        of_rows(torch.zeros(3, 5), torch.zeros(7, 4), torch.zeros(7))
    assert of_rows(torch.zeros(3, 5), torch.zeros(0, 5)).shape == (3, 0)


# ---- heads


@pytest.mark.parametrize(
    ("norm", "statistics", "why"),
    [
        ("batch", {"mean": torch.zeros(5)}, "lacks a variance"),
        ("batch", {"mean": torch.zeros(5), "variance": torch.ones(4)}, "lacks a variance"),
        ("whitened", {}, "known are none, batch, layer"),
        ([1], {}, "known are none, batch, layer"),
    ],
    ids=["lacking", "short", "unknown", "list"],
)
def test_a_head_whose_norm_does_not_fit_is_refused(norm, statistics, why, tmp_path):
    LinearHead(torch.zeros(3, 5), torch.zeros(3), norm, statistics).save(tmp_path / "h.safetensors", {})
    with pytest.raises(CheckpointError, match=why):
        load_head(tmp_path / "h.safetensors")


# ---- runs that go on


def made_log(file):
    with contextlib.closing(Log(file, 0)) as log:
        for step in range(1, 5):
            log.write(step, epoch=step - 1, held_top1=50.0, held_loss=0.5, held_temperature=1.0)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"[" * 5000, b"{", b"[1]", b'{"epoch": 1}', b'{"step": "2"}', b'{"step": 2, "loss": [1]}', b"\0" * 9],
    ids=["bytes", "brackets", "cut", "list", "stepless", "word", "nested", "zeros"],
)
def test_a_damaged_line_in_the_midst_of_a_log_is_named_and_at_its_end_left_out(line, tmp_path):
    file = tmp_path / "log.jsonl"
    made_log(file)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:1], line, *lines[2:]]) + b"\n")
    for reader in (read_log, lambda file: Log(file, 9), Curve):
        with pytest.raises(IntegrityError, match="line 2 of this log is damaged") as caught:
            reader(file)
        assert caught.value.file == file
    file.write_bytes(b"\n".join([*lines, line]))
    assert [record["step"] for record in read_log(file)] == [1, 2, 3, 4]


def test_a_record_of_held_out_images_that_lacks_a_number_is_refused(tmp_path):
    file = tmp_path / "log.jsonl"
    made_log(file)
    file.write_text(file.read_text().replace('"held_loss"', '"held_lost"', 1))
    with pytest.raises(IntegrityError, match="lacks its held_loss"):
        Curve(file)


@pytest.mark.parametrize("name", ["manifest.json", "contents.json"])
def test_a_runs_json_that_is_nested_beyond_reason_ends_no_command_with_a_traceback(name, tmp_path):
    run_folder = RunFolder(tmp_path / "run")
    run_folder.begin({"command": "pretrain"}, {})
    (tmp_path / "run" / name).write_text('{"schema": "fewvit.run/1", "x": ' + "[" * 5000 + "]" * 5000 + "}")
    if name == "manifest.json":
        with pytest.raises(IntegrityError, match="cannot be read"):
            run_folder.manifest()
    else:
        run_folder.require_contents({})


def test_a_sweeps_file_with_a_hostile_key_is_told_in_two_lines(tmp_path):
    from fewvit.sweep.config import read_config

    file = tmp_path / "s.toml"
    file.write_text('"a\\u001b[31m" = 1\n')
    with pytest.raises(UsageError) as caught:
        read_config(file)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
