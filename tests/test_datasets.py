"""Every input format against trees, tables and archives written by hand.

Classes are unbalanced and no label equals a row number.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewvit import plugins
from fewvit.datasets import Dataset, Listing, open_dataset
from fewvit.errors import DataError, MissingExtra, NumericalError, UsageError
from fewvit.features import FeatureSet
from fewvit.labels import align
from fewvit.sources import Given, announce, open_pair

SHARED = Path(os.environ.get("FEWVIT_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
LISTING = Listing()


def tree(root: Path, files: dict[str, bytes | str]) -> str:
    """Write files, made of their own name if nothing else is said; `root` as a source."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def named(*names: str) -> dict[str, bytes | str]:
    return {name: f"bytes of {name}" for name in names}


def contents(dataset: Dataset) -> dict[str, tuple[str | None, bytes]]:
    """id -> (class name or None, bytes): all that a data set says, without its numbering."""
    names = [None if k < 0 else dataset.classes[k] for k in dataset.labels]
    return {id_: (name, dataset.read(i)) for i, (id_, name) in enumerate(zip(dataset.ids, names, strict=True))}


# ---- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_listed_by_bytes_with_its_sub_folders(tmp_path):
    names = ["b/9.jpg", "b/10.JPG", "b/deep/er/x.Png", "a/z.webp", "B/1.jpeg", "é/1.avif", "a.b/2.tiff"]
    dataset = open_dataset(tree(tmp_path / "birds", named(*names, "b/notes.txt", "b/deep/er/readme", "list.csv")))
    assert list(dataset.ids) == sorted(names, key=lambda name: name.encode())
    assert list(dataset.classes) == ["B", "a", "a.b", "b", "é"]
    assert contents(dataset) == {name: (name.split("/")[0], f"bytes of {name}".encode()) for name in names}
    assert dataset.labels.dtype == np.int64
    assert dataset.left_out == {"not an image": 3}
    assert dataset.name == "birds"


def test_the_identity_of_a_file_is_its_device_inode_size_and_times(tmp_path):
    dataset = open_dataset(tree(tmp_path, named("a/3.jpg", "b/7.jpg")))
    for i, id_ in enumerate(dataset.ids):
        status = os.stat(tmp_path / id_)
        expected = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        assert np.frombuffer(dataset.identity(i), np.int64).tolist() == expected
    before = dataset.identity(1)
    (tmp_path / "b/7.jpg").write_bytes(b"another size")
    again = open_dataset(str(tmp_path))
    assert again.identity(0) == dataset.identity(0)
    assert again.identity(1) != before
    assert again.digest == dataset.digest  # a digest is of the listing, not of what the images hold


def test_the_digest_changes_with_a_name_a_label_and_a_class(tmp_path):
    base = open_dataset(tree(tmp_path / "one", named("a/1.jpg", "a/2.jpg", "b/3.jpg"))).digest
    assert open_dataset(tree(tmp_path / "two", named("a/1.jpg", "a/2.jpg", "b/3.jpg"))).digest == base
    for k, names in enumerate(
        [
            ("a/1.jpg", "a/2.jpg", "b/4.jpg"),
            ("a/1.jpg", "b/2.jpg", "b/3.jpg"),
            ("a/1.jpg", "a/2.jpg", "b/3.jpg", "c/3.jpg"),
        ]
    ):
        assert open_dataset(tree(tmp_path / str(k), named(*names))).digest != base


def test_an_empty_class_is_named_unless_it_is_allowed(tmp_path):
    source = tree(tmp_path, named("full/1.jpg", "hollow/readme.txt", "void/deep/.hidden.jpg"))
    with pytest.raises(DataError, match="no image in class hollow, void"):
        open_dataset(source)
    dataset = open_dataset(source, Listing(allow_empty_class=True))
    assert list(dataset.classes) == ["full", "hollow", "void"]
    assert dataset.labels.tolist() == [0]


STRANGE = [
    *("@Recycle", "lost+found", ".@__thumb", "@eaDir", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"),
    *("#recycle", "@Recently-Snapshot", "$Recycle.Bin"),
]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "flat"])
def test_folders_of_systems_and_network_storage_are_no_classes_and_are_counted(tmp_path, kind, strange):
    names = ["1.jpg"] if kind == "flat" else ["hen/1.jpg", "ox/2.jpg", f"ox/{strange}/3.jpg"]
    files = named(*names, f"{strange}/old.jpg")
    make = {"zip": lambda: packed(tmp_path / "x.zip", files), "tar": lambda: shard(tmp_path / "x.tar", files)}
    source = make[kind]() if kind in make else tree(tmp_path / "x", files)
    dataset = open_dataset(source)
    assert list(dataset.classes) == ([] if kind == "flat" else ["hen", "ox"])
    assert len(dataset) == min(len(names), 2)
    assert dataset.left_out == {"system file": len(names) - len(dataset) + 1}
    assert any("left out (system file)" in line for line in said_of(source))


def test_pipes_devices_and_what_the_kernel_makes_up_are_no_inputs(tmp_path):
    tree(tmp_path, named("1.jpg"))
    for name in ("pipe.csv", "pipe.parquet", "pipe.tar", "pipe.jpg", "pipe.npz"):
        os.mkfifo(tmp_path / name)
    os.symlink("/proc/self/environ", tmp_path / "made.jpg")
    for name in ("pipe.csv", "pipe.parquet", "pipe.tar", "pipe.jpg", "made.jpg"):
        with pytest.raises(DataError, match=rf"{name}: not a regular file"):
            open_dataset(str(tmp_path / name))
    with pytest.raises(DataError, match=r"pipe\.npz: not a regular file"):
        FeatureSet.load(tmp_path / "pipe.npz")
    for name in ("pipe.jpg", "made.jpg", "/dev/zero", "/proc/self/environ"):
        with pytest.raises(DataError, match="1 of 2 images is not there"):
            open_dataset(tree(tmp_path, {"t.csv": f"path\n1.jpg\n{name}\n"}) + "/t.csv")


@pytest.mark.parametrize("kind", ["folder", "flat", "table", "zip", "tar", "image"])
def test_an_image_file_that_is_too_large_is_listed_and_refused_unread(tmp_path, kind):
    tree(tmp_path / "x", {"a/1.jpg": "7" * 70, "a/2.jpg": "7" * 71, "t.csv": "path\na/1.jpg\na/2.jpg\n"})
    files: dict[str, bytes | str] = {"a/1.jpg": "7" * 70, "a/2.jpg": "7" * 71}
    source = {
        "folder": lambda: tree(tmp_path / "y", files),
        "flat": lambda: str(tmp_path / "x" / "a"),
        "table": lambda: str(tmp_path / "x" / "t.csv"),
        "zip": lambda: packed(tmp_path / "x.zip", files),
        "tar": lambda: shard(tmp_path / "x.tar", files),
        "image": lambda: str(tmp_path / "x" / "a" / "2.jpg"),
    }[kind]()
    dataset = open_dataset(source, Listing(max_bytes=70))
    with pytest.raises(OSError, match="71 bytes, more than --max-bytes 70"):
        dataset.read(len(dataset) - 1)
    if kind != "image":
        assert dataset.read(0) == b"7" * 70


def test_a_sparse_file_of_gigabytes_is_refused_in_no_time_and_memory(tmp_path):
    with open(tmp_path / "1.jpg", "wb") as handle:
        handle.write(b"\xff\xd8\xff\xe0")
        handle.truncate(8 << 30)
    tracemalloc.start()
    with pytest.raises(OSError, match="more than --max-bytes 268435456"):
        open_dataset(str(tmp_path)).read(0)
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert peak < 1_000_000


def test_an_empty_folder_of_the_system_is_no_empty_class(tmp_path):
    source = tree(tmp_path, named("hen/1.jpg", "ox/2.jpg"))
    (tmp_path / "lost+found").mkdir()
    assert list(open_dataset(source).classes) == ["hen", "ox"]


