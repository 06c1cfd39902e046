"""The search page: what it finds, what it shows, and what it refuses, over real sockets."""

from __future__ import annotations

import html
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from fewvit.errors import UsageError
from fewvit.features import FeatureSet
from fewvit.images import BadImage
from fewvit.retrieval.examples import mean_of, search_best
from fewvit.retrieval.index import ImageIndex
from fewvit.retrieval.opened import OnlyThese
from fewvit.retrieval.web import loaded
from fewvit.retrieval.web.asking import Asked, Example, asked, pairs_of
from fewvit.retrieval.web.guard import Doors
from fewvit.retrieval.web.limits import Limits
from fewvit.retrieval.web.server import require_safe
from fewvit.retrieval.web.workers import Decoders, DecodingLimits

from made_images import folder_of, jpeg
from served import Page, multipart, raw, serving

MARKUP, NEWLINE, ODD = "<img src=x onerror=alert(1)>.jpg", "two\nlines\r\n.jpg", os.fsdecode(b"odd\xff.jpg")


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Three classes of 11, 7 and 3 images; three files with names that no page should trust."""
    root = folder_of(tmp_path_factory.mktemp("pictures"), {"cat": 11, "dog": 7, "fox": 3})
    for at, name in enumerate((MARKUP, NEWLINE, ODD)):
        (root / "fox" / name).write_bytes(jpeg(900 + at))
    return root


@pytest.fixture(scope="module")
def index(images, tmp_path_factory) -> ImageIndex:
    return ImageIndex.build(tmp_path_factory.mktemp("idx") / "the index", str(images), backbone="fewvit_tiny")


@pytest.fixture(scope="module")
def page(index) -> Page:
    with serving(index.path) as running:
        yield running


def ids(answer: dict) -> list[str]:
    return [hit["id"] for hit in answer["results"]]


# ---- what is found


def test_an_uploaded_image_finds_what_the_command_line_finds(page, index, tmp_path):
    from fewvit.datasets import Listing
    from fewvit.extraction.cache import default_cache_dir
    from fewvit.models.spec import Access
    from fewvit.retrieval.describe import found_rows
    from fewvit.retrieval.queries import reader_of
    from fewvit.retrieval.searching import Request, run_search

    for seed, data in enumerate((jpeg(501, (150, 211)), jpeg(502), png((37, 53)))):
        file = tmp_path / f"{seed}.bin.jpg"
        file.write_bytes(data)
        reader = reader_of(index, Access(default_cache_dir(), offline=True))
        [query], near, _ = run_search(index, Request([str(file)], k=13), reader, Listing())
        wanted = [(row["id"], row["score"]) for row in found_rows(index, [query.name], near)]
        found = page.post("/api/search?k=13", [("image", "x.jpg", data)]).json["results"]
        assert [(hit["id"], hit["score"]) for hit in found] == wanted


def test_an_image_of_the_index_finds_itself_first_and_then_what_a_search_by_its_feature_finds(page, index):
    answer = page.search("like=dog/003.jpg&k=7")
    row = index.row_of("dog/003.jpg")
    rows, scores = index.search(index.features(np.array([row])), 7).of(0)
    assert ids(answer) == index.ids(rows)
    assert ids(answer)[0] == "dog/003.jpg"
    assert [hit["score"] for hit in answer["results"]] == pytest.approx(scores.tolist(), abs=1e-6)


def features_of(index, *names: str) -> np.ndarray:
    return index.features(np.array([index.row_of(name) for name in names]))


def test_several_examples_are_searched_by_their_mean_or_by_the_nearest_and_away_from_the_unwanted(page, index):
    wanted, unwanted = features_of(index, "cat/001.jpg", "dog/002.jpg"), features_of(index, "cat/005.jpg")
    query = "like=cat/001.jpg&like=dog/002.jpg&unlike=cat/005.jpg&k=9"
    mean, _ = index.search(mean_of(wanted, unwanted), 9).of(0)
    assert ids(page.search(query)) == index.ids(mean)
    best, _ = search_best(index, wanted, unwanted, 9, OnlyThese(), None).of(0)
    assert ids(page.search(f"{query}&combine=max")) == index.ids(best)
    assert index.ids(mean) != index.ids(best)


def test_uploaded_examples_may_be_unwanted_and_join_those_of_the_index(page, index, images):
    data = (images / "cat/005.jpg").read_bytes()  # the same bytes, so the same feature as the index's
    by_upload = page.post("/api/search?like=cat/001.jpg&k=9", [("not", "x.jpg", data)]).json
    assert ids(by_upload) == ids(page.search("like=cat/001.jpg&unlike=cat/005.jpg&k=9"))
    assert ids(by_upload) != ids(page.search("like=cat/001.jpg&k=9"))
    again = page.get("/api/search" + by_upload["permalink"].removeprefix("/")).json
    assert ids(again) == ids(by_upload)


def test_classes_and_a_folder_filter_and_a_threshold_cuts_off(page):
    everything = page.search("like=cat/001.jpg&k=2000")["results"]
    middle = round(everything[12]["score"] - 1e-5, 5)
    for query, keep in (
        ("class=dog", lambda hit: hit["label"] == "dog"),
        ("class=dog&class=fox", lambda hit: hit["label"] in ("dog", "fox")),
        ("folder=cat/00", lambda hit: hit["id"].startswith("cat/00")),
        (f"threshold={middle}", lambda hit: hit["score"] >= middle),
    ):
        found = page.search(f"like=cat/001.jpg&k=2000&{query}")["results"]
        assert [hit["id"] for hit in found] == [hit["id"] for hit in everything if keep(hit)]
        assert 0 < len(found) < len(everything)


def test_pages_one_after_another_are_one_long_answer(page):
    whole = page.search("like=dog/000.jpg&k=2000")["results"]
    found, address = [], "/api/search?like=dog/000.jpg&k=5"
    while address:
        answer = page.get(address).json
        found += answer["results"]
        address = answer["next"]
    assert len(whole) == 24
    assert [(hit["rank"], hit["id"]) for hit in found] == [(hit["rank"], hit["id"]) for hit in whole]


def test_a_filter_without_an_example_lists_what_it_lets_through(page):
    answer = page.search("class=dog")
    assert ids(answer) == [f"dog/{i:03d}.jpg" for i in range(7)]
    assert {hit["score"] for hit in answer["results"]} == {None}


def test_an_item_is_found_by_its_id_whatever_is_in_it(page):
    for hit in page.search("class=fox")["results"]:
        reply = page.get(hit["item"])
        assert reply.status == 200
        assert reply.json["id"] == hit["id"]
    assert {MARKUP, NEWLINE, ODD} <= {Path(name).name for name in ids(page.search("class=fox"))}
    assert page.get("/api/item/fox/none.jpg").status == 404


def test_an_example_that_is_not_there_is_an_error_to_programs_and_a_word_to_people(page):
    assert page.get("/api/search?like=cat/none.jpg").status == 404
    assert page.get("/api/search?example=0123").status == 404
    shown = page.get("/?like=cat/none.jpg&like=cat/001.jpg")
    assert shown.status == 200
    assert "1 example is not here any more" in shown.text


# ---- addresses


def some_search(rng: random.Random) -> Asked:
    names = ["a/b.jpg", "a b&c=d", "ü#?%41", MARKUP, NEWLINE, ODD, "+"]
    pick = lambda most: rng.sample(names, rng.randint(0, most))  # noqa: E731
    examples = tuple(Example(name, rng.random() < 0.5, rng.random() < 0.5) for name in pick(5))
    return Asked(
        examples,
        OnlyThese(tuple(pick(3)), rng.choice(["", *names])),
        rng.choice(["mean", "max"]),
        rng.choice([None, -1.0, 0.25]),
        rng.choice([48, 1, 2000]),
        rng.choice([1, 3]),
    )


def test_the_address_of_a_search_is_the_whole_search():
    rng = random.Random(7)
    for _ in range(300):
        search = some_search(rng)
        assert search.query.isascii()
        assert asked(pairs_of(search.query.encode())) == search


def test_an_example_has_one_sign_the_last_one():
    search = Asked().with_example(Example("a")).with_example(Example("b")).with_example(Example("a", False))
    assert search.query == "like=b&unlike=a"
    assert asked(pairs_of(b"like=a&like=b&unlike=a")).query == "like=b&unlike=a"
    assert search.without_example(Example("a")).query == "like=b"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("k=0", "k"),
        ("k=-1", "k"),
        ("k=2001", "k"),
        ("k=1.5", "k"),
        ("k=" + "9" * 5000, "k"),
        ("k=%D9%A3", "k"),  # a digit, but not one of ours
        ("page=0", "page"),
        ("page=9999", "page"),
        ("threshold=nan", "threshold"),
        ("threshold=2", "threshold"),
        ("combine=min", "combine"),
        ("url=http://127.0.0.1/x.jpg", "url"),
        ("image_path=/etc/passwd", "image_path"),
        ("class=wolf", "wolf"),
        ("&".join(f"like={i}" for i in range(17)), "17 examples"),
        ("&".join(f"class={i}" for i in range(101)), "100 fields"),
        ("unlike=cat/001.jpg", "not wanted"),
    ],
)
def test_a_wrong_parameter_is_named(page, query, named):
    for path in ("/", "/api/search"):
        reply = page.get(f"{path}?{query}")
        assert reply.status == 400, reply.text
        assert named in html.unescape(reply.text)


# ---- the page


class Elements(HTMLParser):
    """The elements of a page: name and attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_shows_the_images_with_class_and_similarity_and_links_that_need_no_script(page):
    shown = page.get("/?like=cat/001.jpg&k=5")
    elements = Elements(shown.text)
    thumbs = [image for image in elements.of("img") if image.get("loading") == "lazy"]
    answer = page.search("like=cat/001.jpg&k=5")
    assert [image["src"] for image in thumbs] == [hit["thumb"] for hit in answer["results"]]
    assert thumbs[0]["alt"] == "cat/001.jpg, class cat, similarity 1.000"
    links = [link for link in elements.of("a") if link.get("class") == "plus"]
    for link, hit in zip(links, answer["results"], strict=True):
        follow = page.get("/api/search" + link["href"].removeprefix("/"))
        assert {"id": hit["id"], "wanted": True} in follow.json["examples"]
    assert [link["href"] for link in elements.of("a") if link.get("rel") == "next"] == ["/?like=cat/001.jpg&k=5&page=2"]


