"""What a person does with the search page, done in a browser: paste, drop, upload, click, filter, keys.

Run by `make test-web`; screenshots go to $FEWVIT_SHOTS.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("selenium")
pytest.importorskip("starlette")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from fewvit.retrieval.index import ImageIndex

from made_images import folder_of, jpeg
from served import Page, serving

pytestmark = pytest.mark.web
WIDE, PHONE = (1440, 1000), (390, 844)
MARKUP = "<img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Real pictures where the shared folder is, else made ones; and a name that would be markup."""
    from benchmarks.images import jpegs

    root = tmp_path_factory.mktemp("pictures")
    if not jpegs(1)[1].startswith("1 ImageNet"):
        folder_of(root, {"cat": 60, "dog": 40, "fox": 20})
    else:
        for at, data in enumerate(jpegs(120)[0]):
            place = root / ("cat", "dog", "fox")[at * 3 // 120] / f"{at:03d}.jpg"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
    (root / "fox" / MARKUP).write_bytes(jpeg(900))
    return root


@pytest.fixture(scope="module")
def page(images, tmp_path_factory) -> Page:
    index = ImageIndex.build(tmp_path_factory.mktemp("idx") / "animals", str(images), backbone="fewvit_tiny")
    with serving(index.path) as running:
        yield running


@pytest.fixture(scope="module")
def started(new_browser):
    return new_browser()


@pytest.fixture
def browser(started, page):
    """The browser on the start page, wide and light; afterwards it must have had nothing to complain about."""
    look(started, WIDE, "light")
    started.get_log("browser")
    started.get(f"http://127.0.0.1:{page.port}/")
    yield started
    complaints = [line["message"] for line in started.get_log("browser") if not re.search("40[04]", line["message"])]
    assert complaints == []


def look(browser, size: tuple[int, int], scheme: str) -> None:
    narrow = size[0] < 600
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 2 if narrow else 1, "mobile": narrow},
    )
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": narrow})
    media = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "hover", "value": "none" if narrow else "hover"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def all_of(browser, selector: str):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(browser, selector: str):
    [found] = all_of(browser, selector)
    return found


def names(browser) -> list[str]:
    return [link.get_attribute("title").removeprefix("More like ") for link in all_of(browser, ".card .more")]


@contextlib.contextmanager
def leads_elsewhere(browser):
    """What is done in the block ends on another page, wholly loaded."""
    before = browser.find_element(By.TAG_NAME, "html")
    yield
    WebDriverWait(browser, 20).until(lambda d: d.find_element(By.TAG_NAME, "html") != before)
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return document.readyState") == "complete")


def press(browser, *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)


def focused(browser) -> str:
    return browser.switch_to.active_element.get_attribute("title") or ""


