"""How a set is parted, by brute force, and what it is in other forms: the same images under the same classes."""

from __future__ import annotations

import csv
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewvit.curation.converting import convert_set
from fewvit.curation.splitting import largest_remainder, shares_of, split_set
from fewvit.datasets import Dataset, Listing, open_dataset
from fewvit.errors import DataError, UsageError
from fewvit.labels import Listed

from made_images import folder_of, jpeg


def run(*words: object) -> int:
    from fewvit_cli import main

    return main.run(["data", *map(str, words)])


class Names:
    """Images by name and class alone."""

    def __init__(self, labels: list[int], classes: list[str]):
        self.ids = [f"{i}" for i in range(len(labels))]
        self.labels, self.classes, self.marking = np.array(labels), classes, None


def unbalanced(counts: tuple[int, ...] = (23, 7, 41), none: int = 5) -> Listed:
    labels = np.repeat([*range(len(counts)), -1], [*counts, none])
    return Names(np.random.default_rng(1).permutation(labels).tolist(), ["3", "7", "x"][: len(counts)])


THIRDS = {"train": Fraction(7, 10), "val": Fraction(1, 5), "test": Fraction(1, 10)}

# ---- shares


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7, 11, 53])
@pytest.mark.parametrize("text", ["a=0.8,b=0.2", "a=1", "a=1/3,b=1/3,c=1/3", "a=0.7,b=0.2,c=0.1"])
def test_parts_are_the_whole_numbers_that_are_nearest_to_the_shares(text, total):
    """Brute force: of all ways to part, largest remainders have the least sum of squared distances."""
    shares = list(shares_of(text).values())
    counts = largest_remainder(total, shares)
    ways = (way for way in itertools.product(range(total + 1), repeat=len(shares)) if sum(way) == total)
    if total > 11 and len(shares) > 2:
        ways = [tuple(counts)]
    cost = lambda way: sum((n - total * share) ** 2 for n, share in zip(way, shares, strict=True))  # noqa: E731
    assert sum(counts) == total
    assert cost(counts) == min(map(cost, ways))
    assert all(abs(n - total * share) < 1 for n, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize(
    "text", ["", "train", "train=0.8", "a=0.5,a=0.5", "a=0,b=1", "a=2,b=-1", "../x=1", "a=x,b=1", "=1"]
)
def test_a_text_that_is_no_shares_is_refused(text):
    with pytest.raises(UsageError):
        shares_of(text)


def test_each_class_and_what_has_none_are_parted_by_themselves():
    images = unbalanced()
    found = split_set(images, THIRDS, 3)
    for c in (0, 1, 2, -1):
        rows = images.labels == c
        counts = [int((found.of[rows] == part).sum()) for part in range(3)]
        assert counts == largest_remainder(int(rows.sum()), list(THIRDS.values()))


def test_other_classes_change_nothing_and_another_seed_does():
    images, alone = unbalanced(), unbalanced()
    keep = alone.labels != 1
    alone.labels = np.where(keep, alone.labels, -1)
    one, other = (split_set(each, THIRDS, 3).of for each in (images, alone))
    assert (one[images.labels == 2] == other[images.labels == 2]).all()
    assert (one != split_set(images, THIRDS, 4).of).any()


def test_groups_never_straddle_and_are_as_nearly_stratified_as_the_best_way_within_one_group():
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 47)
    groups = random.integers(0, 9, 47)
    images, shares = Names(labels.tolist(), ["3", "7"]), {"a": Fraction(2, 3), "b": Fraction(1, 3)}
    found = split_set(images, shares, 0, groups=groups)
    for group in range(9):
        assert len(set(found.of[groups == group].tolist())) == 1

    def cost(of: np.ndarray) -> float:
        return sum(
            (((of == p) & (labels == c)).sum() - float(share) * (labels == c).sum()) ** 2
            for p, share in enumerate(shares.values())
            for c in (0, 1)
        )

    every = [np.array(way)[groups] for way in itertools.product((0, 1), repeat=9)]
    best, worst = min(map(cost, every)), max(map(cost, every))
    assert cost(found.of) <= best + 0.05 * (worst - best)


