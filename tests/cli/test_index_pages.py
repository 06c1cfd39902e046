"""`index search --gallery` and `index evaluate`: a page that needs nothing else, and measures by brute force."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from fewvit.features import FeatureSet

from made_images import folder_of, jpeg
from made_indexes import random_rows

MODEL = ("-m", "fewvit_tiny", "--img-size", "32", "--device", "cpu")
ODD = "<img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Seven images, one of an odd name, and an index of them."""
    from fewvit_cli import main as cli

    root = tmp_path_factory.mktemp("pages")
    folder_of(root / "images", {"hens": 3, "oxen": 3})
    (root / "images" / "oxen" / ODD).write_bytes(jpeg(71))
    assert cli.run([*map(str, ("index", "build", *MODEL, "-q", "--data", root / "images", "--index", root / "x"))]) == 0
    return root


# ---- the gallery


def page_of(fewvit, made, *words: object) -> str:
    target = made / "found.html"
    code, _, err = fewvit("index", "search", "--index", made / "x", *words, "--gallery", target)
    assert code == 0, err
    return target.read_text()


def pictures(page: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    ]


def test_a_gallery_holds_the_query_and_what_was_found_and_asks_for_nothing_else(fewvit, made):
    query = made / "images" / "hens" / "001.jpg"
    page = page_of(fewvit, made, query, "--k", 3)
    shown = pictures(page)
    assert len(shown) == 4
    asked = Image.open(io.BytesIO(jpeg(1)))
    for picture in shown[:2]:  # the query, and the same image of the index
        assert picture.size == asked.size
        assert np.abs(np.asarray(picture, np.int16) - np.asarray(asked.convert("RGB"), np.int16)).mean() < 4
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w+:", page)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_names_with_markup_are_text_on_the_page(fewvit, made):
    page = page_of(fewvit, made, "--like", f"oxen/{ODD}", "--k", 7)
    assert f"oxen/{ODD}" not in page
    assert html.escape(f"oxen/{ODD}") in page
    assert page.count("<img ") == 8


def test_a_picture_that_is_gone_or_another_one_is_left_out_and_said_to_be(fewvit, made):
    gone, other = made / "images" / "hens" / "000.jpg", made / "images" / "hens" / "002.jpg"
    before = gone.read_bytes(), other.read_bytes()
    try:
        gone.unlink()
        other.write_bytes(jpeg(99))
        page = page_of(fewvit, made, "--like", "hens/001.jpg", "--k", 7)
        assert len(pictures(page)) == 6  # the query, and five of seven
        assert sorted(re.findall(r'class="file">(\w+)<', page)) == ["changed", "missing"]
    finally:
        gone.write_bytes(before[0])
        other.write_bytes(before[1])


