"""An extraction in parts is that of one process, byte for byte; parts that do not belong together are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fewvit.errors import UsageError
from fewvit.extraction.shards import Part, part_named

from made_images import folder_of, jpeg, tiny_weights


@pytest.mark.parametrize(("total", "count"), [(0, 3), (1, 3), (13, 1), (13, 5), (101, 7), (5, 11)])
def test_parts_follow_each_other_cover_everything_once_and_differ_by_one_at_most(total, count):
    parts = [list(Part(number, count).rows(total)) for number in range(1, count + 1)]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_written_as_a_number_of_a_number():
    assert part_named("2/8") == Part(2, 8)
    assert str(Part(2, 8)) == "2/8"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "a/3", "1.5/3", ""])
def test_what_is_no_part_is_a_usage_error(text):
    with pytest.raises(UsageError, match="not a part such as 2/8"):
        part_named(text)


# ---- files of a command


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """22 images, of which two cannot be decoded and two hold the same bytes in different parts."""
    root = folder_of(tmp_path_factory.mktemp("images"), {"c3": 11, "c7": 7, "c8": 3})
    (root / "c3" / "005.jpg").write_bytes(b"no image")
    (root / "c8" / "x.jpg").write_bytes(b"no image either")
    (root / "c8" / "000.jpg").write_bytes(jpeg(0))  # as c3/000.jpg
    return root


@pytest.fixture
def extract(weights, images, capsys, tmp_path):
    """`extract(...)` runs the command in a cache of its own: exit code, stdout, stderr."""
    from fewvit_cli import main as cli

    count = iter(range(1000))

    def run(*words: object, data: object = images, more: tuple[object, ...] = ()) -> tuple[int, str, str]:
        cache = ("--cache-dir", tmp_path / f"cache{next(count)}")
        asked = ("extract", "-m", weights, "--data", data, "--img-size", 32, "--max-bad", 2, *cache, *more, *words)
        code = cli.run([str(word) for word in asked])
        return code, *capsys.readouterr()

    return run


def write_parts(extract, out, count, numbers=None, **how):
    for number in numbers or range(1, count + 1):
        code, _, err = extract("--shard", f"{number}/{count}", "--out", out, **how)
        assert code == 0, err


@pytest.mark.parametrize("count", [1, 3, 29])  # 29: some parts have no image
def test_parts_put_together_are_the_bytes_of_one_process(extract, tmp_path, count):
    code, out, err = extract("--out", tmp_path / "one.npz", "--format", "csv")
    assert code == 0, err
    write_parts(extract, tmp_path / "x.npz", count)
    assert not (tmp_path / "x.npz").exists()
    code, merged, err = extract("--merge", "--out", tmp_path / "x.npz", "--format", "csv")
    assert code == 0, err
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    assert (tmp_path / "x.skipped.jsonl").read_bytes() == (tmp_path / "one.skipped.jsonl").read_bytes()
    assert merged == out
    assert ",20," in out  # 22 images without the two


def test_every_part_computes_its_own_images_alone(extract, tmp_path):
    computed = []
    for number in (1, 2, 3):
        code, out, err = extract("--shard", f"{number}/3", "--out", tmp_path / "x.npz", "--format", "json")
        assert code == 0, err
        result = json.loads(out)
        computed.append((result["run"]["images"], result["rows"][0]["value"], result["rows"][0]["shard"]))
    assert computed == [(7, 6, "1/3"), (7, 7, "2/3"), (8, 7, "3/3")]


def test_missing_parts_are_listed_and_nothing_is_written(extract, tmp_path):
    out = tmp_path / "x.npz"
    code, _, err = extract("--merge", "--out", out)
    assert code == 4
    assert "no shard of it is there" in err
    write_parts(extract, out, 7, numbers=[2, 6])
    (tmp_path / "x.shard-6-of-7.json").unlink()  # the kill came between the two files
    code, _, err = extract("--merge", "--out", out)
    assert code == 4
    assert "6 of 7 shards cannot be put together; missing: 1, 3-7" in err
    assert not out.exists()


def test_parts_of_other_features_other_images_and_damaged_ones_are_listed(extract, images, tmp_path):
    import shutil

    out = tmp_path / "x.npz"
    write_parts(extract, out, 5, numbers=[1, 4])
    write_parts(extract, out, 5, numbers=[2], more=("--pool", "mean"))
    other = shutil.copytree(images, tmp_path / "other")
    (other / "c7" / "003.jpg").rename(other / "c7" / "new.jpg")
    write_parts(extract, out, 5, numbers=[3], data=other)
    damaged = tmp_path / "x.shard-4-of-5.npz"
    content = bytearray(damaged.read_bytes())
    content[-300] ^= 1
    damaged.write_bytes(content)
    write_parts(extract, out, 5, numbers=[5])
    shutil.copy(tmp_path / "x.shard-1-of-5.npz", tmp_path / "x.shard-5-of-5.npz")
    shutil.copy(tmp_path / "x.shard-1-of-5.json", tmp_path / "x.shard-5-of-5.json")  # a part under another's name
    code, _, err = extract("--merge", "--out", out)
    assert code == 4
    assert "4 of 5 shards" in err
    assert "of other features (another fingerprint): 2" in err
    assert "of another listing of images: 3" in err
    assert "damaged: 4-5" in err
    assert not out.exists()


def test_parts_of_two_counts_are_refused(extract, tmp_path):
    out = tmp_path / "x.npz"
    write_parts(extract, out, 2)
    write_parts(extract, out, 3, numbers=[2])
    code, _, err = extract("--merge", "--out", out)
    assert code == 4
    assert "of 2: 1-2; of 3: 2" in err


def test_of_the_whole_set_so_many_may_be_undecodable_as_are_allowed(extract, tmp_path):
    out = tmp_path / "x.npz"
    write_parts(extract, out, 22, more=("--max-bad", "1"))  # each part has one at most
    code, _, err = extract("--merge", "--out", out, "--max-bad", "1")
    assert code == 3
    assert "2 of 22 images" in err
    code, _, err = extract("--shard", "1/1", "--out", out, "--max-bad", "1")
    assert code == 3
    assert extract("--merge", "--out", out, "--max-bad", "2")[0] == 0


def test_a_part_without_out_fills_the_cache_for_the_whole(weights, images, fewvit_line, tmp_path):
    words = ("extract", "-m", weights, "--data", images, "--img-size", 32, "--max-bad", 2, "--format", "json")
    words = (*words, "--cache-dir", tmp_path / "cache")
    for number in (2, 1):
        assert fewvit_line(*words, "--shard", f"{number}/2")[0] == 0
    found = json.loads(fewvit_line(*words)[1])["run"]
    assert (found["computed"], found["cached"], found["skipped"]) == (0, 20, 2)


@pytest.fixture
def fewvit_line(capsys):
    from fewvit_cli import main as cli

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def test_what_does_not_go_together_is_a_usage_error(extract, monkeypatch, tmp_path):
    out = ("--out", tmp_path / "x.npz")
    assert extract("--shard", "1/2", "--merge", *out)[0] == 2
    assert extract("--merge")[0] == 2
    assert extract("--shard", "3/2", *out)[0] == 2
    write_parts(extract, tmp_path / "x.npz", 1)
    (tmp_path / "x.shard-1-of-1.npz").rename(tmp_path / "features.npz")
    code, _, err = extract("--shard", "1/2", *out, data=tmp_path / "features.npz")
    assert (code, "features already" in err) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, _, err = extract("--shard", "1/2", *out)
    assert (code, "torchrun" in err) == (2, True)


# ---- torchrun


@pytest.mark.slow
def test_two_processes_of_torchrun_write_the_one_file_and_the_first_alone_speaks(extract, weights, images, tmp_path):
    assert extract("--out", tmp_path / "one.npz")[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "fewvit_cli.main"]
    words = ("extract", "-m", weights, "--data", images, "--img-size", 32, "--max-bad", 2, "--format", "json")
    words = (*words, "--out", tmp_path / "two.npz", "--no-cache")
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}  # torchrun would set 1
    done = subprocess.run(
        [*launch, *map(str, words)], capture_output=True, text=True, timeout=280, env={**os.environ, **threads}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["value"] == 20  # one object
    assert done.stderr.count("wrote 20 rows") == 1
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