def test_images_without_a_group_are_groups_of_their_own_and_part_evenly():
    images = unbalanced((20, 30, 50), 0)
    found = split_set(images, THIRDS, 1, groups=np.full(100, -1))
    for c, count in enumerate((20, 30, 50)):
        counts = [int((found.of[images.labels == c] == part).sum()) for part in range(3)]
        assert counts == [count * 7 // 10, count // 5, count // 10]


def test_shots_are_nested_of_every_class_and_from_the_first_part():
    images = unbalanced()
    found = split_set(images, THIRDS, 3, shots=(1, 2, 5))
    assert set(np.flatnonzero(found.shots)) <= set(np.flatnonzero(found.of == 0))
    for n in (1, 2, 5):
        drawn = (found.shots > 0) & (found.shots <= n)
        assert np.bincount(images.labels[drawn]).tolist() == [n, n, n]


def test_what_cannot_be_parted_is_refused_with_what_is_missing():
    few = unbalanced((23, 2, 41), 0)
    with pytest.raises(DataError, match=r"val has none of 7 \(2\); test has none of 7|val has none of 7 \(2\), test"):
        split_set(few, THIRDS, 0)
    found = split_set(few, THIRDS, 0, allow_fewer=True)
    assert np.bincount(found.of[few.labels == 1]).tolist() == [2]
    with pytest.raises(DataError, match="1 class has fewer than 11 images: 7"):
        split_set(unbalanced((23, 11, 41)), {"a": Fraction(1, 2), "b": Fraction(1, 2)}, 0, shots=[11, 1])
    with pytest.raises(DataError, match="2 groups cannot make 3 parts"):
        split_set(unbalanced((23, 7), 0), THIRDS, 0, groups=np.arange(30) % 2)


# ---- the tables


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as handle:
        return list(csv.DictReader(handle))


def test_the_tables_are_read_by_other_commands_as_the_parts_of_the_folder(tmp_path, capsys):
    root = folder_of(tmp_path / "d", {"3": 11, "7": 5})
    words = ("split", root, "--parts", "train=0.6,val=0.4", "--shots", "1,2", "--seed", "5")
    assert run(*words, "--out", tmp_path / "t" / "s.csv") == 0
    whole = rows_of(tmp_path / "t" / "s.csv")
    assert [row["path"] for row in whole] == [f"../d/{one}" for one in open_dataset(str(root)).ids]
    for part, count in (("train", {"3": 7, "7": 3}), ("val", {"3": 4, "7": 2})):
        images = open_dataset(str(tmp_path / "t" / f"s.{part}.csv"))
        assert list(images.ids) == sorted(row["path"] for row in whole if row["part"] == part)
        assert dict(zip(images.classes, np.bincount(images.labels).tolist(), strict=True)) == count
        assert images.read(0) == (tmp_path / "t" / images.ids[0]).read_bytes()
    one, two = (set(open_dataset(str(tmp_path / f"t/s.{n}-shot.csv")).ids) for n in (1, 2))
    assert one < two
    assert one == {row["path"] for row in whole if row["shots"] == "1"}
    assert run(*words, "--out", tmp_path / "again") == 0  # a folder
    assert (tmp_path / "again/train.csv").read_text() == (tmp_path / "t/s.train.csv").read_text()
    assert run(*words, "--out", tmp_path / "t" / "s.csv") == 0  # what it wrote, it may replace
    (tmp_path / "mine.val.csv").write_text("mine")
    assert run(*words, "--out", tmp_path / "mine.csv") == 2
    assert (tmp_path / "mine.val.csv").read_text() == "mine"


def test_a_column_of_a_table_keeps_patients_together(tmp_path, capsys):
    folder_of(tmp_path / "d", {"3": 20, "7": 20})
    lines = [f"d/{c}/{i:03d}.jpg,{c},p{i // 4}{c}" for c in "37" for i in range(20)]
    (tmp_path / "t.csv").write_text("path,label,patient\n" + "\n".join(lines) + "\n")
    words = ("split", tmp_path / "t.csv", "--group-column", "patient", "--parts", "a=0.6,b=0.4")
    assert run(*words, "--out", tmp_path / "s.csv") == 0
    part = {row["path"]: row["part"] for row in rows_of(tmp_path / "s.csv")}
    for c in "37":
        assert [len({part[f"d/{c}/{i:03d}.jpg"] for i in range(4 * p, 4 * p + 4)}) for p in range(5)] == [1] * 5
        assert [sum(part[f"d/{c}/{i:03d}.jpg"] == name for i in range(20)) for name in "ab"] == [12, 8]
    assert run("split", tmp_path / "d", "--group-column", "patient", "--out", tmp_path / "u.csv") == 2
    assert run("split", tmp_path / "t.csv", "--group-column", "nobody", "--out", tmp_path / "u.csv") == 3


# ---- other forms


def hostile(root: Path) -> Path:
    """A folder of two classes whose names try what names may."""
    names = [
        "plain.jpg",
        "a.b.jpg",
        "a_b.jpg",
        "with\nline.jpg",
        'comma, "quote".jpg',
        "\udcff.jpg",
        "ü.jpg",
        " x .jpg",
    ]
    names += ["same.png", "same.jpg", "<b>.jpg", "-rf.jpg", "cr\rlf.jpg"]
    for number, (folder, name) in enumerate(itertools.product(("3", "seven & 7"), names)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(jpeg(number))
    return root


def content(images: Dataset) -> dict[bytes, tuple[str, str | None]]:
    """The bytes of each image -> its id and the name of its class."""
    return {
        images.read(row): (name, images.classes[c] if c >= 0 else None)
        for row, (name, c) in enumerate(zip(images.ids, images.labels.tolist(), strict=True))
    }


FORMS = ["out", "out.zip", "out.tar", "out.csv", "out.tsv", "out.parquet", "shards"]


def convert(source: Path, out: Path) -> Dataset:
    if out.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    done = convert_set(str(source), out, Listing(), shards=out.name == "shards", per_shard=7)
    found = open_dataset(str(out))
    assert done.images == len(found)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_images_keep_their_bytes_and_classes_in_every_form_whatever_they_are_called(form, tmp_path):
    root = hostile(tmp_path / "d")
    wanted = content(open_dataset(str(root)))
    if form == "out.parquet":
        with pytest.raises(DataError, match="UTF-8"):
            convert(root, tmp_path / form)
        assert not (tmp_path / form).exists()
        for path in list(root.rglob("\udcff.jpg")):
            path.rename(path.with_name("z.jpg"))
    found = content(convert(root, tmp_path / form))
    assert {data: label for data, (_, label) in found.items()} == {data: label for data, (_, label) in wanted.items()}
    if form == "out":
        assert found == wanted
    if form == "out.zip":  # UTF-8 alone
        assert {data: (name.replace("%FF", "\udcff"), label) for data, (name, label) in found.items()} == wanted


@pytest.mark.parametrize("form", ["out", "out.zip", "out.tar", "shards"])
def test_plain_names_are_kept_and_come_back_from_shards_and_archives(form, tmp_path):
    root = folder_of(tmp_path / "d", {"3": 11, "7": 5})
    convert(root, tmp_path / form)
    back = convert(tmp_path / form, tmp_path / "back")
    assert content(back) == content(open_dataset(str(root)))
    for name in back.ids:
        assert (tmp_path / "back" / name).read_bytes() == (root / name).read_bytes()


def test_the_same_set_gives_the_same_bytes(tmp_path):
    root = folder_of(tmp_path / "d", {"3": 5, "7": 3})
    for form in ("out.zip", "out.tar"):
        for place in ("a", "b"):
            convert(root, tmp_path / place / form)
        assert (tmp_path / "a" / form).read_bytes() == (tmp_path / "b" / form).read_bytes()


def test_a_table_that_points_outside_is_written_inside(tmp_path):
    """`../x.jpg`, an absolute path and two of one name become names in the class's folder."""
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / "x.jpg", tmp_path / "y" / "x.jpg", tmp_path / "sub" / "x.jpg"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(number))
    (tmp_path / "sub" / "t.csv").write_text(f"path,label\n../x.jpg,3\n{paths[1]},3\nx.jpg,7\n")
    for form in ("out", "out.zip", "out.tar"):
        found = convert(tmp_path / "sub" / "t.csv", tmp_path / form)
        assert {label for _, label in content(found).values()} == {"3", "7"}
        assert sorted(content(found)) == sorted(path.read_bytes() for path in paths)
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jpg")) == [
        "3/x-2.jpg",
        "3/x.jpg",
        "7/x.jpg",
    ]


