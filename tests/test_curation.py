"""What `data check` finds of faults that were planted, one of each, and that it finds nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewvit.curation.copies import exact_copies, exact_leaks, near_copies, near_leaks
from fewvit.curation.findings import CHECKS, effective_classes, of_classes
from fewvit.curation.label_errors import held_out_probabilities, label_errors
from fewvit.features import FeatureSet
from fewvit.images import BadImage, decode
from fewvit.images.facts import facts_of, is_blank
from fewvit.preprocess import Preprocess

from made_images import jpeg

SIZE = (47, 61)  # height, width


def picture(seed: int, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize((size[1], size[0]), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def planted(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Two sets, class folders 3 and 7, and the findings (id, other) that are planted in them, by check."""
    for part, first in (("train", 0), ("val", 100)):
        for name, count in (("3", 7), ("7", 5)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                (root / part / name / f"{i:03d}.jpg").write_bytes(jpeg(first + i + 50 * (name == "7")))
    train, val = root / "train", root / "val"
    (train / "empty").mkdir()
    (train / "3" / "cut.jpg").write_bytes(jpeg(201)[:700])
    (train / "3" / "named.jpg").write_bytes(saved(picture(202), "PNG"))
    (train / "7" / "twice.jpg").write_bytes((train / "3" / "002.jpg").read_bytes())  # two labels
    (train / "7" / "again.jpg").write_bytes((train / "7" / "003.jpg").read_bytes())
    (train / "3" / "cmyk.jpg").write_bytes(saved(picture(203, mode="CMYK"), "JPEG"))
    deep = (np.random.default_rng(204).integers(0, 65536, SIZE)).astype(np.uint16)
    (train / "3" / "deep.png").write_bytes(saved(Image.fromarray(deep), "PNG"))
    (train / "7" / "tiny.png").write_bytes(saved(picture(205, (17, 23)), "PNG"))
    (train / "7" / "long.png").write_bytes(saved(picture(206, (37, 211)), "PNG"))
    (train / "3" / "blank.png").write_bytes(saved(Image.new("RGB", (59, 53), (9, 8, 7)), "PNG"))
    (train / "3" / "clear.png").write_bytes(saved(picture(207, mode="RGBA"), "PNG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    (train / "7" / "turned.jpg").write_bytes(saved(picture(208), "JPEG", exif=exif))
    frames = [picture(209), picture(210)]
    (train / "7" / "moves.gif").write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (val / "3" / "leak.jpg").write_bytes((train / "3" / "004.jpg").read_bytes())
    with Image.open(train / "7" / "001.jpg") as image:
        (val / "7" / "near.jpg").write_bytes(saved(image, "JPEG", quality=88))
    return {
        "bad file": [("3/cut.jpg", "")],
        "leak, exact": [("3/leak.jpg", "3/004.jpg")],
        "leak, near": [("7/near.jpg", "7/001.jpg")],
        "two labels, exact": [("7/twice.jpg", "3/002.jpg")],
        "copy, exact": [("7/again.jpg", "7/003.jpg")],
        "empty class": [("empty", "")],
        "other format": [("3/named.jpg", "")],
        "blank": [("3/blank.png", "")],
        "tiny": [("7/tiny.png", "")],
        "long": [("7/long.png", "")],
        "turned": [("7/turned.jpg", "")],
        "alpha": [("3/clear.png", "")],
        "16 bit": [("3/deep.png", "")],
        "CMYK": [("3/cmyk.jpg", "")],
        "animated": [("7/moves.gif", "")],
    }


def found_in(path: Path) -> dict[str, list[tuple[str, str]]]:
    """A list of findings, as `planted` gives them."""
    import csv

    found: dict[str, list[tuple[str, str]]] = {}
    with open(path, newline="") as handle:
        for row in csv.DictReader(handle):
            found.setdefault(row["check"], []).append((row["id"], row["other"]))
    return {check: sorted(pairs) for check, pairs in found.items()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    return root, planted(root)


def run(*words: object) -> int:
    from fewvit_cli import main

    return main.run(["data", "check", *map(str, words)])


THRESHOLD = 0.9999  # of fewvit_tiny, to which all smooth pictures are alike


def test_every_planted_fault_is_found_and_nothing_else(sets, tmp_path, capsys):
    root, wanted = sets
    words = ("-m", "fewvit_tiny", "--cache-dir", tmp_path / "c", "--label-errors", "none", "--threshold", THRESHOLD)
    words = (root / "train", "--against", root / "val", *words)
    assert run(*words, "--save-list", tmp_path / "a.csv", "--out", tmp_path / "a.html") == 0
    assert found_in(tmp_path / "a.csv") == wanted
    assert run(*words, "--save-list", tmp_path / "b.csv", "--strict", "--out", tmp_path / "b.html") == 3  # warm
    for ending in ("csv", "html"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    err = capsys.readouterr().err
    assert "--strict: 3 bad files or leaks" in err
    assert "nothing found: two labels, near; copy, near; small class; unknown class; no label; huge" in err


def test_without_a_backbone_all_is_found_but_what_goes_by_features(sets, tmp_path, capsys):
    root, wanted = sets
    assert run(root / "train", "--against", root / "val", "--save-list", tmp_path / "a.csv", "--format", "json") == 0
    assert found_in(tmp_path / "a.csv") == {check: pairs for check, pairs in wanted.items() if check != "leak, near"}
    out, err = capsys.readouterr()
    assert "no --backbone, so no features: near copies and label errors are not looked for" in err
    counts = {row["check"]: row["count"] for row in json.loads(out)["rows"]}
    assert counts["images"] == 7 + 5 + 12
    assert counts["mode CMYK"] == counts["format GIF"] == 1
    assert "leak, near" not in counts


def test_a_clean_set_has_no_finding_and_strict_passes_it(tmp_path, capsys):
    for i in range(11):
        (tmp_path / "d" / str(3 + 4 * (i % 2))).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / str(3 + 4 * (i % 2)) / f"{i}.jpg").write_bytes(jpeg(i))
    assert run(tmp_path / "d", "--strict", "--save-list", tmp_path / "a.csv") == 0
    assert found_in(tmp_path / "a.csv") == {}


def test_a_bad_file_has_the_reason_that_extraction_gives(sets, tmp_path):
    root, _ = sets
    run(root / "train", "-m", "none", "--save-list", tmp_path / "a.csv")
    run(root / "train", "-m", "fewvit_tiny", "--no-cache", "--label-errors", "none", "--save-list", tmp_path / "b.csv")
    with pytest.raises(BadImage) as error:
        decode((root / "train/3/cut.jpg").read_bytes(), Preprocess())
    for name in "ab":
        with open(tmp_path / f"{name}.csv", newline="") as file:
            assert ["bad file", "3/cut.jpg", "", error.value.reason] in list(csv.reader(file))


def test_each_file_is_read_once_while_features_are_made_and_once_when_they_are_stored(sets, tmp_path, monkeypatch):
    from collections import Counter

    from fewvit.datasets import _listing

    root, _ = sets
    read: Counter[str] = Counter()
    whole = _listing.whole
    monkeypatch.setattr(_listing, "whole", lambda path, size: read.update([path]) or whole(path, size))
    words = (root / "train", "-m", "fewvit_tiny", "--cache-dir", tmp_path / "c", "--label-errors", "none")
    for _ in range(2):
        read.clear()
        assert run(*words) == 0
        assert set(read.values()) == {1}
        assert len(read) == 24


def test_the_page_shows_hostile_names_as_text_and_asks_nothing_of_a_network(tmp_path):
    name = "<script>alert(1)<!--\n\udcff"
    (tmp_path / "d" / name).mkdir(parents=True)
    (tmp_path / "d" / name / "a&b.jpg").write_bytes(jpeg(1))
    (tmp_path / "d" / name / '"><img src=x>.jpg').write_bytes(jpeg(1))
    (tmp_path / "d" / name / "http:\\evil.png").write_bytes(saved(picture(4, (17, 19)), "PNG"))
    assert run(tmp_path / "d", "--out", tmp_path / "a.html") == 0
    text = (tmp_path / "a.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert 'src="http' not in text
    assert set(re.findall(r"url\((.{5})", text)) == {"data:"}
    assert "a&amp;b.jpg" in text
    assert "&lt;script&gt;alert(1)&lt;!--\\n\\udcff" in text


def test_a_page_of_many_noisy_pictures_stays_below_five_megabytes_and_says_what_is_not_shown(tmp_path):
    random = np.random.default_rng(3)
    for check in range(3):
        (tmp_path / "d" / f"{check}").mkdir(parents=True)
    for i in range(211):  # every one wide, every one with alpha: two checks
        noise = random.integers(0, 256, (31, 127, 4), dtype=np.uint8)
        (tmp_path / "d" / f"{i % 3}" / f"{i}.png").write_bytes(saved(Image.fromarray(noise), "PNG"))
    assert run(tmp_path / "d", "--out", tmp_path / "a.html") == 0
    assert (tmp_path / "a.html").stat().st_size <= 5_000_000
    assert (tmp_path / "a.html").read_text().count(f"{211 - 24} more are not shown") == 3  # tiny, long, alpha


def test_a_sprite_of_as_much_noise_as_it_may_hold_leaves_room_for_words_below_five_megabytes():
    from fewvit.curation.page import _ACROSS, _PLACES, _SIDE, _as_jpeg

    noise = np.random.default_rng(0).integers(0, 256, (_PLACES // _ACROSS * _SIDE, _ACROSS * _SIDE, 3), dtype=np.uint8)
    assert len(_as_jpeg([noise])) * 4 / 3 <= 4_200_000


# ---- headers


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_the_header_says_what_pillow_says_after_decoding(kind):
    data = saved(picture(1), kind)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        wanted = (image.format, image.width, image.height, image.mode)
    facts = facts_of(data)
    assert (facts.format, facts.width, facts.height, facts.mode) == wanted
    assert not facts.is_animated
    assert not facts.has_alpha


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_is_the_files(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert facts_of(saved(picture(1), kind, exif=exif)).orientation == orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (1031, 773)])
def test_one_colour_is_blank_in_every_format_and_one_odd_corner_is_not(kind, size):
    image = Image.new("RGB", size, (200, 30, 60))
    data = saved(image, kind)
    assert is_blank(data, facts_of(data))
    if size[0] > 1:
        image.paste((0, 0, 0), (size[0] - 9, size[1] - 9, size[0], size[1]))
        data = saved(image, kind)
        assert not is_blank(data, facts_of(data))


@pytest.mark.parametrize("options", [{"quality": 100, "subsampling": 0}, {"progressive": True}, {"quality": 5}])
def test_a_blank_jpeg_is_blank_however_it_is_coded_and_whatever_lies_before_it(options):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000  # a description longer than the picture
    data = saved(Image.new("RGB", (211, 199), (200, 30, 60)), "JPEG", exif=exif, **options)
    assert is_blank(data, facts_of(data))


def test_a_wholly_transparent_picture_is_blank_as_it_is_white_whatever_lies_under_it():
    noise = np.random.default_rng(0).integers(0, 256, (53, 59, 4), dtype=np.uint8)
    noise[..., 3] = 0
    data = saved(Image.fromarray(noise), "PNG")
    facts = facts_of(data)
    assert facts.has_alpha
    assert is_blank(data, facts)


# ---- copies, on features by hand


def features(rows: list[list[float]], labels: list[int], ids: list[str] | None = None) -> FeatureSet:
    names = ids or [f"{i}.jpg" for i in range(len(rows))]
    return FeatureSet(np.array(rows, np.float32), np.array(labels), names, ["a", "b", "c"])


def pairs(found) -> list[tuple[str, str, str]]:
    return [(one.check, one.id, one.other) for one in found]


def test_copies_are_told_beside_the_first_that_has_a_label():
    one = features([[1, 0]] * 5, [-1, 2, 0, 2, 1])
    digests = [b"x", b"x", b"x", b"x", b"y"]
    assert pairs(exact_copies(one, digests)) == [
        ("copy, exact", "0.jpg", "1.jpg"),
        ("two labels, exact", "2.jpg", "1.jpg"),
        ("copy, exact", "3.jpg", "1.jpg"),
    ]


def test_a_near_copy_has_its_cosine_and_an_exact_copy_of_it_is_no_near_one_too():
    one = features([[1, 0], [0, 1], [0.8, 0.6], [0.8, 0.6], [-1, 0]], [0, 0, 1, 1, 2])
    found = list(near_copies(one, one, [b"a", b"b", b"c", b"c", b"d"], 0.75))
    assert pairs(found) == [("two labels, near", "2.jpg", "0.jpg")]
    assert found[0].reason == "cosine 0.8000; b here, a there"
    assert pairs(near_copies(one, one, [b"a", b"b", b"c", b"c", b"d"], 0.55)) == [
        ("copy, near", "1.jpg", "0.jpg"),  # by way of the third
        ("two labels, near", "2.jpg", "0.jpg"),
    ]


def test_a_leak_is_exact_or_near_and_never_both():
    one = features([[1, 0], [0, 1]], [0, 1], ["x.jpg", "y.jpg"])
    other = features([[1, 0], [0.01, 1], [-1, 0]], [0, 1, 1], ["x.jpg", "q.jpg", "r.jpg"])
    digests, others = [b"1", b"2"], [b"1", b"3", b"4"]
    assert pairs(exact_leaks(one, digests, other, others)) == [("leak, exact", "x.jpg", "x.jpg")]
    assert pairs(near_leaks(one, one, digests, other, other, others, 0.99)) == [("leak, near", "q.jpg", "y.jpg")]


# ---- classes and labels


def test_classes_without_and_with_few_images_and_images_without_a_label_are_told():
    one = features([[1, 0]] * 8, [0, 0, 0, 0, 0, 2, 2, -1])
    assert [(f.check, f.id, f.reason) for f in of_classes(one)] == [
        ("empty class", "b", "no image"),
        ("small class", "c", "2 images"),
        ("no label", "7.jpg", "no label"),
    ]
    assert pairs(of_classes(features([[1, 0]] * 3, [-1] * 3))) == [("empty class", n, "") for n in "abc"]


def test_the_effective_number_of_classes_is_theirs_where_all_are_equal_and_falls_to_one():
    assert effective_classes(np.array([7, 7, 0, 7])) == pytest.approx(3)
    assert effective_classes(np.array([11, 0])) == 1
    assert effective_classes(np.array([3, 1])) == pytest.approx(4 / 3**0.75)  # 2^(H in bits), by hand
    assert effective_classes(np.zeros(2, int)) == 0


def clusters(wrong: int) -> tuple[FeatureSet, list[str]]:
    """Three classes, far apart and of unequal size, of which so many images have another one's label."""
    random = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], [23, 41, 17])
    rows = np.eye(3, 11)[labels] + random.normal(scale=0.05, size=(len(labels), 11))
    at = random.permutation(len(labels))[:wrong]
    labels[at] = (labels[at] + 1) % 3
    found = features(rows.tolist(), labels.tolist())
    return found, sorted(found.ids[i] for i in at)


@pytest.mark.parametrize("way", ["knn", "cleanlab"])
@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_wrong_labels_among_separable_features_are_found_and_no_others(way, wrong):
    if way == "cleanlab":
        pytest.importorskip("cleanlab", reason="cleanlab is not installed: pip install 'fewvit[labels]'")
    one, wanted = clusters(wrong)
    found = list(label_errors(one, way, 0, lambda line: None))
    assert sorted(f.id for f in found) == wanted
    true = dict(zip(one.ids, np.repeat(["a", "b", "c"], [23, 41, 17]).tolist(), strict=True))
    assert {f.other == true[f.id] for f in found} <= {True}


def test_a_small_class_is_not_judged_by_neighbours_that_cannot_be_of_it_and_that_is_said():
    one, _ = clusters(0)
    labels = one.labels.copy()
    labels[labels == 2] = -1
    labels[-4:] = 2  # four images: of ten neighbours at most three are theirs
    told: list[str] = []
    small = FeatureSet(one.features, labels, one.ids, one.classes)
    assert list(label_errors(small, "knn", 0, told.append)) == []
    assert told == ["label errors (knn): 1 class has fewer than 6 images, and nothing is said of their labels"]


def test_held_out_probabilities_know_nothing_of_the_image_they_are_of():
    """A class whose two images are nothing alike: fitted without the one, the other says nothing of it."""
    rows = np.array([[1, 0, 0]] * 7 + [[0, 1, 0]] * 7 + [[0, 0, 1]], np.float64)
    labels = np.array([0] * 7 + [1] * 7 + [0])  # the last is the only one that points along the third axis
    shares = held_out_probabilities(rows, labels, 0)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert abs(shares[-1, 0] - 0.5) < 0.1
    assert (shares[:7, 0] > 0.9).all()


def test_cleanlab_is_asked_for_by_name_and_missing_is_an_error(monkeypatch, tmp_path, capsys):
    from fewvit.curation import label_errors as module

    monkeypatch.setattr(module, "has_cleanlab", lambda: False)
    one, _ = clusters(1)
    one.save(tmp_path / "f.npz")
    assert run(tmp_path / "f.npz", "-m", "none", "--label-errors", "cleanlab") == 2
    assert "pip install 'fewvit[labels]'" in capsys.readouterr().err
    assert run(tmp_path / "f.npz", "-m", "none", "--save-list", tmp_path / "l.csv") == 0
    assert "by a vote of the nearest images, as cleanlab is not installed" in capsys.readouterr().err
    assert list(found_in(tmp_path / "l.csv")) == ["label error"]


def test_what_is_asked_for_and_cannot_be_done_is_refused(tmp_path, capsys):
    (tmp_path / "d" / "3").mkdir(parents=True)
    (tmp_path / "d" / "3" / "a.jpg").write_bytes(jpeg(1))
    for words, told in (
        (("--label-errors", "knn"), "goes by features"),
        (("--label-errors", "magic"), "unknown way"),
        (("--threshold", "1.5"), "no cosine"),
        (("-m", "fewvit_tiny,dino_vits16"), "one backbone"),
    ):
        assert run(tmp_path / "d", *words) == 2
        assert told in capsys.readouterr().err
    shutil.copy(tmp_path / "d/3/a.jpg", tmp_path / "keep.html")
    assert run(tmp_path / "d", "--out", tmp_path / "keep.html") == 2
    assert run(tmp_path / "nowhere") == 3


def test_every_check_says_what_to_do():
    assert all(advice and advice[0] != " " and not advice.endswith(".") for advice in CHECKS.values())