def test_names_are_text_on_the_page_and_in_answers(page):
    shown = page.get("/?class=fox").text
    assert MARKUP not in shown
    assert html.escape(MARKUP) in shown.replace("&#34;", "&quot;")
    assert not [image for image in Elements(shown).of("img") if "onerror" in image or image["src"] == "x"]
    assert "two\\nlines\\r\\n.jpg" in shown
    assert "odd\\udcff.jpg" in shown
    answer = page.get("/api/search?class=fox")
    assert answer.headers["content-type"] == "application/json"
    # and as a query of their own, also through the page's forms
    for link in Elements(shown).of("a"):
        if link.get("class") == "more":
            assert "Nearest images" in page.get(link["href"]).text


def test_scripts_styles_and_pictures_come_from_this_server_alone(page):
    shown = page.get("/?like=cat/001.jpg").text
    elements = Elements(shown)
    addresses = [
        attributes[name] for _, attributes in elements.found for name in ("src", "href", "action") if name in attributes
    ]
    assert len(addresses) > 50
    assert {address[0] for address in addresses} <= {"/", "#"}
    assert not [a for a in addresses if a.startswith("//")]
    assert "style=" not in shown
    assert all("src" in script for script in elements.of("script"))
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    css = page.get("/static/page.css")
    assert css.headers["content-type"].startswith("text/css")
    assert b"url(" not in css.body
    assert b"@import" not in css.body