def test_a_folder_of_links_is_told_how_they_are_followed(tmp_path):
    tree(tmp_path / "store", named("1.jpg", "2.jpg"))
    for name in ("hen/1.jpg", "ox/2.jpg"):
        (tmp_path / "links" / name).parent.mkdir(parents=True)
        os.symlink(tmp_path / "store" / name.split("/")[1], tmp_path / "links" / name)
    source = str(tmp_path / "links")
    with pytest.raises(DataError, match="--follow-links"):
        open_dataset(source)
    assert classes_of(open_dataset(source, Listing(follow_links=True))) == {"hen/1.jpg": "hen", "ox/2.jpg": "ox"}
    tree(tmp_path / "links", named("hen/3.jpg"))
    with pytest.raises(DataError, match=r"no image in class ox\n  Give --follow-links"):
        open_dataset(source)
    tree(tmp_path / "links", named("ox/4.jpg"))
    assert any("2 left out" in line and "--follow-links" in line for line in said_of(source))


def test_loose_images_beside_class_folders_are_refused_naming_both(tmp_path):
    with pytest.raises(DataError, match=r"loose\.jpg.*cats"):
        open_dataset(tree(tmp_path, named("loose.jpg", "cats/1.jpg", "dogs/2.jpg")))


@pytest.mark.parametrize(
    "parts",
    [
        *(("train", "val"), ("train", "test"), ("train", "val", "test")),
        *(
            ("train", "valid"),
            ("train", "validation"),
            ("dev", "train"),
            ("Test", "Train"),
            ("test_set", "training_set"),
        ),
    ],
)
def test_two_sets_are_no_two_classes(tmp_path, parts):
    with pytest.raises(DataError) as caught:
        open_dataset(tree(tmp_path, named(*(f"{part}/a/1.jpg" for part in parts))))
    assert all(f"{part}/" in str(caught.value) for part in parts)
    more = open_dataset(tree(tmp_path, named("other/1.jpg")))  # with a third folder they are classes, and that is told
    assert list(more.classes) == sorted([*parts, "other"])
    assert f"taken for classes, not for sets: {', '.join(sorted(parts))}" in more.notes


def test_one_class_made_of_sub_folders_is_noted_as_a_probable_mistake(tmp_path):
    assert "2 sub-folders" in open_dataset(tree(tmp_path / "x", named("val/n1/1.jpg", "val/n2/2.jpg"))).notes[0]
    assert list(open_dataset(tree(tmp_path / "y", named("a/n1/1.jpg", "b/n2/2.jpg"))).notes) == []


@pytest.mark.parametrize("names", [[], ["a/readme.txt"], [".hidden/1.jpg"]])
def test_a_folder_without_an_image_is_refused(tmp_path, names):
    with pytest.raises(DataError, match="no image"):
        open_dataset(tree(tmp_path, named(*names)))


def test_what_is_not_there_or_not_known_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a source"):
        open_dataset(tree(tmp_path, {"notes.txt": ""}) + "/notes.txt")


def test_twenty_thousand_files_are_listed_within_a_second(tmp_path):
    for k in range(20):
        (tmp_path / f"class{k}").mkdir()
        for i in range(1000):
            os.close(os.open(tmp_path / f"class{k}" / f"{i}.jpg", os.O_CREAT))
    start = time.process_time()  # a busy machine is no slower listing
    dataset = open_dataset(str(tmp_path))
    seconds = time.process_time() - start
    assert np.bincount(dataset.labels).tolist() == [1000] * 20
    assert seconds < 1, f"{seconds:.2f} s"  # 0.15 s on the machine it was written on


# ---- flat folders and ground-truth lists ---------------------------------------------------------------------------

FLAT = named("v_3.JPEG", "v_1.JPEG", "v_2.JPEG", "v_10.JPEG")
TRUTH = {"v_1.JPEG": "n07", "v_10.JPEG": "n03", "v_2.JPEG": "n07", "v_3.JPEG": "n05"}


def test_a_flat_folder_is_unlabelled(tmp_path):
    dataset = open_dataset(tree(tmp_path, FLAT))
    assert contents(dataset) == {name: (None, f"bytes of {name}".encode()) for name in FLAT}
    assert list(dataset.classes) == []


def synset_numbers(synsets: list[str]) -> str:
    return "".join(f"{name} {synsets.index(label)}\n" for name, label in TRUTH.items())


LISTS = {
    "val_annotations.txt": {
        "val_annotations.txt": "".join(f"{name}\t{label}\t0\t1\t62\t63\n" for name, label in TRUTH.items())
    },
    "LOC_val_solution.csv": {
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"{n[:-5]},{w} 1 2 3 4 {w} 5 6 7 8 \n" for n, w in TRUTH.items())
    },
    "val.txt with names": {"val.txt": "".join(f"{name} {label}\r\n" for name, label in reversed(TRUTH.items()))},
    "val_list.txt with folders": {"val_list.txt": "".join(f"val/{name} {label}\n" for name, label in TRUTH.items())},
    "validation.txt with numbers": {
        "validation.txt": synset_numbers(["n03", "n05", "n06", "n07"]),
        "synsets.txt": "n03\nn05\nn06\nn07\n",
    },
    "val.txt with numbers and words": {
        "val.txt": synset_numbers(["n07", "n03", "n05"]),
        "synset_words.txt": "n07 a hen\nn03 an ox\nn05 a cat, tom\n",
    },
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("place", ["the folder", "its parent"])
def test_each_known_list_labels_a_flat_folder(tmp_path, case, place):
    tree(tmp_path / "parent" / "images", FLAT)
    tree(tmp_path / "parent" / ("images" if place == "the folder" else ""), LISTS[case])
    dataset = open_dataset(str(tmp_path / "parent" / "images"))
    assert {id_: name for id_, (name, _) in contents(dataset).items()} == TRUTH
    assert list(dataset.classes) == ["n03", "n05", "n07"]
    assert "labels from" in dataset.notes[0]


def test_tiny_imagenets_val_is_labelled_from_above_its_images(tmp_path):
    tree(tmp_path / "val" / "images", FLAT)
    source = tree(tmp_path / "val", LISTS["val_annotations.txt"])
    assert {id_: name for id_, (name, _) in contents(open_dataset(source)).items()} == {
        f"images/{n}": w for n, w in TRUTH.items()
    }


def devkit(folder: Path, children: tuple[int, ...] = (0, 0, 0, 3)) -> None:
    """A meta.mat as ImageNet's: ids are not in the order of the synsets, and an inner node has the last one."""
    from scipy.io import savemat

    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [
        (1, "n07", "hen", "", children[0]),
        (2, "n03", "ox", "", children[1]),
        (3, "n05", "cat", "", children[2]),
        (4, "n01", "animal", "", children[3]),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kind)[:, None]})


DEVKIT = "ILSVRC2012_devkit_t12/data"


@pytest.mark.parametrize(
    ("truth", "meta"),
    [("images", "images"), ("images", ""), ("", ""), ("", DEVKIT), ("images", DEVKIT), (DEVKIT, DEVKIT)],
)
def test_imagenets_devkit_labels_the_validation_images_by_position(tmp_path, truth, meta):
    tree(tmp_path / "images", FLAT)
    tree(
        tmp_path / truth, {"ILSVRC2012_validation_ground_truth.txt": "1\n2\n1\n3\n"}
    )  # in the order v_1, v_10, v_2, v_3
    devkit(tmp_path / meta)
    assert {id_: name for id_, (name, _) in contents(open_dataset(str(tmp_path / "images"))).items()} == TRUTH


def test_the_devkits_list_needs_its_meta_mat_and_a_line_for_each_image(tmp_path):
    source = tree(tmp_path, {**FLAT, "ILSVRC2012_validation_ground_truth.txt": "1\n2\n1\n"})
    with pytest.raises(DataError, match=r"meta\.mat"):
        open_dataset(source)
    devkit(tmp_path)
    with pytest.raises(DataError, match="3 lines for 4 images"):
        open_dataset(source)
    tree(tmp_path, {"ILSVRC2012_validation_ground_truth.txt": "1\n2\n1\n9\n"})
    with pytest.raises(DataError, match="no synset"):
        open_dataset(source)