BLOB = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const list = new DataTransfer();
list.items.add(new File([bytes], "x.jpg", {type: "image/jpeg"}));
"""
PASTE = BLOB + "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: list, bubbles: true}));"
DROP = (
    BLOB + "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: list, bubbles: true, cancelable: true}));"
)


@pytest.mark.parametrize("how", [PASTE, DROP], ids=["paste", "drop"])
def test_a_pasted_or_dropped_image_is_searched(browser, page, images, how):
    data = (images / "dog/050.jpg" if (images / "dog/050.jpg").exists() else images / "dog/005.jpg").read_bytes()
    with leads_elsewhere(browser):
        browser.execute_script(how, base64.b64encode(data).decode())
    wanted = page.post("/api/search", [("image", "x.jpg", data)]).json
    assert names(browser) == [hit["id"] for hit in wanted["results"]]
    assert all_of(browser, ".card .score")[0].text == "1.000"
    assert one(browser, ".examples .wanted img").get_attribute("naturalWidth") != "0"


def test_a_chosen_file_is_searched_and_can_be_turned_round_and_taken_out(browser, images):
    with leads_elsewhere(browser):
        one(browser, "#file").send_keys(str(images / "cat/003.jpg"))
    assert names(browser)[0] == "cat/003.jpg"
    with leads_elsewhere(browser):
        all_of(browser, ".card .plus")[4].click()
    assert len(all_of(browser, ".examples .wanted")) == 2
    before = names(browser)
    with leads_elsewhere(browser):
        all_of(browser, ".examples .turn")[1].click()
    assert len(all_of(browser, ".examples .unwanted")) == 1
    assert names(browser) != before
    with leads_elsewhere(browser):
        all_of(browser, ".examples .drop-it")[1].click()
    assert len(all_of(browser, ".examples li")) == 1


def test_a_click_goes_on_from_an_image_and_back_comes_back(browser):
    chosen = names(browser)[3]
    with leads_elsewhere(browser):
        all_of(browser, ".card .more")[3].click()
    assert names(browser)[0] == chosen
    address = browser.current_url
    with leads_elsewhere(browser):
        one(browser, "a[rel=next]").click()
    assert one(browser, ".range").text.startswith("49–96")
    assert chosen not in names(browser)
    browser.get(address)  # a permalink
    assert names(browser)[0] == chosen


def test_filters_are_joined_and_taken_out(browser):
    with leads_elsewhere(browser):
        all_of(browser, ".card .more")[0].click()
    one(browser, "#class").send_keys("fox")
    with leads_elsewhere(browser):
        one(browser, "#filter button").click()
    assert names(browser)
    assert all(name.startswith("fox/") for name in names(browser))
    assert MARKUP in [Path(name).name for name in names(browser)]
    one(browser, "#folder").send_keys("fox/1")
    with leads_elsewhere(browser):
        press(browser, Keys.ENTER)
    assert all(name.startswith("fox/1") for name in names(browser))
    with leads_elsewhere(browser):
        all_of(browser, ".tag a")[0].click()
    assert "class" not in browser.current_url
    one(browser, "#class").send_keys("wolf")
    with leads_elsewhere(browser):
        press(browser, Keys.ENTER)
    assert "wolf" in browser.find_element(By.TAG_NAME, "h1").text
    with leads_elsewhere(browser):
        one(browser, "#back").click()


def test_the_keys_do_what_the_help_says(browser):
    columns = len({card.rect["x"] for card in all_of(browser, ".card")})
    assert columns > 3
    shown = names(browser)
    for key, at in (
        (Keys.ARROW_RIGHT, 0),
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_DOWN, 1 + columns),
        (Keys.ARROW_LEFT, columns),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_RIGHT, 1),
    ):
        press(browser, key)
        assert focused(browser) == f"More like {shown[at]}"
    with leads_elsewhere(browser):
        press(browser, Keys.ENTER)
    assert names(browser)[0] == shown[1]
    press(browser, Keys.ARROW_RIGHT)
    press(browser, Keys.ARROW_RIGHT)
    added = names(browser)[1]
    with leads_elsewhere(browser):
        press(browser, "-")
    assert added in one(browser, ".examples .unwanted img").get_attribute("alt")
    with leads_elsewhere(browser):
        press(browser, "n")
    assert one(browser, ".range").text.startswith("49")
    with leads_elsewhere(browser):
        press(browser, "p")
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "class"
    press(browser, "n?o")  # letters in a field are letters
    assert browser.switch_to.active_element.get_attribute("value") == "n?o"
    press(browser, Keys.ESCAPE)
    assert browser.switch_to.active_element.tag_name == "body"
    press(browser, "?")
    assert one(browser, "#help").is_displayed()
    assert browser.switch_to.active_element.get_attribute("id") == "help"
    press(browser, Keys.ESCAPE)
    assert not one(browser, "#help").is_displayed()
    press(browser, Keys.ESCAPE)
    with leads_elsewhere(browser):
        press(browser, Keys.ESCAPE)
    assert browser.current_url.endswith("/")


def test_nothing_on_the_page_runs_or_is_loaded_but_what_the_server_sent(browser, page):
    browser.get(f"http://127.0.0.1:{page.port}/?class=fox")
    assert browser.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) > 5
    assert all(address.startswith(f"http://127.0.0.1:{page.port}/") for address in loaded)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_page_fits_the_screen(browser, page, shots, images, size, scheme):
    look(browser, size, scheme)
    (images / "fox" / "117.jpg").unlink(missing_ok=True)  # one that is missing
    home = f"http://127.0.0.1:{page.port}/"
    search = f"{home}?like=dog/041.jpg&like=dog/044.jpg&unlike=cat/003.jpg&folder=dog"
    for name, address in (
        ("start", home),
        ("search", search),
        ("missing", f"{home}?class=fox"),
        ("help", f"{home}#help"),
        ("error", f"{home}?k=0"),
    ):
        browser.get("about:blank")
        browser.get(address)
        for at in range(6):
            browser.execute_script(f"scrollTo(0, {at} * innerHeight / 3)")
            time.sleep(0.1)
        browser.execute_script("scrollTo(0, 0)")
        time.sleep(0.7)
        browser.save_screenshot(str(shots / f"{name}-{'phone' if size is PHONE else 'wide'}-{scheme}.png"))
        wider = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 245, 242)", "dark": "rgb(18, 19, 22)"}[scheme]