def test_every_picture_has_a_text_and_every_field_a_label(page):
    for query in ("", "?like=cat/001.jpg&unlike=dog/001.jpg&class=cat"):
        shown = page.get(f"/{query}").text
        elements = Elements(shown)
        assert all(image.get("alt") for image in elements.of("img"))
        labelled = {label.get("for") for label in elements.of("label")}
        for field in elements.of("input"):
            wrapped = re.search(rf'<label><span>\w+</span>\s*<input id="{field.get("id")}"', shown)
            assert field["type"] == "hidden" if "id" not in field else field["id"] in labelled or wrapped
        for link in re.findall(r"<a ([^>]*)>[+−×↗?]</a>", shown):
            assert "aria-label=" in link
        assert '<html lang="en">' in shown


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_what_they_are_on(page, theme):
    """WCAG AA: 4.5 for texts, 3 for the focus ring."""
    css = page.get("/static/page.css").text
    values = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", re.findall(r":root \{.*?\n *\}", css, re.DOTALL)[theme]))

    def ratio(one: str, other: str) -> float:
        low, high = sorted((luminance(values[one]), luminance(values[other])))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "soft", "accent", "plus", "minus"):
        for ground in ("ground", "sheet", "wash") if text in ("ink", "accent") else ("ground", "sheet"):
            assert ratio(text, ground) >= 4.5, (text, ground)
    assert ratio("on-accent", "accent") >= 4.5
    assert ratio("warn", "warn-wash") >= 4.5


# ---- forms


def test_an_upload_leads_to_an_address_that_shows_it(page):
    data = jpeg(611, (90, 121))
    reply = page.post("/search", [("state", None, b"class=dog&k=5"), ("image", "../../x.jpg", data)])
    assert reply.status == 303
    assert re.fullmatch(r"/\?example=[0-9a-f]{24}&class=dog&k=5", reply.headers["location"])
    shown = page.get(reply.headers["location"])
    assert "Nearest images" in shown.text
    [picture] = [i for i in Elements(shown.text).of("img") if i["src"].startswith("/example/")]
    made = page.get(picture["src"])
    assert made.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(made.body)).size == (121, 90)
    assert made.body != data
    again = page.post("/search", [("state", None, b""), ("image", "other name.png", data)])
    assert again.headers["location"].split("&")[0] == reply.headers["location"].split("&")[0]


