"""Debian's Chromium with a fake camera, driven by Playwright. No browser is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

OUT = Path(__file__).parents[2] / "out" / "browser"

ARGUMENTS = [
    "--no-sandbox",  # containers run as root
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
    "--disable-quic",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module. Missing, it is a failure in CI and a skip by name elsewhere."""
    path = shutil.which("chromium")
    if path is None:
        message = "chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The service's page, loaded, in a context of its own. Leaves out/browser/{test}.png.

    A script error or a breach of the CSP fails the test. A refused request also shows as a console error; those are
    not counted, since tests look for the words instead.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type == "error" and "Failed to load resource" not in message.text and errors.append(message.text)
        ),
    )
    page.goto(server.url)
    page.wait_for_selector("body[data-loaded]")
    yield page
    OUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUT / f"{request.node.name.replace('[', '-').rstrip(']')}.png")
    context.close()
    assert errors == []