def test_a_list_and_a_folder_that_disagree_are_refused_with_counts_and_names(tmp_path):
    listed = "".join(f"{name} n07\n" for name in ["v_1.JPEG", "v_2.JPEG", "gone_1.JPEG", "gone_2.JPEG"])
    with pytest.raises(DataError) as caught:
        open_dataset(tree(tmp_path, {**FLAT, "val.txt": listed}))
    assert "2 of its images are missing (gone_1.JPEG, gone_2.JPEG)" in str(caught.value)
    assert "2 images are not in it (v_10.JPEG, v_3.JPEG)" in str(caught.value)
    with pytest.raises(DataError, match="named twice"):
        open_dataset(
            tree(
                tmp_path,
                {"val.txt": "".join(f"{name} {label}\n" for name, label in [*TRUTH.items(), ("v_1.JPEG", "n03")])},
            )
        )


def test_a_list_in_the_parent_that_is_of_other_images_is_noted_and_not_used(tmp_path):
    tree(tmp_path / "train", FLAT)
    tree(tmp_path, {"val.txt": "another.JPEG n07\n"})
    dataset = open_dataset(str(tmp_path / "train"))
    assert dataset.labels.tolist() == [-1] * 4
    assert "val.txt names none of these images" in dataset.notes[0]


@pytest.mark.parametrize("text", ["v_1.JPEG\n", "v_1.JPEG n07\n\x00\n"])
def test_a_list_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(DataError, match="not a list of labels"):
        open_dataset(tree(tmp_path, {**FLAT, "val.txt": text}))


# ---- tables --------------------------------------------------------------------------------------------------------


def table_rows(tmp_path: Path) -> tuple[list[tuple[str, str]], dict[str, tuple[str | None, bytes]]]:
    """Rows (path, label) of a table in tmp_path/t, and what they must say."""
    tree(tmp_path, named("t/b/2.jpg", "t/b/10.jpg", "t/a.png", "elsewhere/3.jpg"))
    rows = [
        ("b/2.jpg", "7"),
        ("a.png", ""),
        (str(tmp_path / "elsewhere/3.jpg"), "3"),
        ("b/10.jpg", "7"),
        ("../elsewhere/3.jpg", "3"),
    ]
    truth = {path: (label or None, (tmp_path / "t" / path).read_bytes()) for path, label in rows}
    return rows, truth


@pytest.mark.parametrize("kind", ["csv", "TSV", "parquet"])
def test_a_table_says_paths_and_labels(tmp_path, kind):
    rows, truth = table_rows(tmp_path)
    path = tmp_path / "t" / f"list.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        numbers = pyarrow.array([int(label) if label else None for _, label in rows])
        pyarrow.parquet.write_table(
            pyarrow.table({"path": [p for p, _ in rows], "label": numbers, "extra": [0.5] * len(rows)}), path
        )
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text("".join(mark.join(("x", label, p)) + "\n" for p, label in [("path", "label"), *rows]))
    dataset = open_dataset(str(path))
    assert contents(dataset) == truth
    assert list(dataset.ids) == sorted(truth, key=os.fsencode)
    assert list(dataset.classes) == ["3", "7"]
    assert dataset.identity(0)[16:24] == os.stat(tmp_path / "t" / dataset.ids[0]).st_size.to_bytes(8, "little")