def test_a_filter_joins_the_search_that_is_there(page):
    reply = page.get("/?state=like%3Dcat%2F001.jpg%26class%3Dcat%26page%3D2%26folder%3Dold&class=dog&folder=d")
    assert reply.status == 303
    assert reply.headers["location"] == "/?like=cat/001.jpg&class=cat&class=dog&folder=d"


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([("image", "", b"")], "no image was chosen"),
        ([("image", "x.jpg", b"")], "empty file"),
        ([("image", "x.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")], "not an image"),
        ([("image", "x.jpg", b"<!doctype html><script>alert(1)</script>")], "not an image"),
        ([("image", "x.jpg", jpeg(5)[:-400])], "cannot be used"),
        ([("image", "x.png", png((60_000, 1000), "1"))], "60000 x 1000 pixels"),
        ([("file", "x.jpg", jpeg(5))], "file"),
        ([("state", None, b"nonsense=1"), ("image", "x.jpg", jpeg(5))], "nonsense"),
        ([("image", f"{i}.jpg", b"x") for i in range(17)], "files"),
    ],
)
def test_what_is_no_image_is_refused_in_words(page, parts, named):
    for path in ("/search", "/api/search"):
        reply = page.post(path, parts)
        if path == "/api/search" and parts[0] in (("image", "", b""), ("state", None, b"nonsense=1")):
            continue  # these are the page's
        assert reply.status == 400, reply.text
        assert named in html.unescape(reply.text)


def test_a_picture_that_is_also_a_web_page_is_only_ever_shown_as_a_new_picture(page):
    script = b"<script>alert(document.domain)</script>"
    both = jpeg(77)[:2] + b"\xff\xfe" + (len(script) + 2).to_bytes(2, "big") + script + jpeg(77)[2:] + script
    reply = page.post("/api/search", [("image", "x.html", both)])
    assert reply.status == 200
    [example] = reply.json["examples"]
    made = page.get(f"/example/{example['token']}")
    assert script not in made.body
    assert made.headers["content-type"] == "image/jpeg"
    assert ids(reply.json) == ids(page.post("/api/search", [("image", "x.jpg", jpeg(77))]).json)


def test_a_form_of_another_kind_is_refused(page):
    kind, body = multipart([("image", "x.jpg", jpeg(5))])
    assert page.get("/api/search", "POST", body, Content_Type="application/x-www-form-urlencoded").status == 415
    assert page.get("/api/search", "POST", body, Content_Type="multipart/form-data").status == 400
    assert page.get("/api/search", "POST", body[:-30], Content_Type=kind).status == 400
    assert page.get("/search", "PUT", body, Content_Type=kind).status == 405
    assert page.get("/api/search", "POST", body, Content_Type=f"{kind}; charset=UTF-8").status == 200
    for charset in ("punycode", "undefined", "unicode_escape"):
        reply = page.get("/api/search", "POST", body, Content_Type=f"{kind}; charset={charset}")
        assert (reply.status, reply.json) == (415, {"error": "the fields of a form are UTF-8"})


# ---- pictures


def test_a_thumbnail_is_the_picture_of_its_row_made_anew(page, images):
    for hit in page.search("like=dog/002.jpg&k=5")["results"]:
        reply = page.get(hit["thumb"])
        shown = np.asarray(Image.open(io.BytesIO(reply.body)), np.float32)
        whole = np.asarray(Image.open(images / hit["id"]), np.float32)
        assert shown.shape == whole.shape
        assert np.abs(shown - whole).mean() < 4
        assert reply.headers["etag"]
        assert page.get(hit["thumb"], If_None_Match=reply.headers["etag"]).status == 304
        assert page.get(hit["image"]).headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/hostname",
        "%2e%2e/%2e%2e/etc/hostname",
        "..%2f..%2fetc%2fhostname",
        "//etc/hostname",
        "1/../2",
        "-1",
        "1.5",
        "1e3",
        "0x1",
        "%D9%A1",
        "9" * 19,
        str(2**63),
        "9" * 5000,
        "cat/001.jpg",
        "24",
        "",
        "1%00",
        str((2 << 32) | 1),  # a row of a version that is not here
    ],
)
def test_a_picture_is_known_by_its_number_alone(page, images, index, path):
    for kind in ("thumb", "image"):
        reply = page.get(f"/{kind}/{path}")
        assert reply.status == 404
        assert str(images).encode() not in reply.body
        assert str(index.path).encode() not in reply.body
    assert page.get("/thumb/23").status == 200  # a bare row is one of the version that is served


@pytest.mark.parametrize("path", ["../page.css", "..%2fapp.py", "%2e%2e/app.py", "app.py", "", "page.html", "//etc"])
def test_static_files_are_those_of_a_list(page, path):
    assert page.get(f"/static/{path}").status == 404


