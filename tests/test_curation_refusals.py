"""What `data check`, `split` and `convert` do not do in silence: lose, replace, leave behind, write among images."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import pytest
from made_sets import jpeg as coloured
from made_sets import png, real_json, val_name, write

from fewvit.curation.splitting import shares_of
from fewvit.datasets import Listing, open_dataset
from fewvit.errors import UsageError
from fewvit.public_sets._imagenet import synsets

from made_images import folder_of, jpeg


def run(*words: object) -> int:
    from fewvit_cli import main

    return main.run(["data", *map(str, words)])


@pytest.fixture
def images(tmp_path) -> Path:
    return folder_of(tmp_path / "images", {"3": 7, "7": 5})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def split(source: object, out: object, parts: str = "a=0.6,b=0.4", *words: object) -> int:
    return run("split", source, "--parts", parts, "--out", out, *words)


# ---- sets whose predictions are marked otherwise


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> dict[str, str]:
    """Sources with several right labels, and with classes that alone may be answered."""
    root = tmp_path_factory.mktemp("marked")
    lists = {n: [3, 7] for n in range(1, 6)}
    several = write(
        root / "real", {**{f"val/{val_name(n)}": coloured(n) for n in lists}, "real.json": real_json(lists)}
    )
    few = write(root / "r", {f"{one}/x.png": png(0) for one in synsets("imagenet_r")})
    return {"imagenet-real": f"imagenet-real:{several}", "imagenet-r": f"imagenet-r:{few}"}


@pytest.mark.parametrize("name", ["imagenet-real", "imagenet-r"])
@pytest.mark.parametrize("words", [("convert", "--out", "t.csv"), ("convert", "--out", "t"), ("split", "--out", "t")])
def test_a_set_that_is_marked_otherwise_is_not_written_as_one_of_plain_labels(name, words, marked, tmp_path, capsys):
    verb, flag, out = words
    assert run(verb, marked[name], *(["--allow-fewer"] if verb == "split" else []), flag, tmp_path / out) == 2
    assert "marked otherwise" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---- tables of one name, and those of an earlier split


@pytest.mark.parametrize(
    ("parts", "out"), [("1-shot=0.5,b=0.5", "q.csv"), ("split=0.5,b=0.5", "dir"), ("B=0.5,b=0.5", "q.csv")]
)
def test_two_tables_of_one_name_are_refused_before_anything_is_written(parts, out, images, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    assert split(images, tmp_path / out, parts, "--shots", "1") == 2
    assert "two tables would have one name" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("out", "table"), [("s.csv", "s.{}.csv"), ("s", "s/{}.csv")])
def test_another_split_into_the_same_place_takes_its_old_tables_away_and_no_others(
    out, table, images, tmp_path, capsys
):
    place = lambda name: tmp_path / table.format(name)  # noqa: E731
    assert split(images, tmp_path / out, "train=0.6,val=0.4", "--shots", "1,2") == 0
    place("mine").write_text("path,label\nx.jpg,3\n")
    place("val").write_text(place("val").read_text() + "added.jpg,3\n")  # changed since
    place("3-shot").write_text("my own")
    capsys.readouterr()
    assert split(images, tmp_path / out, "tr=0.6,va=0.4", "--shots", "2") == 0
    err = capsys.readouterr().err
    assert not place("train").exists()
    assert not place("1-shot").exists()
    assert "removed of an earlier split: " in err
    assert place("train").name in err
    assert "left, as it is no longer what the earlier split wrote: " in err
    assert "added.jpg" in place("val").read_text()
    assert place("mine").read_text() == "path,label\nx.jpg,3\n"
    assert place("3-shot").read_text() == "my own"
    assert place("tr").exists()
    assert place("va").exists()


@pytest.mark.parametrize(("out", "table"), [("s.csv", "s.{}.csv"), ("s", "s/{}.csv")])
def test_a_foreign_table_beside_a_split_of_ours_is_not_replaced(out, table, images, tmp_path):
    assert split(images, tmp_path / out) == 0
    (tmp_path / table.format("mine")).write_text("path,label\nx.jpg,3\n")
    before = tree(tmp_path)
    assert split(images, tmp_path / out, "mine=0.6,b=0.4") == 2
    assert tree(tmp_path) == before


def test_a_table_of_all_images_that_is_none_of_ours_is_not_replaced(images, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/split.csv").write_text("shots,trial,id,label\n")
    assert split(images, tmp_path / "s") == 2
    assert tree(tmp_path / "s") == {"split.csv": b"shots,trial,id,label\n"}


def test_a_split_that_was_ended_in_the_middle_goes_through_again(images, tmp_path, capsys):
    assert split(images, tmp_path / "s.csv") == 0
    (tmp_path / "s.csv").unlink()  # it is written last
    assert split(images, tmp_path / "s.csv") == 0
    (tmp_path / "s.csv").unlink()
    assert split(images, tmp_path / "s.csv", "a=0.4,b=0.6") == 2


@pytest.mark.parametrize("parts", ["a=0.6,c=0.4", "x=0.6,c=0.4"])
def test_a_part_that_is_parted_itself_is_not_replaced_or_removed(parts, images, tmp_path, capsys):
    assert split(images, tmp_path / "s.csv", "a=0.8,b=0.2") == 0
    before = tree(tmp_path)
    assert split(tmp_path / "s.a.csv", tmp_path / "s.csv", parts) == 2
    assert "which is read" in capsys.readouterr().err
    assert tree(tmp_path) == before


# ---- places


@pytest.mark.parametrize("out", ["back", "3/back", "back.zip", "back.tar", "back.csv"])
def test_nothing_is_converted_into_its_own_source(out, images, capsys):
    before = tree(images)
    assert run("convert", images, "--out", images / out) == 2
    assert "lies among the images of SRC" in capsys.readouterr().err
    assert tree(images) == before


def test_a_folder_of_parts_does_not_lie_among_the_images_and_a_table_may(images, capsys):
    assert split(images, images / "parts") == 2
    assert split(images, images / "parts.csv") == 0
    assert list(open_dataset(str(images)).classes) == ["3", "7"]


@pytest.mark.parametrize("out", ["x.tgz", "x.png", "x.tar.gz", "x.json", "x.7z", "x.zip/"])
def test_an_ending_that_no_form_has_is_refused_with_those_that_there_are(out, images, tmp_path, capsys):
    assert run("convert", images, "--out", f"{tmp_path}/{out}") == 2
    assert ".csv, .tsv, .parquet, .zip, .tar" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("out", ["plain", "v1.0", "x.tgz/"])
def test_a_folder_is_a_name_without_an_ending_or_one_with_a_slash_behind_it(out, images, tmp_path):
    assert run("convert", images, "--out", f"{tmp_path}/{out}") == 0
    assert len(open_dataset(str(tmp_path / out))) == 12


def test_a_check_and_parts_have_the_endings_that_their_help_names(images, tmp_path, capsys):
    assert run("check", images, "--out", tmp_path / "x.gif") == 2
    assert ".html, .htm, .csv, .json" in capsys.readouterr().err
    assert split(images, tmp_path / "x.txt") == 2
    assert "a name without an ending" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["images"]


def test_ground_truth_is_written_as_json_alone(tmp_path):
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(b"never read")
    (tmp_path / "t.csv").write_text("mine")
    for out in ("t.csv", "new.csv", "folder"):
        assert run("convert", tmp_path / "gnd_roxford5k.pkl", "--out", tmp_path / out) == 2
    assert (tmp_path / "t.csv").read_text() == "mine"


# ---- links that lead nowhere


def test_a_link_to_itself_is_a_bad_file_and_hides_no_other(images, tmp_path, capsys):
    for name in ("3/loop.jpg", "loop.jpg", "round", "gone1.jpg", "gone2.jpg", "gone3.jpg"):
        os.symlink(os.path.basename(name) if "gone" not in name else "nothing", images / name)
    assert run("check", images, "--save-list", tmp_path / "l.csv", "--out", tmp_path / "p.html") == 0
    with open(tmp_path / "l.csv", newline="") as handle:
        found = {row["id"]: row["reason"] for row in csv.DictReader(handle) if row["check"] == "bad file"}
    assert sorted(found) == ["3/loop.jpg", "gone1.jpg", "gone2.jpg", "gone3.jpg", "loop.jpg", "round"]
    assert set(found.values()) == {"broken link"}
    assert run("check", images, "--strict") == 3
    assert run("check", folder_of(tmp_path / "other", {"3": 5}), "--against", images, "--strict") == 3
    capsys.readouterr()
    assert run("convert", images, "--out", tmp_path / "out") == 0
    assert "6 left out (broken link): 3/loop.jpg, gone1.jpg, gone2.jpg …" in capsys.readouterr().err
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    assert run("check", tmp_path / "loop.jpg") == 3  # the source itself


# ---- words


def test_the_column_of_groups_is_named_as_its_option_and_is_not_left_unread(images, tmp_path, capsys):
    lines = [f"images/{name},{name[0]},p{row},x" for row, name in enumerate(open_dataset(str(images)).ids)]
    (tmp_path / "t.csv").write_text("path,label,Patient,note\n" + "\n".join(lines) + "\n")
    words = ("--group-column", "patient", "--allow-fewer")
    assert split(tmp_path / "t.csv", tmp_path / "s.csv", "a=0.6,b=0.4", *words) == 0
    err = capsys.readouterr().err
    assert "column left unread: note\n" in err
    assert "Patient" not in err
    assert split(tmp_path / "t.csv", tmp_path / "u.csv", "a=0.6,b=0.4", "--group-column", "nobody") == 3
    err = capsys.readouterr().err
    assert "no column nobody" in err
    assert "--group-column" in err
    assert "--label-column" not in err


@pytest.mark.parametrize("out", ["t.csv", "t.zip", "t.tar"])
def test_what_is_there_is_said_to_be_there_whatever_it_is(out, images, tmp_path, capsys):
    (tmp_path / out).write_text("mine")
    assert run("convert", images, "--out", tmp_path / out) == 2
    err = capsys.readouterr().err
    assert "is there already, and nothing is replaced" in err
    assert "ground truth" not in err
    assert (tmp_path / out).read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a=1e-400,b=1", "'a=1e-400' is no new NAME=SHARE, with a share above 0"),
        ("a=1e-999999999,b=1", "with a share above 0"),  # would take all memory as a fraction
        ("a=1e-20,b=1", "a little more than 1"),
        ("a=0.99999999999", "a little less than 1"),
        ("a=0.5,b=0.6", "add up to 1.1, not to 1"),
    ],
)
def test_shares_that_are_too_small_or_miss_one_by_a_little_are_told_as_that(text, told):
    with pytest.raises(UsageError, match=told):
        shares_of(text)


def test_a_class_with_a_nul_character_is_refused_for_that(images, tmp_path, capsys):
    with open(tmp_path / "t.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([["path", "label"], ["images/3/000.jpg", "\0z"]])
    assert run("convert", tmp_path / "t.csv", "--out", tmp_path / "u.csv") == 3
    assert "NUL" in capsys.readouterr().err


def test_the_help_of_check_says_that_without_a_backbone_nothing_goes_by_features(capsys):
    assert run("check", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Default: dino_vits16" not in text
    assert "Default: none" in text


# ---- names that leave their place, and names that become one


def test_members_that_leave_the_archive_are_told_and_nothing_is_written_outside(tmp_path, capsys):
    hostile = [
        "../x.png",
        "../../y.png",
        f"{tmp_path}/abs.png",
        "b/../../z.png",
        "b/../../../q.png",
    ]
    plain = ["a/1.png", "a/1.jpg", "b/1.png"]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for number, name in enumerate([*plain, *hostile]):
            archive.writestr(name, jpeg(number))
    (tmp_path / "deep/er").mkdir(parents=True)
    for form in ("out", "out.zip", "out.tar"):
        assert run("convert", tmp_path / "evil.zip", "--out", tmp_path / "deep/er" / form) == 0
        assert "name that leaves the archive" in capsys.readouterr().err
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        ["evil.zip", "deep/er/out.zip", "deep/er/out.tar"]
        + [f"deep/er/out/{name}" for name in tree(tmp_path / "deep/er/out")]
    )
    inside = tree(tmp_path / "deep/er/out")
    assert inside == {name: jpeg(number) for number, name in enumerate(plain)}
    with zipfile.ZipFile(tmp_path / "deep/er/out.zip") as archive:
        assert not [one for one in archive.namelist() if one.startswith("/") or ".." in one.split("/")]


def test_a_name_that_stands_twice_in_an_archive_loses_no_image_in_silence(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a/1.png", jpeg(0))
        archive.writestr("b/1.png", jpeg(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/1.png", jpeg(2))
    code = run("convert", tmp_path / "twice.zip", "--out", tmp_path / "out")
    err = capsys.readouterr().err
    assert code == 3 or len(tree(tmp_path / "out")) == 3 or "left out" in err


def test_names_that_would_be_one_in_a_shard_stay_two(tmp_path):
    from fewvit.curation.converting import convert_set

    names = ["a.b.jpg", "a_b.jpg", "a_b-2.jpg", "a.b.png", "a_b.jpg.png"]
    (tmp_path / "d/3").mkdir(parents=True)
    for number, name in enumerate(names):
        (tmp_path / "d/3" / name).write_bytes(jpeg(number))
    for form in ("s.tar", "s"):
        done = convert_set(str(tmp_path / "d"), tmp_path / form, Listing(), shards=form == "s", per_shard=2)
        found = open_dataset(str(tmp_path / form))
        assert {found.read(row) for row in range(len(found))} == {jpeg(number) for number in range(len(names))}
        assert {id_ for id_, _ in done.changed} >= {"3/a.b.jpg", "3/a.b.png"}