def test_a_table_without_labels_is_unlabelled_and_floats_are_whole_numbers(tmp_path):
    import pyarrow
    import pyarrow.parquet

    source = tree(tmp_path, {**named("1.jpg", "2.jpg", "3.jpg"), "t.csv": "path\n2.jpg\n1.jpg\n"})
    assert open_dataset(source + "/t.csv").labels.tolist() == [-1, -1]
    table = pyarrow.table({"path": ["1.jpg", "2.jpg", "3.jpg"], "label": [7.0, float("nan"), 2.5]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    dataset = open_dataset(source + "/t.parquet")
    assert {id_: name for id_, (name, _) in contents(dataset).items()} == {"1.jpg": "7", "2.jpg": None, "3.jpg": "2.5"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("where,what\n1.jpg,a\n", "no column `path`; its columns are where, what"),
        ("where\n1.jpg\n", "its columns are where"),
        ("", "its columns are none"),
        ("path,label\n", "t.csv: no rows"),
        ("path;label\n1.jpg;a\n", "its columns seem to be separated by semicolons: path;label\n  Commas"),
        ("path\tlabel\n1.jpg\ta\n", "separated by tabs"),
        ("file|class\n", "separated by vertical bars"),
        ("path,label\n1.jpg,a\n\n2.jpg,a, b\n", "3 fields in line 4, and 2 columns"),
        ("path,Label,label \n1.jpg,a,b\n", "2 columns are called Label"),
        ("path,label\n  ,b\n", "no path in line 2"),
        ("label\na\n", "no column `path`"),
        ("path,label\n1.jpg,a\n,b\n", "no path in line 3"),
        ("path,label\n1.jpg,a\n2.jpg,a\n1.jpg,b\n", "1 path stands in it more than once: 1.jpg"),
        (
            "path,label\n1.jpg,a\n" + "".join(f"gone{k},b\n" for k in range(7)),
            "7 of 8 images are not there: gone0, gone1, gone2, gone3, gone4 and 2 more",
        ),
        ("path,label\nfolder,a\n", "1 of 1 image is not there: folder"),
        ('path,label\n"' + "x" * 200_000 + '",a\n', "field larger than field limit"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path, text, complaint):
    source = tree(tmp_path, {**named("1.jpg", "2.jpg", "folder/x"), "t.csv": text})
    with pytest.raises(DataError) as caught:
        open_dataset(source + "/t.csv")
    assert complaint in str(caught.value)


def said_of(source: str, listing: Listing = LISTING) -> list[str]:
    """What a command tells of a source, without its name."""
    lines: list[str] = []
    dataset = announce(open_dataset(source, listing), lines.append)
    return [line.removeprefix(f"{dataset.name}: ") for line in lines]


def classes_of(dataset: Dataset) -> dict[str, str | None]:
    return {id_: name for id_, (name, _) in contents(dataset).items()}


BOTH = {"1.jpg": "hen", "2.jpg": "ox"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,label", []),
        (" Path , LABEL", []),
        ("path, label", []),
        ("file_name,label", ["paths from column file_name, labels from column label"]),
        ("File Name,Class", ["paths from column File Name, labels from column Class"]),
        ("filename,category", ["paths from column filename, labels from column category"]),
        ("image,class", ["paths from column image, labels from column class"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_header_may_be_spelled_in_many_ways_and_what_is_assumed_is_told(tmp_path, header, said, encoding):
    blank = " " if header == "path, label" else ""
    source = tree(tmp_path, named("1.jpg", "2.jpg")) + "/t.csv"
    Path(source).write_bytes(f'{header}\r\n1.jpg,{blank}hen \r\n2.jpg,{blank}"ox"\r\n'.encode(encoding))
    assert classes_of(open_dataset(source)) == BOTH
    assert said_of(source) == said


def test_columns_that_are_not_read_and_images_without_a_label_are_told(tmp_path):
    rows = "width,path,kind,group\n3,1.jpg,hen,7\n7,2.jpg,ox,\n"
    source = tree(tmp_path, {**named("1.jpg", "2.jpg", "3.jpg"), "t.csv": rows}) + "/t.csv"
    assert said_of(source) == [
        "columns left unread: width, kind, group; --label-column names one that holds labels",
        "none of 2 images is labelled",
    ]
    assert classes_of(open_dataset(source, Listing(label_column="Kind"))) == BOTH
    assert said_of(source, Listing(label_column="group")) == [
        "columns left unread: width, kind",
        "1 of 2 images is labelled",
    ]
    with pytest.raises(DataError, match=r"no column color; its columns are width, path, kind, group\n.*--label-column"):
        open_dataset(source, Listing(label_column="color"))
    with pytest.raises(DataError, match="column path holds paths and cannot hold labels too"):
        open_dataset(source, Listing(label_column="path"))
    other = tree(tmp_path, {"u.csv": "path,where,label\nx,1.jpg,hen\ny,2.jpg,ox\n"}) + "/u.csv"
    assert classes_of(open_dataset(other, Listing(path_column="where"))) == BOTH


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_blanks_around_a_label_make_no_class_of_their_own(tmp_path, kind):
    labels = ["cat", "cat ", "\tcat", " ", "big cat"]
    names = [f"{i}.jpg" for i in range(5)]
    source = tree(tmp_path, named(*names)) + f"/t.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"path": names, "label": labels}), source)
    else:
        Path(source).write_text("path,label\n" + "".join(f"{n},{k}\n" for n, k in zip(names, labels, strict=True)))
    assert list(classes_of(open_dataset(source)).values()) == ["cat", "cat", "cat", None, "big cat"]


def test_paths_that_another_program_wrote_name_their_files(tmp_path):
    tree(tmp_path, named("a/1.jpg", "b 2.jpg", "deep/3.jpg", "c d.jpg", "back\\slash.jpg"))
    rows = {
        ".\\a\\1.jpg": "./a/1.jpg",
        "b 2.jpg ": "b 2.jpg",
        "/data/upload/7/0123abcd-c%20d.jpg": "c d.jpg",
        "/data/local-files/?d=deep/3.jpg": "deep/3.jpg",
        "back\\slash.jpg": "back\\slash.jpg",  # a name on this disk
    }
    source = tree(tmp_path, {"t.csv": "path,label\n" + "".join(f"{path},x\n" for path in rows)}) + "/t.csv"
    dataset = open_dataset(source)
    assert list(dataset.ids) == sorted(rows.values())
    for i, id_ in enumerate(dataset.ids):
        assert dataset.read(i) == (tmp_path / id_).read_bytes()
        assert dataset.identity(i)[16:24] == len(dataset.read(i)).to_bytes(8, "little")
    assert said_of(source) == ["1 path read with / for \\", "2 paths read as Label Studio's"]
    with pytest.raises(DataError, match=r"1 path stands in it more than once: a/1\.jpg"):
        open_dataset(tree(tmp_path, {"t.csv": "path\na/1.jpg\na\\1.jpg\n"}) + "/t.csv")


def test_a_path_that_no_program_is_known_to_write_names_no_file_of_another_folder(tmp_path):
    rows = "path\nelsewhere/1.jpg\n/gone/2.jpg\n"
    with pytest.raises(DataError, match="2 of 2 images are not there"):
        open_dataset(tree(tmp_path, {**named("1.jpg", "2.jpg"), "t.csv": rows}) + "/t.csv")


def test_a_row_of_a_table_takes_no_more_than_200_bytes_while_it_is_read(tmp_path):
    paths = [f"d{k:03d}/../d{j:03d}/../1.jpg" for k in range(100) for j in range(100)]
    tree(tmp_path, {**named("1.jpg"), "t.csv": "path,label\n" + "".join(f"{p},c{p[3]}\n" for p in reversed(paths))})
    for k in range(100):
        (tmp_path / f"d{k:03d}").mkdir()
    source = str(tmp_path / "t.csv")
    open_dataset(source)  # what is imported then
    tracemalloc.start()
    dataset = open_dataset(source)
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert list(dataset.ids) == sorted(paths)
    assert peak / len(dataset) < 200, peak / len(dataset)  # five million rows fit into 1 GB


def test_label_studios_export_is_read(tmp_path):
    rows = (
        "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n"
        "3,1,hen,2024,7,/data/upload/1/89abcdef-1.jpg,2.5,2024\n"
        "4,1,ox,2024,8,/data/local-files/?d=elsewhere/2.jpg,2.5,2024\n"
    )
    source = tree(tmp_path, {**named("1.jpg", "2.jpg"), "t.csv": rows}) + "/t.csv"
    assert classes_of(open_dataset(source)) == BOTH
    assert said_of(source)[0] == "paths from column image, labels from column choice"


@pytest.mark.parametrize("place", ["the table", "the folder"])
@pytest.mark.parametrize("kind", ["hub", "roboflow"])
def test_a_table_beside_its_images_labels_them_named_or_not(tmp_path, place, kind):
    name, rows = {
        "hub": ("metadata.csv", "file_name,label,text\n2.jpg,ox,a beast\n1.jpg,hen,a bird\n"),
        "roboflow": ("_classes.csv", "filename, ox, hen, cat\n1.jpg, 0, 1, 0\n2.jpg, 1, 0, 0\n"),
    }[kind]
    source = tree(tmp_path / "s", {**named("1.jpg", "2.jpg"), name: rows})
    dataset = open_dataset(f"{source}/{name}" if place == "the table" else source)
    assert classes_of(dataset) == BOTH
    assert any("labels from" in line for line in dataset.notes)


def test_two_classes_of_one_image_are_refused_and_other_zeros_and_ones_are_no_classes(tmp_path):
    tree(tmp_path, named("1.jpg", "2.jpg"))
    several = "filename,ox,hen\n1.jpg,0,1\n2.jpg,1,1\n"
    with pytest.raises(DataError, match="line 3 marks 2 classes"):
        open_dataset(tree(tmp_path, {"_classes.csv": several}) + "/_classes.csv")
    for name, rows in {"t.csv": several, "u.csv": "filename,ox,hen\n1.jpg,0,1\n2.jpg,0,2\n"}.items():
        source = tree(tmp_path, {name: rows}) + f"/{name}"
        assert open_dataset(source).labels.tolist() == [-1, -1]
        assert "columns left unread: ox, hen; --label-column names one that holds labels" in said_of(source)


def test_a_table_of_other_things_beside_images_is_told_and_not_used(tmp_path):
    source = tree(tmp_path / "s", {**named("1.jpg", "2.jpg"), "metadata.csv": "camera,lens\nx,y\n"})
    assert any("metadata.csv was not used: no column `path`" in line for line in said_of(source))
    other = tree(tmp_path / "o", {**named("1.jpg", "2.jpg"), "labels.csv": "path,label\n1.jpg,hen\n2.jpg,ox\n"})
    assert f"left unread: labels.csv; if labels are in it, give it as the source: {other}/labels.csv" in said_of(other)
    assert open_dataset(other).labels.tolist() == [-1, -1]


def test_a_table_beside_class_folders_is_told_and_one_instead_of_images_is_the_way_out(tmp_path):
    source = tree(tmp_path / "s", {**named("images/1.jpg", "images/2.jpg"), "metadata.csv": "file_name,label\n"})
    assert f"left unread: metadata.csv; if labels are in it, give it as the source: {source}/metadata.csv" in said_of(
        source
    )
    hub = tree(tmp_path / "hub", {"README.md": "", "data/train-00000-of-00001.parquet": "", "data/x.json": ""})
    with pytest.raises(DataError, match=r"no image in it(.|\n)*hub/data/train-00000-of-00001\.parquet"):
        open_dataset(hub)
    saved(tmp_path / "dict" / "train", held())
    with pytest.raises(DataError, match=r"no image in it(.|\n)*dict/train"):
        open_dataset(str(tmp_path / "dict"))
    saved(tmp_path / "dict" / "validation", held())
    with pytest.raises(DataError, match="train/ and validation/, which are sets"):
        open_dataset(str(tmp_path / "dict"))
    assert [len(side) for side in open_pair(Given(str(tmp_path / "dict")))] == [5, 5]


def test_a_tsv_of_commas_is_told_so_and_a_parquet_file_without_rows_has_none(tmp_path):
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(DataError, match=r"separated by commas(.|\n)*tabs those of a \.tsv"):
        open_dataset(tree(tmp_path, {"t.tsv": "path,label\n1.jpg,a\n"}) + "/t.tsv")
    pyarrow.parquet.write_table(pyarrow.table({"path": pyarrow.array([], pyarrow.string())}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        open_dataset(str(tmp_path / "t.parquet"))


def test_parquet_needs_pyarrow_and_a_parquet_file(tmp_path, monkeypatch):
    source = tree(tmp_path, {"t.parquet": "no parquet"}) + "/t.parquet"
    with pytest.raises(DataError, match="not a Parquet file"):
        open_dataset(source)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"fewvit\[table\]"):
        open_dataset(source)


# ---- tables that hold the images -----------------------------------------------------------------------------------

HELD = [  # what each image was called, its class, its bytes
    ("b/9.png", "ox", b"nine"),
    (None, "hen", b"ten"),
    ("10.png", None, b"eleven"),
    ("9.png", "ox", b"twelve"),
    ("1.png", "hen", b"thirteen"),
]


def held(image: str = "image", label: str = "label", *, numbers: bool = True):
    """The table of HELD as the hub writes it: labels are numbers that its metadata names, -1 is none."""
    import pyarrow

    classes = ["ox", "cat", "hen"]
    values = [-1 if k is None else classes.index(k) for _, k, _ in HELD] if numbers else [k for _, k, _ in HELD]
    features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"} if numbers else {}}
    columns = {image: [{"bytes": data, "path": name} for name, _, data in HELD], label: values, "caption": ["x"] * 5}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pyarrow.table(columns).replace_schema_metadata(metadata)


HELD_TRUTH = {
    "0/9.png": ("ox", b"nine"),
    "1": ("hen", b"ten"),
    "2/10.png": (None, b"eleven"),
    "3/9.png": ("ox", b"twelve"),
    "4/1.png": ("hen", b"thirteen"),
}


def saved(folder: Path, table, files: int = 2) -> str:
    """A folder as `save_to_disk` writes it."""
    import pyarrow

    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    each = -(-len(table) // files)
    for i, name in enumerate(names):
        with pyarrow.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table.slice(i * each, each), max_chunksize=2)
    tree(
        folder, {"state.json": json.dumps({"_data_files": [{"filename": n} for n in names]}), "dataset_info.json": "{}"}
    )
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "saved"])
@pytest.mark.parametrize(("image", "label", "numbers"), [("image", "label", True), ("img", "class", False)])
def test_a_table_that_holds_its_images_is_read_row_by_row(tmp_path, kind, image, label, numbers):
    import pyarrow.parquet

    table = held(image, label, numbers=numbers)
    if kind == "parquet":
        source = str(tmp_path / "t.parquet")
        pyarrow.parquet.write_table(table, source, row_group_size=2)
    else:
        source = saved(tmp_path / "t", table)
    dataset = open_dataset(source)
    assert contents(dataset) == HELD_TRUTH
    assert [dataset.read(i) for i in (4, 0, 3, 1, 2)] == [HELD[i][2] for i in (4, 0, 3, 1, 2)]
    assert len({dataset.identity(i) for i in range(5)}) == 5
    assert list(dataset.classes) == ["hen", "ox"]
    assert said_of(source) == [
        f"images from column {image}, labels from column {label}",
        "column left unread: caption",
        "4 of 5 images are labelled",
    ]


def test_an_image_that_a_row_only_names_or_that_is_too_large_is_a_bad_one(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": [{"bytes": None, "path": "/x/1.png"}, {"bytes": b"7" * 70, "path": None}]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    dataset = open_dataset(str(tmp_path / "t.parquet"), Listing(max_bytes=69))
    with pytest.raises(OSError, match="names an image but does not hold it"):
        dataset.read(0)
    with pytest.raises(OSError, match="70 bytes, more than --max-bytes 69"):
        dataset.read(1)


def test_of_several_columns_of_images_one_must_be_named(tmp_path):
    import pyarrow.parquet

    table = held()
    table = table.append_column("mask", table.column("image"))
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"2 of its columns hold images: image, mask(.|\n)*--path-column"):
        open_dataset(str(tmp_path / "t.parquet"))
    assert contents(open_dataset(str(tmp_path / "t.parquet"), Listing(path_column="mask"))) == HELD_TRUTH


@pytest.mark.parametrize(
    "values",
    [[1, 2], [["a"], ["b"]], [True, False], [{"a": 1}, {"a": 2}], [0.5, 1.5]],
    ids=lambda v: type(v[0]).__name__,
)
def test_a_column_of_paths_or_labels_that_holds_other_things_is_refused_by_name(tmp_path, values):
    import pyarrow
    import pyarrow.parquet

    tree(tmp_path, named("1.jpg", "2.jpg"))
    pyarrow.parquet.write_table(pyarrow.table({"path": values, "label": ["x", "y"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column path holds \S+.*, expected text"):
        open_dataset(str(tmp_path / "t.parquet"))
    if isinstance(values[0], list | dict):
        pyarrow.parquet.write_table(
            pyarrow.table({"path": ["1.jpg", "2.jpg"], "label": values}), tmp_path / "t.parquet"
        )
        with pytest.raises(DataError, match=r"t\.parquet: a label in column label is a (list|dict), not text"):
            open_dataset(str(tmp_path / "t.parquet"))


def test_a_saved_data_set_that_is_damaged_is_refused_by_its_file(tmp_path):
    source = saved(tmp_path / "t", held())
    for name in ("data-00001-of-00002.arrow", "state.json"):
        whole = (tmp_path / "t" / name).read_bytes()
        (tmp_path / "t" / name).write_bytes(whole[: len(whole) // 3])
        with pytest.raises(DataError, match=name):
            open_dataset(source)
        (tmp_path / "t" / name).write_bytes(whole)
    (tmp_path / "t" / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00000-of-00002\.arrow"):
        open_dataset(source)
    tree(tmp_path / "t", {"state.json": json.dumps({"_data_files": [{"filename": "../x.arrow"}]})})
    with pytest.raises(DataError, match="expected files beside it"):
        open_dataset(source)


# ---- shards --------------------------------------------------------------------------------------------------------


def shard(path: Path, members: dict[str, bytes | str], **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


FIRST = {
    "s/0007.jpg": b"7" * 700,
    "s/0007.cls": "7",
    "s/0003.cls": "3\n",
    "s/0003.seg.png": b"no",
    "s/0003.PNG": b"3" * 513,
    "x.jpg": b"x",
    "lone.cls": "3",
}
SECOND = {
    "s/0003.webp": b"w" * 1024,
    "s/0003.json": json.dumps({"label": 12, "caption": "a hen"}),
    "._s.jpg": b"mac",
    "s/0003.jpg": b"second",
}
TRUTH_1 = {"d-00/s/0007.jpg": ("7", b"7" * 700), "d-00/s/0003.PNG": ("3", b"3" * 513), "d-00/x.jpg": (None, b"x")}
TRUTH_2 = {"d-01/s/0003.webp": ("12", b"w" * 1024)}


def test_shards_are_read_in_place_from_a_file_a_folder_or_a_pattern(tmp_path):
    one = shard(tmp_path / "d-00.tar", FIRST)
    shard(tmp_path / "d-01.tar", SECOND, format=tarfile.GNU_FORMAT)
    assert contents(open_dataset(one)) == TRUTH_1
    for source in (str(tmp_path), str(tmp_path / "d-{00..01}.tar")):
        dataset = open_dataset(source)
        assert contents(dataset) == TRUTH_1 | TRUTH_2
        assert list(dataset.classes) == ["3", "7", "12"]  # numbers are sorted as numbers
        assert dataset.left_out == {
            "image beyond the first dot of its name, where a sample's name ends": 1,
            "label without an image": 1,
            "system file": 1,
            "second image of a sample": 1,
        }
        assert len({dataset.identity(i) for i in range(4)}) == 4
        assert [open_dataset(source).identity(i) for i in range(4)] == [dataset.identity(i) for i in range(4)]


def test_the_identity_of_a_part_changes_with_the_file_that_holds_it(tmp_path):
    source = shard(tmp_path / "d-00.tar", FIRST)
    before = open_dataset(source)
    os.utime(source, ns=(1, 1))
    after = open_dataset(source)
    assert [len(before.identity(i)) for i in range(3)] == [40] * 3
    assert not {before.identity(i) for i in range(3)} & {after.identity(i) for i in range(3)}
    digits, test = open_dataset("digits"), open_dataset("digits/test")
    assert digits.identity(1198) == test.identity(0) != digits.identity(0)


def test_the_numbers_of_shards_index_a_classes_txt_beside_them(tmp_path):
    source = shard(tmp_path / "d-00.tar", FIRST)
    tree(tmp_path, {"classes.txt": "".join(f"name {k}\n" for k in range(9))})
    dataset = open_dataset(source)
    assert [dataset.classes[k] if k >= 0 else None for k in dataset.labels] == ["name 3", "name 7", None]
    assert len(dataset.classes) == 9
    tree(tmp_path, {"classes.txt": "a\nb\n"})
    with pytest.raises(DataError, match="label 7 is beyond its 2 lines"):
        open_dataset(source)


def samples(names: dict[str, object]) -> dict[str, bytes | str]:
    """Members of a shard: for each name an image, and beside it a `.json` of what is given."""
    return {
        **{f"{name}.jpg": f"bytes of {name}" for name in names},
        **{f"{name}.json": json.dumps(record) for name, record in names.items()},
    }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("label", []),
        ("category", ["labels from key category of .json"]),
        ("Class Name", ["labels from key Class Name of .json"]),
    ],
)
def test_a_record_of_a_shard_names_the_class_under_a_synonym_of_label(tmp_path, key, said):
    records = {"1": {key: " hen ", "caption": "x", "url": "y"}, "2": {key: 7.0}, "3": {"caption": "z"}}
    source = shard(tmp_path / "d.tar", samples(records))
    assert classes_of(open_dataset(source)) == {"d/1.jpg": "hen", "d/2.jpg": "7", "d/3.jpg": None}
    assert said_of(source) == [*said, "keys of .json left unread: caption, url", "2 of 3 images are labelled"]
    assert classes_of(open_dataset(source, Listing(label_column="caption"))) == {
        "d/1.jpg": "x",
        "d/2.jpg": None,
        "d/3.jpg": "z",
    }


def test_keys_of_records_that_hold_no_label_are_told(tmp_path):
    assert said_of(shard(tmp_path / "d.tar", samples({"1": {"kind": "hen"}, "2": ["ox"]}))) == [
        "1 left out (.json without a record)",
        "key of .json left unread: kind; --label-column names one that holds labels",
        "none of 2 images is labelled",
    ]


@pytest.mark.parametrize("top", ["", "birds/", "./deep/birds/"])
def test_class_folders_in_a_shard_are_classes_where_no_sample_has_a_label(tmp_path, top):
    names = ["hen/1.jpg", "ox/deep/2.jpg", "ox/3.png"]
    source = shard(tmp_path / "d.tar", {**named(*(top + name for name in names)), "@eaDir/4.jpg": "4", "a.txt": "x"})
    dataset = open_dataset(source)
    inside = top.removeprefix("./")
    assert classes_of(dataset) == {f"d/{inside}{name}": name.split("/")[0] for name in names}
    assert said_of(source) == [
        "1 left out (system file): @eaDir/4.jpg",
        "1 left out (not an image): a.txt",
        "labels from the folders in it, as no sample has one of its own",
    ]
    one = shard(tmp_path / "e.tar", {**named(*names), "hen/1.cls": "7"})
    assert classes_of(open_dataset(one)) == {"e/hen/1.jpg": "7", "e/ox/deep/2.jpg": None, "e/ox/3.png": None}
    only = open_dataset(shard(tmp_path / "f.tar", named("all/1.jpg", "all/2.jpg")))  # a folder around samples, no class
    assert only.labels.tolist() == [-1, -1]
    with pytest.raises(DataError, match="train/ and valid/, which are sets"):
        open_dataset(shard(tmp_path / "g.tar", named("train/a/1.jpg", "valid/a/2.jpg")))


def test_names_with_several_dots_are_refused_with_the_rule(tmp_path):
    source = shard(tmp_path / "d.tar", {"img.v1.3.png": "3", "img.v1.3.cls": "7"})
    with pytest.raises(DataError, match="image beyond the first dot of its name, where a sample's name ends"):
        open_dataset(source)


@pytest.mark.parametrize(
    ("member", "content", "complaint"),
    [
        ("1.cls", "9" * 5000, "the label 1.cls is a number of 5000 digits"),
        ("1.cls", str(2**70), "the label 1.cls is a number of 22 digits"),
        ("1.json", json.dumps({"label": 2**70}), "the label 1.json is a number of 22 digits"),
        ("1.json", '{"label": ' + "9" * 5000 + "}", "the label 1.json cannot be read"),
        ("1.json", "[" * 100_000, "the label 1.json cannot be read: nested too deep"),
        ("1.json", '{"label": ["hen"]}', "the label 1.json cannot be read: is a list, not text or a number"),
        ("1.json", "{\x1b[31m", "the label 1.json cannot be read"),
    ],
)
def test_a_label_in_a_shard_that_is_none_is_refused_by_its_name_in_a_line(tmp_path, member, content, complaint):
    source = shard(tmp_path / "d.tar", {"1.jpg": "1", member: content})
    with pytest.raises(DataError) as caught:
        open_dataset(source)
    assert complaint in caught.value.what
    assert caught.value.what.isprintable()
    assert caught.value.file == source


def test_a_pattern_of_more_shards_than_anybody_has_is_counted_before_it_is_opened(tmp_path):
    start = time.perf_counter()
    for pattern, count in {"d-{0..99999999999}.tar": 10**11, "d-{0..9999}-{0..9999}.tar": 10**8}.items():
        with pytest.raises(DataError, match=f"stands for {count} shards"):
            open_dataset(str(tmp_path / pattern))
    assert time.perf_counter() - start < 1
    with pytest.raises(DataError, match="stands for no shard"):
        open_dataset(str(tmp_path / "d-{9..0}.tar"))


def test_braces_in_the_name_of_a_folder_or_a_shard_that_is_there_are_its_own(tmp_path):
    folder = tmp_path / "run{1..2}"
    for number in (3, 4):
        shard(folder / f"d-{number}.tar", {f"{number}.jpg": "x", f"{number}.cls": "7"})
    assert list(open_dataset(f"{folder}/d-{{3..4}}.tar").ids) == ["d-3/3.jpg", "d-4/4.jpg"]
    assert list(open_dataset(shard(folder / "e-{3..4}.tar", {"5.jpg": "x"})).ids) == ["e-{3..4}/5.jpg"]


@pytest.mark.parametrize("cut", [1, 512, 1024, 1536, 2048, 2560, 5000])
def test_a_shard_that_is_cut_or_damaged_is_refused_by_name(tmp_path, cut):
    path = shard(tmp_path / "d-00.tar", FIRST)
    whole = Path(path).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # of the last member; then come blocks of zeros
    Path(path).write_bytes(whole[: max(0, end - cut)])
    with pytest.raises(DataError, match=r"d-00\.tar"):
        open_dataset(path)


def test_a_shard_with_a_damaged_header_in_the_middle_is_refused(tmp_path):
    path = shard(tmp_path / "d-00.tar", FIRST)
    data = bytearray(Path(path).read_bytes())
    data[data.index(b"s/0003.PNG")] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(DataError, match=r"d-00\.tar"):
        open_dataset(path)


def test_compressed_and_missing_shards_are_refused_with_advice(tmp_path):
    tree(tmp_path, {"d.tar.gz": b"\x1f\x8b"})
    with pytest.raises(DataError, match="gunzip"):
        open_dataset(str(tmp_path / "d.tar.gz"))
    shard(tmp_path / "d-00.tar", FIRST)
    with pytest.raises(DataError, match=r"2 of 3 shards are not there: .*d-01\.tar, .*d-02\.tar"):
        open_dataset(str(tmp_path / "d-{00..02}.tar"))


# ---- archives ------------------------------------------------------------------------------------------------------


def packed(path: Path, names: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return str(path)


def test_entries_that_are_left_out_are_named_the_first_of_each_reason(tmp_path):
    source = tree(
        tmp_path / "birds", named("a/1.jpg", "b/2.jpg", "a/notes.txt", *(f"b/{i}.md" for i in range(3)), "b/.hidden")
    )
    said: list[str] = []
    announce(open_dataset(source), said.append)
    assert "birds: 1 left out (hidden): b/.hidden" in said
    [others] = [line for line in said if "not an image" in line]
    head, _, names = others.partition(": 4 left out (not an image): ")
    assert head == "birds"
    assert names.endswith(" …")
    assert len(set(names.removesuffix(" …").split(", ")) & {"a/notes.txt", "b/0.md", "b/1.md", "b/2.md"}) == 3
    flat = tree(tmp_path / "flat", named("1.jpg", "2.jpg", "notes.txt"))
    announce(open_dataset(flat), said.append)
    assert said[-2:] == ["flat: 1 left out (not an image): notes.txt", "flat: none of 2 images is labelled"]


@pytest.mark.parametrize("top", ["", "birds/", "deep/er/birds/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_class_folders_is_read_in_place_without_its_wrapping(tmp_path, top, compression):
    names = ["b/9.jpg", "b/10.JPG", "a/deep/x.png", "a/é.png", "a/1.gif"]
    noise = {"__MACOSX/birds/._9.jpg": "", f"{top}b/.DS_Store": "", f"{top}readme.txt": ""}
    source = packed(tmp_path / "birds.zip", {**{top + name: name * 99 for name in names}, **noise}, compression)
    dataset = open_dataset(source)
    assert contents(dataset) == {name: (name.split("/")[0], (name * 99).encode()) for name in names}
    assert list(dataset.ids) == sorted(names, key=os.fsencode)
    assert dataset.left_out == {"system file": 1, "hidden": 1, "not an image": 1}
    assert dataset.name == "birds"


def test_a_flat_zip_is_unlabelled_and_a_single_class_stays_one(tmp_path):
    assert contents(open_dataset(packed(tmp_path / "flat.zip", named("1.jpg", "2.jpg")))) == {
        n: (None, f"bytes of {n}".encode()) for n in ("1.jpg", "2.jpg")
    }
    assert list(open_dataset(packed(tmp_path / "one.zip", named("cats/1.jpg", "cats/2.jpg"))).classes) == ["cats"]


def test_a_folder_in_a_zip_is_a_source(tmp_path):
    source = packed(tmp_path / "x.zip", named("top/train/a/1.jpg", "top/train/b/2.jpg", "top/val/a/3.jpg"))
    for inside in ("train", "top/train", "train/"):
        assert list(open_dataset(f"{source}/{inside}").ids) == ["a/1.jpg", "b/2.jpg"]
    assert open_dataset(f"{source}/val").name == "x"
    with pytest.raises(DataError, match="no folder test in it; there are train, val"):
        open_dataset(f"{source}/test")
    with pytest.raises(DataError, match="train/ and val/"):
        open_dataset(source)


def test_zips_that_are_damaged_encrypted_or_bombs_do_no_harm(tmp_path):
    source = packed(
        tmp_path / "x.zip",
        {"a/1.jpg": bytes(300 << 20), "a/2.jpg": "small", "a/3.jpg": "other" * 99, "../4.jpg": "out"},
    )
    dataset = open_dataset(source)
    assert list(dataset.ids) == ["a/1.jpg", "a/2.jpg", "a/3.jpg"]
    assert dataset.left_out == {"name that leaves the archive": 1}
    with pytest.raises(OSError, match="more than --max-bytes 268435456"):
        dataset.read(0)
    data = bytearray(Path(source).read_bytes())
    at = data.index(b"a/2.jpg") + len(b"a/2.jpg")
    Path(source).write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    with pytest.raises(OSError, match="damaged"):
        dataset.read(1)
    assert dataset.read(2) == b"other" * 99
    Path(source).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a zip file"):
        open_dataset(source)
    with pytest.raises(OSError, match="damaged"):
        dataset.read(2)
    secret = bytearray(Path(packed(tmp_path / "s.zip", named("a/1.jpg"))).read_bytes())
    secret[6] |= 1
    secret[secret.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "s.zip").write_bytes(secret)
    with pytest.raises(DataError, match=r"encrypted: a/1\.jpg"):
        open_dataset(str(tmp_path / "s.zip"))


def test_a_member_that_unpacks_to_more_than_it_declares_is_cut_off(tmp_path):
    source = packed(tmp_path / "x.zip", {"a/1.jpg": bytes(5_000_000)})
    data = bytearray(Path(source).read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    Path(source).write_bytes(data)
    dataset = open_dataset(source)
    tracemalloc.start()
    with pytest.raises(OSError, match="damaged"):
        dataset.read(0)
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_flipped_bit_in_a_stored_member_is_found(tmp_path):
    source = packed(tmp_path / "x.zip", named("a/1.jpg"), zipfile.ZIP_STORED)
    data = bytearray(Path(source).read_bytes())
    data[data.index(b"bytes of")] ^= 1
    Path(source).write_bytes(data)
    with pytest.raises(OSError, match="damaged"):
        open_dataset(source).read(0)


# ---- damage, whatever holds the images -------------------------------------------------------------------------------


def mutations(data: bytes, count: int):
    """The bytes with a few of them changed, or cut, in `count` ways that are the same every time."""
    draw = random.Random(7)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            place = draw.randrange(len(changed))
            changed[place] = draw.choice((0, 255, changed[place] ^ 1 << draw.randrange(8), draw.randrange(256)))
        if draw.random() < 0.15:
            place = draw.randrange(len(changed))
            changed[place : place + 8] = b"\xff" * 8
        yield bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.1 else changed)


def written(kind: str, folder: Path) -> Path:
    """A small source of a kind."""
    import pyarrow
    import pyarrow.parquet

    tree(folder, named("1.jpg", "2.jpg"))
    paths = pyarrow.table({"path": ["1.jpg", "2.jpg"], "label": ["hen", "ox"]})
    path = folder / {"paths": "t.parquet", "images": "t.parquet", "compressed": "t.npz"}.get(kind, f"t.{kind}")
    if kind == "paths":
        pyarrow.parquet.write_table(paths, path)
    elif kind == "images":
        pyarrow.parquet.write_table(held(), path, row_group_size=2)
    elif kind == "tar":
        shard(path, {**FIRST, **samples({"9": {"label": "hen"}})})
    elif kind == "zip":
        packed(path, named("a/1.jpg", "a/2.jpg", "b/3.jpg"))
    elif kind == "arrow":
        return Path(saved(folder / "s", held())) / "data-00000-of-00002.arrow"
    else:
        arrays = {"features": np.eye(7, 3, dtype=np.float32), "labels": np.array([3, -1, 0, 3, 1, 2, 2])}
        (np.savez_compressed if kind == "compressed" else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("kind", ["npz", "compressed", "paths", "images", "arrow", "tar", "zip"])
def test_a_damaged_file_is_an_error_of_the_data_in_a_line_that_names_it(tmp_path, kind):
    path, said = written(kind, tmp_path), []
    for data in mutations(path.read_bytes(), 300):
        path.write_bytes(data)
        try:
            if path.suffix == ".npz":
                FeatureSet.load(path)
                continue
            dataset = open_dataset(str(path.parent if kind == "arrow" else path))
            for i in range(len(dataset)):
                with contextlib.suppress(OSError):  # one bad image, which others may do without
                    dataset.read(i)
        except (DataError, NumericalError) as error:
            said.append(error)
    assert said
    assert all(error.what.isprintable() and str(tmp_path) in str(error.file) for error in said)


@pytest.mark.parametrize("size", [2**31, 2**62])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_member_that_claims_more_bytes_than_there_are_takes_no_more_than_its_image(tmp_path, size, compression):
    source = packed(tmp_path / "x.zip", {"a/1.jpg": b"7" * 70, "a/2.jpg": bytes(9_000_000)}, compression)
    dataset = open_dataset(source)
    dataset.reader.members[0].compress_size = size
    tracemalloc.start()
    if compression == zipfile.ZIP_STORED:
        with pytest.raises(OSError, match="damaged zip member"):
            dataset.read(0)
    else:  # a deflated stream says itself where it ends
        assert dataset.read(0) == b"7" * 70
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert peak < 1_000_000


# ---- digits --------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_rows_as_images():
    from sklearn.datasets import load_digits

    digits = load_digits()
    for source, rows in {"digits": range(1797), "digits/train": range(1198), "digits/test": range(1198, 1797)}.items():
        dataset = open_dataset(source)
        assert list(dataset.ids) == [f"digit/{row:04d}" for row in rows]
        assert dataset.labels.tolist() == digits.target[rows.start : rows.stop].tolist()
        assert list(dataset.classes) == list("0123456789")
        for i in (0, 7, len(dataset) - 1):
            with Image.open(io.BytesIO(dataset.read(i))) as image:
                assert np.abs(np.asarray(image) - digits.images[rows[i]] * 255 / 16).max() <= 0.5
        assert dataset.name == "digits"


def test_a_folder_called_digits_is_asked_for_by_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "digits", named("a/1.jpg"))
    assert len(open_dataset("./digits")) == 1
    assert len(open_dataset("digits")) == 1797


# ---- pairs ---------------------------------------------------------------------------------------------------------

PAIR = named("train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", "train/c/4.jpg", "val/c/5.jpg", "val/b/6.jpg")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("train", "test"), [("training_set", "test_set"), ("Train", "valid"), ("train", "dev")])
def test_a_pair_is_known_by_any_spelling_of_its_sets(tmp_path, kind, train, test):
    spelled = {
        name.replace("train/", f"{train}/").replace("val/", f"{test}/"): content for name, content in PAIR.items()
    }
    data = tree(tmp_path / "pets", spelled) if kind == "folder" else packed(tmp_path / "pets.zip", spelled)
    sides = open_pair(Given(data))
    assert [len(side) for side in sides] == [4, 2]
    assert [side.name for side in sides] == ["pets", "pets"]
    with pytest.raises(DataError, match=f"holds .*{test}/.*, which are sets, not classes"):
        open_dataset(data)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_pair_counts_the_test_labels_in_the_training_sets_classes(tmp_path, kind):
    data = tree(tmp_path / "pets", PAIR) if kind == "folder" else packed(tmp_path / "pets.zip", PAIR)
    train, test = open_pair(Given(data))
    assert train.labels.tolist() == [0, 1, 2, 2]
    assert dict(zip(test.ids, test.labels.tolist(), strict=True)) == {"b/6.jpg": 1, "c/5.jpg": 2}
    assert list(train.classes) == list(test.classes) == ["a", "b", "c"]
    assert train.name == test.name == "pets"
    again = open_pair(Given(None, f"{data}/train", f"{data}/val"))
    assert (again[0].digest, again[1].digest, again[1].name) == (train.digest, test.digest, "pets")


def test_val_wins_over_test_and_that_is_said(tmp_path):
    lines = []
    _, test = open_pair(Given(tree(tmp_path, {**PAIR, **named("test/a/7.jpg")})), lines.append)
    assert list(test.ids) == ["b/6.jpg", "c/5.jpg"]
    assert lines == [f"{test.name}: tested on val/; test/ was not used"]


def test_test_is_taken_where_there_is_no_val_and_digits_are_a_pair(tmp_path):
    assert list(open_pair(Given(tree(tmp_path, named("train/a/1.jpg", "test/a/7.jpg"))))[1].ids) == ["a/7.jpg"]
    train, test = open_pair(Given("digits"))
    assert (len(train), len(test)) == (1198, 599)


@pytest.mark.parametrize(
    "given",
    [("data", "train", None), ("data", None, "test"), (None, "train", None), (None, None, "test"), (None, None, None)],
)
def test_other_combinations_are_the_callers_mistake(given):
    with pytest.raises(UsageError):
        open_pair(Given(*given))


def test_a_pair_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="no train/"):
        open_pair(Given(tree(tmp_path, named("a/1.jpg"))))
    with pytest.raises(DataError, match="no such file or folder"):
        open_pair(Given(str(tmp_path / "nowhere")))


def test_classes_that_only_the_test_set_has_are_refused_by_name(tmp_path):
    extra = named(*(f"val/new{k}/1.jpg" for k in range(7)))
    with pytest.raises(
        DataError,
        match="7 classes of the test set are not in the training set: new0, new1, new2, new3, new4 and 2 more",
    ):
        open_pair(Given(tree(tmp_path, {**PAIR, **extra})))


def test_unlabelled_test_images_stay_unlabelled(tmp_path):
    train = open_dataset(tree(tmp_path / "train", named("b/1.jpg", "c/2.jpg")))
    rows = tree(tmp_path, {**named("x.jpg", "y.jpg", "z.jpg"), "t.csv": "path,label\nx.jpg,c\ny.jpg,\nz.jpg,b\n"})
    assert align(train, open_dataset(rows + "/t.csv")).labels.tolist() == [1, -1, 0]
    tree(tmp_path / "flat", named("1.jpg"))
    assert align(train, open_dataset(str(tmp_path / "flat"))).labels.tolist() == [-1]
    with pytest.raises(DataError, match="the train images have no labels"):
        align(open_dataset(str(tmp_path / "flat")), train)


# ---- all formats ---------------------------------------------------------------------------------------------------


def test_every_source_is_accepted_by_one_format_only(tmp_path):
    sources = {
        "folder": tree(tmp_path / "folder", named("a/1.jpg")),
        "flat": tree(tmp_path / "flat", named("1.jpg")),
        "table": tree(tmp_path, {"t.csv": ""}) + "/t.csv",
        "shards": os.path.dirname(shard(tmp_path / "shards" / "d-0.tar", FIRST)),
        "archive": packed(tmp_path / "x.zip", named("a/1.jpg")),
        "digits": "digits",
        "published": f"cifar10:{tmp_path}@train",
        "saved": saved(tmp_path / "saved", held()),
        "single_image": tree(tmp_path / "one", named("photo.JPG")) + "/photo.JPG",
    }
    assert set(sources) <= set(plugins.names("datasets"))
    for kind, source in sources.items():
        assert [name for name in plugins.names("datasets") if plugins.find("datasets", name).accepts(source)] == [kind]


def test_one_image_is_a_set_of_its_own_without_a_label(tmp_path):
    source = tree(tmp_path, named("cats/b.JPG", "cats/a.jpg")) + "/cats/b.JPG"
    for given in (source, os.path.relpath(source)):
        dataset = open_dataset(given)
        assert contents(dataset) == {"b.JPG": (None, b"bytes of cats/b.JPG")}
        assert (list(dataset.classes), dataset.name) == ([], "b.JPG")
        assert dataset.identity(0) == open_dataset(str(tmp_path)).identity(1)
    with pytest.raises(DataError, match="no such file"):
        open_dataset(str(tmp_path / "gone.jpg"))


def test_every_image_can_be_found_where_its_set_says_that_it_lies(tmp_path):
    files = named("a/1.jpg", "b/deep/2.jpg")
    for source in (tree(tmp_path / "folder", files), tree(tmp_path, {"t.csv": "path\nfolder/a/1.jpg\n"}) + "/t.csv"):
        dataset = open_dataset(os.path.relpath(source))
        for i in range(len(dataset)):
            assert os.path.isabs(dataset.place(i))
            assert Path(dataset.place(i)).read_bytes() == dataset.read(i)
    inside = open_dataset(packed(tmp_path / "x.zip", {f"wrap/{name}": text for name, text in files.items()}))
    assert [inside.place(i) for i in range(2)] == [f"{tmp_path}/x.zip/wrap/{name}" for name in files]
    shards = open_dataset(shard(tmp_path / "d-0.tar", {"n/1.jpg": "one", "n/1.cls": "3"}))
    assert shards.place(0) == f"{tmp_path}/d-0.tar/n/1.jpg"
    assert open_dataset("digits").place(3) == "digit/0003"  # lies in no file


def test_listing_imports_nothing_heavy(tmp_path):
    source = tree(tmp_path, {**named("a/1.jpg"), "t.csv": "path\na/1.jpg\n"})
    packed(tmp_path / "x.zip", named("a/1.jpg"))
    script = (
        "import sys; from fewvit.datasets import open_dataset\n"
        "for source in sys.argv[1:]: open_dataset(source).read(0)\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'pandas', 'pyarrow', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", script, source, f"{source}/t.csv", f"{source}/x.zip"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"
    run = [sys.executable, "-c", script.replace("'sklearn', 'pandas', 'pyarrow', 'PIL', 'scipy'", ""), "digits"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(not (SHARED / "data" / "imagenet18.zip").exists(), reason="no imagenet18.zip: set FEWVIT_SHARED")
def test_the_eighteen_classes_of_imagenet_come_out_of_their_archive():
    train, test = open_pair(Given(str(SHARED / "data" / "imagenet18.zip")))
    assert np.bincount(train.labels).tolist() == [10] * 18
    assert len(test) == 62
    assert all(
        id_.startswith(train.classes[label] + "/")
        for part in (train, test)
        for id_, label in zip(part.ids, part.labels, strict=True)
    )
    with zipfile.ZipFile(SHARED / "data" / "imagenet18.zip") as archive:
        assert train.read(17) == archive.read(f"imagenet18/train/{train.ids[17]}")