def test_a_picture_that_is_gone_or_another_one_has_a_placeholder_and_a_word(tmp_path):
    root = folder_of(tmp_path / "pictures", {"cat": 3, "dog": 3})
    index = ImageIndex.build(tmp_path / "idx", str(root), backbone="fewvit_tiny")
    with serving(index.path) as page:
        by_id = {hit["id"]: hit for hit in page.search("like=cat/000.jpg")["results"]}
        assert page.get(by_id["cat/001.jpg"]["thumb"]).status == 200  # now it is kept
        (root / "cat/001.jpg").unlink()
        (root / "cat/002.jpg").write_bytes(jpeg(4321))
        (root / "dog/000.jpg").unlink()
        os.mkfifo(root / "dog/000.jpg")
        states = {hit["id"]: hit["file"] for hit in page.search("like=cat/000.jpg")["results"]}
        assert (states["cat/001.jpg"], states["cat/002.jpg"], states["cat/000.jpg"]) == ("missing", "changed", "there")
        bodies = []
        for name in ("cat/001.jpg", "cat/002.jpg", "dog/000.jpg"):
            for kind in ("thumb", "image"):
                reply = page.get(by_id[name][kind])
                assert (reply.status, reply.headers["content-type"]) == (404, "image/png")
                assert reply.headers["cache-control"] == "no-store"
                bodies.append(reply.body)
        assert bodies[0] != bodies[2]
        shown = page.get("/?like=cat/000.jpg").text
        assert "the file is missing" in shown
        assert "the file has changed since it was indexed" in shown
        (root / "cat/002.jpg").write_bytes(jpeg(2))
        assert page.get(by_id["cat/002.jpg"]["thumb"]).status == 200


# ---- who may ask


def test_every_answer_tells_browsers_what_they_may_do_with_it(page):
    kind, body = multipart([("image", "x.jpg", jpeg(5))])
    replies = [
        page.get("/"),
        page.get("/thumb/3"),
        page.get("/thumb/x"),
        page.get("/static/page.js"),
        page.get("/api/search"),
        page.get("/openapi.json"),
        page.get("/nothing"),
        page.get("/?k=0"),
        page.get("/", Host="evil.example"),
        page.get("/search", "POST", body, Content_Type=kind, Origin="http://evil.example"),
        page.get("/search", "POST", Content_Length=str(10**9)),
    ]
    assert [reply.status for reply in replies] == [200, 200, 404, 200, 200, 200, 404, 400, 400, 403, 413]
    for reply in replies:
        policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "img-src": "'self'",
            "style-src": "'self'",
            "script-src": "'self'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "server" not in reply.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:9", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("evil.example@127.0.0.1", 400),
        ("127.0.0.1/", 400),
        ("127.0.0.1:port", 400),
        ("10.1.2.3", 400),
        ("", 400),
    ],
)
def test_the_server_answers_to_its_own_names(page, host, status):
    assert page.get("/", Host=host).status == status


def test_a_request_without_a_host_or_with_two_is_refused(page):
    answer, _ = raw(page.port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    answer, _ = raw(page.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),  # no browser
        ({"Origin": "http://127.0.0.1:PORT", "Sec_Fetch_Site": "same-origin"}, 303),
        ({"Origin": "null", "Sec_Fetch_Site": "same-origin"}, 303),  # a browser under our referrer policy
        ({"Sec_Fetch_Site": "none"}, 303),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:PORT", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_another_sites_page_cannot_search_here(page, headers, status):
    filled = {name: value.replace("PORT", str(page.port)) for name, value in headers.items()}
    assert page.post("/search", [("image", "x.jpg", jpeg(5))], **filled).status == status


def test_a_token_lets_in_and_stays_in_a_cookie(index):
    token = "a-long-enough-token"
    with serving(index.path, doors=Doors(token=token)) as page:
        assert page.get("/").status == 401
        assert page.get("/thumb/0").status == 401
        assert page.get("/static/page.css").status == 401
        assert page.get("/?token=a-long-enough-tokem").status == 401
        assert page.get("/?token=%C3%A9").status == 401
        assert page.get("/", Cookie='fewvit="\xe9').status == 401
        assert page.get("/", Authorization="Bearer wrong").status == 401
        assert page.get("/", Authorization=f"Bearer {token}").status == 200
        reply = page.get(f"//evil.example/?k=3&token={token}&class=dog")
        assert (reply.status, reply.headers["location"]) == (303, "/evil.example/?k=3&class=dog")
        cookie, *rest = reply.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} == set(rest)
        assert token not in cookie
        assert page.get("/", Cookie=cookie).status == 200
        assert page.get("/", Cookie=cookie[:-1]).status == 401
        form = [("image", "x.jpg", jpeg(5))]
        assert page.post("/search", form).status == 401
        assert page.post("/search", form, Cookie=cookie, Origin="null").status == 303  # plain HTTP, no Sec-Fetch-Site
        assert page.post("/search", form, Cookie=cookie, Origin="http://evil.example").status == 403


def test_other_machines_are_let_in_with_a_long_token_only():
    require_safe(Doors())
    require_safe(Doors("::1"))
    for doors in (Doors("0.0.0.0"), Doors("::"), Doors("192.168.1.5"), Doors("0.0.0.0", token="short")):
        with pytest.raises(UsageError, match="token"):
            require_safe(doors)
    require_safe(Doors("0.0.0.0", token="x" * 16))


# ---- load


def flood(total: int, size: int = 1 << 16):
    for _ in range(0, total, size):
        yield bytes(size)


def chunked(parts):
    for part in parts:
        yield b"%x\r\n" % len(part) + part + b"\r\n"


HEAD = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=LINE\r\n"
START = b'--LINE\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'