def is_close(picture: Image.Image, data: bytes) -> bool:
    """Whether a picture of the page is that of an image file."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    wide = np.asarray(picture.convert("RGB").resize(image.size), np.int16) - np.asarray(image, np.int16)
    return picture.size == image.size and bool(np.abs(wide).mean() < 4)


def test_the_picture_of_a_query_is_the_image_that_was_asked_for_whatever_else_bears_its_name(
    fewvit, made, tmp_path, monkeypatch
):
    (tmp_path / "hens").mkdir()
    (tmp_path / "hens" / "001.jpg").write_bytes(jpeg(55))  # the id of an image of the index
    for name, seed in (("a + b.jpg", 56), ("a", 57), ("b.jpg", 58)):
        (tmp_path / name).write_bytes(jpeg(seed))
    monkeypatch.chdir(tmp_path)
    asked = ("a + b.jpg", "hens/001.jpg", "hens/001.jpg", "--like", "hens/001.jpg")
    sections = page_of(fewvit, made, *asked, "--k", 1, "--device", "cpu").split("<section>")[1:]
    of_index = (made / "images" / "hens" / "001.jpg").read_bytes()
    for section, data in zip(sections, [jpeg(56), jpeg(55), jpeg(55), of_index], strict=True):
        query, _ = pictures(section)
        assert is_close(query, data)
    assert not is_close(pictures(sections[3])[0], jpeg(55))
    joined = pictures(page_of(fewvit, made, *asked, "--combine", "max", "--k", 1, "--device", "cpu"))
    for picture, data in zip(joined, [jpeg(56), jpeg(55), jpeg(55), of_index], strict=False):
        assert is_close(picture, data)
    assert len(joined) == 5  # and the result


def test_a_gallery_replaces_no_other_file(fewvit, made):
    target = made / "notes.html"
    target.write_text("my notes")
    code, _, err = fewvit("index", "search", "--index", made / "x", "--like", "hens/001.jpg", "--gallery", target)
    assert (code, target.read_text()) == (2, "my notes")
    assert "notes.html" in err


# ---- evaluation


def features(seed: int, count: int, classes: list[str]) -> FeatureSet:
    rows = random_rows(seed, count)
    labels = np.random.default_rng(seed).integers(0, len(classes), count)
    return FeatureSet(np.stack([row[0] for row in rows.values()]), labels, list(rows), classes)


def brute(index: FeatureSet, queries: FeatureSet, *, without_itself: bool = False) -> dict[str, float]:
    """The label measures, one query after another, from their definitions."""
    unit = [side.features.astype(np.float64) for side in (index, queries)]
    bank, asked = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in unit)
    sums: dict[str, list[float]] = {}
    for q, query in enumerate(asked):
        others = [i for i in range(len(bank)) if not (without_itself and index.ids[i] == queries.ids[q])]
        order = sorted(others, key=lambda i: (-float(bank[i] @ query), i))
        name = queries.classes[queries.labels[q]]
        right = [index.classes[index.labels[i]] == name for i in order]
        positives = sum(right)
        if not positives:
            continue
        one = {f"recall@{k}": float(any(right[:k])) for k in (1, 5, 10)}
        one |= {f"precision@{k}": sum(right[:k]) / k for k in (1, 5, 10)}
        one["map@r"] = sum(sum(right[: i + 1]) / (i + 1) for i in range(positives) if right[i]) / positives
        one["r_precision"] = sum(right[:positives]) / positives
        one["mrr"] = 1 / (1 + right.index(True))
        for name, value in one.items():
            sums.setdefault(name, []).append(100 * value)
    return {name: float(np.mean(values)) for name, values in sums.items()}


@pytest.fixture
def sets(fewvit, tmp_path):
    """Features of an index, of queries with one class more, and the index, of which five images were removed."""
    index, queries = features(3, 61, ["hen", "ox", "yak"]), features(5, 17, ["ox", "emu", "hen"])
    index.save(tmp_path / "index.npz")
    queries.save(tmp_path / "queries.npz")
    folder = tmp_path / "x"
    assert fewvit("index", "build", "--data", tmp_path / "index.npz", "--index", folder)[0] == 0
    assert fewvit("index", "remove", "--index", folder, *index.ids[10:15])[0] == 0
    kept = index.select(np.array([i for i in range(61) if not 10 <= i < 15]))
    return kept, queries, folder


def measured(fewvit, folder, *words: object) -> dict[str, float]:
    code, out, err = fewvit("index", "evaluate", "--index", folder, *words, "--format", "json")
    assert code == 0, err
    return {row["metric"]: row["value"] for row in json.loads(out)["rows"]}


def test_labels_are_judged_as_brute_force_judges_them_and_dead_images_are_no_answers(fewvit, sets, tmp_path):
    kept, queries, folder = sets
    assert measured(fewvit, folder, "--queries", tmp_path / "queries.npz") == pytest.approx(brute(kept, queries))


def test_without_queries_every_image_asks_and_is_left_out_of_its_own_answer(fewvit, sets):
    kept, _, folder = sets
    assert measured(fewvit, folder) == pytest.approx(brute(kept, kept, without_itself=True))


def test_a_protocol_that_needs_a_ground_truth_says_so(fewvit, sets, tmp_path):
    _, _, folder = sets
    words = ("index", "evaluate", "--index", folder, "--queries", tmp_path / "queries.npz")
    code, _, err = fewvit(*words, "--protocol", "revisitop/1")
    assert code == 2
    assert "ground truth" in err
    assert fewvit(*words, "--protocol", "labels/2")[0] == 2