def test_classes_of_digits_keep_their_zeros_or_are_refused(tmp_path):
    root = folder_of(tmp_path / "d", {"007": 3, "10": 2})
    assert convert(root, tmp_path / "shards").classes == ["007", "10"]
    with pytest.raises(DataError, match="would lose its zeros"):
        convert(root, tmp_path / "out.tar")


def test_unlabelled_images_stay_so(tmp_path):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "other").mkdir()
    for number, name in enumerate(("deep/a.jpg", "other/a.jpg")):
        (tmp_path / "d" / name).write_bytes(jpeg(number))
    (tmp_path / "t.csv").write_text("path\nd/deep/a.jpg\nd/other/a.jpg\n")
    for form in FORMS:
        assert convert(tmp_path / "t.csv", tmp_path / form).labels.tolist() == [-1, -1]
    (tmp_path / "t.csv").write_text("path,label\nd/deep/a.jpg,3\nd/other/a.jpg,\n")
    with pytest.raises(DataError, match="1 image has no label"):
        convert(tmp_path / "t.csv", tmp_path / "half.zip")
    assert convert(tmp_path / "t.csv", tmp_path / "half.tar").labels.tolist() == [0, -1]


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x" * 300])
def test_a_class_that_cannot_be_a_folder_is_refused_and_a_shard_holds_it(name, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "t.csv").write_text(f"path,label\na.jpg,{name}\n")
    for form in ("out", "out.zip"):
        with pytest.raises(DataError, match="no folder can be called"):
            convert(tmp_path / "t.csv", tmp_path / form)
        assert not (tmp_path / form).exists()
    assert convert(tmp_path / "t.csv", tmp_path / "out.tar").classes == [name]


