"""What travels to a GPU for the next bundled backbone, and when that one takes today's place.

`make gpu-pretrain ARGS=--rehearse` runs the whole of it on a CPU.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from benchmarks.carried import ARCHIVES, LIMIT, Few, pack, unpack
from benchmarks.gpu_pretrain import RECIPE, TODAY, Verdict, keep, verdict
from fewvit.backbones import family_of
from fewvit.methods import find_method

ROOT = Path(__file__).resolve().parents[1]


def archives(folder: Path, seed: int = 3, shuffled: bool = False) -> Path:
    """Three zip archives of files that begin alike, as small JPEG files do."""
    folder.mkdir(parents=True)
    stream = random.Random(seed)
    for name in ARCHIVES:
        files = {f"set/{c}/{i}.jpg": b"tables" * 100 + stream.randbytes(50) for c in "abc" for i in range(5)}
        order = sorted(files, key=lambda one: hashlib.md5(one.encode()).digest()) if shuffled else sorted(files)
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("set/", b"")
            for one in order:
                archive.writestr(one, files[one])
    return folder


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist() if not info.is_dir()}


def test_what_is_packed_comes_out_again_byte_for_byte(tmp_path):
    source = archives(tmp_path / "data")
    pack(source, tmp_path / "carried.tar.xz")
    unpack(tmp_path / "carried.tar.xz", tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == sorted(ARCHIVES)
    for name in ARCHIVES:
        assert contents(tmp_path / "there" / name) == contents(source / name)
        assert len(contents(source / name)) == 15


def test_the_same_images_pack_and_unpack_to_the_same_bytes_whenever_and_in_whatever_order_they_lay(tmp_path):
    sources = [archives(tmp_path / "one"), archives(tmp_path / "other", shuffled=True)]
    assert (sources[0] / ARCHIVES[0]).read_bytes() != (sources[1] / ARCHIVES[0]).read_bytes()
    files = [tmp_path / f"{i}.tar.xz" for i in range(2)]
    for i, (source, file) in enumerate(zip(sources, files, strict=True)):
        pack(source, file)
        unpack(file, tmp_path / f"there{i}")
    assert files[0].read_bytes() == files[1].read_bytes()
    for name in ARCHIVES:
        assert (tmp_path / "there0" / name).read_bytes() == (tmp_path / "there1" / name).read_bytes()


def test_tables_that_files_share_are_packed_once(tmp_path):
    assert pack(archives(tmp_path / "data"), tmp_path / "carried.tar.xz") < 45 * (50 + 6 * 100) / 3


def test_more_than_may_travel_is_refused_and_nothing_is_left(tmp_path):
    source = archives(tmp_path / "data")
    size = pack(source, tmp_path / "carried.tar.xz", limit=10**6)
    assert size == (tmp_path / "carried.tar.xz").stat().st_size
    assert pack(source, tmp_path / "again.tar.xz", limit=size) == size
    with pytest.raises(SystemExit, match=r"may travel; nothing was written"):
        pack(source, tmp_path / "out" / "carried.tar.xz", limit=size - 1)
    assert list((tmp_path / "out").iterdir()) == []
    assert LIMIT <= 60_000_000


def test_an_archive_that_is_not_there_is_named(tmp_path):
    source = archives(tmp_path / "data")
    (source / ARCHIVES[1]).unlink()
    with pytest.raises(SystemExit, match=ARCHIVES[1]):
        pack(source, tmp_path / "carried.tar.xz")


def test_a_rehearsal_takes_the_first_images_of_the_first_folders(tmp_path):
    pack(archives(tmp_path / "data"), tmp_path / "carried.tar.xz", few={ARCHIVES[0]: Few(2, 3)})
    unpack(tmp_path / "carried.tar.xz", tmp_path / "there")
    assert sorted(contents(tmp_path / "there" / ARCHIVES[0])) == [f"set/{c}/{i}.jpg" for c in "ab" for i in range(3)]
    assert len(contents(tmp_path / "there" / ARCHIVES[1])) == 15


def test_what_was_unpacked_before_stays_and_half_an_archive_is_none(tmp_path):
    pack(archives(tmp_path / "data"), tmp_path / "carried.tar.xz")
    there = tmp_path / "there"
    there.mkdir()
    (there / f"{ARCHIVES[0]}.part").write_bytes(b"half of it")
    unpack(tmp_path / "carried.tar.xz", there)
    assert len(contents(there / ARCHIVES[0])) == 15
    stamps = [(there / name).stat().st_mtime_ns for name in ARCHIVES]
    unpack(tmp_path / "carried.tar.xz", there)
    assert [(there / name).stat().st_mtime_ns for name in ARCHIVES] == stamps


@pytest.mark.parametrize(
    ("today", "new", "better"),
    [
        ({"a": 3.0, "b": 7.0}, {"a": 3.1, "b": 7.1}, ("a", "b")),
        ({"a": 3.0, "b": 7.0}, {"b": 9.0, "a": 2.9}, ("b",)),
        ({"a": 3.0, "b": 7.0}, {"a": 3.0, "b": 9.0}, ("b",)),  # equal is not better
        ({"a": 3.0}, {"a": float("nan")}, ()),
        ({}, {}, ()),
    ],
)
def test_only_what_is_better_in_every_row_is_to_be_bundled(today, new, better):
    found = verdict(today, new)
    assert found.better == better
    assert set(found.others) == set(today) - set(better)
    assert found.bundle is (0 < len(today) == len(better))
    assert ("bundle it" in str(found)) is found.bundle


def test_columns_of_other_rows_are_not_compared():
    with pytest.raises(ValueError, match="only one of the two has b, c"):
        verdict({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})


def test_the_verdict_names_the_rows_that_are_in_the_way():
    assert str(Verdict(("a",), ("b", "c"))) == ("better in 1 of 3 rows: leave fewvit_tiny as it is. Not in b, c")


def test_what_is_kept_is_what_the_bundling_script_takes(tmp_path):
    (tmp_path / "work" / "run" / "checkpoints").mkdir(parents=True)
    for name in ("run/encoder.safetensors", "run/manifest.json", "run/result.json", "run/log.jsonl", "verdict.json"):
        (tmp_path / "work" / name).write_bytes(name.encode())
    keep(tmp_path / "work", tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == sorted(
        ["run/encoder.safetensors", "run/log.jsonl", "run/manifest.json", "run/result.json", "verdict.json"]
    )


def test_the_recipe_is_the_bundled_networks_own_on_options_that_there_are():
    given = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    assert set(given) == {"preset", "batch-size", "precision", "seed"}
    assert find_method("mae").presets[given["preset"]].architecture == family_of("mae").variants[TODAY].architecture


def test_packed_images_are_nothing_that_git_takes():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert "/runs/" in ignored  # where both scripts write


def test_without_a_gpu_it_says_so_and_ends_well():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_pretrain", "--carried", "nothing"],
        cwd=ROOT,
        env={"PYTHONPATH": ".", "CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "no GPU here" in done.stdout


def test_the_command_line_of_a_checkout_is_found_where_it_is_not_installed():
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *more: None if name == 'fewvit_cli' else find(name, *more); "
        "from benchmarks.uninstalled import ensure_command_line; ensure_command_line(); "
        "import fewvit_cli.main; print(fewvit_cli.main.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": ".", "PATH": ""}, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(ROOT / "cli" / "main.py"), done.stderr
