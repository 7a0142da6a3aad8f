"""The program of docs/api.md for a page with a camera, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from serving import Server
from webpage import PATIENCE_MS

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
pytestmark = pytest.mark.browser


def test_it_tells_who_is_there(chromium: Browser, server: Server) -> None:
    (program,) = re.findall(r"^```js\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    context = chromium.new_context(permissions=["camera"])
    page = context.new_page()
    page.goto(server.url)
    is_result = re.compile(r"^[\d.]+ ").match
    with page.expect_console_message(lambda said: is_result(said.text), timeout=PATIENCE_MS) as result:
        page.evaluate(f"(async () => {{ {program} }})()")
    assert float(result.value.text.split()[0]) >= 0
    context.close()
