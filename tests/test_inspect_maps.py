"""Maps of features, their page and their sprite."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fewvit.datasets import open_dataset
from fewvit.errors import DataError, MissingExtra, UnknownName, UsageError
from fewvit.features import FeatureSet
from fewvit.inspect import embed
from fewvit.inspect.colours import class_colours
from fewvit.inspect.map_page import PAGE_BYTES
from fewvit.inspect.projection import kept_neighbours, principal, project
from fewvit.inspect.sprites import make_sprite

from made_features import made
from made_images import folder_of


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return made(59, 0.5, {3: (31, 1), 7: (46, 1), 2: (24, 1)})[0]


# ---- projections


def test_principal_components_are_those_of_an_svd_and_signs_do_not_depend_on_the_order(features):
    rows = features.features
    found, share = principal(rows, 5)
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :5] * values[:5]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(share, values[:5] ** 2 / (values**2).sum(), rtol=1e-6)
    turned, _ = principal(rows[::-1], 5)
    np.testing.assert_allclose(turned[::-1], found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_is_the_same_for_the_same_seed_and_puts_classes_apart(features, method):
    one, again = project(features.features, method, 3), project(features.features, method, 3)
    np.testing.assert_array_equal(one.points, again.points)
    centres = np.stack([one.points[features.labels == c].mean(axis=0) for c in (2, 3, 7)])
    spread = max(one.points[features.labels == c].std(axis=0).max() for c in (2, 3, 7))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(3, 1)]
    assert distances.min() > 2 * spread


def test_only_the_direction_of_features_counts(features):
    longer = features.features * np.linspace(1, 9, len(features))[:, None].astype(np.float32)
    found = [project(rows, "pca").points for rows in (features.features, longer)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_kept_neighbours_is_the_share_by_brute_force(features):
    unit = features.features / np.linalg.norm(features.features, axis=1, keepdims=True)
    points = unit[:, :2] + 0

    def near(rows: np.ndarray, at: int, cosine: bool) -> set[int]:
        scores = rows @ rows[at] if cosine else -((rows - rows[at]) ** 2).sum(axis=1)
        return set(sorted((i for i in range(len(rows)) if i != at), key=lambda i: (-scores[i], i))[:10])

    wanted = np.mean([len(near(unit, i, True) & near(points, i, False)) / 10 for i in range(len(unit))])
    assert kept_neighbours(unit.astype(np.float32), points) == pytest.approx(wanted, abs=0.003)
    circle = np.stack([np.cos(np.arange(23)), np.sin(np.arange(23))], axis=1).astype(np.float32)
    assert kept_neighbours(circle, circle) == 1


def test_what_cannot_be_mapped_is_refused(features, monkeypatch):
    with pytest.raises(UnknownName, match="tsme"):
        project(features.features, "tsme")
    with pytest.raises(DataError, match="of 4 images or more, not of 3"):
        project(features.features[:3], "pca")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="umap") as error:
        project(features.features, "umap")
    assert "fewvit[umap]" in str(error.value)


def test_four_images_and_equal_images_have_a_map(features):
    for method in ("pca", "tsne"):
        assert np.isfinite(project(features.features[:4], method).points).all()
        assert np.isfinite(project(np.ones((7, 5), np.float32), method).points).all()


@pytest.mark.slow
def test_umap_is_the_same_for_the_same_seed(features):
    pytest.importorskip("umap")
    one, again = project(features.features, "umap", 3), project(features.features, "umap", 3)
    np.testing.assert_array_equal(one.points, again.points)


def test_colours_differ_and_the_first_do_not_depend_on_how_many_there_are():
    for count in (3, 10, 11, 200):
        assert len(set(class_colours(count))) == count
    assert class_colours(200)[:11] == class_colours(11)
    assert all(re.fullmatch("#[0-9a-f]{6}", one) for one in class_colours(37))


# ---- the sprite


def test_a_sprite_holds_each_picture_in_its_cell(tmp_path):
    for number, colour in enumerate([(250, 10, 10), (10, 250, 10), (10, 10, 250)]):
        Image.new("RGB", (50, 31), colour).save(tmp_path / f"{number}.png")
    images = open_dataset(str(tmp_path))
    sprite = make_sprite(images, [2, 0, 1], 100_000, 0)
    sheet = np.asarray(Image.open(io.BytesIO(sprite.jpeg)).convert("RGB")).astype(int)
    assert sprite.side == 64
    assert sprite.cell.tolist() == [0, 1, 2]
    middles = [sheet[32, 64 * cell + 32] for cell in sprite.cell]
    np.testing.assert_allclose(middles, [(10, 10, 250), (250, 10, 10), (10, 250, 10)], atol=12)


def test_a_sprite_is_made_smaller_and_then_of_fewer_pictures_until_it_fits(tmp_path):
    random = np.random.default_rng(0)
    for number in range(71):  # noise, which no JPEG makes small
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "99.png").write_bytes(b"no image")
    images, rows = open_dataset(str(tmp_path)), list(range(72))
    whole = make_sprite(images, rows, 10_000_000, 0)
    assert (whole.side, int((whole.cell >= 0).sum()), whole.undecodable) == (64, 71, 1)
    assert whole.cell[71] == -1
    smaller = make_sprite(images, rows, int(0.6 * len(whole.jpeg)), 0)
    assert smaller.side in (48, 40, 32)
    assert len(smaller.jpeg) <= 0.6 * len(whole.jpeg)
    assert int((smaller.cell >= 0).sum()) == 71
    fewer = make_sprite(images, rows, len(whole.jpeg) // 10, 0)
    assert len(fewer.jpeg) <= len(whole.jpeg) // 10
    assert fewer.side == 32
    assert 0 < (fewer.cell >= 0).sum() < 71
    assert sorted(fewer.cell[fewer.cell >= 0]) == list(range(int((fewer.cell >= 0).sum())))


# ---- the page

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>&\u2028'


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and what stands in scripts."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._open = tag == "script"

    def handle_endtag(self, tag):
        self._open = False

    def handle_data(self, data):
        if self._open:
            self.scripts.append(data)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """Features of a folder with images, under hostile names."""
    folder = folder_of(tmp_path_factory.mktemp("images"), {"three": 5, "seven": 8})
    images = open_dataset(str(folder))
    rows = np.random.default_rng(1).normal(size=(13, 7)).astype(np.float32)
    features = FeatureSet(rows, images.labels, images.ids, [HOSTILE, "seven"], name=HOSTILE, backbone="b<i>")
    return features, images


def test_a_page_is_one_file_that_asks_for_nothing_and_runs_its_own_script_alone(pictured, tmp_path):
    features, images = pictured
    path = tmp_path / "map.html"
    embed(features, "pca", images=images).save(path)
    html = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[a-z.]+", html)) <= {"https://evil.example"}  # in a name, as text
    tags = Tags(html)
    sources = [attrs[name] for _, attrs in tags.found for name in ("src", "href", "action", "data") if name in attrs]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len(sources) == 1
    assert len(tags.scripts) == 2
    assert [tag for tag, _ in tags.found].count("script") == 2
    assert not any(name.startswith("on") for _, attrs in tags.found for name in attrs)
    policy = next(attrs["content"] for tag, attrs in tags.found if attrs.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(tags.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_page_keeps_hostile_names_as_text(pictured):
    features, images = pictured
    html = embed(features, "pca", images=images).page().html
    tags = Tags(html)
    data = json.loads(tags.scripts[0])
    assert data["classes"][0].startswith("</script><script>alert(1)")
    assert data["labels"] == features.labels.tolist()
    assert "<script>alert" not in html
    assert "onerror=alert(2)>" not in re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)
    assert [tag for tag, _ in tags.found].count("img") == 1  # the sprite


def test_a_page_has_the_points_to_scale_and_the_same_bytes_again(pictured):
    features, images = pictured
    made_map = embed(features, "pca", images=images)
    html = made_map.page().html
    assert html == embed(features, "pca", images=images).page().html
    data = json.loads(Tags(html).scripts[0])
    places = np.array(data["points"]).reshape(-1, 2).astype(float)
    assert places.min() == 0
    assert places.max() == 9999
    points = made_map.maps[0].points
    step = np.ptp(points, axis=0).max() / 9999
    np.testing.assert_allclose(places[:, 0] * step, points[:, 0] - points[:, 0].min(), atol=step)
    np.testing.assert_allclose(places[:, 1] * step, points[:, 1].max() - points[:, 1], atol=step)  # downwards
    assert data["ids"] == list(features.ids)
    assert data["cells"] == list(range(13))


def test_a_page_stays_below_five_megabytes_and_says_what_it_left_out(pictured, monkeypatch):
    features, images = pictured
    monkeypatch.setattr("fewvit.inspect.map_page.PAGE_BYTES", 44_000)
    monkeypatch.setattr("fewvit.inspect.embedding.PAGE_BYTES", 44_000)
    page = embed(features, "pca", images=images).page()
    assert "pixels wide in place of 64" in " ".join(page.notes)
    assert 0 < (page.sprite.cell >= 0).sum() < 13
    assert "of 13 images have a picture" in " ".join(page.notes)
    assert PAGE_BYTES == 5_000_000
    many = replace(features, ids=[f"{'x' * 200_000}/{row}" for row in range(13)])
    page = embed(many, "pca").page()
    assert json.loads(Tags(page.html).scripts[0])["ids"] is None
    assert "names have no room" in " ".join(page.notes)
    assert "no images" in " ".join(page.notes)


def test_a_picture_and_its_arrays_come_from_the_same_points(pictured, tmp_path):
    features, _ = pictured
    figure = embed([features, replace(features, backbone="other")], "pca")
    for ending in ("png", "svg", "npz"):
        figure.save(tmp_path / f"map.{ending}")
    with np.load(tmp_path / "map.npz") as arrays:
        np.testing.assert_array_equal(arrays["points"][1], figure.maps[1].points)
        assert arrays["backbones"].tolist() == ["b<i>", "other"]
    first = (tmp_path / "map.png").read_bytes()
    figure.save(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes() == first
    with pytest.raises(UsageError, match="one backbone"):
        figure.save(tmp_path / "map.html")
    assert [row["metric"] for row in figure.rows] == ["kept@10", "explained"] * 2