def test_an_upload_of_150_megabytes_is_refused_by_its_length_before_any_of_it_is_read(page):
    answer, _ = raw(page.port, HEAD + b"Content-Length: 150000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert b"10 MB" in answer
    answer, sent = raw(page.port, HEAD + b"Content-Length: 150000000\r\n\r\n", flood(150_000_000))
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 1_000_000
    assert page.get("/").status == 200


def test_an_upload_without_a_length_is_refused_once_it_is_too_long_and_leaves_nothing_on_disk(page):
    before = set(Path(tempfile.gettempdir()).iterdir())
    open_files = set(os.listdir("/proc/self/fd"))
    answer, sent = raw(
        page.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(START) + START + b"\r\n",
        chunked(flood(150_000_000)),
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 413")
    assert 10_000_000 <= sent < 11_000_000
    assert page.get("/").status == 200
    assert set(Path(tempfile.gettempdir()).iterdir()) - before == set()
    time.sleep(1.5)  # the connection lingers for a second
    assert len(os.listdir("/proc/self/fd")) <= len(open_files) + 2
    assert page.service.limits.body == 10_000_000


def test_a_body_of_the_size_allowed_is_read_and_one_byte_more_is_not(index):
    kind, body = multipart([("image", "x.jpg", jpeg(5))])
    with serving(index.path, Limits(body=len(body))) as page:
        assert page.get("/api/search", "POST", body, Content_Type=kind).status == 200
        assert page.get("/api/search", "POST", body + b"\n", Content_Type=kind).status == 413
        assert page.get("/", "GET", body + b"\n").status == 413


@pytest.mark.parametrize("length", [b"-1", b"ten", b"1, 2", b"+5"])
def test_a_length_that_is_none_is_refused(page, length):
    answer, _ = raw(page.port, HEAD + b"Content-Length: " + length + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


def test_an_upload_that_does_not_arrive_is_given_up(index):
    with serving(index.path, Limits(body_seconds=0.3)) as page:
        answer, _ = raw(page.port, HEAD + b"Content-Length: 1000\r\n\r\n" + START)
        assert answer.startswith(b"HTTP/1.1 408")


class Slow:
    """An encoder that waits until it is told to go on."""

    def __init__(self, encoder):
        self._encoder, self.go, self.running = encoder, threading.Event(), []
        self.pipeline, self.fingerprint = encoder.pipeline, encoder.fingerprint

    def encode(self, pixels):
        self.running.append(pixels)
        assert self.go.wait(60)
        return self._encoder.encode(pixels)


def test_more_searches_than_may_wait_are_sent_away_and_the_others_are_answered(index):
    with serving(index.path, Limits(concurrency=2, queue=3)) as page:
        loaded = page.service.serving.now
        slow = loaded.encoder = Slow(loaded.encoder)
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(page.post, "/api/search", [("image", "x.jpg", jpeg(700 + at))]) for at in range(5)]
            deadline = time.monotonic() + 30
            while page.service._search_gate._room and time.monotonic() < deadline:
                time.sleep(0.01)
            for reply in (page.get("/"), page.get("/api/search?like=cat/001.jpg")):
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert page.get("/thumb/3").status == 200
            time.sleep(0.3)
            assert len(slow.running) == 2
            slow.go.set()
            assert [one.result().status for one in waiting] == [200] * 5
        assert page.get("/").status == 200


def test_two_hundred_half_open_requests_do_not_keep_others_waiting(page):
    import socket

    held = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(200)]
    try:
        for connection in held:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        started = time.perf_counter()
        assert page.get("/").status == 200
        assert time.perf_counter() - started < 2
    finally:
        for connection in held:
            connection.close()


def resident() -> int:
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) << 10 for line in handle if line.startswith("VmRSS:"))


def test_memory_stays_what_it_was_over_hundreds_of_requests_and_bombs(page):
    bomb = png((50_000, 2000), "1")
    wide = png((7000, 7000), "L")  # 49 megapixels: allowed, and large

    def some(count: int) -> None:
        for at in range(count):
            assert page.post("/api/search", [("image", "x.jpg", jpeg(2000 + at % 30))]).status == 200
            assert page.get("/?like=dog/001.jpg").status == 200
            assert page.get(f"/thumb/{at % 24}").status == 200
            if at % 10 == 0:
                assert page.post("/api/search", [("image", "x.png", bomb)]).status == 400
        assert page.post("/api/search", [("image", "x.png", wide)]).status == 200

    some(40)
    before = resident()
    some(120)
    assert resident() - before < 50 << 20


def test_an_image_that_takes_too_long_costs_its_worker_and_nothing_else():
    decoders = Decoders(DecodingLimits(seconds=0.2, workers=1))
    try:
        with pytest.raises(BadImage, match=r"longer than 0\.2 s"):
            decoders.jpeg(png((7000, 7000)), 100)
        assert decoders.jpeg(jpeg(5), 100)[:2] == b"\xff\xd8"
    finally:
        decoders.close()


