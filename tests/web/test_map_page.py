"""The page of `fewvit inspect embed`, used in a browser from a file.

Run by `make test-web`; screenshots go to $FEWVIT_SHOTS.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fewvit.datasets import open_dataset
from fewvit.features import FeatureSet
from fewvit.inspect import embed

from made_images import folder_of

pytestmark = pytest.mark.web
WIDE, PHONE = (1440, 900), (390, 844)
HOSTILE = "<script>document.title = 'taken'</script><b>bold</b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = folder_of(tmp_path_factory.mktemp("images"), {"three": 5, "seven": 12})
    images = open_dataset(str(folder))
    rows = np.random.default_rng(1).normal(size=(17, 7)).astype(np.float32)
    features = FeatureSet(rows, images.labels, images.ids, ["seven", HOSTILE], name="made", backbone="tiny")
    path = tmp_path_factory.mktemp("page") / "map.html"
    embed(features, "pca", images=images).save(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def started(new_browser):
    return new_browser()


@pytest.fixture
def browser(started, page):
    """The browser on the page; afterwards it must have had nothing to complain about."""
    started.set_window_size(*WIDE)
    started.get(page)
    started.get_log("browser")
    yield started
    assert [entry for entry in started.get_log("browser") if entry["level"] == "SEVERE"] == []


def data(browser) -> dict:
    return json.loads(browser.execute_script("return document.getElementById('data').textContent"))


def place(browser, number: int) -> tuple[float, float]:
    """Where an image's point is, from the middle of the canvas, in CSS pixels, before anything was moved."""
    facts = data(browser)
    canvas = browser.find_element(By.ID, "map").rect
    wide, tall = facts["size"]
    scale = 0.92 * min(canvas["width"] / wide, canvas["height"] / tall)
    x, y = facts["points"][2 * number : 2 * number + 2]
    return (x - wide / 2) * scale, (y - tall / 2) * scale


def painted(browser) -> int:
    """Pixels of the canvas that are not empty, once it is drawn."""
    return browser.execute_async_script(
        """const done = arguments[0], canvas = document.getElementById("map");
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          let count = 0;
          for (let i = 3; i < all.length; i += 4) count += all[i] > 0;
          done(count);
        }));"""
    )


def test_pointing_shows_an_image_and_a_click_keeps_it(browser):
    facts = data(browser)
    canvas = browser.find_element(By.ID, "map")
    x, y = place(browser, 7)
    ActionChains(browser).move_to_element_with_offset(canvas, round(x), round(y)).perform()
    tip = browser.find_element(By.ID, "tip")
    assert facts["ids"][7] in tip.text
    assert tip.find_elements(By.TAG_NAME, "canvas")
    ActionChains(browser).click().perform()
    assert facts["ids"][7] in browser.find_element(By.ID, "shown").text
    ActionChains(browser).send_keys_to_element(canvas, Keys.ESCAPE).perform()
    assert browser.find_element(By.ID, "shown").text == ""


def test_classes_are_switched_off_and_on_again(browser):
    whole = painted(browser)
    buttons = browser.find_elements(By.CSS_SELECTOR, "#classes button")
    assert [one.get_attribute("aria-pressed") for one in buttons] == ["true", "true"]
    assert [one.find_element(By.CLASS_NAME, "count").text for one in buttons] == ["12", "5"]
    buttons[0].click()
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert buttons[0].get_attribute("aria-pressed") == "false"
    assert 0 < painted(browser) < whole
    browser.find_element(By.ID, "none").click()
    assert painted(browser) == 0
    browser.find_element(By.ID, "every").click()
    assert painted(browser) == whole


def test_keys_alone_lead_from_image_to_image(browser):
    canvas = browser.find_element(By.ID, "map")
    browser.execute_script("arguments[0].focus()", canvas)
    seen = set()
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_DOWN):
        ActionChains(browser).send_keys(key).perform()
        seen.add(browser.find_element(By.CSS_SELECTOR, "#shown .id").text)
    assert len(seen) > 2
    assert browser.execute_script("return document.getElementById('said').textContent")
    whole = painted(browser)
    ActionChains(browser).send_keys("+").send_keys("+").perform()
    assert painted(browser) != whole
    ActionChains(browser).send_keys("0").perform()
    assert painted(browser) == whole


def test_pictures_take_the_place_of_points(browser):
    points = painted(browser)
    button = browser.find_element(By.ID, "pictures")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert painted(browser) > 3 * points


def test_a_hostile_class_name_is_text(browser):
    assert HOSTILE in browser.find_element(By.ID, "classes").text
    assert browser.title.startswith("made")
    assert browser.find_elements(By.CSS_SELECTOR, "#classes b") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_is_wider_than_the_screen(browser, shots: Path, size, scheme):
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    painted(browser)
    (shots / f"map-{width}-{scheme}.png").write_bytes(browser.get_screenshot_as_png())
    inner, scrolled = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert scrolled <= inner
