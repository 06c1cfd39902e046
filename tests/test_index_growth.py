"""Images that come, go, move, change and fail: what `add` makes of them, against an index built anew."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from fewvit.datasets import Listing
from fewvit.errors import BadImages, DataError, FingerprintMismatch, NumericalError
from fewvit.evaluate.inputs import Backbones, FeatureReader
from fewvit.extraction.cache import Cache
from fewvit.extraction.pipeline import FeatureOptions
from fewvit.extraction.work import Work
from fewvit.features import FeatureSet
from fewvit.models.spec import Access
from fewvit.retrieval import adding, growth
from fewvit.retrieval.describe import change_facts, found_rows, index_facts
from fewvit.retrieval.folder import IndexFolder
from fewvit.retrieval.growth import Changes, Wish
from fewvit.retrieval.index import ImageIndex, add_images, build_index
from fewvit.retrieval.opened import OpenIndex
from fewvit.retrieval.parts import in_order, part_rows
from fewvit.retrieval.pictures import Pictures
from fewvit.retrieval.segment import UNKNOWN

from made_images import folder_of, jpeg
from made_indexes import PART, D, built, random_rows, source_of

SIZE = "32"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def reader(cache):
    """`reader()` makes features with fewvit_tiny; keywords change it. Its notes are in `reader.lines`."""
    lines: list[str] = []

    def make(*, max_bad: str = "50%", no_cache: bool = False, size: str = SIZE) -> FeatureReader:
        return FeatureReader(
            Backbones(["fewvit_tiny"], Access(cache)),
            FeatureOptions(img_size=size, device="cpu"),
            None if no_cache else Cache(cache),
            Work(max_bad=max_bad),
            notify=lines.append,
        )

    make.lines = lines
    return make


@pytest.fixture
def images(tmp_path):
    """17 images of two classes, old enough that their time stamps are believed."""
    root = folder_of(tmp_path / "images", {"hens": 7, "oxen": 10})
    return root


@pytest.fixture
def index(images, tmp_path, reader):
    build_index(tmp_path / "index", str(images), reader(), Wish(), Listing())
    return tmp_path / "index"


def add(index: Path, source: Path | str, reader, **how) -> Changes:
    return add_images(OpenIndex.open(index), str(source), reader(**how), Listing())


def counts(changes: Changes) -> dict[str, int]:
    """Those that are not zero."""
    found = {name: getattr(changes, name) for name in vars(changes) if name != "skipped"}
    return {name: n for name, n in {**found, "skipped": len(changes.skipped)}.items() if n}


def contents(index: Path) -> dict[str, tuple]:
    """Each live id: class, digest and feature."""
    opened = OpenIndex.open(index)
    rows = opened.live
    digests = [record["digest"].tobytes() for record in opened.records(rows)]
    features = [row.tobytes() for row in opened.features(rows)]
    return dict(zip(opened.ids(rows), zip(opened.class_names(rows), digests, features, strict=True), strict=True))


def fresh(source: Path | str, path: Path, reader) -> dict[str, tuple]:
    """The contents of an index built anew."""
    shutil.rmtree(path, ignore_errors=True)
    build_index(path, str(source), reader(), Wish(), Listing())
    return contents(path)


def states(index: Path) -> dict[str, str]:
    opened = OpenIndex.open(index)
    return dict(zip(opened.ids(opened.live), Pictures(opened).states(opened.live), strict=True))


def test_adding_what_is_there_changes_nothing_and_reads_nothing(index, images, reader, monkeypatch):
    before, version = contents(index), OpenIndex.open(index).manifest.version
    monkeypatch.setattr("fewvit.retrieval.adding._read_digest", lambda *args: pytest.fail("a file was read"))
    assert counts(add(index, images, reader)) == {"unchanged": 17}
    assert (contents(index), OpenIndex.open(index).manifest.version) == (before, version)
    assert counts(add(index, os.path.relpath(images), reader)) == {"unchanged": 17}  # the same place, spelled otherwise


def test_only_new_images_go_through_the_model(index, images, tmp_path, reader):
    folder_of(images, {"eels": 3}, first_seed=100)
    assert counts(add(index, images, reader)) == {"added": 3, "computed": 3, "unchanged": 17}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)
    assert OpenIndex.open(index).classes == ["hens", "oxen", "eels"]


def test_a_renamed_image_takes_its_feature_along(index, images, tmp_path, reader):
    os.rename(images / "hens/003.jpg", images / "oxen/new name \u00e9.jpg")
    assert counts(add(index, images, reader)) == {"renamed": 1, "copied": 1, "unchanged": 16}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)
    assert set(states(index).values()) == {"there"}


def test_a_replaced_image_is_computed_anew(index, images, tmp_path, reader):
    (images / "hens/003.jpg").write_bytes(jpeg(1000))
    assert states(index)["hens/003.jpg"] == "changed"
    assert counts(add(index, images, reader)) == {"replaced": 1, "computed": 1, "unchanged": 16}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)
    assert set(states(index).values()) == {"there"}


def test_two_images_that_swap_names_are_replaced_without_the_model(index, images, tmp_path, reader):
    one, other = images / "hens/000.jpg", images / "oxen/000.jpg"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert counts(add(index, images, reader, no_cache=True)) == {"replaced": 2, "copied": 2, "unchanged": 15}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)


def test_a_touched_image_is_read_again_and_known_by_its_bytes(index, images, reader):
    os.utime(images / "hens/003.jpg", (1, 1))
    assert states(index)["hens/003.jpg"] == "there"
    assert counts(add(index, images, reader)) == {"unchanged": 17}


def test_a_deleted_image_stays_is_counted_and_marked(index, images, reader):
    (images / "hens/003.jpg").unlink()
    before = contents(index)
    assert counts(add(index, images, reader)) == {"missing": 1, "unchanged": 16}
    assert contents(index) == before
    assert states(index)["hens/003.jpg"] == "missing"
    opened = OpenIndex.open(index)
    near = opened.search(opened.features(np.array([opened.row_of("hens/003.jpg")])), 2)
    first, second = found_rows(opened, ["q"], near)
    assert (first["id"], first["file"], first["rank"]) == ("hens/003.jpg", "missing", 1)
    assert "file" not in second


def test_copies_of_an_image_share_its_feature_and_only_one_takes_its_name(index, images, tmp_path, reader):
    data = (images / "hens/003.jpg").read_bytes()
    for name in ("a", "b", "c"):
        (images / "hens" / f"{name}.jpg").write_bytes(data)
    (images / "hens/003.jpg").unlink()
    assert counts(add(index, images, reader)) == {"added": 2, "renamed": 1, "copied": 3, "unchanged": 16}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)
    opened = OpenIndex.open(index)
    near = opened.search(opened.features(np.array([opened.row_of("hens/b.jpg")])), 3)
    assert opened.ids(near.rows) == [f"hens/{name}.jpg" for name in "abc"]
    assert len(set(near.scores.tolist())) == 1


def test_everything_at_once_is_what_a_new_index_would_be(index, images, tmp_path, reader):
    os.rename(images / "hens/001.jpg", images / "hens/zzz.jpg")
    (images / "hens/002.jpg").write_bytes(jpeg(1001))
    shutil.copy(images / "oxen/004.jpg", images / "hens/copy.jpg")
    folder_of(images, {"eels": 2}, first_seed=200)
    expected = {"added": 3, "renamed": 1, "replaced": 1, "copied": 2, "computed": 3, "unchanged": 15}
    assert counts(add(index, images, reader)) == expected
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)
    growth.compact(IndexFolder(index))
    assert contents(index) == contents(tmp_path / "fresh")
    OpenIndex.open(index).verify()


def test_without_a_cache_only_new_images_are_computed_too(images, tmp_path, reader):
    changes = build_index(tmp_path / "i", str(images), reader(no_cache=True), Wish(), Listing())
    assert counts(changes) == {"added": 17, "computed": 17}
    folder_of(images, {"eels": 3}, first_seed=100)
    assert counts(add(tmp_path / "i", images, reader, no_cache=True)) == {"added": 3, "computed": 3, "unchanged": 17}
    assert contents(tmp_path / "i") == fresh(images, tmp_path / "fresh", reader)


def test_a_label_that_changed_in_a_table_changes_in_the_index_without_the_model(images, tmp_path, reader):
    names = sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    table = images / "list.csv"
    table.write_text("path,label\n" + "".join(f"{name},{name[:4]}\n" for name in names))
    build_index(tmp_path / "i", str(table), reader(), Wish(), Listing())
    table.write_text("path,label\n" + "".join(f"{name},{'eels' if '3' in name else name[:4]}\n" for name in names))
    assert counts(add(tmp_path / "i", table, reader)) == {"relabelled": 2, "copied": 2, "unchanged": 15}
    assert contents(tmp_path / "i") == fresh(table, tmp_path / "fresh", reader)
    assert set(states(tmp_path / "i").values()) == {"there"}


def test_a_source_that_moved_is_followed(index, images, tmp_path, reader):
    images.rename(tmp_path / "elsewhere")
    assert set(states(index).values()) == {"missing"}
    folder_of(tmp_path / "elsewhere", {"eels": 1}, first_seed=100)
    expected = {"added": 1, "computed": 1, "unchanged": 17}
    assert counts(add(index, tmp_path / "elsewhere", reader)) == expected
    assert reader.lines == [f"the images of {images} are read from {tmp_path / 'elsewhere'} from now on"]
    assert set(states(index).values()) == {"there"}
    assert [source.place for source in OpenIndex.open(index).manifest.sources] == [str(tmp_path / "elsewhere")]
    assert counts(add(index, tmp_path / "elsewhere", reader)) == {"unchanged": 18}


def test_a_source_that_moved_is_followed_where_nothing_else_changed(index, images, tmp_path, reader):
    images.rename(tmp_path / "elsewhere")
    assert counts(add(index, tmp_path / "elsewhere", reader)) == {"unchanged": 17}
    assert set(states(index).values()) == {"there"}
    assert OpenIndex.open(index).manifest.version == 2


def test_ids_of_two_sources_that_collide_are_refused_before_anything_is_computed(index, tmp_path, reader):
    other = folder_of(tmp_path / "other", {"hens": 2, "eels": 1}, first_seed=300)
    before = contents(index)
    with pytest.raises(DataError, match=r"2 ids are taken by other images in the index: hens/000\.jpg, hens/001\.jpg"):
        add(index, other, reader)
    assert contents(index) == before
    (other / "hens").rename(other / "cocks")
    assert counts(add(index, other, reader)) == {"added": 3, "computed": 3}
    assert len(OpenIndex.open(index).manifest.sources) == 2
    assert set(states(index).values()) == {"there"}


def test_a_second_source_with_some_of_the_same_images_keeps_both(index, images, tmp_path, reader):
    shutil.copytree(images / "hens", tmp_path / "other/hens")
    (tmp_path / "other/more.jpg").write_bytes(jpeg(7000))
    shutil.move(tmp_path / "other/more.jpg", tmp_path / "other/hens/more.jpg")
    assert counts(add(index, tmp_path / "other", reader)) == {"added": 1, "computed": 1, "unchanged": 7}
    assert len(contents(index)) == 18
    assert set(states(index).values()) == {"there"}


def test_files_that_cannot_be_decoded_are_skipped_and_counted(images, tmp_path, reader):
    (images / "hens/bad.jpg").write_bytes(b"no picture")
    changes = build_index(tmp_path / "i", str(images), reader(), Wish(), Listing())
    assert counts(changes) == {"added": 17, "computed": 17, "skipped": 1}
    assert changes.skipped[0]["id"] == "hens/bad.jpg"
    assert OpenIndex.open(tmp_path / "i").manifest.skipped == 1
    (images / "oxen/new.jpg").write_bytes(jpeg(400))
    expected = {"added": 1, "computed": 1, "skipped": 1, "unchanged": 17}
    assert counts(add(tmp_path / "i", images, reader)) == expected
    # the bad one is all that is new now, and 6 % of the 19 are one
    assert counts(add(tmp_path / "i", images, reader, max_bad="6%")) == {"skipped": 1, "unchanged": 18}
    with pytest.raises(BadImages):
        add(tmp_path / "i", images, reader, max_bad="5%")
    with pytest.raises(BadImages):
        build_index(tmp_path / "j", str(images), reader(max_bad="0"), Wish(), Listing())
    assert not (tmp_path / "j/CURRENT").exists()


def test_too_many_bad_images_are_counted_as_the_share_allowed_is_of_all_images_of_the_source(index, images, reader):
    (images / "hens/bad.jpg").write_bytes(b"no picture")
    (images / "oxen/bad.jpg").write_bytes(b"no picture")
    with pytest.raises(BadImages, match="2 of 19 images of images cannot be decoded, 1 is allowed"):
        add(index, images, reader, max_bad="6%")
    assert counts(add(index, images, reader, max_bad="11%")) == {"skipped": 2, "unchanged": 17}


def test_what_was_skipped_is_known_of_each_source_as_it_was_last_read(index, images, tmp_path, reader):
    (images / "hens/bad.jpg").write_bytes(b"no picture")
    other = folder_of(tmp_path / "other", {"eels": 3}, first_seed=300)
    for name in ("a.jpg", "b.jpg"):
        (other / "eels" / name).write_bytes(b"no picture")
    for source, total in ((images, 1), (other, 3), (other, 3), (images, 3)):
        add(index, source, reader)
        assert index_facts(OpenIndex.open(index))["skipped"] == total
    (images / "hens/bad.jpg").write_bytes(jpeg(900))
    add(index, images, reader)
    assert index_facts(OpenIndex.open(index))["skipped"] == 2
    assert [source.skipped for source in OpenIndex.open(index).manifest.sources] == [0, 2]


def test_where_nothing_is_new_no_version_comes_and_that_is_said(index, images, tmp_path, reader):
    (images / "hens/bad.jpg").write_bytes(b"no picture")
    assert counts(add(index, images, reader)) == {"skipped": 1, "unchanged": 17}
    assert OpenIndex.open(index).manifest.version == 2  # one that was skipped is known from now on
    shutil.copytree(images, tmp_path / "same")
    (tmp_path / "same/hens/bad.jpg").unlink()
    files = sorted(path.name for path in index.rglob("*"))
    del reader.lines[:]
    assert counts(add(index, images, reader)) == {"skipped": 1, "unchanged": 17}
    assert counts(add(index, tmp_path / "same", reader)) == {"unchanged": 17}
    assert reader.lines == ["nothing changed: version 2 of the index stays"] * 2
    assert sorted(path.name for path in index.rglob("*")) == files
    assert [source.place for source in OpenIndex.open(index).manifest.sources] == [str(images)]


def test_a_folder_of_an_indexed_source_adds_its_images_again_and_that_is_said(index, images, reader):
    assert counts(add(index, images / "hens", reader)) == {"added": 7, "copied": 7}
    unlabelled, line = reader.lines
    assert unlabelled == "hens: none of 7 images is labelled"
    assert line.startswith("7 images were added with the bytes of images that the index has under other ids")
    os.rename(images / "oxen/003.jpg", images / "oxen/new.jpg")
    add(index, images, reader)
    assert len(reader.lines) == 2  # a new name is no second picture


def test_compaction_takes_classes_without_images_out_and_keeps_every_label(index, images, tmp_path, reader):
    folder_of(images, {"eels": 3, "yaks": 2}, first_seed=100)
    add(index, images, reader)
    opened = ImageIndex.open(index)
    assert opened.classes == ["hens", "oxen", "eels", "yaks"]
    wanted = contents(index)
    gone = [f"hens/{i:03d}.jpg" for i in range(7)] + [f"eels/{i:03d}.jpg" for i in range(3)]
    removed = opened.remove(gone)
    assert removed.classes == opened.classes
    assert removed.classes_with_images().tolist() == [1, 3]
    assert removed.compact().classes == ["oxen", "yaks"]
    assert contents(index) == {name: row for name, row in wanted.items() if name not in gone}
    version = OpenIndex.open(index).manifest.version
    lines: list[str] = []
    growth.compact(IndexFolder(index), notify=lines.append)
    assert lines == [f"nothing to take out: version {version} of the index stays"]


def test_an_image_that_is_damaged_later_keeps_its_row_and_is_marked(index, images, reader):
    before = contents(index)
    (images / "hens/003.jpg").write_bytes(b"no picture")
    (images / "hens/new.jpg").write_bytes(jpeg(400))
    assert counts(add(index, images, reader)) == {"added": 1, "computed": 1, "skipped": 1, "unchanged": 16}
    assert {name: row for name, row in contents(index).items() if name != "hens/new.jpg"} == before
    assert states(index)["hens/003.jpg"] == "changed"


def test_where_no_image_can_be_decoded_nothing_is_made(tmp_path, reader):
    (tmp_path / "bad/a").mkdir(parents=True)
    (tmp_path / "bad/a/1.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError):
        build_index(tmp_path / "i", str(tmp_path / "bad"), reader(max_bad="1"), Wish(), Listing())
    assert not (tmp_path / "i/CURRENT").exists()


def test_a_build_in_parts_is_the_build_in_one_and_counts_its_bad_images_once(images, tmp_path, reader, monkeypatch):
    (images / "hens/bad.jpg").write_bytes(b"no picture")
    (images / "oxen/bad.jpg").write_bytes(b"no picture")
    build_index(tmp_path / "one", str(images), reader(), Wish(), Listing())
    monkeypatch.setattr(growth, "part_rows", lambda dimension: 3)
    changes = build_index(tmp_path / "many", str(images), reader(max_bad="2"), Wish(), Listing())
    assert counts(changes) == {"added": 17, "skipped": 2}  # a part of three is the last one, and bad
    names = [
        sorted(str(p.relative_to(path)) for p in path.rglob("*.*") if p.name != ".lock")
        for path in (tmp_path / "one", tmp_path / "many")
    ]
    assert names[0] == names[1]  # named by their digests
    with pytest.raises(BadImages):
        build_index(tmp_path / "few", str(images), reader(max_bad="1"), Wish(), Listing())


def test_features_of_another_backbone_or_width_are_refused_and_the_index_stays(index, reader):
    before = contents(index)
    with pytest.raises(
        FingerprintMismatch, match=r"the index was built with other preprocess.*: \w{12} in the index, \w{12} now"
    ):
        add(index, "digits/test", reader, size="64")
    given = FeatureSet(np.zeros((3, 192), np.float32), np.full(3, -1), ["a", "b", "c"], [], "f" * 64)
    with pytest.raises(
        FingerprintMismatch, match=r"the index is of \w{12} \(fewvit_tiny\), these features are of f{12}"
    ):
        ImageIndex.open(index).add(given, reader=reader())
    with pytest.raises(FingerprintMismatch, match="its features have 13 columns, those of the index 192"):
        ImageIndex.open(index).add(source_of(random_rows(1, 3)).given, reader=reader())
    assert contents(index) == before


def test_features_that_are_not_finite_are_refused_with_the_image_and_the_index_stays(tmp_path, reader):
    rows = random_rows(1, 23)
    ImageIndex.build(tmp_path / "i", source_of(rows).given, reader=reader())
    before = contents(tmp_path / "i")
    bad = {"x": rows["003"], "odd": (np.full(D, np.nan, np.float32), "")}
    for change in (
        lambda: ImageIndex.open(tmp_path / "i").add(source_of(bad).given, reader=reader()),
        lambda: ImageIndex.build(tmp_path / "i", source_of(bad).given, reader=reader()),
    ):
        with pytest.raises(NumericalError, match="the features of 'odd' hold NaN or Inf"):
            change()
        assert contents(tmp_path / "i") == before
        assert not list((tmp_path / "i").rglob("*.tmp"))


def test_an_id_given_twice_and_one_that_is_no_text_are_refused(tmp_path, reader):
    def build(ids: list[str]) -> None:
        given = FeatureSet(np.eye(len(ids), D, dtype=np.float32), np.full(len(ids), -1), ids, [])
        ImageIndex.build(tmp_path / "i", given, reader=reader())

    with pytest.raises(DataError, match=r"1 id is given more than once: a\n"):
        build(["a", "b", "a"])
    with pytest.raises(DataError, match="1 id is given more than once: \u00e9"):
        build(["\udcc3\udca9", "\u00e9"])  # the same bytes, spelled in two ways
    with pytest.raises(DataError, match="no text"):
        build(["a", "\ud800"])


def test_an_unknown_id_is_not_removed_nor_is_any_other(index):
    before = contents(index)
    with pytest.raises(DataError, match=r"no image hens/777\.jpg in this index"):
        growth.remove(IndexFolder(index), ["hens/000.jpg", "hens/777.jpg"])
    assert contents(index) == before
    assert growth.remove(IndexFolder(index), ["hens/000.jpg", "hens/000.jpg"]).removed == 1
    with pytest.raises(DataError, match="no image"):
        growth.remove(IndexFolder(index), ["hens/000.jpg"])
    version = OpenIndex.open(index).manifest.version
    assert growth.remove(IndexFolder(index), []).removed == 0
    assert OpenIndex.open(index).manifest.version == version


def test_a_removed_image_comes_back_without_the_model(index, images, tmp_path, reader):
    growth.remove(IndexFolder(index), ["hens/000.jpg", "oxen/009.jpg"])
    assert counts(add(index, images, reader, no_cache=True)) == {"added": 2, "copied": 2, "unchanged": 15}
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)


def test_many_small_additions_leave_few_segments(index, images, tmp_path, reader):
    for seed in range(500, 520):
        (images / "hens" / f"{seed}.jpg").write_bytes(jpeg(seed))
        assert counts(add(index, images, reader)) == {"added": 1, "computed": 1, "unchanged": 17 + seed - 500}
    assert len(OpenIndex.open(index).segments) <= 6
    assert contents(index) == fresh(images, tmp_path / "fresh", reader)


def test_small_segments_are_joined_with_new_rows_where_they_have_at_most_twice_as_many(tmp_path):
    built(tmp_path / "i", random_rows(0, 40))
    for number, (rows, segments) in enumerate(
        [(3, [40, 3]), (3, [40, 6]), (2, [40, 6, 2]), (1, [40, 9]), (2, [40, 9, 2]), (1, [40, 9, 3]), (6, [40, 18])]
    ):
        source = source_of(random_rows(number, rows, f"{number}/"))
        adding.add(IndexFolder(tmp_path / "i"), source, None, "", size=PART)
        assert [segment.rows for segment in OpenIndex.open(tmp_path / "i").segments] == segments


def test_a_feature_that_is_larger_in_every_column_is_another_one(tmp_path):
    one, other = -np.eye(2, D, dtype=np.float32)[0], np.eye(2, D, dtype=np.float32)[1]
    built(tmp_path / "i", {"a": (one, "")})
    changes = adding.add(IndexFolder(tmp_path / "i"), source_of({"a": (other, "")}), None, "", size=PART)
    assert (changes.replaced, changes.unchanged) == (1, 0)
    assert OpenIndex.open(tmp_path / "i").features(np.array([1])).tolist() == [other.tolist()]


def test_the_first_image_replaced_by_one_that_is_gone_is_replaced_and_not_renamed(index, images, reader):
    os.replace(images / "oxen/001.jpg", images / "hens/000.jpg")
    expected = {"replaced": 1, "copied": 1, "missing": 1, "unchanged": 15}
    assert counts(add(index, images, reader)) == expected
    assert len(contents(index)) == 17


# ---- pictures


def test_a_picture_is_read_only_where_it_is_the_one_that_was_indexed(index, images, tmp_path):
    opened = ImageIndex.open(index)
    pictures, row = Pictures(opened), opened.row_of("hens/003.jpg")
    assert pictures.read(row) == (images / "hens/003.jpg").read_bytes()
    assert pictures.path(row) == str(images / "hens/003.jpg")
    (images / "hens/003.jpg").write_bytes(jpeg(1000))
    with pytest.raises(DataError, match="not the one that was indexed"):
        pictures.read(row)
    (images / "hens/003.jpg").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read(row)
    os.mkfifo(images / "hens/003.jpg")
    started = time.perf_counter()
    assert Pictures(opened).states(np.array([row])) == ["missing"]
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read(row)
    assert time.perf_counter() - started < 5


def test_a_picture_of_other_bytes_is_refused_whether_their_digest_is_above_or_below(index, images):
    opened = ImageIndex.open(index)
    row = opened.row_of("hens/003.jpg")
    known = opened.records(np.array([row]))["digest"][0].tobytes()
    size = (images / "hens/003.jpg").stat().st_size & 255
    others = [(images / "hens/003.jpg").read_bytes() + b"\0", *(jpeg(seed) for seed in range(1000, 1012))]
    assert {(len(data) & 255) > size for data in others} == {True, False}  # identities are compared as bytes
    assert {hashlib.sha256(data).digest() > known for data in others} == {True, False}
    for data in others:
        (images / "hens/003.jpg").write_bytes(data)
        with pytest.raises(DataError, match="not the one that was indexed"):
            Pictures(opened).read(row)
        assert Pictures(opened).states(np.array([row])) == ["changed"]


def test_an_index_of_features_has_no_pictures_and_a_name_that_no_file_has_none_either(index, tmp_path, monkeypatch):
    built(tmp_path / "features", random_rows(1, 3))
    with pytest.raises(DataError, match="built of features"):
        Pictures(OpenIndex.open(tmp_path / "features")).read(0)
    pictures = Pictures(OpenIndex.open(index))
    monkeypatch.setattr(pictures, "path", lambda row: "a\0b")
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read(0)


def test_a_source_that_is_gone_is_told_and_one_without_a_folder_is_not_asked_for(index, images, tmp_path, reader):
    Pictures(OpenIndex.open(index)).require_sources()
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="this source of the index is not there"):
        Pictures(OpenIndex.open(index)).require_sources()
    build_index(tmp_path / "digits", "digits/test", reader(), Wish(), Listing())
    Pictures(OpenIndex.open(tmp_path / "digits")).require_sources()


def test_pictures_of_two_archives_are_read_each_from_its_own(index, images, tmp_path, reader):
    other = folder_of(tmp_path / "more", {"eels": 2}, first_seed=500)
    first, second = (shutil.make_archive(str(tmp_path / root.name), "zip", root) for root in (images, other))
    build_index(tmp_path / "i", first, reader(), Wish(), Listing())
    add(tmp_path / "i", second, reader)
    opened = OpenIndex.open(tmp_path / "i")
    for name, root in (("hens/003.jpg", images), ("eels/001.jpg", other)):
        assert Pictures(opened).read(opened.row_of(name)) == (root / name).read_bytes()


def test_versions_count_by_one_from_change_to_change(index, images, reader):
    folder_of(images, {"eels": 2}, first_seed=500)
    changes = [
        lambda: add(index, images, reader),
        lambda: growth.remove(IndexFolder(index), ["hens/001.jpg"]),
        lambda: growth.remove(IndexFolder(index), ["hens/002.jpg"]),
        lambda: growth.compact(IndexFolder(index)),
        lambda: build_index(index, str(images), reader(), Wish(), Listing()),
    ]
    for version, change in enumerate(changes, 2):
        change()
        assert OpenIndex.open(index).manifest.version == version


def test_a_part_has_as_many_rows_as_fit_128_mib_and_one_at_least():
    assert part_rows(384) == (1 << 27) // (384 * 4)
    assert part_rows(1 << 26) == 1


@pytest.mark.parametrize("count", [1, 3, 4])
def test_ids_given_more_than_once_are_shown_up_to_three(count):
    names = [f"n{i}" for i in range(count)]
    with pytest.raises(DataError) as caught:
        in_order([*names, "once", *names], "here")
    wanted = "1 id is" if count == 1 else f"{count} ids are"
    shown = ", ".join(names[:3]) + (" …" if count == 4 else "")
    assert f"{wanted} given more than once: {shown}\n" in str(caught.value)


def test_a_picture_of_which_the_index_knows_no_digest_is_never_read(index, images, monkeypatch):
    opened = ImageIndex.open(index)
    row = opened.row_of("hens/003.jpg")
    real = opened.records

    def without_digest(rows: np.ndarray) -> np.ndarray:
        records = real(rows)
        records["digest"] = UNKNOWN
        return records

    monkeypatch.setattr(opened, "records", without_digest)
    monkeypatch.setattr("fewvit.retrieval.pictures.whole", lambda path, max_bytes: pytest.fail("a file was opened"))
    with pytest.raises(DataError, match="does not know what bytes"):
        Pictures(opened).read(row)


def test_pictures_in_an_archive_are_read_from_it(images, tmp_path, reader):
    shutil.make_archive(str(tmp_path / "zipped"), "zip", images)
    build_index(tmp_path / "i", str(tmp_path / "zipped.zip"), reader(), Wish(), Listing())
    opened = OpenIndex.open(tmp_path / "i")
    rows = opened.live
    assert set(Pictures(opened).states(rows)) == {""}
    for row, name in zip(rows.tolist(), opened.ids(rows), strict=True):
        assert Pictures(opened).read(row) == (images / name).read_bytes()
    assert Pictures(opened).path(0) is None


def test_what_a_change_did_is_told_beside_what_the_index_is(index, images, reader):
    (images / "hens/new.jpg").write_bytes(jpeg(400))
    growth.remove(IndexFolder(index), ["hens/000.jpg"])
    facts = change_facts(add(index, images, reader), OpenIndex.open(index))
    told = {name: facts[name] for name in ("images", "dead", "added", "unchanged", "computed", "kind", "version")}
    assert told == {"images": 18, "dead": 1, "added": 2, "unchanged": 16, "computed": 1, "kind": "flat", "version": 3}


def test_many_rows_outside_the_structure_are_told_and_few_are_not(tmp_path):
    for kind, told in (("ivf", ["12 of 109 rows"]), ("flat", [])):
        path, lines = tmp_path / kind, []
        built(path, random_rows(3, 97), kind)
        for first, count in (("a", 7), ("b", 5)):  # 7 of 104, then 12 of 109
            rows = source_of(random_rows(5 + count, count, first))
            adding.add(IndexFolder(path), rows, None, "", size=PART, notify=lines.append)
        assert [line.partition(" were added")[0] for line in lines] == told
        growth.compact(IndexFolder(path), size=PART)
        adding.add(IndexFolder(path), source_of(random_rows(17, 7, "c")), None, "", size=PART, notify=lines.append)
        assert len(lines) == len(told)