def test_a_decoder_that_dies_is_replaced():
    decoders = Decoders(DecodingLimits(workers=1))
    try:
        [worker] = decoders._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(BadImage, match="survive"):
            decoders.jpeg(jpeg(5), 100)
        assert decoders.jpeg(jpeg(5), 100)[:2] == b"\xff\xd8"
    finally:
        decoders.close()


def test_a_worker_has_no_more_memory_than_its_limit():
    decoders = Decoders(DecodingLimits(max_pixels=10**10, workers=1))
    try:
        with pytest.raises(BadImage):
            decoders.jpeg(png((30_000, 30_000), "1"), 100)  # 900 megapixels: 3.6 GB in Pillow's RGB
        assert decoders.jpeg(jpeg(5), 100)[:2] == b"\xff\xd8"
    finally:
        decoders.close()


# ---- versions


def until(true, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_new_version_is_taken_while_searches_go_on_and_old_pages_keep_their_pictures(tmp_path):
    root = folder_of(tmp_path / "pictures", {"cat": 5, "dog": 5})
    index = ImageIndex.build(tmp_path / "idx", str(root), backbone="fewvit_tiny")
    with serving(index.path) as page:
        encoder = page.service.serving.now.encoder
        old = page.search("like=cat/001.jpg")
        found, stop = [], threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                reply = page.post("/api/search", [("image", "x.jpg", jpeg(31))])
                found.append((reply.status, reply.json["index"]["version"] if reply.status == 200 else reply.text))

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(keep_asking) for _ in range(2)]
            (root / "cat/new.jpg").write_bytes(jpeg(31))
            index.add(str(root))
            until(lambda: page.search("like=cat/001.jpg")["index"]["version"] == 2)
            stop.set()
            for one in asking:
                one.result()
        assert {status for status, _ in found} == {200}
        versions = [version for _, version in found]
        assert set(versions) <= {1, 2}
        new = page.search("like=cat/001.jpg")
        assert set(ids(new)) - set(ids(old)) == {"cat/new.jpg"}
        assert ids(page.post("/api/search", [("image", "x.jpg", jpeg(31))]).json)[0] == "cat/new.jpg"
        by_number = {hit["thumb"]: hit["id"] for hit in old["results"]}
        for thumb, name in by_number.items():
            shown = np.asarray(Image.open(io.BytesIO(page.get(thumb).body)), np.float32)
            assert np.abs(shown - np.asarray(Image.open(root / name), np.float32)).mean() < 4
        assert not set(by_number) & {hit["thumb"] for hit in new["results"]}
        assert page.service.serving.now.encoder is encoder  # not loaded again


def test_no_picture_of_a_page_is_one_of_an_index_that_was_made_anew_with_the_same_version(tmp_path):
    for name, folders in (("old", {"cat": 3}), ("new", {"dog": 3, "emu": 2})):
        ImageIndex.build(tmp_path / name, str(folder_of(tmp_path / f"{name} images", folders)), backbone="fewvit_tiny")
    os.rename(tmp_path / "old", tmp_path / "idx")
    with serving(tmp_path / "idx") as page:
        shown = {hit["image"]: page.get(hit["image"]).body for hit in page.search("like=cat/001.jpg")["results"]}
        shutil.rmtree(tmp_path / "idx")
        os.rename(tmp_path / "new", tmp_path / "idx")
        until(lambda: page.search("")["index"] == {"version": 1, "images": 5, "backbone": "fewvit_tiny"})
        assert {address: page.get(address).body for address in shown} == shown
        assert not set(shown) & {hit["image"] for hit in page.search("")["results"]}


def test_a_damaged_new_version_is_told_and_not_taken(tmp_path):
    root = folder_of(tmp_path / "pictures", {"cat": 5, "dog": 5})
    index = ImageIndex.build(tmp_path / "idx", str(root), backbone="fewvit_tiny")
    with serving(index.path) as page:
        (root / "cat/new.jpg").write_bytes(jpeg(31))
        newer = index.add(str(root))
        features = newer.path / newer.manifest.segments[-1].features.path
        data = bytearray(features.read_bytes())
        data[5] ^= 1
        features.unlink()  # what a reader has mapped stays what it is
        features.write_bytes(data)
        until(lambda: page.search("like=cat/001.jpg") and page.told)
        assert "not taken" in page.told[-1]
        assert page.search("like=cat/001.jpg")["index"]["version"] == 1
        (index.path / "CURRENT").write_text("{}")
        told = len(page.told)
        until(lambda: page.search("like=cat/001.jpg") and len(page.told) > told)
        (index.path / "CURRENT").unlink()
        time.sleep(1.1)
        assert page.search("like=cat/001.jpg")["index"]["version"] == 1