def test_images_without_a_name_of_an_image_get_the_ending_of_what_they_are(tmp_path):
    from sklearn.datasets import load_digits

    found = convert_set("digits/test", tmp_path / "out", Listing())
    assert found.images == 599
    back = open_dataset(str(tmp_path / "out"))
    truth = load_digits().target
    assert set(back.ids) == {f"{truth[row]}/{row:04d}.png" for row in range(1198, 1797)}
    with Image.open(io.BytesIO(back.read(0))) as image:
        assert image.size == (8, 8)
    with pytest.raises(DataError, match="no files of their own"):
        convert_set("digits/test", tmp_path / "out.csv", Listing())


def test_nothing_that_is_there_is_replaced_and_an_image_that_cannot_be_read_leaves_nothing(tmp_path):
    root = folder_of(tmp_path / "d", {"3": 3, "7": 2})
    (tmp_path / "out").mkdir()
    convert(root, tmp_path / "out")  # an empty folder may be filled
    (tmp_path / "there.zip").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "there.zip"):
        with pytest.raises(UsageError, match="is there already"):
            convert(root, out)
    assert (tmp_path / "there.zip").read_text() == "mine"
    before = set(tmp_path.iterdir())
    for form in ("a", "a.zip", "a.tar", "shards"):
        with pytest.raises(DataError, match="more than --max-bytes"):
            convert_set(str(root), tmp_path / form, Listing(max_bytes=700), shards=form == "shards")
    assert set(tmp_path.iterdir()) == before


KILLED = """
import sys, time
from pathlib import Path
from fewvit.curation import converting
real = converting._bytes_of
def slow(images, row):
    if row == 2:
        print("now", flush=True)
        time.sleep(60)
    return real(images, row)
converting._bytes_of = slow
from fewvit.datasets import Listing
converting.convert_set(sys.argv[1], Path(sys.argv[2]), Listing(), shards=sys.argv[2].endswith("shards"))
"""


@pytest.mark.parametrize("form", ["out", "out.zip", "out.tar", "shards"])
def test_a_kill_in_the_middle_leaves_nothing_that_could_be_taken_for_a_set_and_the_next_run_clears_up(form, tmp_path):
    root = folder_of(tmp_path / "d", {"3": 3, "7": 2})
    place = tmp_path / "to"
    words = [sys.executable, "-c", KILLED, str(root), str(place / form)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.01)
    assert not (place / form).exists()
    assert all(one.name.startswith(".") for one in place.iterdir())
    found = convert(root, place / form)
    assert len(found) == 5
    assert [one.name for one in place.iterdir()] == [form]


def test_the_command_says_what_it_wrote_and_which_names_changed(tmp_path, capsys):
    root = folder_of(tmp_path / "d", {"3": 3, "7": 2})
    (root / "3" / "a.b.jpg").write_bytes(jpeg(99))
    assert run("convert", root, "--out", tmp_path / "s", "--to", "shards", "--per-shard", 4, "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert out == "images,classes,files\n6,2,2\n"
    assert "1 image has another name there: 3/a.b.jpg is 3/a_b.jpg" in err
    assert run("convert", root, "--out", tmp_path / "s.zip", "--to", "shards") == 2
    assert run("convert", root, "--out", tmp_path / "t", "--to", "boxes") == 2
    assert run("convert", root) == 2
