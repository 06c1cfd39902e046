"""Sorting and filtering of a report's table, done in a browser from a file.

Run by `make test-web`; screenshots go to $FEWVIT_SHOTS.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.by import By

from fewvit.report.report import Report

from made_results import sweep

pytestmark = pytest.mark.web
WIDE, PHONE = (1440, 1000), (390, 844)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("results") / "sweep"
    sweep(folder)
    return Report.of([folder])


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(path)
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


def shown(browser, column: str) -> list[str]:
    """The words of a column in the rows that can be seen, from the top."""
    return browser.execute_script(
        """const table = document.getElementById("rows");
        const at = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === arguments[0]);
        const shown = [...table.tBodies[0].rows].filter((row) => row.checkVisibility());
        return shown.map((row) => row.cells[at].textContent);""",
        column,
    )


def choose(browser, name: str, value: str) -> None:
    browser.execute_script(
        """const select = document.querySelector(`#filters select[name="${arguments[0]}"]`);
        select.value = arguments[1]; select.dispatchEvent(new Event("input", {bubbles: true}));""",
        name,
        value,
    )


def head(browser, name: str):
    return next(one for one in browser.find_elements(By.CSS_SELECTOR, "#rows th button") if one.text == name)


def test_at_first_the_means_are_shown_and_every_draw_on_request(browser, report):
    rows = [line.row for line in report.lines]
    means = [row for row in rows if not isinstance(row.get("trial"), int)]
    assert len(shown(browser, "value")) == len(means)
    choose(browser, "trials", "all")
    assert len(shown(browser, "value")) == len(rows)
    assert browser.find_element(By.CSS_SELECTOR, "#filters output").text == f"{len(rows)} of {len(rows)} rows"


def test_a_click_on_a_column_sorts_by_its_numbers_and_another_turns_it_round(browser):
    head(browser, "value").click()
    values = [float(value) for value in shown(browser, "value")]
    assert values == sorted(values)
    assert head(browser, "value").find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    head(browser, "value").click()
    assert [float(value) for value in shown(browser, "value")] == values[::-1]
    head(browser, "k").click()  # 5, 10, 20, 100 as numbers, and what has none at the end
    k = shown(browser, "k")
    assert k[:8] == ["5", "5", "10", "10", "20", "20", "100", "100"]
    assert set(k[8:]) == {""}


def test_filters_are_joined_and_taken_away(browser, report):
    choose(browser, "task", "=lowshot")
    choose(browser, "metric", "=top1")
    browser.find_element(By.ID, "search").send_keys("MEAN logistic")
    found = shown(browser, "value")
    wanted = [
        f"{line.row['value']:.2f}"
        for line in report.lines
        if (line.row["task"], line.row["metric"], line.row["method"]) == ("lowshot", "top1", "logistic")
        and line.row["trial"] == "mean"
    ]
    assert set(found) == set(wanted)
    assert len(found) == 6  # `mean` stands in every mean, and in a backbone's name
    browser.find_element(By.CSS_SELECTOR, "#filters button").click()
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(shown(browser, "value")) == len(report.lines)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_but_tables_is_wider_than_the_screen(browser, shots: Path, size, scheme):
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    (shots / f"report-{width}-{scheme}.png").write_bytes(browser.get_screenshot_as_png())
    inner, scrolled = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert scrolled <= inner
    assert ground == {"light": "rgb(246, 245, 242)", "dark": "rgb(18, 19, 22)"}[scheme]
