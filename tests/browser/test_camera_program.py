"""The programs of docs/api.md for pages, as they stand there: one with a camera, one that looks at a pulled stream."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from playwright.sync_api import Browser
from serving import Server, running_server
from webpage import PATIENCE_MS, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
pytestmark = pytest.mark.browser


def program(mark: str) -> str:
    """That of the page in which this stands."""
    programs = re.findall(r"^```js\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(programs) == 2
    (found,) = (text for text in programs if mark in text)
    return f"(async () => {{ {found} }})()"


def test_it_tells_who_is_there(chromium: Browser, server: Server) -> None:
    context = chromium.new_context(permissions=["camera"])
    page = context.new_page()
    page.goto(server.url)
    is_result = re.compile(r"^[\d.]+ ").match
    with page.expect_console_message(lambda said: is_result(said.text), timeout=PATIENCE_MS) as result:
        page.evaluate(program("getUserMedia"))
    assert float(result.value.text.split()[0]) >= 0
    context.close()


@pytest.mark.slow
def test_a_pulled_stream_is_seen_and_heard(chromium: Browser, tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copy(OWN_CLIPS / "walk.mp4", tmp_path)
    with running_server(weights=tiny_weights, allow_files=tmp_path) as server:
        begun = httpx.post(server.url + "/v1/streams", json={"url": "file:walk.mp4", "loop": True}).raise_for_status()
        assert begun.json()["id"] == "1", "as the page says"
        context = chromium.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.evaluate("document.body.prepend(document.createElement('img'))")
        is_result = re.compile(r"^[\d.]+ ").match
        with page.expect_console_message(lambda said: is_result(said.text), timeout=PATIENCE_MS):
            page.evaluate(program("preview.mjpg"))
        wait_for(page, "document.querySelector('img').naturalWidth > 0")
        context.close()
