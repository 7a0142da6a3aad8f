"""The page for whoever does not see it, or has no mouse: axe-core finds nothing serious, and keys reach everything."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from playwright.sync_api import Browser, Page, expect
from serving import Server
from webpage import PATIENCE_MS, faults, wait_for, walk

pytestmark = pytest.mark.browser

SCREENS = {"desk, light": ("light", 1440, 900), "desk, dark": ("dark", 1440, 900), "phone, dark": ("dark", 390, 844)}


@pytest.mark.skipif(find_spec("axe_playwright_python") is None, reason="axe-playwright-python is not installed")
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_no_serious_fault(chromium: Browser, server: Server, screen: str) -> None:
    """At rest, with each drawer open, and with a video looked at."""
    scheme, width, height = SCREENS[screen]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("body[data-loaded]")
    assert faults(page) == [], "at rest"
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("#settings")).to_be_visible()
    assert faults(page) == [], "settings"
    page.keyboard.press("Escape")
    page.locator("#model").click()
    expect(page.locator("#card")).to_be_visible()
    assert faults(page) == [], "the model's card"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Try a sample").click()
    wait_for(page, "__stmixer.state === 'done'")
    assert faults(page) == [], "a video"
    context.close()


@pytest.mark.skipif(find_spec("axe_playwright_python") is None, reason="axe-playwright-python is not installed")
def test_a_fault_would_be_seen(chromium: Browser) -> None:
    page = chromium.new_page()
    page.set_content(f"<html lang=en><title>a</title><main>{'<button>b</button>' * 20}<button></button></main>")
    (fault,) = faults(page)
    assert fault.startswith("button-name: ['button:nth-child(21)']")
    page.close()


def test_keys_reach_everything_and_the_place_is_marked(page: Page) -> None:
    way = walk(page)
    assert [at["id"] for at in way][:6] == [
        "model",
        "to-wall",
        "settings-toggle",
        "camera-start",
        "file-pick",
        "sample",
    ]
    assert [at for at in way if not (at["seen"] and at["marked"])] == []


def test_a_drawer_opens_and_closes_by_keys_and_gives_the_focus_back(page: Page) -> None:
    page.locator("#settings-toggle").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#settings")).to_be_visible()
    page.locator("#score_threshold").focus()
    before = page.locator("#score_threshold").input_value()
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#score_threshold").input_value()) == pytest.approx(float(before) + 0.05)
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "settings-toggle"


def test_a_sample_is_looked_at_by_keys_alone(page: Page) -> None:
    page.locator("#sample").focus()
    page.keyboard.press("Enter")
    wait_for(page, "__stmixer.state === 'done'")
    expect(page.locator("#download-json")).to_be_visible(timeout=PATIENCE_MS)
    ids = [at["id"] for at in walk(page)]
    assert {"timeline", "download-mp4", "download-table", "download-json"} <= set(ids)
    page.locator("#timeline").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.getElementById('video').currentTime") > 1