def test_a_new_version_that_could_not_be_taken_is_tried_again(tmp_path, monkeypatch):
    root = folder_of(tmp_path / "pictures", {"cat": 5, "dog": 5})
    index = ImageIndex.build(tmp_path / "idx", str(root), backbone="fewvit_tiny")
    monkeypatch.setattr(loaded, "_AGAIN_S", 0.5)
    monkeypatch.setattr(loaded, "_LOOK_EVERY_S", 0.1)
    with serving(index.path) as page:
        index.remove(["cat/001.jpg"])
        opened = loaded.OpenIndex.open
        monkeypatch.setattr(loaded.OpenIndex, "open", mock.Mock(side_effect=MemoryError("full")))
        until(lambda: page.search("like=cat/002.jpg") and page.told)
        time.sleep(1.5)
        page.search("like=cat/002.jpg")
        time.sleep(0.5)
        assert page.search("like=cat/002.jpg")["index"]["version"] == 1
        assert loaded.OpenIndex.open.call_count > 1
        assert len([line for line in page.told if "not taken" in line]) == 1  # told once
        monkeypatch.setattr(loaded.OpenIndex, "open", opened)
        until(lambda: page.search("like=cat/002.jpg")["index"]["version"] == 2)


def test_an_index_of_features_is_searched_by_its_own_rows_and_says_why_not_by_uploads(tmp_path):
    rng = np.random.default_rng(3)
    features = FeatureSet(
        rng.normal(size=(13, 8)).astype(np.float32), rng.integers(0, 2, 13), [f"row {i}" for i in range(13)], ["a", "b"]
    )
    index = ImageIndex.build(tmp_path / "idx", features)
    with serving(index.path) as page:
        assert "built of features" in page.get("/").text
        assert ids(page.search("like=row%207&k=3"))[0] == "row 7"
        assert page.search("like=row%207")["results"][0]["file"] is None
        for path in ("/search", "/api/search"):
            reply = page.post(path, [("image", "x.jpg", jpeg(5))])
            assert reply.status == 400
            assert "built of features" in reply.text
        reply = page.get("/thumb/3")
        assert (reply.status, reply.headers["content-type"]) == (404, "image/png")


# ---- OpenAPI


def fits(value, schema, whole) -> bool:
    """Whether a value fits a JSON Schema, of the few words that the document uses."""
    if "$ref" in schema:
        return fits(value, whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]], whole)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(value is None if name == "null" else isinstance(value, kinds[name]) for name in names):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    if isinstance(value, dict):
        known = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(known) and all(
            fits(part, known[name], whole) for name, part in value.items()
        )
    return not isinstance(value, list) or all(fits(part, schema["items"], whole) for part in value)


def test_the_openapi_document_names_what_there_is(page):
    from fewvit.retrieval.web.app import routes

    document = page.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    served = {
        (re.sub(r":text", "", route.path), method.lower())
        for route in routes(page.service)
        for method in route.methods - {"HEAD"}
        if route.path.startswith(("/api/", "/thumb", "/image"))
    }
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == served
    answer = document["paths"]["/api/search"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    item = document["paths"]["/api/item/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    for query in ("like=cat/001.jpg&unlike=dog/001.jpg&k=5", "class=fox", "k=1&page=2&class=cat"):
        found = page.search(query)
        assert fits(found, answer, document)
        assert fits(page.get(found["results"][0]["item"]).json, item, document)
    assert fits(page.post("/api/search", [("image", "x.jpg", jpeg(5))]).json, answer, document)
    assert not fits({"error": "x"}, answer, document)


def test_the_parameters_of_the_document_are_those_that_are_read(page):
    [*parameters] = page.get("/openapi.json").json["paths"]["/api/search"]["get"]["parameters"]
    for parameter in parameters:
        schema = parameter["schema"].get("items", parameter["schema"])
        value = {"integer": "1", "number": "0.5"}.get(schema["type"], schema.get("enum", ["cat"])[0])
        found = asked([(parameter["name"], value)])
        assert found != Asked() or value == str(schema.get("default"))


# ---- the command


def run_command(*words: str) -> subprocess.Popen[str]:
    code = "import sys; from fewvit_cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "index", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1] / "docs",
    )


def test_the_command_prints_its_address_serves_this_machine_alone_and_ends_with_ctrl_c(index):
    process = run_command("--index", str(index.path), "--port", "0", "--offline")
    try:
        first = process.stdout.readline()
        port = int(re.fullmatch(r"address +http://127\.0\.0\.1:(\d+)/\n", first)[1])
        listens = Path("/proc/net/tcp").read_text()
        assert f" 0100007F:{port:04X} 00000000:0000 0A" in listens
        assert f" 00000000:{port:04X} " not in listens
        assert Page(port, None, []).get("/").status == 200
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert (process.returncode, told.strip()) == (0, "stopped")
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "0.0.0.0", "--token", "short"], "16"),
        (["--host", "no.such.name.invalid", "--token", "x" * 20], "no.such.name.invalid"),
    ],
)
def test_a_door_without_a_lock_is_a_usage_error(index, words, told):
    process = run_command("--index", str(index.path), *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in errors


def test_a_port_that_is_taken_is_a_usage_error(page, index):
    process = run_command("--index", str(index.path), "--port", str(page.port))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "address already in use" in errors
    assert "Traceback" not in errors
