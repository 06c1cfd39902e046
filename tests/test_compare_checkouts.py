"""What compare_checkouts.py takes for equal and what not; that its commands can be chosen by group."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewvit_cli.main import COMMANDS

from comparison.commands import Command, all_commands, chosen
from comparison.differences import compare, computed_again, file_difference, store_difference
from comparison.differences import without_counts as counts_aside
from comparison.differences import without_volatile as clocks_aside
from comparison.inputs import write_weights
from comparison.lanes import Lane, Outcome, cut_short

# ---- the commands


def test_every_command_of_fewvit_is_compared_but_those_that_tell_of_the_machine():
    assert {command.words[0] for command in all_commands() if not command.fails} >= set(COMMANDS) - {"demo", "doctor"}


def test_names_are_unique_and_each_group_reads_only_what_it_wrote():
    names = [command.name for command in all_commands()]
    assert len(names) == len(set(names))
    for quick in (False, True):
        written: dict[str, set[str]] = {}
        for command in chosen(quick=quick, groups=(), has_shared=True):
            flags = zip(command.words, command.words[1:], strict=False)
            outputs = {value for flag, value in flags if flag.startswith(("--out", "--save", "--cache", "--index"))}
            mine = written.setdefault(command.group, set())
            for word in command.words:
                if word.startswith("out/") and word not in outputs:
                    assert any(word == one or word.startswith(f"{one}/") for one in mine), command.name
            mine |= outputs


def test_groups_are_chosen_by_name_and_the_one_that_needs_the_shared_folder_is_left_out_without_it():
    assert {command.group for command in chosen(quick=False, groups=["knn", "fit"], has_shared=True)} == {"knn", "fit"}
    everything = {command.group for command in chosen(quick=True, groups=(), has_shared=True)}
    assert everything - {command.group for command in chosen(quick=True, groups=(), has_shared=False)} == {"parity"}
    with pytest.raises(ValueError, match="no group kn;"):
        chosen(quick=False, groups=["kn"], has_shared=True)


# ---- texts

RUN = """{
 "rows": [
  {"value": 47.5}
 ],
 "run": {
  "seconds": {
   "extract": 1.25,
   "fit": 3e-05
  },
  "images": 7,
  "computed": 7,
  "cached": 0,
  "images_per_second": 88.1
 }
}"""


@pytest.mark.parametrize(("before", "now"), [("1.25", "81.5"), ("3e-05", "0.1"), ("88.1", "2210.0")])
def test_what_a_clock_said_is_no_difference(before, now):
    assert clocks_aside(RUN.replace(before, now)) == clocks_aside(RUN)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("47.5", "47.6"),
        ('"images": 7', '"images": 8'),
        ('"fit"', '"solve"'),
        ('"computed": 7', '"computed": 6'),
        (": 88.1", ": null"),
    ],
)
def test_any_other_number_and_any_key_is_one(before, now):
    assert clocks_aside(RUN.replace(before, now)) != clocks_aside(RUN)


def test_where_the_cache_is_full_only_the_counts_of_what_came_from_it_may_differ():
    fed = RUN.replace(',\n  "images_per_second": 88.1', "")
    fed = fed.replace('"computed": 7,\n  "cached": 0', '"computed": 0,\n  "cached": 7')
    assert fed.count("7") == RUN.count("7")
    assert counts_aside(fed) == counts_aside(RUN)
    assert counts_aside(fed.replace("47.5", "47.6")) != counts_aside(RUN)


# ---- files


@pytest.fixture
def lanes(tmp_path):
    """Two lanes in which one command gave the same."""
    pair = [Lane(name, tmp_path, tmp_path, {0}) for name in ("old", "new")]
    for lane in pair:
        lane.prepare()
        lane.outcomes["knn/a"] = Outcome(0, RUN, "3 images/s\nwrote it\n", 1.0, ["out/x.json"])
        facts = {"name": f"{lane.folder}/in/weights.pth", "bundle_sha256": lane.name}
        (lane.folder / "out/x.json").write_text(json.dumps(facts))
    return pair


COMMAND = Command("knn/a", ("knn",))


def test_two_lanes_are_equal_whatever_their_folders_are_called(lanes):
    found = compare(COMMAND, *lanes, clocks_aside)
    assert (found.differences, found.notes) == ([], [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"code": 3, "stderr": "fewvit: nothing there\n"}, ["exit 0 -> 3: fewvit: nothing there"]),
        ({"stdout": RUN.replace("47.5", "47.6")}, ["stdout: line 3: '  {\"value\": 47.5}' -> '  {\"value\": 47.6}'"]),
        ({"stderr": "9 images/s\nwrote it\n"}, []),
        ({"stderr": "wrote that\n"}, []),
        ({"files": ["out/x.json", "out/y.json"]}, ["out/y.json: only the new one is there"]),
        ({"files": ["out/removed later"]}, []),
    ],
)
def test_what_a_command_did_otherwise_is_named(lanes, change, told):
    for name, value in change.items():
        setattr(lanes[1].outcomes["knn/a"], name, value)
    (lanes[1].folder / "out/y.json").write_text("{}")
    assert compare(COMMAND, *lanes, clocks_aside).differences == told


def test_other_words_on_stderr_are_a_note_and_of_a_command_that_fails_a_difference(lanes):
    lanes[1].outcomes["knn/a"].stderr = "wrote that\n"
    told = ["stderr: line 1: 'wrote it' -> 'wrote that'"]
    assert compare(COMMAND, *lanes, clocks_aside).notes == told
    assert compare(Command("knn/a", ("knn",), "!"), *lanes, clocks_aside).differences == told


def test_a_bit_of_an_array_or_tensor_is_seen_and_its_name_told(tmp_path):
    arrays = {"labels": np.array([3, 7, 3]), "features": np.ones((3, 5), np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    arrays["features"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    np.savez(tmp_path / "b.npz", **arrays)
    assert file_difference(tmp_path / "a.npz", tmp_path / "b.npz", str) == "features: 1 of 15 values, by up to 1.2e-07"
    write_weights(tmp_path / "a.safetensors", depth=1)
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "b.safetensors").write_bytes(content)
    pair = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert file_difference(*pair, str).startswith("blocks.0.mlp.fc2.bias: 1 of 64 values")
    assert file_difference(pair[0], pair[0], str) == ""


def test_a_bundle_may_name_another_folder_and_so_have_another_digest_but_no_other_tensor(lanes):
    """The digest in its header is of the rest, paths included."""
    for lane, digest in zip(lanes, "37", strict=True):
        manifest = json.dumps({"backbone": f"{lane.folder}/in/dino.pth", "sha256": digest * 64, "threshold": 0.5})
        tensor = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
        header = json.dumps({"__metadata__": {"fewvit.bundle": manifest}, "w": tensor}).encode()
        (lane.folder / "out/a.bundle").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
        lane.outcomes["knn/a"].files = ["out/a.bundle"]
    assert compare(COMMAND, *lanes, clocks_aside).differences == []
    file = lanes[1].folder / "out/a.bundle"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"d")
    assert compare(COMMAND, *lanes, clocks_aside).differences == ["out/a.bundle: w: 1 of 3 values"]
    file.write_bytes(whole.replace(b"0.5", b"0.6"))
    assert "0.6" in compare(COMMAND, *lanes, clocks_aside).differences[0]


def shard(folder, name, digests, features):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}.npy", np.array(features, np.float32))
    (folder / f"{name}.rows").write_bytes(b"{}\n" + b"".join(bytes([d]) * 32 + b"\0\0" for d in digests))


def test_a_feature_store_is_its_rows_not_its_shards(tmp_path):
    shard(tmp_path / "a", "x", [3, 7, 5], [[1, 2], [3, 4], [5, 6]])
    shard(tmp_path / "b", "y", [5], [[5, 6]])
    shard(tmp_path / "b", "z", [7, 3], [[3, 4], [1, 2]])
    assert store_difference(tmp_path / "a", tmp_path / "b") == ""
    shard(tmp_path / "b", "y", [5], [[5, 9]])
    assert store_difference(tmp_path / "a", tmp_path / "b") == "features of 1 of 3 images, first 050505050505"
    shard(tmp_path / "b", "y", [6], [[5, 6]])
    assert store_difference(tmp_path / "a", tmp_path / "b") == "features of 3 -> 3 images, 2 of them the same"


def test_what_was_computed_again_is_told_unless_nothing_was_to_be_kept():
    files = ["cache/features/k/s.rows", "cache/features/new/s.rows", "cache/digests/d.bin", "out/x"]
    outcome = Outcome(0, '"computed": 4,\n"computed": 1', "", 1.0, files)
    known = {"cache/features/k/s.rows"}
    told = ["new in the cache: cache/features/new/s.rows", "5 features were computed again"]
    assert computed_again(COMMAND, outcome, known) == told
    assert computed_again(Command("knn/a", ("knn", "--no-cache")), outcome, {*known, files[1]}) == []


def test_a_run_that_is_cut_short_keeps_its_last_checkpoint_but_one(tmp_path):
    kept = ["manifest.json", "log.jsonl", "checkpoints/step-000000002.json", "checkpoints/step-000000002.safetensors"]
    gone = [
        "result.json",
        "encoder.safetensors",
        "classifier.bundle",
        "checkpoints/step-000000003.json",
        "checkpoints/step-000000003.safetensors",
    ]
    (tmp_path / "checkpoints").mkdir()
    for name in kept + gone:
        (tmp_path / name).touch()
    cut_short(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == sorted(kept)
